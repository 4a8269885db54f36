//! Clients of the HTTP API that make mistakes, are hostile, or too many: each is told what was wrong, and nobody else suffers.

use std::{
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Process,
    http::{Answer, ask, connect, open_stream, raw, read, read_head, request},
    program, stdout, traffic, wait,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-for-this-test";
const JSON: &str = "content-type: application/json";
const LINES: &str = "content-type: application/x-ndjson";
/// What a node may need with 10,000 clients, in bytes.
const MEMORY: usize = 512 << 20;

fn node(args: &[&str], env: &[(&str, &str)]) -> (Process, SocketAddr) {
    let node = Process::node_with(&[&["--name", "node1", "--http", "127.0.0.1:0"], args].concat(), env);
    let at = node.http();
    (node, at)
}

/// An answer is a problem of this status, which says these words.
#[track_caller]
fn assert_problem(answer: &Answer, status: u16, words: &str) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    assert_eq!(problem["status"], status);
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{words:?}: {problem}");
    problem
}

#[test]
fn a_body_that_is_none_is_refused_by_line_and_column() {
    let (_node, at) = node(&[], &[]);
    for (method, path, body, line, column) in [
        ("POST", "/v1/messages", "{\"key\":\"a\",\n\"value\":}", 2, 9),
        ("POST", "/v1/messages", "{\"key\":\"a\"}", 1, 11),
        ("POST", "/v1/messages", "{\"key\":1,\"value\":2}", 1, 8),
        ("POST", "/v1/messages", "{\"key\":\"a\",\"value\":1,\"more\":2}", 1, 27),
        ("POST", "/v1/messages", "[\"a\",1]", 1, 0),
        ("PUT", "/v1/faults", "[null]", 1, 0),
        ("POST", "/v1/messages", "", 1, 0),
        ("PUT", "/v1/log", "{\"filter\":", 1, 10),
        ("PUT", "/v1/faults", "{\n\"fault\"", 2, 7),
    ] {
        let problem = assert_problem(&ask(at, method, path, &[JSON], body.as_bytes()), 400, "send {");
        assert_eq!((&problem["line"], &problem["column"]), (&json!(line), &json!(column)), "{body}: {problem}");
    }
    let latin = b"{\"key\":\"\xe4\",\"value\":1}";
    assert_problem(&ask(at, "POST", "/v1/messages", &[], latin), 400, "send {");
    let deep = [b"{\"key\":\"a\",\"value\":", &[b'['; 1 << 20][..]].concat();
    assert_problem(&ask(at, "POST", "/v1/messages", &[], &deep), 400, "EOF");
    let broken =
        b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n";
    assert_problem(&raw(at, broken), 400, "broke off");
}

#[test]
fn a_body_that_is_too_long_is_refused_however_it_is_sent() {
    let (_node, at) = node(&[], &[]);
    let message = |length: usize| format!("{{\"key\":\"a\",\"value\":\"{}\"}}", "x".repeat(length)).into_bytes();
    let post = |body: &[u8]| ask(at, "POST", "/v1/messages", &[JSON], body);
    assert_eq!(post(&message((1 << 20) - 1000)).status, 202, "the largest there may be, nearly");
    assert_problem(&post(&message(1 << 20)), 413, "at most 1048576 are allowed");
    let problem = assert_problem(&post(&message(8 << 20)), 413, "shorten its value");
    assert_eq!(problem["limit"], (1 << 20) + (64 << 10));
    assert_problem(&ask(at, "POST", "/v1/messages", &[LINES], &message(8 << 20)), 413, "shorten its value");
    for path in ["/v1/log", "/v1/faults"] {
        let body = format!("{{\"filter\":\"{}\"}}", "x".repeat(20 << 10));
        assert_problem(&ask(at, "PUT", path, &[JSON], body.as_bytes()), 413, "16384 bytes at most");
    }
    let mut chunked = request("GET", "/v1/messages", &["transfer-encoding: chunked", "connection: close"], b"");
    chunked.splice(..3, *b"POST");
    for _ in 0..64 {
        chunked.extend(b"10000\r\n");
        chunked.extend([b' '; 0x10000]);
        chunked.extend(b"\r\n");
    }
    assert_problem(&raw(at, &chunked), 413, "shorten its value");
}

#[test]
fn who_reads_only_after_sending_all_has_the_answer() {
    let (_node, at) = node(&[], &[]);
    let lines = [&b"none\n"[..], &b"{\"key\":\"a\",\"value\":1}\n".repeat(1 << 17)].concat();
    for (kind, body, status, words) in
        [(JSON, vec![b' '; 50 << 20], 413, "shorten its value"), (LINES, lines, 400, "not a message")]
    {
        let mut stream = connect(at);
        stream.write_all(&request("POST", "/v1/messages", &[kind], &body)).expect("it is taken to the end");
        assert_problem(&read(&mut BufReader::new(stream)).expect("it answers"), status, words);
    }
    // Not for ever.
    let mut stream = connect(at);
    let head = b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000000\r\n\r\n";
    stream.write_all(head).expect("it is taken");
    let began = Instant::now();
    while stream.write_all(&[b' '; 1 << 16]).is_ok() {
        assert!(began.elapsed() < crate::support::LIMIT, "it goes on reading");
    }
}

#[test]
fn what_is_asked_is_known_or_refused() {
    let (_node, at) = node(&[], &[]);
    let body = br#"{"key":"a","value":1}"#;
    for (query, words) in [
        ("ack=most", r#"ack = "most": write all or none"#),
        ("ack=all&ack=all", "ack is given more than once"),
        ("acks=all", r#""acks" is not a parameter here; those there are: ack, timeout"#),
        ("ack=all&timeout=2", r#"timeout = "2": not a duration from 1ms to 60s"#),
        ("ack=all&timeout=0s", "from 1ms to 60s"),
        ("ack=all&timeout=61s", "from 1ms to 60s"),
        ("ack=all&timeout=99999999999999999999y", "from 1ms to 60s"),
        ("timeout=2s", "timeout is only for ack=all"),
    ] {
        assert_problem(&ask(at, "POST", &format!("/v1/messages?{query}"), &[], body), 400, words);
    }
    for (query, words) in [
        ("keys=a", r#""keys" is not a parameter here; those there are: key, from, last, after"#),
        ("last=-1", r#"last = "-1": not a number of messages; write one like 10"#),
        ("last=many", r#"last = "many": not a number of messages"#),
        ("key=a&key=b", "key is given more than once"),
        ("after=here", r#"after "here" is not a place to continue from"#),
        ("after=", "is not a place to continue from"),
    ] {
        assert_problem(&ask(at, "GET", &format!("/v1/messages?{query}"), &[], b""), 400, words);
    }
    for path in ["/v1/members", "/v1/cluster", "/v1/views", "/v1/log", "/v1/faults"] {
        assert_problem(&ask(at, "GET", &format!("{path}?pretty"), &[], b""), 400, "takes no parameters");
    }
    for (query, words) in [
        ("last=1", r#""last" is not a parameter here; those there are: messages"#),
        ("messages=-1", r#"messages = "-1": not a number of messages; write one like 10"#),
        ("messages=1&messages=1", "messages is given more than once"),
    ] {
        assert_problem(&ask(at, "GET", &format!("/v1/events?{query}"), &[], b""), 400, words);
    }
    for path in ["/v1/messages", "/v1/events?messages=1"] {
        let malformed = ask(at, "GET", path, &["last-event-id: here"], b"");
        assert_problem(&malformed, 400, r#"Last-Event-ID "here" is not a place to continue from"#);
    }
    assert_problem(&ask(at, "GET", "/v1/messages", &["accept: text/html"], b""), 406, "text/event-stream");
    assert_problem(&ask(at, "GET", "/v1/members", &["host: example.org"], b""), 400, "only one Host header");
    assert_problem(&ask(at, "POST", "/v1/messages", &["content-type: text/plain"], body), 415, "application/json");
    assert_problem(&ask(at, "GET", "/v2/messages", &[], b""), 404, "/openapi.json");
    let refused = ask(at, "DELETE", "/v1/messages", &[], b"");
    assert_problem(&refused, 405, "Allow");
    assert_eq!(refused.header("allow"), Some("GET,HEAD,POST"));
    let cluster = ask(at, "GET", "/v1/cluster", &[], b"").json();
    assert_eq!(cluster["origins"][0]["next"], 0, "nothing was published: {cluster}");
}

#[test]
fn faults_change_where_the_node_was_started_to_take_them() {
    let (_plain, at) = node(&[], &[]);
    let put = |at, body: &str| ask(at, "PUT", "/v1/faults", &[JSON], body.as_bytes());
    assert_problem(&put(at, r#"{"faults":"loss=0.3"}"#), 409, "BROADCAST_FAULTS (--faults)");
    let (_faulty, at) = node(&[], &[("BROADCAST_FAULTS", "ready")]);
    let none = json!({ "faults": null });
    assert_eq!(ask(at, "GET", "/v1/faults", &[], b"").json(), none);
    let faults = put(at, r#"{"faults":"loss=0.3,seed=7"}"#);
    assert_eq!((faults.status, &faults.json()["faults"]), (200, &json!("loss=0.3,duplicate=0,delay=0s..0s,seed=7")));
    for (body, words) in [
        (r#"{"faults":"loss=2"}"#, "a share is a number from 0 to 1"),
        (r#"{"faults":7}"#, "send {"),
        (r#"{"fault":"loss=1"}"#, "unknown field `fault`"),
        ("{}", "missing field `faults`"),
        ("", "EOF"),
    ] {
        assert_problem(&put(at, body), 400, words);
    }
    assert_eq!(put(at, r#"{"faults":null}"#).json(), none);
    let filter = ask(at, "PUT", "/v1/log", &[JSON], br#"{"filter":"warn"}"#);
    assert_eq!((filter.status, ask(at, "GET", "/v1/log", &[], b"").json()), (200, json!({ "filter": "warn" })));
}

#[test]
fn a_node_that_is_told_to_leave_says_goodbye_and_ends() {
    let (mut node, at) = node(&[], &[("BROADCAST_HTTP_TOKEN", TOKEN)]);
    let addr = node.addr().to_string();
    let other = Process::node(&["--name", "other", "--join", &addr]);
    other.log.wait_line(0, &json!({"event": "nodes", "nodes": 2}));
    assert_problem(&ask(at, "POST", "/v1/leave", &[], b""), 401, "Authorization");
    assert_problem(&ask(at, "GET", "/v1/leave", &[&format!("authorization: Bearer {TOKEN}")], b""), 405, "Allow");
    let told = program(&["leave", "--node", &at.to_string()]).env("BROADCAST_HTTP_TOKEN", TOKEN).output();
    let name = node.log.lines()[0]["node"].as_str().expect("each line has it").to_owned();
    assert_eq!(stdout(told.expect("it runs")), format!("{name} leaves\n"));
    assert!(node.wait().success());
    other.log.wait_line(0, &json!({"event": "left", "member": name}));
    assert_eq!(
        node.log.count(&json!({"event": "leaving", "why": "told to leave, over HTTP"})),
        1,
        "{:#?}",
        node.log.lines()
    );
}

#[test]
fn who_has_no_token_sees_only_whether_the_node_is_well() {
    let (_node, at) = node(&[], &[("BROADCAST_HTTP_TOKEN", TOKEN)]);
    let paths = ["/", "/openapi.json", "/v1/messages", "/v1/members", "/v1/events", "/v1/faults", "/none", "/healthz/"];
    let basic = "authorization: Basic YW55OmEtdG9rZW4tZm9yLXRoaXMtdGVzdA==";
    for path in paths {
        for headers in [
            &[][..],
            &["authorization: Bearer a-token-for-this-tesT"],
            &["authorization: Bearer"],
            &["authorization: Bearer a-token-for-this-test-and-more"],
            &["authorization: Digest a-token-for-this-test"],
            &["authorization: Basic YW55"],
            &["authorization: Basic YW55OmEtdG9rZW4tZm9yLXRoaXMtdGVzVA=="],
        ] {
            let answer = ask(at, "GET", path, headers, b"");
            assert_problem(
                &answer,
                401,
                if headers.is_empty() { "a token is needed" } else { "BROADCAST_TOKENS_FILE" },
            );
            let schemes = answer.head.iter().filter(|line| line.to_ascii_lowercase().starts_with("www-authenticate:"));
            assert_eq!(schemes.count(), 2, "{path}");
        }
    }
    assert_eq!(ask(at, "POST", "/v1/messages", &[], br#"{"key":"a","value":1}"#).status, 401);
    for path in ["/healthz", "/livez", "/readyz"] {
        assert!(matches!(ask(at, "GET", path, &[], b"").status, 200 | 503), "{path}");
    }
    for header in
        [basic, "authorization: bearer a-token-for-this-test", "AUTHORIZATION: BASIC  OmEtdG9rZW4tZm9yLXRoaXMtdGVzdA=="]
    {
        assert_eq!(ask(at, "GET", "/v1/members", &[header], b"").status, 200, "{header}");
    }
}

#[test]
fn web_pages_of_others_are_refused() {
    let (_node, at) = node(&["--http-origins", "https://example.org"], &[]);
    let get = |headers: &[&str]| {
        let host = format!("GET /v1/members HTTP/1.1\r\nconnection: close\r\n{}\r\n\r\n", headers.join("\r\n"));
        raw(at, host.as_bytes())
    };
    for headers in [
        &["host: 127.0.0.1:8946", "origin: https://example.com"][..],
        &["host: 127.0.0.1:8946", "origin: http://example.org"],
        &["host: 127.0.0.1:8946", "origin: https://example.org.evil.net"],
        &["host: 127.0.0.1:8946", "origin: null"],
        &["host: 127.0.0.1:8946", "origin: http://127.0.0.1:3000"],
        // A name of the page's own that leads here.
        &["host: evil.net:8946", "origin: http://evil.net:8946"],
        &["host: evil.net:8946", "sec-fetch-site: same-origin"],
        // A browser says nothing of what a page at a plain name asks of its own origin.
        &["host: evil.net:8946"],
        // What a page shows, or loads as a script.
        &["host: 127.0.0.1:8946", "sec-fetch-site: cross-site", "sec-fetch-mode: no-cors"],
        &["host: localhost:8946", "sec-fetch-site: same-site", "sec-fetch-mode: no-cors"],
    ] {
        let answer = get(headers);
        assert_problem(&answer, 403, "BROADCAST_HTTP_ORIGINS");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{headers:?}");
    }
    for headers in [
        &["host: localhost:8946", "origin: http://localhost:8946"][..],
        &["host: 127.0.0.1:8946", "sec-fetch-site: same-origin", "sec-fetch-mode: cors"],
        &["host: localhost:8946", "sec-fetch-site: cross-site", "sec-fetch-mode: navigate"],
        &["host: example.org"],
    ] {
        assert_eq!(get(headers).status, 200, "{headers:?}");
    }
    // A link leads here from anywhere; a form that is sent does more than that.
    let form = ["sec-fetch-site: cross-site", "sec-fetch-mode: navigate", "content-type: text/plain"];
    assert_problem(&ask(at, "POST", "/v1/messages", &form, br#"{"key":"k","value":1}"#), 403, "BROADCAST_HTTP_ORIGINS");
    // By which name it is called, or for which page, must be plain.
    for headers in [
        &["host: 127.0.0.1:8946", "origin: http://127.0.0.1:8946", "origin: https://example.com"][..],
        &["host: 127.0.0.1:8946", "host: evil.net"],
        &["host: ev\u{131}l.net"],
        &[],
    ] {
        assert_problem(&get(headers), 400, "header");
    }
    let allowed = get(&["host: 127.0.0.1:8946", "origin: https://example.org"]);
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some("https://example.org")));
    assert_eq!(allowed.header("vary"), Some("Origin"));

    let wants = "access-control-request-method: PUT";
    let preflight = ask(at, "OPTIONS", "/v1/faults", &["origin: https://example.org", wants], b"");
    assert_eq!((preflight.status, preflight.text().as_str()), (204, ""));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, POST, PUT, DELETE"));
    let refused = ask(at, "OPTIONS", "/v1/faults", &["origin: https://example.com", wants], b"");
    assert_problem(&refused, 403, "example.com");
    assert_problem(&ask(at, "OPTIONS", "/v1/faults", &[], b""), 405, "Allow");
}

#[test]
fn what_is_no_http_costs_its_connection_only() {
    let (_node, at) = node(&[], &[]);
    let well = request("GET", "/v1/members", &[], b"");
    let mut stream = BufReader::new(connect(at));
    stream.get_mut().write_all(&[&well[..], &well, b"garbage\x00\xff\r\n\r\n", &well].concat()).expect("it is taken");
    let statuses: Vec<_> = std::iter::from_fn(|| read(&mut stream)).map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200, 400], "what came before is answered, and what follows is not");

    let long = [b"GET / HTTP/1.1\r\nhost: a\r\nx: ", &[b'x'; 1 << 20][..], b"\r\n\r\n"].concat();
    let both = b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n{}";
    for harm in [
        &b"GET /\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        &long,
        both,
    ] {
        let mut stream = BufReader::new(connect(at));
        let _ = stream.get_mut().write_all(harm);
        let answers: Vec<_> = std::iter::from_fn(|| read(&mut stream)).map(|answer| answer.status).collect();
        let start = String::from_utf8_lossy(&harm[..harm.len().min(30)]).into_owned();
        assert!(
            answers.len() <= 1 && answers.iter().all(|status| (400..500).contains(status)),
            "{start:?}: {answers:?}"
        );
    }
    assert_eq!(ask(at, "GET", "/healthz", &[], b"").status, 200);
    let head = ask(at, "HEAD", "/v1/members", &[], b"");
    assert!(head.status == 200 && head.body.is_empty() && head.header("content-length").is_some(), "{head:?}");
}

/// As many open files as the system gives; how many there are.
fn raise_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the limit can be raised to what it may be");
    hard
}

/// How long the abused node takes to answer its neighbour, in milliseconds: the median of many looks.
fn probe_time(neighbour: SocketAddr, looks: usize, mut between: impl FnMut()) -> f64 {
    let deadline = Instant::now() + crate::support::LIMIT;
    let mut times = Vec::new();
    while times.len() < looks {
        assert!(Instant::now() < deadline, "it is probed");
        between();
        let members = ask(neighbour, "GET", "/v1/members", &[], b"").json();
        let members = members["members"].as_array().expect("members");
        let member = members.iter().find(|member| member["name"] == "node1").expect("it is one");
        times.extend(member["rtt_ms"].as_f64());
    }
    times.sort_by(f64::total_cmp);
    times[looks / 2]
}

#[test]
fn ten_thousand_connections_do_not_hold_up_the_gossip() {
    let wanted = 10_000.min(usize::try_from(raise_limit().saturating_sub(500)).expect("a number of files"));
    let (node1, at) = node(&[], &[]);
    let seed = node1.addr().to_string();
    let other = |name| Process::node(&["--name", name, "--http", "127.0.0.1:0", "--join", &seed]);
    let (node2, node3) = (other("node2"), other("node3"));
    let nodes = [("node1", &*node1.log), ("node2", &node2.log), ("node3", &node3.log)];
    traffic::wait_members(3, &nodes);
    let pause = || thread::sleep(Duration::from_millis(20));
    let before = probe_time(node2.http(), 50, pause);

    // Those let in follow messages, and so stay.
    let following = request("GET", "/v1/messages", &[], b"");
    let mut slowest = Duration::ZERO;
    let open = std::iter::repeat_with(|| {
        let began = Instant::now();
        let mut stream = connect(at);
        slowest = slowest.max(began.elapsed());
        let _ = stream.write_all(&following);
        stream
    });
    let open: Vec<_> = open.take(wanted).collect();
    let status = |stream: &TcpStream| read_head(&mut BufReader::new(stream)).map(|(status, _)| status);
    let (mut open, others): (Vec<_>, Vec<_>) =
        open.into_iter().map(|stream| (status(&stream), stream)).partition(|(status, _)| *status == Some(200));
    let refused = others.iter().filter(|(status, _)| *status == Some(503)).count();
    println!("{wanted} connections: {} let in, {refused} told why not; slowest to open {slowest:?}", open.len());
    assert_eq!(open.len(), wanted.min(4096));
    assert!(others.iter().all(|(status, _)| matches!(status, None | Some(503))));
    if wanted > open.len() {
        let began = Instant::now();
        // Many are told so at the same time, though not all.
        let told = || read(&mut BufReader::new(connect(at)));
        let beyond =
            std::iter::repeat_with(told).take_while(|_| began.elapsed() < crate::support::LIMIT).flatten().next();
        println!("one more was told after {:?}", began.elapsed());
        let beyond = beyond.expect("it is told");
        assert_problem(&beyond, 503, "too many connections");
        assert_eq!(beyond.header("retry-after"), Some("1"));
    }

    // Room for those who ask.
    open.truncate(open.len() - 50);
    let well = |_| loop {
        let mut stream = connect(at);
        let _ = stream.write_all(&request("GET", "/v1/cluster", &["connection: close"], b""));
        match read(&mut BufReader::new(stream)).map(|answer| answer.status) {
            Some(200) => break,
            Some(503) | None => {}
            Some(status) => panic!("{status}"),
        }
    };
    let during = probe_time(node2.http(), 50, || (0..50).for_each(well));
    println!("node2 probes node1 in {before} ms before, {during} ms meanwhile: {:.1} times", during / before);
    println!("at most {} MiB resident", node1.peak_memory() >> 20);
    assert!(during < before.max(1.0) * 50.0, "{before} ms, then {during} ms");
    assert!(node1.peak_memory() < MEMORY, "{} bytes", node1.peak_memory());
    for (name, log) in nodes {
        for event in ["suspected", "failed"] {
            assert_eq!(log.count(&json!({ "event": event })), 0, "{event} by {name}");
        }
    }
}

/// Follows all messages from here on, over a connection without chunks; its head is read.
fn follow(at: SocketAddr) -> BufReader<TcpStream> {
    let (mut stream, _) = open_stream(at, "/v1/messages", &["accept: application/x-ndjson"]);
    let mut here = String::new();
    stream.read_line(&mut here).expect("it begins");
    assert!(here.starts_with(r#"{"event":"here","cursor":""#), "{here}");
    stream
}

#[test]
fn bodies_that_are_not_finished_cost_bounded_memory() {
    let (node, at) = node(&[], &[]);
    let before = node.peak_memory();
    let head = b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 1100000\r\n\r\n{\"key\":\"";
    let part = [head, &vec![b'x'; 1 << 20][..]].concat();
    let held: Vec<_> = (0..300)
        .filter_map(|_| {
            let mut stream = connect(at);
            // One that is refused may be closed before it has sent all.
            stream.write_all(&part).ok().map(|()| stream)
        })
        .collect();
    // As long as those: of what they may hold together less than one is left.
    let large = [br#"{"key":"a","value":""#, &vec![b'x'; 1 << 20][..], b"\"}"].concat();
    // The node may not have read all of theirs yet.
    let deadline = Instant::now() + crate::support::LIMIT;
    let refused = loop {
        let answer = ask(at, "POST", "/v1/messages", &[], &large);
        if answer.status != 202 {
            break answer;
        }
        assert!(Instant::now() < deadline, "there is room for all");
    };
    assert_problem(&refused, 503, "too many bodies");
    let grown = node.peak_memory() - before;
    println!("{} bodies cost {} MiB", held.len(), grown >> 20);
    // What they hold together, twice where it grows, and what the connections read ahead.
    assert!(grown < 256 << 20, "{grown}");
    drop(held);
    wait("there is room again", || ask(at, "POST", "/v1/messages", &[], br#"{"key":"a","value":1}"#).status == 202);
}

#[test]
fn one_that_stops_reading_is_cut_off_and_the_others_get_all() {
    let (node, at) = node(&[], &[]);
    let (mut stopped, mut good) = (follow(at), follow(at));
    // Each takes a KiB: more together than the journal keeps, and sockets.
    let line = format!("{{\"key\":\"k\",\"value\":\"{}\"}}\n", "x".repeat(1024));
    let (count, step) = (50_000, 2_500);
    let mut text = String::new();
    for published in (step..=count).step_by(step) {
        let answer = ask(at, "POST", "/v1/messages", &[LINES], line.repeat(step).as_bytes());
        assert_eq!((answer.status, &answer.json()["published"]), (202, &json!(step)), "{}", answer.text());
        // Once the good one is here, the next come.
        for seq in published - step..published {
            text.clear();
            good.read_line(&mut text).expect("it goes on");
            assert!(text.contains(&format!("\"seq\":{seq},")), "{seq}: {text}");
        }
    }
    let mut last = String::new();
    let mut heard = 0;
    loop {
        text.clear();
        match stopped.read_line(&mut text) {
            Ok(0) => break,
            Ok(_) => (heard, last) = (heard + 1, text.clone()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    let gone: Value = serde_json::from_str(&last).expect("a line");
    assert_eq!(gone["event"], "gone", "{gone}");
    let missed = gone["missed"].as_u64().expect("how many");
    assert!(gone["reason"].as_str().is_some_and(|reason| reason.contains("you do not keep up")), "{gone}");
    let position = gone["cursor"].as_str().and_then(|cursor| cursor.split_once('.')).expect("a place").1;
    assert_eq!(position, (missed + heard - 1).to_string(), "what was heard, and what was not, is all before it");
    let words = "HTTP clients cut off: 1, the last one because it does not keep up with the messages it follows";
    node.log.wait_line(0, &json!({ "message": words, "count": 1 }));
}
