//! The HTTP API over HTTP/2 with prior knowledge, asked by curl.

use std::{
    io::Read as _,
    net::SocketAddr,
    process::{Command, Stdio},
};

use super::curl;
use crate::support::{Process, require};
use serde_json::{Value, json};

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let tests: &[require::Test] = &[
        ("http2/curl_publishes_and_follows", curl_publishes_and_follows),
        ("http2/curl_is_told_what_is_too_long", curl_is_told_what_is_too_long),
        ("http2/curl_asks_for_health_when_all_permits_are_taken", curl_asks_for_health_when_all_permits_are_taken),
    ];
    require::cases(curl::missing(&["HTTP2"]).as_ref(), tests)
}

fn node(args: &[&str]) -> (Process, SocketAddr) {
    let node = Process::node(&[&["--name", "node1", "--http", "127.0.0.1:0"], args].concat());
    let at = node.http();
    (node, at)
}

/// What curl says: what it was sent, and then the protocol's version and the status.
fn curl(at: SocketAddr, path: &str, args: &[&str]) -> (String, String) {
    let told = curl::fetch(&format!("http://{at}{path}"), &[&["--http2-prior-knowledge"], args].concat());
    (told.body, told.status)
}

fn curl_publishes_and_follows() {
    let (_node, at) = node(&[]);
    let (published, status) = curl(at, "/v1/messages", &["--data", r#"{"key":"k","value":[1,2]}"#]);
    let published: Value = serde_json::from_str(&published).expect("an object");
    assert_eq!((&*status, &published["seq"]), ("2 202", &json!(0)));
    let lines = "{\"key\":\"k\",\"value\":3}\n".repeat(10_000);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines).expect("it is written");
    let data = format!("@{}", file.path().display());
    let batch = ["--header", "content-type: application/x-ndjson", "--data-binary", &data];
    let (batch, status) = curl(at, "/v1/messages?ack=all", &batch);
    let batch: Value = serde_json::from_str(&batch).expect("an object");
    assert_eq!((&*status, &batch["published"]), ("2 200", &json!(10_000)));
    // It follows until its time is over.
    let (followed, _) = curl(at, "/v1/messages?last=10001", &["--no-buffer", "--max-time", "3"]);
    assert_eq!(followed.matches("\ndata: ").count(), 10_001, "{}", followed.len());
    let (page, status) = curl(at, "/", &[]);
    assert!(page.contains("</html>") && status == "2 200", "{status}");
}

fn curl_is_told_what_is_too_long() {
    let (_node, at) = node(&[]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), vec![b' '; 8 << 20]).expect("it is written");
    let (problem, status) = curl(at, "/v1/messages", &["--data-binary", &format!("@{}", file.path().display())]);
    assert!(status == "2 413" && problem.contains("shorten its value"), "{status}: {problem}");
}

fn curl_asks_for_health_when_all_permits_are_taken() {
    let (_node, at) = node(&["--http-max-connections", "1"]);
    let mut follower = Command::new("curl")
        .args(["--http2-prior-knowledge", "--silent", "--no-buffer", "--max-time", "30"])
        .arg(format!("http://{at}/v1/messages"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl runs");
    let mut beginning = [0; 6];
    follower.stdout.as_mut().expect("it is piped").read_exact(&mut beginning).expect("it follows");
    assert_eq!(&beginning, b"retry:");
    let (problem, status) = curl(at, "/v1/members", &[]);
    assert!(status == "2 503" && problem.contains("too many connections"), "{status}: {problem}");
    let (health, status) = curl(at, "/livez", &[]);
    assert!(status == "2 200" && health.contains("alive"), "{status}: {health}");
    follower.kill().expect("it runs");
    follower.wait().expect("it ends");
}
