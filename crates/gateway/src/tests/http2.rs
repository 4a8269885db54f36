//! HTTP/2 with prior knowledge: the same answers, and no more room than in HTTP/1.1 for those who mean harm.

use h2::{Reason, client};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncBufReadExt as _;

use super::*;
use crate::{
    accept::SPARE_CONNECTIONS,
    connection::{MAX_HEAD, MAX_STREAMS, PREFACE, STREAM_WINDOW},
};

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Short times, so that tests need not wait.
fn impatient() -> GatewayConfig {
    let [head, body, stall] = [400, 400, 400].map(Duration::from_millis);
    GatewayConfig { timeouts: Timeouts { head, body, stall }, ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) }
}

pub(super) async fn connect(addr: SocketAddr) -> http2::SendRequest<Full<bytes::Bytes>> {
    let stream = TokioIo::new(TcpStream::connect(addr).await.expect("it listens"));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn until_closed(sender: &mut http2::SendRequest<Full<bytes::Bytes>>) {
    timeout(SOON, async {
        while sender.ready().await.is_ok() {
            tokio::task::yield_now().await
        }
    })
    .await
    .expect("it is closed");
}

fn request(addr: SocketAddr, method: &str, path: &str, body: &str) -> hyper::Request<Full<bytes::Bytes>> {
    let request = hyper::Request::builder().method(method).uri(format!("http://{addr}{path}"));
    request.body(Full::new(bytes::Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

/// Status, type and body.
async fn answered(response: hyper::Response<hyper::body::Incoming>) -> (u16, String, String) {
    assert!(response.headers().contains_key("date"));
    let kind = response.headers().get("content-type").map_or("", |value| value.to_str().unwrap()).to_owned();
    let status = response.status().as_u16();
    let body = timeout(SOON, response.into_body().collect()).await.expect("it ends").unwrap().to_bytes();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

/// A client of which every byte is written by hand.
struct Raw(TcpStream);

impl Raw {
    async fn connect(addr: SocketAddr) -> Self {
        let mut raw = Self(TcpStream::connect(addr).await.expect("it listens"));
        raw.0.write_all(PREFACE).await.unwrap();
        raw.send(SETTINGS, 0, 0, &[]).await.unwrap();
        raw
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload)).await
    }

    /// All that comes until the end, as kinds of frames with their payloads.
    async fn hear(self) -> Vec<(u8, Vec<u8>)> {
        let mut stream = tokio::io::BufReader::new(self.0);
        let mut heard = Vec::new();
        let hearing = async {
            while let Ok(false) = stream.fill_buf().await.map(<[u8]>::is_empty) {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).await?;
                heard.push((head[3], payload));
            }
            std::io::Result::Ok(())
        };
        // Whoever is cut off while it sends may hear no more than that.
        let _ = timeout(SOON, hearing).await.expect("it ends");
        heard
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET`, without compression (RFC 7541, section 6.2.2).
fn get_head(addr: SocketAddr, path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0x82, 0x86, 0x04][..], &text(path), &[0x01], &text(&addr.to_string())].concat()
}

#[tokio::test]
async fn both_versions_answer_alike() {
    let (node, at) = served("a", &[]).await;
    let sender = connect(at).await;
    for (method, path, body) in [
        ("GET", "/openapi.json", ""),
        ("GET", "/healthz", ""),
        ("HEAD", "/v1/members", ""),
        ("GET", "/v1/members?pretty", ""),
        ("GET", "/v2", ""),
        ("DELETE", "/v1/messages", ""),
        ("POST", "/v1/messages", "{\"key\":1}"),
        ("POST", "/v1/messages?ack=most", "{}"),
    ] {
        let of_two = sender.clone().send_request(request(at, method, path, body)).await.unwrap();
        assert_eq!(of_two.version(), hyper::Version::HTTP_2);
        let of_two = answered(of_two).await;
        let stream = TokioIo::new(TcpStream::connect(at).await.unwrap());
        let (mut one, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let asked = hyper::Request::builder().method(method).uri(path).header("host", at.to_string());
        let asked = asked.body(Full::new(bytes::Bytes::copy_from_slice(body.as_bytes()))).unwrap();
        assert_eq!(answered(one.send_request(asked).await.unwrap()).await, of_two, "{method} {path}");
    }
    let published = request(at, "POST", "/v1/messages", r#"{"key":"k","value":[1]}"#);
    assert_eq!(sender.clone().send_request(published).await.unwrap().status(), 202);
    node.leave().await;
}

#[tokio::test]
async fn the_preface_may_come_byte_by_byte() {
    let (node, at) = served_with("a", &[], impatient()).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in PREFACE {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let head = get_head(at, "/openapi.json");
    stream.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await.unwrap();
    let heard = Raw(stream).hear().await;
    assert!(heard.iter().any(|(kind, _)| *kind == HEADERS), "{heard:?}");
    node.leave().await;
}

#[tokio::test]
async fn a_node_is_called_by_its_authority() {
    let (node, at) = served("a", &[]).await;
    let ask = async |authority: &str, host: Option<&str>| {
        let mut asked = hyper::Request::get(format!("http://{authority}/v1/members"));
        if let Some(host) = host {
            asked = asked.header("host", host);
        }
        let asked = asked.body(Full::default()).unwrap();
        connect(at).await.send_request(asked).await.unwrap().status().as_u16()
    };
    assert_eq!(ask("localhost:1", None).await, 200);
    assert_eq!(ask("localhost:1", Some("LOCALHOST:1")).await, 200);
    assert_eq!(ask("evil.net:1", None).await, 403, "a page may have made that name up");
    assert_eq!(ask("localhost:1", Some("evil.net:1")).await, 400);
    assert_eq!(ask("evil.net:1", Some("localhost:1")).await, 400);
    node.leave().await;
}

#[tokio::test]
async fn each_open_request_but_the_first_takes_the_place_of_a_connection() {
    let config = GatewayConfig { max_connections: 3, ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) };
    let (node, at) = served_with("a", &[], config).await;
    until(at, "/readyz", |status, _| status == 200).await;
    let sender = connect(at).await;
    let follow = async || sender.clone().send_request(request(at, "GET", "/v1/messages", "")).await.unwrap();
    let mut open = Vec::new();
    let opening = async {
        // Those who asked until now may still be on their way out.
        while open.len() < 3 {
            open.extend(Some(follow().await).filter(|response| response.status() == 200));
        }
    };
    timeout(SOON, opening).await.expect("there is room for so many");
    let beyond = follow().await;
    assert_eq!(beyond.headers()["retry-after"], "1");
    let (status, kind, problem) = answered(beyond).await;
    assert_eq!((status, &*kind), (503, "application/problem+json"));
    assert!(problem.contains("too many connections"), "{problem}");
    // All are taken: of whoever else connects only health checks are answered, and first.
    let other = connect(at).await.send_request(request(at, "GET", "/v1/members", "")).await.unwrap();
    assert_eq!(other.status(), 503);
    assert_eq!(get(at, "/v1/members").await.0, 503);
    let mut checking = connect(at).await;
    let health = checking.send_request(request(at, "GET", "/readyz", "")).await.unwrap();
    assert_eq!(answered(health).await.0, 200);
    until_closed(&mut checking).await;
    drop(open);
    until(at, "/v1/members", |status, _| status == 200).await;
    node.leave().await;
}

#[tokio::test]
async fn those_for_whom_there_is_no_room_do_not_stay() {
    // Those who asked until now may still be on their way out.
    let config = GatewayConfig { max_connections: 8, ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) };
    let (node, at) = served_with("a", &[], config).await;
    until(at, "/readyz", |status, _| status == 200).await;
    let asked = || hyper::Request::get(format!("http://{at}/v1/messages")).body(()).unwrap();
    // They read none of their answers.
    let (mut senders, mut following) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let stream = TcpStream::connect(at).await.unwrap();
        let mut builder = client::Builder::new();
        let (mut sender, connection) =
            builder.initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
        tokio::spawn(connection);
        following.push(sender.send_request(asked(), true).unwrap().0.await.unwrap());
        senders.push(sender);
    }
    let mut responses = Vec::new();
    for mut sender in senders {
        for _ in 1..MAX_STREAMS {
            sender = sender.ready().await.unwrap();
            responses.push(sender.send_request(asked(), true).unwrap().0);
        }
    }
    let (mut told, mut reset) = (0, 0);
    for response in responses {
        match timeout(SOON, response).await.expect("it is answered, or reset") {
            Ok(response) if response.status() == 503 => {
                told += 1;
                let body =
                    timeout(SOON, response.into_body().data()).await.expect("it is reset").expect("not as its end");
                assert_eq!(body.unwrap_err().reason(), Some(Reason::CANCEL));
            }
            Ok(response) => assert_eq!(response.status(), 200),
            Err(error) => {
                reset += 1;
                assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
            }
        }
    }
    assert!(told >= SPARE_CONNECTIONS && reset > 0, "{told} {reset}");
    node.leave().await;
}

#[tokio::test]
async fn who_has_no_token_loses_the_connection() {
    let config = GatewayConfig { access: token(), ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) };
    let (node, at) = served_with("a", &[], config).await;
    let mut sender = connect(at).await;
    let refused = sender.send_request(request(at, "GET", "/v1/members", "")).await.unwrap();
    assert_eq!(answered(refused).await.0, 401);
    until_closed(&mut sender).await;
    node.leave().await;
}

#[tokio::test]
async fn an_answer_that_is_left_where_it_is_is_reset_and_the_others_go_on() {
    let (node, at) = served_with("a", &[], impatient()).await;
    let stream = TcpStream::connect(at).await.unwrap();
    let (sender, connection) =
        client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let ask = async |method: &str, path: &str| {
        let asked = hyper::Request::builder().method(method).uri(format!("http://{at}{path}")).body(()).unwrap();
        let mut sender = sender.clone().ready().await.unwrap();
        let (response, _) = sender.send_request(asked, true).unwrap();
        timeout(SOON, response).await.expect("it answers").unwrap()
    };
    let left = [ask("GET", "/openapi.json").await, ask("GET", "/v1/messages").await];
    for mut body in left.map(hyper::Response::into_body) {
        let error = timeout(SOON, body.data()).await.expect("it is reset").expect("not as its end").unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CANCEL));
    }
    assert_eq!(ask("HEAD", "/v1/members").await.status(), 200);
    assert_eq!(sender.current_max_send_streams(), MAX_STREAMS as usize);
    let metrics = ask_text(at, "/metrics").await;
    assert!(metrics.contains("broadcast_http_cut_off_total 2\n"), "{metrics}");
    node.leave().await;
}

async fn ask_text(at: SocketAddr, path: &str) -> String {
    get(at, path).await.1.as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (node, at) = served_with("a", &[], impatient()).await;
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut sender, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for kind in ["application/json", "application/x-ndjson"] {
        let asked = hyper::Request::post(format!("http://{at}/v1/messages")).header("content-type", kind);
        let (response, mut body) = sender.send_request(asked.body(()).unwrap(), false).unwrap();
        body.send_data(bytes::Bytes::from_static(b"{"), false).unwrap();
        let response = timeout(SOON, response).await.expect("it answers").unwrap();
        assert_eq!(response.status(), 408);
    }
    // More than its window is not taken of a body that nobody reads.
    let asked = hyper::Request::get(format!("http://{at}/v1/messages")).body(()).unwrap();
    let (response, mut body) = sender.send_request(asked, false).unwrap();
    let _follows = timeout(SOON, response).await.expect("it answers").unwrap();
    let mut room = 0;
    body.reserve_capacity(4 * STREAM_WINDOW as usize);
    while let Ok(Some(capacity)) =
        timeout(Duration::from_millis(200), std::future::poll_fn(|context| body.poll_capacity(context))).await
    {
        let capacity = capacity.unwrap();
        room += capacity;
        body.send_data(vec![b' '; capacity].into(), false).unwrap();
    }
    assert!(room <= STREAM_WINDOW as usize, "{room}");
    node.leave().await;
}

#[tokio::test]
async fn who_reads_only_after_sending_all_has_the_answer() {
    let (node, at) = served("a", &[]).await;
    let stream = TcpStream::connect(at).await.unwrap();
    // Like curl: otherwise the end of each window waits for an acknowledgement that the system delays.
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut rest = 8 << 20;
    let asked = hyper::Request::post(format!("http://{at}/v1/messages")).header("content-length", rest);
    let (response, mut body) = sender.send_request(asked.body(()).unwrap(), false).unwrap();
    let sending = async {
        while rest > 0 {
            body.reserve_capacity(rest);
            let room = std::future::poll_fn(|context| body.poll_capacity(context)).await.expect("it is taken").unwrap();
            rest -= room;
            body.send_data(vec![b' '; room].into(), rest == 0).unwrap();
        }
    };
    timeout(SOON, sending).await.expect("it is taken to the end");
    assert_eq!(timeout(SOON, response).await.expect("it answers").unwrap().status(), 413);
    // The rest is not waited for without end. No error is reported: the answer stands.
    let asked = hyper::Request::post(format!("http://{at}/v1/messages")).header("content-length", 8 << 20);
    let (response, mut body) = sender.ready().await.unwrap().send_request(asked.body(()).unwrap(), false).unwrap();
    assert_eq!(timeout(SOON, response).await.expect("it answers").unwrap().status(), 413);
    let reset = std::future::poll_fn(|context| body.poll_reset(context));
    assert_eq!(timeout(SOON, reset).await.expect("it is reset").unwrap(), Reason::NO_ERROR);
    node.leave().await;
}

#[tokio::test]
async fn who_asks_nothing_more_is_let_go_and_who_is_gone_is_noticed() {
    let (node, at) = served_with("a", &[], impatient()).await;
    // Before its first request, and after it.
    let silent = Raw::connect(at).await.hear().await;
    assert!(silent.iter().all(|(kind, _)| matches!(*kind, SETTINGS | 8)), "{silent:?}");
    let mut raw = Raw::connect(at).await;
    raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &get_head(at, "/v2")).await.unwrap();
    let heard = raw.hear().await;
    assert_eq!(heard.last().map(|(kind, _)| *kind), Some(GO_AWAY), "{heard:?}");
    // It follows, and does not answer pings.
    let mut raw = Raw::connect(at).await;
    raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &get_head(at, "/v1/messages")).await.unwrap();
    let heard = raw.hear().await;
    assert!(heard.iter().any(|(kind, _)| *kind == PING), "{heard:?}");
    node.leave().await;
}

#[tokio::test]
async fn heads_have_a_limit() {
    let (node, at) = served("a", &[]).await;
    let status = async |headers: Vec<(String, String)>| {
        let mut asked = request(at, "GET", "/v1/members", "");
        for (name, value) in headers {
            asked.headers_mut().append(hyper::header::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        connect(at).await.send_request(asked).await.map(|response| response.status().as_u16()).ok()
    };
    let many = |count: usize| (0..count).map(|i| (format!("x-{i}"), "1".to_owned())).collect::<Vec<_>>();
    assert_eq!(status(many(90)).await, Some(200));
    assert_eq!(status(many(101)).await, Some(431));
    let long = status(vec![("x".into(), "x".repeat(MAX_HEAD as usize))]).await;
    assert!(matches!(long, Some(431) | None), "{long:?}");

    // One head without end.
    let mut raw = Raw::connect(at).await;
    raw.send(HEADERS, END_STREAM, 1, &get_head(at, "/v1/members")).await.unwrap();
    let more = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x7c][..], &[b'y'; 16_000]].concat();
    // It may be cut off before it has sent all.
    let _ = raw.0.write_all(&frame(CONTINUATION, 0, 1, &more).repeat(100)).await;
    let heard = raw.hear().await;
    assert_eq!(heard.last().map(|(kind, _)| *kind), Some(GO_AWAY), "{heard:?}");
    node.leave().await;
}

#[tokio::test]
async fn floods_cost_their_connection_only() {
    let (node, at) = served_with("a", &[], impatient()).await;
    until(at, "/readyz", |status, _| status == 200).await;
    let head = get_head(at, "/v1/members");
    // Rapid reset (CVE-2023-44487), settings and pings, of one that reads nothing.
    let resets: Vec<u8> = (0..20_000_u32)
        .flat_map(|i| {
            let stream = 2 * i + 1;
            [frame(HEADERS, END_STREAM | END_HEADERS, stream, &head), frame(RESET, 0, stream, &8_u32.to_be_bytes())]
                .concat()
        })
        .collect();
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]).repeat(500_000);
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(500_000);
    for (what, flood, asks) in [
        ("resets", &resets, true),
        ("settings", &settings, true),
        ("settings before it asks", &settings, false),
        ("pings", &pings, true),
    ] {
        let mut raw = Raw::connect(at).await;
        if asks {
            raw.send(HEADERS, END_STREAM | END_HEADERS, 1, &head).await.unwrap();
        }
        // It may be cut off before it has sent all.
        let _ = timeout(SOON, raw.0.write_all(flood)).await.expect("it is taken, or cut off");
        let began = std::time::Instant::now();
        assert_eq!(get(at, "/healthz").await.0, 200, "{what}");
        assert!(began.elapsed() < Duration::from_secs(2), "{what}");
        if what == "resets" {
            assert_eq!(raw.hear().await.last().map(|(kind, _)| *kind), Some(GO_AWAY));
        }
    }
    // Many requests at the same time wait for their turn.
    let mut raw = Raw::connect(at).await;
    let follow = get_head(at, "/v1/messages");
    let many: Vec<u8> =
        (0..2 * MAX_STREAMS).flat_map(|i| frame(HEADERS, END_STREAM | END_HEADERS, 2 * i + 1, &follow)).collect();
    let _ = raw.0.write_all(&many).await;
    let heard = raw.hear().await;
    let refused = heard.iter().filter(|(kind, _)| *kind == RESET).count();
    assert!(refused >= MAX_STREAMS as usize || heard.iter().any(|(kind, _)| *kind == GO_AWAY), "{refused}");
    until(at, "/metrics", |_, metrics| metrics.as_str().unwrap().contains("broadcast_http_followers 0\n")).await;
    node.leave().await;
}

/// What this process holds, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc(5) has it");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of KiB") << 10
}

/// Has bodies sent that nobody wants, beside answers without end, which go on as long as what is given; gives by how much
/// this process has grown.
async fn send_unwanted(at: SocketAddr) -> (usize, impl Sized) {
    let mut open = Vec::new();
    for _ in 0..10 {
        let stream = TcpStream::connect(at).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut sender, mut connection) = client::handshake(stream).await.unwrap();
        let pings = connection.ping_pong().expect("it is the first to ask");
        tokio::spawn(connection);
        let mut bodies = Vec::new();
        for _ in 0..MAX_STREAMS {
            let asked = hyper::Request::get(format!("http://{at}/v1/messages")).body(()).unwrap();
            sender = timeout(SOON, sender.ready()).await.expect("there is room").unwrap();
            let (response, body) = sender.send_request(asked, false).unwrap();
            let response = timeout(SOON, response).await.expect("an answer").unwrap();
            assert_eq!(response.status(), 200, "it follows, for as long as it likes");
            bodies.push((response, body));
        }
        open.push((pings, bodies));
    }
    let (before, data) = (resident(), bytes::Bytes::from(vec![0; STREAM_WINDOW as usize]));
    for (pings, bodies) in &mut open {
        for (_, body) in bodies {
            body.send_data(data.clone(), false).unwrap();
            // What is sent before it was read.
            timeout(SOON, pings.ping(h2::Ping::opaque())).await.expect("an answer").unwrap();
        }
    }
    (resident().saturating_sub(before), open)
}

#[tokio::test]
async fn bodies_that_nobody_wants_are_not_held_for_as_long_as_the_answer_takes() {
    let (node, at) = served("a", &[]).await;
    let most = 10 * MAX_STREAMS as usize * STREAM_WINDOW as usize / 3;
    // Other tests of this process take memory, too, but not each time.
    let (mut grown, mut open) = (Vec::new(), Vec::new());
    while grown.len() < 3 && grown.last().is_none_or(|held| *held >= most) {
        let (held, kept) = send_unwanted(at).await;
        grown.push(held);
        open.push(kept);
    }
    assert!(grown.last().is_some_and(|held| *held < most), "{grown:?} bytes");
    node.leave().await;
}
