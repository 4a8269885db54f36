//! The audit log, as somebody sees it who collects it.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex},
};

use serde_json::Map;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use axum::http::{Method, Uri};

use super::*;
use crate::audit::TARGET;

/// Keeps what is told to the target, with its fields.
#[derive(Clone, Debug, Default)]
pub(super) struct Collected(pub(super) Arc<Mutex<Vec<Map<String, Value>>>>);

impl Collected {
    /// From now on, of this thread.
    pub(super) fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let collected = Self::default();
        let guard = tracing::subscriber::set_default(collected.clone());
        (collected, guard)
    }

    /// These fields of all lines so far, which are forgotten.
    pub(super) fn take(&self, fields: &[&str]) -> Vec<Vec<Value>> {
        let lines = std::mem::take(&mut *self.0.lock().unwrap());
        let chosen = |line: &Map<String, Value>| {
            fields.iter().map(|field| line.get(*field).cloned().unwrap_or_default()).collect()
        };
        lines.iter().map(chosen).collect()
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl Subscriber for Collected {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

const WHO: [&str; 6] = ["who", "by", "method", "route", "status", "outcome"];

#[tokio::test]
async fn each_change_is_told_with_who_where_and_what_came_of_it() {
    let (log, _guard) = Collected::begin();
    let access = access("ci: read,publish 0123456789\nlook: read 9876543210");
    let config = GatewayConfig { access, ..GatewayConfig::new("127.0.0.1:0".parse().unwrap()) };
    let (node, at) = served_with("a", &[], config).await;
    let ci = ("authorization", "Bearer 0123456789");
    let look = ("authorization", "Bearer 9876543210");
    let message = r#"{"key":"a-secret-key","value":"a-secret-value"}"#;
    for (method, headers, path, body, line) in [
        (
            "POST",
            &[ci][..],
            "/v1/messages?ack=none",
            message,
            json!(["ci", "token", "POST", "/v1/messages", 202, "done"]),
        ),
        ("POST", &[ci], "/v1/messages", "{", json!(["ci", "token", "POST", "/v1/messages", 400, "failed"])),
        ("POST", &[look], "/v1/messages", message, json!(["look", "token", "POST", "/v1/messages", 403, "refused"])),
        ("POST", &[], "/v1/messages", message, json!(["anonymous", "nothing", "POST", "/v1/messages", 401, "refused"])),
        (
            "PUT",
            &[("authorization", "Bearer nobodys")],
            "/v1/members",
            "",
            json!(["unknown", "unknown token", "PUT", "/v1/members", 401, "refused"]),
        ),
        ("BREW", &[ci], "/forged%0aline", "", json!(["ci", "token", "other", "none", 404, "failed"])),
        (
            "DELETE",
            &[ci, ("origin", "http://evil.net")],
            "/v1/messages",
            "",
            json!(["ci", "token", "DELETE", "/v1/messages", 403, "refused"]),
        ),
    ] {
        ask(at, method, path, headers, body).await;
        let lines = log.0.lock().unwrap().clone();
        assert!(lines[0]["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{lines:?}");
        let message = lines[0]["message"].as_str().unwrap();
        assert!(message.starts_with("audit: ") && !message.contains("secret") && !message.contains('?'), "{message}");
        assert_eq!(json!(log.take(&WHO)), json!([line]), "{method} {path}");
    }
    for path in ["/v1/members", "/healthz", "/v2"] {
        get(at, path).await;
    }
    assert_eq!(log.take(&WHO).len(), 0, "who only looks changes nothing");
    node.leave().await;
}

#[tokio::test]
async fn a_flood_is_some_lines_and_none_of_it_is_lost() {
    let (log, _guard) = Collected::begin();
    let (node, at) = served("a", &[]).await;
    let one = r#"{"key":"k","value":1}"#;
    for _ in 0..50 {
        assert_eq!(ask(at, "POST", "/v1/messages", &[], one).await.0, 202);
    }
    let lines = format!("{one}\n").repeat(1000);
    let batch = [("content-type", "application/x-ndjson")];
    assert_eq!(ask(at, "POST", "/v1/messages", &batch, &lines).await.0, 202);
    // A batch that ends with a problem has published what came before.
    assert_eq!(ask(at, "POST", "/v1/messages", &batch, &format!("{lines}{{")).await.0, 400);
    let fields = ["status", "count", "published"];
    assert_eq!(json!(log.take(&fields)), json!([[202, 1, 1], [400, 1, 1000]]));
    node.leave().await;
    // What was not told yet is told when the server ends.
    timeout(SOON, async { while TcpStream::connect(at).await.is_ok() {} }).await.expect("it stops listening");
    let told = async {
        loop {
            let lines = log.take(&fields);
            if !lines.is_empty() {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(json!(timeout(SOON, told).await.unwrap()), json!([[202, 50, 1049]]));
}

#[tokio::test]
async fn a_client_that_goes_before_its_answer_is_told_too() {
    let (log, _guard) = Collected::begin();
    let (node, at) = served("a", &[]).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let head =
        "POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-ndjson\r\ncontent-length: 9999\r\n\r\n";
    let lines = r#"{"key":"k","value":1}"#.to_owned() + "\n";
    stream.write_all(format!("{head}{}", lines.repeat(7)).as_bytes()).await.unwrap();
    until(at, "/v1/cluster", |_, cluster| cluster["origins"][0]["next"] == 7).await;
    drop(stream);
    let told = async {
        loop {
            let lines = log.take(&["outcome", "published"]);
            if !lines.is_empty() {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let told = json!(timeout(SOON, told).await.unwrap());
    assert!(told == json!([["aborted", 7]]) || told == json!([["failed", 7]]), "{told}");
    node.leave().await;
}

#[tokio::test]
async fn more_kinds_than_there_is_room_for_are_counted_together() {
    use crate::access::Credentials;
    let (log, _guard) = Collected::begin();
    let audit = Arc::new(crate::audit::Audit::new("a"));
    let to = |path| (Method::POST, Uri::from_static(path));
    let asked = to("/v1/messages");
    for i in 0..100_u8 {
        for _ in 0..2 {
            let from = SocketAddr::from(([10, 0, 0, i], 1));
            let mut entry =
                audit.begin((&Credentials::Missing, None), from, (&asked.0, &asked.1), Some("/v1/messages"));
            entry.answered(StatusCode::UNAUTHORIZED);
        }
    }
    assert_eq!(log.take(&["from"]).len(), 32, "each kind at once");
    audit.log_remaining();
    let more = log.take(&["from", "count"]);
    assert_eq!(more.len(), 33);
    let all: u64 = more.iter().map(|line| line[1].as_u64().unwrap()).sum();
    assert_eq!(all, 200 - 32, "each is counted");
    // They take no room from who is known.
    let credentials = Credentials::Token("ops".into(), crate::Scopes::DEFAULT);
    let from = SocketAddr::from(([10, 0, 0, 1], 1));
    let subject = Arc::from("CN=alice\n");
    let who = (&credentials, Some(&subject));
    for _ in 0..2 {
        let mut entry = audit.begin(who, from, (&asked.0, &asked.1), Some("/v1/messages"));
        entry.handle().aggregate();
        entry.answered(StatusCode::ACCEPTED);
    }
    assert_eq!(log.take(&["who", "path"]), [["ops", "/v1/messages"].map(Value::from)]);
    audit.log_remaining();
    assert_eq!(log.take(&["who", "count", "path"]), [vec![json!("ops"), json!(1), Value::Null]]);
    audit.log_remaining();
    assert_eq!(log.take(&["from"]).len(), 0);
}

#[tokio::test]
async fn each_change_is_told_with_what_it_changes_and_what_fails_only_once() {
    use crate::access::Credentials;
    let (log, _guard) = Collected::begin();
    let audit = Arc::new(crate::audit::Audit::new("a"));
    let credentials = Credentials::Token("ops".into(), crate::Scopes::DEFAULT);
    let begin = |path: String| {
        let uri: Uri = path.parse().unwrap();
        audit.begin(
            (&credentials, None),
            SocketAddr::from(([10, 0, 0, 1], 1)),
            (&Method::DELETE, &uri),
            Some("/v1/kv/{*key}"),
        )
    };
    for (i, answer) in [Some(StatusCode::OK), Some(StatusCode::BAD_REQUEST), None].into_iter().enumerate() {
        for j in 0..100 {
            let mut entry = begin(format!("/v1/kv/{i}/{j}?prev=a-secret"));
            entry.handle().describe("all that is there");
            answer.into_iter().for_each(|status| entry.answered(status));
        }
        let paths: Vec<_> = log.take(&["path", "what"]);
        // Of what broke off nobody knows whether it was done.
        assert_eq!(paths.len(), if answer == Some(StatusCode::BAD_REQUEST) { 1 } else { 100 }, "{answer:?}");
        assert_eq!(paths[0], [format!("/v1/kv/{i}/0"), "all that is there".into()].map(Value::from));
    }
    // However much it is.
    let long = "é".repeat(10_000);
    let entry = begin(format!("/v1/kv/{}", "%20".repeat(10_000)));
    entry.handle().describe(&long);
    drop(entry);
    let lines = log.0.lock().unwrap().clone();
    assert!(lines[0]["path"].as_str().unwrap().ends_with("%20%… (30007 bytes)"), "{lines:?}");
    assert!(lines[0]["what"].as_str().unwrap().ends_with("é… (20000 bytes)"), "{lines:?}");
    assert!(lines[0]["message"].as_str().unwrap().len() < 1200);
}
