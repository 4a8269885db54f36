//! gRPC's health check, by requests written by hand; a client of others asks in `tests/interop/grpc.rs` of the program.

use bytes::Bytes;
use h2::client;

use super::{audited::Collected, http2::connect, *};
use crate::grpc_health::CHECK;

/// What a call came to: the status of HTTP, then of gRPC, what that says, and the body.
type Called = (u16, String, String, Vec<u8>);

fn called_at(addr: SocketAddr, path: &str, kind: &str, message: &[u8]) -> hyper::Request<Full<Bytes>> {
    let request = hyper::Request::post(format!("http://{addr}{path}")).header("content-type", kind);
    request.header("te", "trailers").body(Full::new(Bytes::copy_from_slice(message))).unwrap()
}

async fn call(addr: SocketAddr, path: &str, kind: &str, message: &[u8]) -> Called {
    let request = called_at(addr, path, kind, message);
    heard(timeout(SOON, connect(addr).await.send_request(request)).await.expect("it answers").unwrap()).await
}

async fn heard(response: hyper::Response<hyper::body::Incoming>) -> Called {
    let status = response.status().as_u16();
    let body = timeout(SOON, response.into_body().collect()).await.expect("it ends").unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let text = |name: &str| trailers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    (status, text("grpc-status"), text("grpc-message"), body.to_bytes().to_vec())
}

/// A service by its name, whole and not compressed.
fn ask_for(service: &str) -> Vec<u8> {
    let length = u8::try_from(service.len()).unwrap();
    [&[0, 0, 0, 0, length + 2, 0x0a, length][..], service.as_bytes()].concat()
}

fn answered(is_well: bool) -> Called {
    (200, "0".into(), String::new(), vec![0, 0, 0, 0, 2, 0x08, if is_well { 1 } else { 2 }])
}

const GRPC: &str = "application/grpc";

#[tokio::test]
async fn it_tells_what_readyz_and_livez_tell_and_needs_no_token() {
    let (log, _guard) = Collected::begin();
    let config = GatewayConfig { access: token(), ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) };
    // It cannot join: nobody is there.
    let absent = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (alone, at) = served_with("a", &[absent], config).await;
    assert_eq!(get(at, "/readyz").await.0, 503);
    assert_eq!(call(at, CHECK, GRPC, &[0; 5]).await, answered(false));
    assert_eq!(call(at, CHECK, "application/grpc+proto", &ask_for("live")).await, answered(true));
    alone.leave().await;

    let (node, at) = served("b", &[]).await;
    until(at, "/readyz", |status, _| status == 200).await;
    assert_eq!(call(at, CHECK, GRPC, &ask_for("")).await, answered(true));
    let (http, status, why, body) = call(at, CHECK, GRPC, &ask_for("grün")).await;
    assert_eq!((http, &*status, body.len()), (200, "5", 0));
    assert_eq!(why, "there is no service \"gr%C3%BCn\"; ask for \"\" (ready) or \"live\"");
    assert_eq!(log.take(&["event"]).len(), 0, "who only looks changes nothing");
    node.leave().await;
}

#[tokio::test]
async fn what_is_no_call_of_it_is_refused_in_words() {
    let config = GatewayConfig { access: token(), ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) };
    let (node, at) = served_with("a", &[], config).await;
    let long = [&[0, 0, 0, 4, 1][..], &[b'x'; 1025]].concat();
    for (method, message, code, words) in [
        ("Check", &b""[..], "13", "not one whole message"),
        ("Check", b"\0\0\0\0\x09ab", "13", "not one whole message"),
        ("Check", &[ask_for("live"), ask_for("live")].concat(), "13", "not one whole message"),
        ("Check", b"\0\0\0\0\x02\x0a\x01", "13", "no HealthCheckRequest"),
        ("Check", b"\x01\0\0\0\0", "12", "compressed"),
        ("Check", &long, "8", "longer than 1024 bytes"),
        ("Watch", &[0; 5], "12", "only /grpc.health.v1.Health/Check is served"),
        ("List", &[0; 5], "12", "only /grpc.health.v1.Health/Check is served"),
    ] {
        let (http, status, why, body) = call(at, &format!("/grpc.health.v1.Health/{method}"), GRPC, message).await;
        assert_eq!((http, &*status, body.len()), (200, code, 0), "{method} {message:?}");
        assert!(why.contains(words), "{why}");
    }
    // What is not gRPC has an answer of HTTP.
    for (path, kind, status) in [
        (CHECK, "application/json", 415),
        (CHECK, "application/grpc-web", 415),
        ("/grpc.health.v1.Health/Check/", GRPC, 401),
        ("/grpc.health.v2.Health/Check", GRPC, 401),
    ] {
        let (http, code, ..) = call(at, path, kind, &[0; 5]).await;
        assert_eq!((http, &*code), (status, ""), "{path} {kind}");
    }
    assert_eq!(ask(at, "POST", CHECK, &[("content-type", GRPC)], "").await.0, 505);
    assert_eq!(get(at, CHECK).await.0, 405);
    let mut foreign = called_at(at, CHECK, GRPC, &[0; 5]);
    foreign.headers_mut().insert("origin", "http://evil.net".parse().unwrap());
    assert_eq!(heard(connect(at).await.send_request(foreign).await.unwrap()).await.0, 403);
    node.leave().await;
}

#[tokio::test]
async fn it_is_answered_first_and_whoever_does_not_end_its_call_does_not_stay() {
    let head = Duration::from_millis(400);
    let timeouts = Timeouts { head, ..Timeouts::default() };
    let config = GatewayConfig { max_connections: 1, timeouts, ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) };
    let (node, at) = served_with("a", &[], config).await;
    until(at, "/readyz", |status, _| status == 200).await;
    // The one that there is room for begins a call, and does not end it.
    let (sender, connection) = client::handshake(TcpStream::connect(at).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let asked = hyper::Request::post(format!("http://{at}{CHECK}")).header("content-type", GRPC).body(()).unwrap();
    let (response, mut body) = sender.ready().await.unwrap().send_request(asked, false).unwrap();
    body.send_data(Bytes::from_static(&[0; 4]), false).unwrap();
    let began = std::time::Instant::now();
    let taken = async { while get(at, "/v1/members").await.0 != 503 {} };
    timeout(head, taken).await.expect("all places are taken");
    assert_eq!(call(at, CHECK, GRPC, &ask_for("live")).await, answered(true));
    assert!(began.elapsed() < head, "the place is still taken");
    let mut ended = timeout(SOON, response).await.expect("it is told so").unwrap().into_body();
    let trailers = timeout(SOON, std::future::poll_fn(|context| ended.poll_trailers(context))).await;
    let trailers = trailers.expect("it ends").unwrap().expect("trailers");
    assert_eq!(trailers["grpc-status"], "4");
    assert!(trailers["grpc-message"].to_str().unwrap().contains("did not arrive within 400ms"));
    until(at, "/v1/members", |status, _| status == 200).await;
    node.leave().await;
}
