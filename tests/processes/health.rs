//! Health checks are answered at once, however busy others keep the node.

use std::{
    io::{BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Process,
    http::{Answer, ask, connect, raw, read_head, request},
    program, traffic, wait,
};
use serde_json::json;

/// Followers that do not read.
const FOLLOWERS: usize = 900;
/// How long a health check may take meanwhile: as long as the program's own check waits.
const SOON: Duration = Duration::from_secs(2);
const CHECKS: usize = 20;

fn node(name: &str, args: &[&str]) -> Process {
    Process::node(&[&["--name", name, "--http", "127.0.0.1:0"], args].concat())
}

/// Asks; gives the answer and how long it took.
#[track_caller]
fn timed(at: SocketAddr, path: &str) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = ask(at, "GET", path, &[], b"");
    (answer, began.elapsed())
}

/// Waits until a node is ready.
#[track_caller]
fn until_ready(at: SocketAddr) {
    wait("it is ready", || timed(at, "/readyz").0.status == 200);
}

/// A follower that reads nothing.
fn follower(at: SocketAddr, path: &str) -> TcpStream {
    let mut stream = connect(at);
    stream.write_all(&request("GET", path, &[], b"")).expect("it is taken");
    stream
}

#[test]
fn health_is_told_soon_whoever_follows_and_does_not_read() {
    let seed = node("node1", &["--profile", "lan"]);
    let (at, addr) = (seed.http(), seed.addr().to_string());
    let others = ["node2", "node3", "node4"].map(|name| node(name, &["--profile", "lan", "--join", &addr]));
    let [second, third, fourth] = &others;
    let logs = [("node1", &*seed.log), ("node2", &second.log), ("node3", &third.log), ("node4", &fourth.log)];
    traffic::wait_members(4, &logs);
    until_ready(at);
    // What is heard is not logged, which is another matter.
    for node in [&seed, second, third, fourth] {
        let quiet = ask(node.http(), "PUT", "/v1/log", &[], br#"{"filter":"warn"}"#);
        assert_eq!(quiet.status, 200, "{}", quiet.text());
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for sender in &others {
            let (at, done) = (sender.http(), &done);
            scope.spawn(move || {
                let line = format!("{{\"key\":\"k\",\"value\":\"{}\"}}\n", "x".repeat(200)).repeat(50);
                while !done.load(Ordering::Relaxed) {
                    ask(at, "POST", "/v1/messages", &["content-type: application/x-ndjson"], line.as_bytes());
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let paths = ["/v1/events", "/v1/events?messages=1000", "/v1/messages?last=1000"];
        let followers: Vec<_> = (0..FOLLOWERS).map(|i| follower(at, paths[i % paths.len()])).collect();
        let checks = (0..CHECKS).map(|i| {
            let (answer, time) = timed(at, ["/healthz", "/livez", "/readyz"][i % 3]);
            let began = Instant::now();
            let check = program(&["health", "--bind", &addr]).output().expect("the program runs");
            (answer, time, check, began.elapsed())
        });
        let checks: Vec<_> = checks.collect();
        done.store(true, Ordering::Relaxed);
        let slowest = [checks.iter().map(|check| check.1).max(), checks.iter().map(|check| check.3).max()];
        println!(
            "{} followers: health told within {:?}, and the program's own check {:?}",
            followers.len(),
            slowest[0],
            slowest[1]
        );
        for (answer, time, check, _) in checks {
            assert_eq!((answer.status, &answer.json()["members"]), (200, &json!(4)), "{}", answer.text());
            assert!(time < SOON, "health took {time:?}");
            assert!(check.status.success(), "{check:?}");
        }
    });
}

#[test]
fn health_is_told_when_all_places_are_taken() {
    let node = node("node1", &["--http-max-connections", "8"]);
    let at = node.http();
    until_ready(at);
    let deadline = Instant::now() + crate::support::LIMIT;
    let mut followers = Vec::new();
    // Those who asked until now may still be on their way out.
    while followers.len() < 8 {
        assert!(Instant::now() < deadline, "there is room for so many");
        let stream = follower(at, "/v1/messages");
        let (status, _) = read_head(&mut BufReader::new(&stream)).expect("it answers");
        followers.extend((status == 200).then_some(stream));
    }
    // Many that say nothing, beyond those.
    let _silent: Vec<_> = (0..200).map(|_| connect(at)).collect();
    for path in ["/healthz", "/livez", "/readyz", "/readyz?for=me"] {
        let (answer, time) = timed(at, path);
        assert_eq!((answer.status, &answer.json()["members"]), (200, &json!(1)), "{path}: {}", answer.text());
        assert!(time < SOON, "{path} took {time:?}");
    }
    let head = ask(at, "HEAD", "/livez", &[], b"");
    assert!(head.status == 200 && head.body.is_empty(), "{head:?}");
    for path in ["/", "/v1/members", "/healthz/", "/v1/healthz"] {
        assert_eq!(timed(at, path).0.status, 503, "{path}");
    }
    // More than the one check is not had that way.
    let two = [request("GET", "/healthz", &[], b""), request("GET", "/v1/members", &[], b"")].concat();
    let answer = raw(at, &two);
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(answer.json()["status"], "alive", "nothing comes after it");
    drop(followers);
    wait("there is room again", || timed(at, "/v1/members").0.status == 200);
}
