//! Commands that show a node and its cluster, and settings that can be changed while it runs.

use super::{ask, command, node, object, pair};
use crate::support::{program, refusal, stdout};
use serde_json::json;

#[test]
fn members_status_and_health_are_those_that_the_node_sees() {
    let (first, second) = pair();
    let deadline = std::time::Instant::now() + crate::support::LIMIT;
    // The members have to settle first.
    let healthy = loop {
        let output = ask(&first, &["health"]);
        if output.status.success() || std::time::Instant::now() > deadline {
            break output;
        }
        let words = refusal(output, 1);
        assert!(words.starts_with("unhealthy: "), "{words}");
    };
    assert_eq!(stdout(healthy), "healthy: ready, 2 members\n");
    let ready = object(&stdout(ask(&first, &["health", "--json"])));
    assert_eq!(ready, json!({"status": "ready", "members": 2}));
    assert_eq!(stdout(ask(&first, &["health", "--live"])), "healthy: alive, 2 members\n");

    stdout(ask(&first, &["publish", "k", "1", "--ack", "all"]));
    let table = stdout(ask(&first, &["members"]));
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "STATE", "KIND", "ADDRESS", "RTT", "REACH", "LAG", "ROLES", "ID", "META"]);
    let own = object(&stdout(ask(&first, &["status", "--json"])));
    let (addr, id) = (first.addr().to_string(), own["id"].as_str().expect("it knows its own"));
    assert_eq!(rows[1], ["node1", "alive", "broadcast", &addr, "itself", "-", "-", "receiver", id, "-"]);
    let row = &rows[2];
    assert_eq!(row[..4], ["node2", "alive", "broadcast", &second.addr().to_string()]);
    // Who it is may not have been told yet.
    assert_eq!((row[row.len() - 4], row[row.len() - 1]), ("0", "zone=a"), "{table}");
    let json = object(&stdout(ask(&first, &["members", "--json"])));
    assert_eq!((&json["node"], &json["members"][1]["meta"]), (&json!("node1"), &json!("zone=a")));

    stdout(ask(&second, &["publish", "k", "1", "--ack", "all"]));
    let text = stdout(ask(&first, &["status"]));
    assert!(
        text.starts_with(&format!("node1 at {}, broadcast {}\n", first.addr(), env!("CARGO_PKG_VERSION"))),
        "{text}"
    );
    assert!(text.contains("\nmembers  2 alive, 0 suspect, 0 dead, 0 left\n"), "{text}");
    let origin = text.lines().last().expect("lines").split_whitespace().collect::<Vec<_>>();
    assert_eq!((origin[0], origin[2], origin[3]), ("node2", "1", "1"), "{text}");
    assert_eq!(object(&stdout(ask(&first, &["status", "--json"])))["joined"], true);
}

#[test]
fn what_a_node_logs_and_suffers_changes_while_it_runs() {
    let alone = node("node1", &[], &[("BROADCAST_FAULTS", "ready")]);
    assert_eq!(stdout(ask(&alone, &["log"])), "info\n");
    assert_eq!(stdout(ask(&alone, &["log", "warn,broadcast_gateway=debug"])), "warn,broadcast_gateway=debug\n");
    let id = stdout(ask(&alone, &["publish", "k", "1"]));
    let line = alone.log.wait_line(0, &json!({"event": "published", "key": "k"}));
    let line = &alone.log.lines()[line];
    assert_eq!(line["spans"][0]["path"], "/v1/messages");
    assert_eq!(line["spans"][1], json!({"name": "publish", "node": "node1", "id": id.trim()}));
    let line = alone.log.wait_line(0, &json!({"event": "http_request", "method": "POST"}));
    let line = &alone.log.lines()[line];
    assert_eq!((&line["status"], &line["path"], line["ms"].is_number()), (&json!(202), &json!("/v1/messages"), true));
    assert_eq!(object(&stdout(ask(&alone, &["log", "off", "--json"]))), json!({"filter": "off"}));
    let quiet = alone.log.len();
    stdout(ask(&alone, &["publish", "k", "2"]));
    stdout(ask(&alone, &["log", "info"]));
    let line = alone.log.wait_line(quiet, &json!({"event": "log"}));
    assert!(alone.log.lines()[quiet..line].iter().all(|line| line["event"] != "published"));
    let line = refusal(ask(&alone, &["log", "broadcast=loud"]), 2);
    assert!(line.contains("broadcast=loud"), "{line}");

    let faults = stdout(ask(&alone, &["faults", "loss=0.25"]));
    assert!(faults.contains("loss=0.25"), "{faults}");
    assert_eq!(stdout(ask(&alone, &["faults"])), faults);
    let none = stdout(ask(&alone, &["faults", "none"]));
    assert!(!none.contains("loss=0.25"), "{none}");
    assert!(refusal(ask(&alone, &["faults", "gremlins=1"]), 2).contains("the faults there are"));
    let sound = node("node2", &[], &[]);
    assert!(refusal(ask(&sound, &["faults", "loss=0.25"]), 1).contains("BROADCAST_FAULTS"));
}

#[test]
fn no_log_has_the_secrets() {
    let token = "correct-horse-battery-staple";
    let key = stdout(program(&["keygen"]).output().expect("the program runs"));
    let env = [("BROADCAST_HTTP_TOKEN", token), ("BROADCAST_SECRET_KEYS", key.trim()), ("BROADCAST_LOG", "trace")];
    let first = node("node1", &[], &env);
    let second = node("node2", &["--join", &first.addr().to_string()], &env);
    first.log.wait_line(0, &json!({"event": "joined", "member": "node2"}));

    let wanted = "a token is needed, as `Authorization: Bearer TOKEN` or as the password of basic authentication; \
        set BROADCAST_TOKEN, or BROADCAST_TOKEN_FILE (--token-file)";
    assert_eq!(refusal(ask(&first, &["members"]), 1), wanted);
    assert_eq!(refusal(ask(&first, &["tail"]), 1), wanted);
    let mut wrong = command(&first, &["members"]);
    let line = refusal(wrong.env("BROADCAST_HTTP_TOKEN", "another-horse").output().expect("the program runs"), 1);
    assert!(line.starts_with("this is not a token of this node; "), "{line}");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, token).expect("a temporary file can be written");
    let path = file.path().to_str().expect("text");
    let args = ["publish", "k", "1", "--ack", "all", "--http-token-file", path];
    assert!(stdout(ask(&first, &args)).starts_with("delivered to 1 of 1 nodes in "));
    stdout(command(&second, &["members"]).env("BROADCAST_HTTP_TOKEN", token).output().expect("the program runs"));

    first.log.wait_line(0, &json!({"event": "http_request", "status": 200, "path": "/v1/messages"}));
    first.log.wait_line(0, &json!({"event": "http_request", "status": 401, "path": "/v1/members"}));
    second.log.wait_line(0, &json!({"event": "http_request", "status": 200, "path": "/v1/members"}));
    for node in [&first, &second] {
        let log: String = node.log.lines().iter().map(ToString::to_string).collect();
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "it logs more than usual");
        assert!(!log.contains(token) && !log.contains(key.trim()), "a secret is in the log");
        assert!(!log.contains("another-horse"), "nor what was tried");
    }
}
