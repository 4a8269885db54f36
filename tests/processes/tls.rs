//! The program over TLS: `tls-selfsigned`, its commands as clients, health checks, and certificates that change.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{Process, program, refusal, stdout, tls::Certificates};

fn url(node: &Process) -> String {
    format!("https://localhost:{}", node.http().port())
}

/// A command that asks the node.
fn command(node: &Process, args: &[&str], more: &[&str]) -> Output {
    program(&[args, &["--node", &url(node)], more].concat()).output().expect("the program runs")
}

#[test]
fn what_a_trial_needs_is_made_once() {
    let made = Certificates::new(&["--host", "node1.example.org, 10.0.0.7,[fd00::1]", "--client", "ci"]);
    for (name, mode) in [
        ("ca.pem", 0o644),
        ("server.pem", 0o644),
        ("server-key.pem", 0o600),
        ("client.pem", 0o644),
        ("client-key.pem", 0o600),
    ] {
        let file = fs::metadata(made.file(name)).expect("it is there");
        assert_eq!(file.permissions().mode() & 0o777, mode, "{name}");
    }
    assert_eq!(fs::read_dir(made.path("tls")).expect("a folder").count(), 5, "the authority's key is in none of them");
    let before = fs::read(made.file("client.pem")).expect("it is there");
    fs::remove_file(made.file("ca.pem")).expect("it is there");
    let again = program(&["tls-selfsigned", &made.path("tls")]).output().expect("the program runs");
    let told = format!(
        "cannot write {:?}: it exists, and is not overwritten; give another directory",
        made.file("server.pem")
    );
    assert_eq!(refusal(again, 1), told);
    assert_eq!(fs::read(made.file("client.pem")).expect("it is there"), before);
    assert!(!Path::new(&made.file("ca.pem")).exists(), "all or nothing");
    let line = refusal(program(&["tls-selfsigned", &made.path("x"), "--days", "398"]).output().expect("it runs"), 2);
    assert_eq!(line, r#"--days = "398": it must be from 1 to 397"#);
    for (hosts, wrong) in [("ümlaut", "ümlaut"), ("a,a b", "a b"), ("a.", "a."), ("*", "*"), ("::1%eth0", "::1%eth0")]
    {
        let made = program(&["tls-selfsigned", &made.path("x"), "--host", hosts]).output().expect("it runs");
        let told = format!(
            "--host = {wrong:?}: not the name of a host, nor an address; write one like node1.example.org or 10.0.0.7, and \
             commas between them"
        );
        assert_eq!(refusal(made, 2), told);
    }
    assert!(!Path::new(&made.path("x")).exists(), "nothing is made");
}

#[test]
fn commands_ask_a_node_over_tls() {
    let made = Certificates::new(&[]);
    let node = made.node(&[], &[]);
    let ca = made.file("ca.pem");
    let trust = ["--ca-file", &*ca];
    stdout(command(&node, &["publish", "k", "1", "--ack", "all"], &trust));
    assert!(stdout(command(&node, &["members"], &trust)).contains("node1"));
    assert!(stdout(command(&node, &["status", "--json"], &trust)).contains("\"node\":\"node1\""));
    assert_eq!(stdout(command(&node, &["log", "debug"], &trust)), "debug\n");
    let mut tail = Process::spawn(
        program(&["tail", "--last", "1", "--json", "--node", &url(&node)]).env("BROADCAST_CA_FILE", &ca),
    );
    tail.log.wait("the message", |lines| lines.iter().any(|line| line["value"] == 1).then_some(()));
    tail.kill();
    let other = Certificates::new(&[]);
    let line = refusal(command(&node, &["members"], &["--ca-file", &other.file("ca.pem")]), 1);
    let told =
        "it is from no authority that is known here; BROADCAST_CA_FILE (--ca-file) names a file with those that are";
    assert!(line.contains("the certificate cannot be trusted: ") && line.ends_with(told), "{line}");
    // Of a system that knows no authority at all it is a matter of settings.
    let by_default = command(&node, &["members"], &[]);
    let code = by_default.status.code().expect("it ends");
    let line = refusal(by_default, code);
    assert!(line.ends_with(told) || line.starts_with("this system has no certificates of authorities"), "{line}");
    let address = format!("https://127.0.0.2:{}", node.http().port());
    let line = refusal(program(&["members", "--node", &address, "--ca-file", &ca]).output().expect("it runs"), 1);
    assert!(line.contains("nothing answers at ") || line.contains("it is for other names"), "{line}");
    let plain = format!("http://{}", node.http());
    let line = refusal(program(&["members", "--node", &plain]).output().expect("it runs"), 1);
    assert!(line.contains("this port speaks HTTP over TLS only: write https://"), "{line}");
    // The other way round.
    let plain = Process::node(&["--name", "plain", "--http", "127.0.0.1:0"]);
    let line = refusal(command(&plain, &["members"], &trust), 1);
    assert!(
        line.contains("there is no TLS connection") && line.contains("is it http:// that is spoken there?"),
        "{line}"
    );
}

#[test]
fn health_checks_work_whatever_the_certificate_is_for() {
    let made = Certificates::new(&[]);
    let clients = made.file("ca.pem");
    let node = made.node(&["--tls-client-ca-file", &clients], &[]);
    let (bind, url) = (node.addr().to_string(), format!("https://{}", node.http()));
    for args in [
        &["--live", "--bind", &bind][..],
        &["--live", "--node", &url],
        &["--live", "--node", &url, "--ca-file", &clients],
    ] {
        let health = program(&[&["health"], args].concat()).output().expect("the program runs");
        assert!(stdout(health).starts_with("healthy: "), "{args:?}");
    }
    let other = Certificates::new(&[]);
    let health = program(&["health", "--live", "--node", &url, "--ca-file", &other.file("ca.pem")]).output();
    let line = refusal(health.expect("the program runs"), 1);
    assert!(line.starts_with("unhealthy: ") && line.contains("from no authority that is known here"), "{line}");
}

#[test]
fn who_has_no_certificate_may_not_call_and_who_has_one_is_audited() {
    let made = Certificates::new(&["--client", "ci\u{1b}[2J"]);
    let ca = made.file("ca.pem");
    let node = made.node(&["--tls-client-ca-file", &ca], &[]);
    let trust = ["--ca-file", &*ca];
    let line = refusal(command(&node, &["members"], &trust), 1);
    assert_eq!(
        line,
        "this node wants to see a client certificate from one of the authorities in BROADCAST_TLS_CLIENT_CA_FILE \
         (--tls-client-ca-file)"
    );
    let (cert, key) = (made.file("client.pem"), made.file("client-key.pem"));
    let shows = [&trust[..], &["--cert-file", &cert, "--key-file", &key]].concat();
    stdout(command(&node, &["log", "info"], &shows));
    node.log.wait_line(0, &json!({"event": "audit", "who": "CN=ci\u{1b}[2J", "by": "certificate", "route": "/v1/log"}));
    let line = refusal(command(&node, &["members"], &["--cert-file", &cert]), 2);
    assert_eq!(line, "BROADCAST_CERT_FILE (--cert-file) is set, and BROADCAST_KEY_FILE (--key-file) is not: set both");
}

#[test]
fn certificates_are_read_again_when_they_change_and_bad_ones_are_not_taken() {
    let [first, second] = [Certificates::new(&[]), Certificates::new(&[])];
    let node = first.node(&[], &[]);
    let cas = [first.file("ca.pem"), second.file("ca.pem")];
    let ask = |ca: &str| command(&node, &["members"], &["--ca-file", ca]).status.code();
    assert_eq!(ask(&cas[0]), Some(0));
    // Half of a pair first, as whoever writes them does.
    fs::copy(second.file("server.pem"), first.file("server.pem")).expect("it is written");
    node.signal("HUP");
    let bad = node.log.wait("that it is no pair", |lines| {
        lines.iter().find(|line| line["event"] == "tls" && line["level"] == "ERROR").cloned()
    });
    let told = bad["message"].as_str().expect("text");
    assert!(
        told.starts_with("the certificate stays as it is: BROADCAST_TLS_KEY_FILE (--tls-key-file) has not"),
        "{told}"
    );
    assert_eq!(ask(&cas[0]), Some(0));
    fs::copy(second.file("server-key.pem"), first.file("server-key.pem")).expect("it is written");
    node.log.wait_line(0, &json!({"event": "tls", "level": "INFO"}));
    assert_eq!((ask(&cas[0]), ask(&cas[1])), (Some(1), Some(0)));
}

#[test]
fn tokens_are_read_again_and_what_is_wrong_with_them_is_told() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("tokens");
    let write = |text: &str| {
        // Another file under that name, as those who renew secrets do.
        let next = folder.path().join("next");
        fs::write(&next, text).expect("it is written");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o644)).expect("it is set");
        fs::rename(&next, &file).expect("it is renamed");
    };
    write("look: read look-look-look\n# nothing\nops: read,operate ops-ops-ops\n");
    let args = ["--name", "node1", "--http", "127.0.0.1:0", "--tokens-file", file.to_str().expect("text")];
    let node = Process::node_with(&args, &[("BROADCAST_TOKEN", "all-all-all")]);
    let at = node.http().to_string();
    let ask = |token: &str, args: &[&str]| -> Output {
        program(&[args, &["--node", &at]].concat()).env("BROADCAST_TOKEN", token).output().expect("the program runs")
    };
    node.log.wait_line(0, &json!({"event": "secret"}));
    for token in ["look-look-look", "ops-ops-ops", "all-all-all"] {
        stdout(ask(token, &["members"]));
    }
    let line = refusal(ask("look-look-look", &["log", "debug"]), 1);
    assert_eq!(
        line,
        "the token look does not have the scope operate, but read; BROADCAST_TOKENS_FILE (--tokens-file) says what each has"
    );
    stdout(ask("ops-ops-ops", &["log", "info"]));
    let line = refusal(ask("ops-ops-ops", &["publish", "k", "1"]), 1);
    assert!(line.contains("does not have the scope publish, but read,operate;"), "{line}");
    stdout(ask("all-all-all", &["publish", "k", "1"]));
    for (who, status, route) in [
        ("look", 403, "/v1/log"),
        ("ops", 200, "/v1/log"),
        ("ops", 403, "/v1/messages"),
        ("token", 202, "/v1/messages"),
    ] {
        node.log.wait_line(0, &json!({"event": "audit", "who": who, "status": status, "route": route, "by": "token"}));
    }

    write("look: read look-look-look\nops: root ops-ops-ops\n");
    let bad = node.log.wait("that it cannot be read", |lines| {
        lines.iter().find(|line| line["event"] == "tokens" && line["level"] == "ERROR").cloned()
    });
    let told = format!(
        "the tokens stay as they are: BROADCAST_TOKENS_FILE (--tokens-file) = {file:?}: line 2: \"root\" is not a scope; the \
         scopes are read, publish, operate, locks, cache, deploy"
    );
    assert_eq!(bad["message"], told);
    stdout(ask("ops-ops-ops", &["log", "info"]));
    write("new: read,operate new-new-new\n");
    node.log.wait_line(0, &json!({"event": "tokens", "count": 2, "level": "INFO"}));
    stdout(ask("new-new-new", &["members"]));
    let line = refusal(ask("ops-ops-ops", &["members"]), 1);
    assert!(line.starts_with("this is not a token of this node; it knows BROADCAST_TOKEN and those in "), "{line}");
    // Who changes what is logged is audited, and so is what follows.
    for filter in ["warn,audit=off", "off", "audit[{who}]=off"] {
        stdout(ask("new-new-new", &["log", filter]));
        let what = format!("filter = {filter:?}");
        node.log.wait_line(0, &json!({"event": "audit", "who": "new", "path": "/v1/log", "what": what}));
    }
    refusal(ask("new-new-new", &["publish", "k", "1"]), 1);
    node.log.wait_line(0, &json!({"event": "audit", "who": "new", "route": "/v1/messages"}));
    assert_eq!(node.log.count(&json!({"event": "log", "filter": "off"})), 0, "all else is as the filter says");
    for line in node.log.lines() {
        let line = line.to_string();
        assert!(!["look-look", "ops-ops", "all-all", "new-new"].iter().any(|token| line.contains(token)), "{line}");
    }
}

#[test]
fn what_protects_a_node_and_is_set_to_nothing_is_warned_of() {
    let guards = ["BROADCAST_TOKEN", "BROADCAST_HTTP_TOKEN", "BROADCAST_TOKENS_FILE", "BROADCAST_TLS_CERT_FILE"];
    let guards = [&guards[..], &["BROADCAST_TLS_KEY_FILE", "BROADCAST_TLS_CLIENT_CA_FILE"]].concat();
    let env: Vec<_> = guards.iter().chain(&["BROADCAST_SECRET_KEYS_FILE"]).map(|name| (*name, "")).collect();
    let node = Process::node_with(&["--name", "node1", "--http", "127.0.0.1:0"], &env);
    node.http();
    let lines = node.log.lines();
    let told = lines.iter().filter(|line| line["event"] == "empty_setting" && line["level"] == "WARN");
    assert_eq!(told.map(|line| line["name"].as_str().expect("text")).collect::<Vec<_>>(), guards);
}

#[test]
fn only_the_filter_of_the_start_turns_the_audit_log_off() {
    let env = [("BROADCAST_LOG", "info,audit=off")];
    let node = Process::node_with(&["--name", "node1", "--http", "127.0.0.1:0"], &env);
    let at = node.http().to_string();
    for filter in ["trace", "audit=info"] {
        stdout(program(&["log", filter, "--node", &at]).output().expect("the program runs"));
    }
    node.signal("TERM");
    node.log.wait_end();
    assert_eq!((node.log.count(&json!({"event": "log"})), node.log.count(&json!({"event": "audit"}))), (1, 0));
}

#[test]
fn the_http_token_replaces_that_for_all_ports() {
    let env = [("BROADCAST_TOKEN", "all-all-all"), ("BROADCAST_HTTP_TOKEN", "http-http-http")];
    let node = Process::node_with(&["--name", "node1", "--http", "127.0.0.1:0"], &env);
    let at = node.http().to_string();
    for (token, code) in [("all-all-all", 1), ("http-http-http", 0)] {
        let asked = program(&["members", "--node", &at]).env("BROADCAST_TOKEN", token).output().expect("it runs");
        assert_eq!(asked.status.code(), Some(code), "{token}");
    }
    let asked = program(&["members", "--node", &at]).envs(env).output().expect("it runs");
    assert_eq!(asked.status.code(), Some(0), "a command chooses as the node does");
}

#[test]
fn files_that_cannot_be_are_refused_at_the_start() {
    let made = Certificates::new(&[]);
    let (cert, key, ca) = (made.file("server.pem"), made.file("server-key.pem"), made.file("ca.pem"));
    let tokens = made.path("tokens");
    fs::write(&tokens, "ci: read, publish hunter2hunter2").expect("it is written");
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).expect("it is set");
    let refused = |args: &[&str]| {
        let args = [&["node", "--name", "node1", "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0"], args].concat();
        refusal(program(&args).output().expect("the program runs"), 2)
    };
    for (args, problem) in [
        (
            &["--tls-cert-file", &*cert][..],
            "BROADCAST_TLS_KEY_FILE (--tls-key-file) is not set, and TLS needs it;".to_owned(),
        ),
        (
            &["--tls-client-ca-file", &ca],
            "BROADCAST_TLS_CERT_FILE (--tls-cert-file) is not set, and TLS needs it;".into(),
        ),
        (
            &["--tls-cert-file", &cert, "--tls-key-file", "/none"],
            r#"BROADCAST_TLS_KEY_FILE (--tls-key-file) = "/none": it cannot be read: "#.into(),
        ),
        (
            &["--tls-cert-file", "/dev/zero", "--tls-key-file", &key],
            r#"BROADCAST_TLS_CERT_FILE (--tls-cert-file) = "/dev/zero": it is larger than 1048576 bytes"#.into(),
        ),
        (
            &["--tls-cert-file", &key, "--tls-key-file", &key],
            "BROADCAST_TLS_CERT_FILE (--tls-cert-file): there is no certificate in it".into(),
        ),
        (
            &["--tls-cert-file", &cert, "--tls-key-file", &made.file("client-key.pem")],
            "BROADCAST_TLS_KEY_FILE (--tls-key-file) has not the key of the certificate in BROADCAST_TLS_CERT_FILE"
                .into(),
        ),
        (
            &["--tokens-file", &tokens],
            format!(
                "BROADCAST_TOKENS_FILE (--tokens-file) = {tokens:?}: line 1: there is more than scopes and a token"
            ),
        ),
    ] {
        let line = refused(args);
        // The log is told by then.
        assert!(line.starts_with(&problem), "{line}");
        assert!(!line.contains("hunter2"), "{line}");
    }
}
