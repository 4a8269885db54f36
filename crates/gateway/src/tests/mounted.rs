//! Routes that are mounted, which the gateway knows nothing of.

use axum::{extract::Request, response::Response, routing::put};
use serde::{Deserialize, Serialize};

use super::*;

const DESCRIPTION: &str = r##"{
  "paths": { "/v1/number": { "put": { "responses": { "200": { "$ref": "#/components/responses/Number" } } } } },
  "components": { "responses": { "Number": { "description": "A number" } } }
}"##;

#[derive(Deserialize, Serialize)]
struct Number {
    number: u32,
}

async fn number(request: Request) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let number: Number = read_json(request, "{\"number\": 1}").await?;
    Ok(json_response(StatusCode::OK, &number))
}

fn routes() -> Routes {
    let count = [(["odd"], 3_u64)];
    Routes::new(DESCRIPTION, [("/v1/number", RequiredScopes::scope(Scope::Operate), put(number))])
        .script("const mounted = 'by somebody';")
        .metrics(move |writer| writer.gauge("numbers", "Numbers that there are", &["kind"], count))
}

#[tokio::test]
async fn they_are_guarded_limited_and_described_as_the_others_are() {
    let bind = "127.0.0.1:0".parse().unwrap();
    let node = start(broadcast::Config::new("a").bind(bind).profile(Profile::Local)).await.expect("starts");
    let timeouts = Timeouts { body: Duration::from_millis(300), ..Timeouts::default() };
    let config = GatewayConfig { timeouts, access: token(), ..GatewayConfig::new(bind) };
    let server = Server::bind(config).expect("loopback has free ports").mount(routes());
    let at = server.addr();
    tokio::spawn(server.run(node.clone()));
    let token = ("authorization", "Bearer 0123456789");
    let ask = async |method: &str, path: &str, body: &str| ask(at, method, path, &[token], body).await;

    assert_eq!(super::ask(at, "PUT", "/v1/number", &[], r#"{"number":7}"#).await.0, 401);
    assert_eq!(super::ask(at, "PUT", "/v1/number", &[token, ("origin", "http://evil.net")], "").await.0, 403);
    assert_eq!(ask("PUT", "/v1/number", r#"{"number":7}"#).await, (200, json!({ "number": 7 })));
    let (status, problem) = ask("PUT", "/v1/number", "[7]").await;
    assert_eq!((status, &problem["line"], &problem["column"]), (400, &json!(1), &json!(0)));
    assert!(problem["detail"].as_str().unwrap().contains("send {\"number\": 1}"), "{problem}");
    let (status, problem) = ask("PUT", "/v1/number", &" ".repeat(20_000)).await;
    assert_eq!((status, &problem["limit"]), (413, &json!(16_384)));
    assert_eq!(ask("PUT", "/v1/number?pretty", r#"{"number":7}"#).await.0, 400);
    let (status, problem) = ask("GET", "/v1/number", "").await;
    assert_eq!((status, &problem["title"]), (405, &json!("Method Not Allowed")));
    let slow =
        format!("PUT /v1/number HTTP/1.1\r\nhost: a\r\n{}: {}\r\ncontent-length: 9999\r\n\r\n", token.0, token.1);
    let heard = trickle(at, &slow).await;
    assert!(heard.starts_with("HTTP/1.1 408 ") && heard.contains("did not arrive within 300ms"), "{heard}");

    let (_, document) = ask("GET", "/openapi.json", "").await;
    let own: Value = serde_json::from_str(OPENAPI).unwrap();
    let mounted: Value = serde_json::from_str(DESCRIPTION).unwrap();
    assert_eq!(document["paths"]["/v1/number"], mounted["paths"]["/v1/number"]);
    assert_eq!(document["paths"]["/v1/cluster"], own["paths"]["/v1/cluster"]);
    assert_eq!(document["components"]["responses"]["Number"], mounted["components"]["responses"]["Number"]);
    assert_eq!(document["components"]["responses"]["Health"], own["components"]["responses"]["Health"]);
    let (status, page) = ask("GET", "/", "").await;
    let page = page.as_str().expect("text");
    assert!(status == 200 && page.contains("\">const mounted = 'by somebody';</script>"), "{page}");
    let (status, metrics) = ask("GET", "/metrics", "").await;
    let metrics = metrics.as_str().expect("text");
    assert!(status == 200 && metrics.contains("# TYPE broadcast_joined gauge\n"), "{metrics}");
    assert!(metrics.contains("\nbroadcast_numbers{kind=\"odd\"} 3\n"), "{metrics}");
    node.leave().await;
}

#[test]
#[should_panic(expected = "what is described is what there is")]
fn what_is_not_described_is_not_mounted() {
    let _ = Routes::new(DESCRIPTION, [("/v1/letter", RequiredScopes::scope(Scope::Operate), put(number))]);
}
