//! The API on a node, over real connections.

mod audited;
mod grpc_health;
mod http2;
mod mounted;
mod scopes;
mod tls;

use std::{net::SocketAddr, time::Duration};

use broadcast::{Profile, Seed, start};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A node on loopback that is served, and where.
async fn served(name: &str, seeds: &[SocketAddr]) -> (Handle, SocketAddr) {
    served_with(name, seeds, GatewayConfig::new("127.0.0.1:0".parse().unwrap())).await
}

/// Callers need this one.
fn token() -> Access {
    access("all: read,publish,operate 0123456789")
}

/// Callers need one of these.
fn access(tokens: &str) -> Access {
    Access::with(Tokens::new(Tokens::parse(tokens).unwrap()).unwrap())
}

async fn served_with(name: &str, seeds: &[SocketAddr], config: GatewayConfig) -> (Handle, SocketAddr) {
    let seeds = seeds.iter().map(|addr| Seed { host: addr.ip().to_string(), port: addr.port() });
    let bind = "127.0.0.1:0".parse().unwrap();
    let node =
        start(broadcast::Config::new(name).bind(bind).profile(Profile::Local).join(seeds)).await.expect("starts");
    let server = Server::bind(config).expect("loopback has free ports");
    let addr = server.addr();
    tokio::spawn(server.run(node.clone()));
    (node, addr)
}

/// An answer's status, and its body as JSON, or else as a text.
async fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let stream = TcpStream::connect(addr).await.expect("it listens");
    let (mut sender, connection) = http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = hyper::Request::builder().method(method).uri(path).header("host", addr.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(bytes::Bytes::copy_from_slice(body.as_bytes()))).unwrap();
    let response = timeout(SOON, sender.send_request(request)).await.expect("it answers").unwrap();
    let status = response.status().as_u16();
    let body = timeout(SOON, response.into_body().collect()).await.expect("it ends").unwrap().to_bytes();
    let text = || Value::from(String::from_utf8_lossy(&body).into_owned());
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| text()))
}

async fn get(addr: SocketAddr, path: &str) -> (u16, Value) {
    ask(addr, "GET", path, &[], "").await
}

async fn until(addr: SocketAddr, path: &str, holds: impl Fn(u16, &Value) -> bool) -> Value {
    let looking = async {
        loop {
            let (status, value) = get(addr, path).await;
            if holds(status, &value) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, looking).await.unwrap_or_else(|_| panic!("{path} does not come to it"))
}

#[tokio::test]
async fn members_believe_of_each_other_what_each_says_itself() {
    let (a, at) = served("a", &[]).await;
    let (b, _) = served("b", &[a.addr()]).await;
    until(at, "/readyz", |status, value| status == 200 && value["members"] == 2).await;
    let belief = |name: &str| json!({ "name": name, "state": "alive", "incarnation": 1 });
    let all = json!([belief("a"), belief("b")]);
    let agreed =
        json!({ "node": "a", "views": [{ "of": "a", "members": all }, { "of": "b", "members": all }], "not_asked": 0 });
    until(at, "/v1/views", |_, views| *views == agreed).await;

    let (status, cluster) = get(at, "/v1/cluster").await;
    assert_eq!((status, &cluster["members"]["alive"], &cluster["settled"]), (200, &json!(2), &json!(true)));
    b.leave().await;
    let left = |_, views: &Value| views["views"][0]["members"][1]["state"] == "left";
    assert_eq!(until(at, "/v1/views", left).await["views"].as_array().map(Vec::len), Some(1), "nobody is left to ask");
    let (_, members) = get(at, "/v1/members").await;
    assert_eq!((&members["members"][1]["name"], &members["members"][1]["state"]), (&json!("b"), &json!("left")));
    a.leave().await;
}

#[tokio::test]
async fn members_are_asked_for_their_views_once_a_second_however_many_want_them() {
    let (a, at) = served("a", &[]).await;
    let (b, _) = served("b", &[a.addr()]).await;
    until(at, "/readyz", |status, value| status == 200 && value["members"] == 2).await;
    let asked = async || a.metrics().await.traffic.tcp_connect;
    let (before, began) = (asked().await, tokio::time::Instant::now());
    let all: Vec<_> = (0..50).map(|_| tokio::spawn(async move { get(at, "/v1/views").await })).collect();
    for answer in all {
        let (status, views) = answer.await.unwrap();
        assert_eq!((status, views["views"].as_array().map(Vec::len), &views["not_asked"]), (200, Some(2), &json!(0)));
    }
    // The node itself exchanges views now and then.
    let asked = asked().await - before;
    assert!(asked <= 3 + began.elapsed().as_secs(), "{asked} times in {:?}", began.elapsed());
    a.leave().await;
    b.leave().await;
}

#[tokio::test]
async fn the_server_ends_with_its_node_and_tells_those_who_follow() {
    let (a, at) = served("a", &[]).await;
    let following = tokio::spawn(async move { get(at, "/v1/messages").await });
    let lines = [("accept", "application/x-ndjson")];
    let lines = tokio::spawn(async move { ask(at, "GET", "/v1/messages", &lines, "").await });
    let (status, published) = ask(at, "POST", "/v1/messages?ack=all", &[], r#"{"key":"k","value":[1, null]}"#).await;
    assert_eq!((status, &published["delivered"], &published["seq"]), (200, &json!(0), &json!(0)));
    let (status, cluster) = get(at, "/v1/cluster").await;
    assert_eq!((status, &cluster["origins"][0]["next"]), (200, &json!(1)));
    a.leave().await;
    let (status, events) = following.await.unwrap();
    let events = events.as_str().unwrap().to_owned();
    assert!(status == 200 && events.starts_with("retry: 1000\nid: "), "{events}");
    assert!(
        events.ends_with("event: left\ndata: {\"event\":\"left\",\"reason\":\"this node has left its cluster\"}\n\n")
    );
    let (_, lines) = lines.await.unwrap();
    assert!(lines.to_string().contains("this node has left its cluster"), "{lines}");
    timeout(SOON, async { while TcpStream::connect(at).await.is_ok() {} }).await.expect("it stops listening");
}

#[tokio::test]
async fn who_follows_events_sees_members_and_who_has_what_of_whom() {
    let (a, at) = served("a", &[]).await;
    let (b, _) = served("b", &[a.addr()]).await;
    until(at, "/readyz", |status, value| status == 200 && value["members"] == 2).await;
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut sender, connection) = http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request =
        hyper::Request::get("/v1/events").header("host", at.to_string()).body(Full::<bytes::Bytes>::default());
    let mut body = timeout(SOON, sender.send_request(request.unwrap())).await.unwrap().unwrap().into_body();
    let receipt = b.publish("k", &1).await.unwrap();
    let mut told = String::new();
    let acked = format!(r#"{{"origin":"b","epoch":{},"members":{{"a":1}}}}"#, receipt.id().epoch);
    let seen = |told: &str| {
        let event = |name: &str, data: &str| told.contains(&format!("event: {name}\ndata: {data}"));
        event("members", r#"{"node":"a","members":["#) && event("acks", &acked)
    };
    while !seen(&told) {
        let frame = timeout(SOON, body.frame()).await.unwrap_or_else(|_| panic!("{told}")).unwrap().unwrap();
        told += std::str::from_utf8(frame.data_ref().unwrap()).unwrap();
    }
    a.leave().await;
    b.leave().await;
}

#[test]
fn the_description_has_all_there_is() {
    let described: Value = serde_json::from_str(OPENAPI).unwrap();
    let described: Vec<_> = described["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(described, own_routes().map(|(path, ..)| path));
    let open = own_routes().into_iter().filter(|(_, needs, _)| *needs == RequiredScopes::NONE).map(|(path, ..)| path);
    assert_eq!(open.collect::<Vec<_>>(), guard::HEALTH_PATHS, "what is answered first is what needs no token");
}

/// What a client hears that sends this, and then a byte at a time without end.
async fn trickle(addr: SocketAddr, start: &str) -> String {
    let (mut reading, mut writing) = TcpStream::connect(addr).await.expect("it listens").into_split();
    let trickling = async {
        writing.write_all(start.as_bytes()).await?;
        loop {
            writing.write_all(b" ").await?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut heard = Vec::new();
    let reading = async {
        // Whoever is cut off while it sends may hear no more than that.
        let _ = reading.read_to_end(&mut heard).await;
    };
    let both = async {
        tokio::select! {
            () = reading => {}
            _ = async { let _: std::io::Result<()> = trickling.await; std::future::pending::<()>().await } => {}
        }
    };
    timeout(SOON, both).await.expect("it is cut off");
    String::from_utf8(heard).unwrap()
}

#[tokio::test]
async fn whoever_trickles_is_cut_off() {
    let timeouts =
        Timeouts { head: Duration::from_millis(300), body: Duration::from_millis(300), ..Timeouts::default() };
    let config = GatewayConfig { timeouts, ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) };
    let (node, at) = served_with("a", &[], config).await;
    let heard = trickle(at, "GET / HTTP/1.1\r\nhost: a\r\nx: ").await;
    assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 408 "), "{heard}");
    let heard = trickle(at, "POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\n\r\n{").await;
    assert!(heard.starts_with("HTTP/1.1 408 ") && heard.contains("did not arrive within 300ms"), "{heard}");
    node.leave().await;
}

#[tokio::test]
async fn whoever_takes_nothing_is_cut_off() {
    let timeouts = Timeouts { stall: Duration::from_millis(300), ..Timeouts::default() };
    let (node, at) =
        served_with("a", &[], GatewayConfig { timeouts, ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) }).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"GET /v1/messages HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    stream.readable().await.unwrap();
    let value = format!("\"{}\"", "x".repeat(1 << 16));
    let publishing = async {
        // More than the sockets keep.
        while get(at, "/v1/cluster").await.1["origins"][0]["next"].as_u64().unwrap() < 1000 {
            node.publish("k", &serde_json::from_str::<Value>(&value).unwrap()).await.unwrap();
        }
    };
    // A thousand times on one thread, beside other tests.
    timeout(4 * SOON, publishing).await.expect("nobody waits for it");
    // What is sent to a connection that is there no more comes back.
    let noticing = async {
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, noticing).await.expect("it is cut off");
    node.leave().await;
}
