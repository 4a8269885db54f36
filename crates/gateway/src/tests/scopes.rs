//! Each scope against each route.

use axum::{http::Method, response::Response, routing::put};

use super::*;

const DESCRIPTION: &str = r#"{ "paths": { "/v1/apps/{name}": { "put": { "responses": {} } } } }"#;
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PUT", "DELETE"];

async fn nothing() -> Response {
    json_response(StatusCode::OK, &json!({}))
}

/// All routes of the gateway and one of somebody else's, for those who have one of the tokens.
async fn guarded(tokens: &str) -> (Handle, SocketAddr) {
    guarded_by(access(tokens)).await
}

async fn guarded_by(access: Access) -> (Handle, SocketAddr) {
    let bind = "127.0.0.1:0".parse().unwrap();
    let node = start(broadcast::Config::new("a").bind(bind).profile(Profile::Local)).await.expect("starts");
    let deploy = RequiredScopes::read_write(Scope::Read, Scope::Deploy);
    let server = Server::bind(GatewayConfig { access, ..GatewayConfig::new(bind) }).expect("loopback has free ports");
    let server = server.mount(Routes::new(DESCRIPTION, [("/v1/apps/{name}", deploy, put(nothing).get(nothing))]));
    let addr = server.addr();
    tokio::spawn(server.run(node.clone()));
    (node, addr)
}

/// The scope that is needed, if one is; of all routes and methods.
fn needed(path: &str, method: &str) -> Option<Scope> {
    let looks = matches!(method, "GET" | "HEAD");
    match path {
        "/healthz" | "/livez" | "/readyz" => None,
        "/v1/messages" if !looks => Some(Scope::Publish),
        "/v1/apps/web" if !looks => Some(Scope::Deploy),
        _ => Some(Scope::Read),
    }
}

fn paths() -> Vec<&'static str> {
    own_routes().into_iter().map(|(path, ..)| path).chain(["/v1/apps/web"]).collect()
}

/// The status alone: some answers have no end.
async fn status(addr: SocketAddr, method: &str, path: &str, authorization: Option<&str>) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.expect("it listens");
    let authorization = authorization.map(|value| format!("authorization: {value}\r\n")).unwrap_or_default();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: a\r\n{authorization}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let hearing = async {
        let mut part = [0; 1 << 14];
        while !heard.contains("\r\n\r\n") {
            let length = stream.read(&mut part).await.unwrap();
            assert!(length > 0, "{method} {path}: {heard}");
            heard += &String::from_utf8_lossy(&part[..length]);
        }
    };
    timeout(SOON, hearing).await.expect("it answers");
    (heard.split(' ').nth(1).unwrap().parse().unwrap(), heard)
}

#[tokio::test]
async fn each_scope_opens_its_routes_and_no_others() {
    let token = |scope: Scope| format!("token-{scope}-0123");
    let file: String = Scope::ALL.map(|scope| format!("{scope}: {scope} {}\n", token(scope))).concat();
    let (node, at) = guarded(&file).await;
    let mut opened = 0;
    for path in paths() {
        for method in METHODS {
            let needed = needed(path, method);
            for scope in Scope::ALL {
                let (status, heard) = status(at, method, path, Some(&format!("Bearer {}", token(scope)))).await;
                let name = format!("{method} {path} with {scope}: {heard}");
                match needed {
                    Some(needed) if needed != scope => {
                        assert_eq!(status, 403, "{name}");
                        assert!(heard.contains(&format!("error=\"insufficient_scope\", scope=\"{needed}\"")), "{name}");
                    }
                    _ => {
                        opened += 1;
                        assert!(!matches!(status, 401 | 403), "{name}");
                    }
                }
            }
            for authorization in [None, Some("Bearer token-read-0124"), Some("Basic YTpi")] {
                let (status, heard) = status(at, method, path, authorization).await;
                assert_eq!(status == 401, needed.is_some(), "{method} {path} with {authorization:?}: {heard}");
            }
        }
    }
    // Each route with each method and the one scope that is needed; three routes with any.
    assert_eq!(opened, METHODS.len() * (paths().len() - 3 + 3 * Scope::ALL.len()));

    let forbidden = ask(at, "POST", "/v1/messages", &[("authorization", "Bearer token-read-0123")], "{}").await;
    assert_eq!((forbidden.0, &forbidden.1["scope"]), (403, &json!("publish")));
    let detail = "the token read does not have the scope publish, but read; `tokens_file` says what each has";
    assert_eq!(forbidden.1["detail"], detail);
    // What is not there is told to those who may call at all.
    for path in ["/v2", "/v1/apps", "/v1/messages/"] {
        assert_eq!(status(at, "PUT", path, Some("Bearer token-cache-0123")).await.0, 404, "{path}");
        assert_eq!(status(at, "PUT", path, None).await.0, 401, "{path}");
    }
    node.leave().await;
}

#[tokio::test]
async fn without_tokens_all_may_be_done_but_what_has_to_be_given_by_name() {
    let (node, at) = guarded_by(Access::open()).await;
    for path in paths() {
        for method in METHODS {
            let (status, heard) = status(at, method, path, None).await;
            assert_eq!(status == 403, needed(path, method) == Some(Scope::Deploy), "{method} {path}: {heard}");
        }
    }
    let (_, problem) = ask(at, "PUT", "/v1/apps/web", &[], "").await;
    assert_eq!(problem["detail"], "this needs a token with the scope deploy; name it in `tokens_file`");
    node.leave().await;
}

#[tokio::test]
async fn tokens_are_replaced_while_a_connection_stays() {
    let access = access("old: read 0123456789");
    let (node, at) = guarded_by(access.clone()).await;
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut sender, connection) = http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async |token: &str| {
        let request = hyper::Request::get("/v1/members").header("host", "a").header("authorization", token);
        let answer = sender.send_request(request.body(Full::<bytes::Bytes>::default()).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        answer.into_body().collect().await.unwrap();
        status
    };
    assert_eq!(ask("Bearer 0123456789").await, 200);
    access.replace(Tokens::new(Tokens::parse("new: read 9876543210").unwrap()).unwrap());
    assert_eq!(ask("Bearer 9876543210").await, 200);
    assert_eq!(ask("Bearer 0123456789").await, 401);
    node.leave().await;
}

#[test]
fn the_description_names_the_scopes() {
    let described: Value = serde_json::from_str(OPENAPI).unwrap();
    for (path, needs, _) in own_routes() {
        for (method, operation) in described["paths"][path].as_object().unwrap() {
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            let scope = needs.of(&method).map(Scope::name);
            let expected = scope.map_or(json!([]), |scope| json!([{ "token": [scope] }, { "password": [scope] }]));
            assert_eq!(operation["security"], expected, "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("403"), "{method} {path}");
            assert_eq!(responses.contains_key("401"), scope.is_some(), "{method} {path}");
        }
    }
}
