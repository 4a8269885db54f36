//! The description of the API, compared with a node: by hand, and by schemathesis, which makes valid and invalid requests from it
//! and checks every answer.

use std::{collections::BTreeSet, ffi::OsString, process::Command};

use crate::support::{Process, http, require};
use serde_json::Value;

/// The variable that names the program; else it is looked for.
const PROGRAM: &str = "BROADCAST_SCHEMATHESIS";
const TOKEN: &str = "a-token-for-this-test";

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let missing = program()
        .is_none()
        .then(|| format!("schemathesis is not installed: `pip install schemathesis`, or name its `st` in {PROGRAM}"));
    let own: &[require::Test] = &[("it_describes_what_can_be_done", it_describes_what_can_be_done)];
    let others: &[require::Test] = &[("schemathesis_finds_nothing", schemathesis_finds_nothing)];
    let cases = [require::cases(None, own), require::cases(missing.as_ref(), others)];
    cases.into_iter().flatten().collect()
}

fn program() -> Option<OsString> {
    let named = std::env::var_os(PROGRAM);
    let names = named.into_iter().chain(["schemathesis", "st"].map(OsString::from));
    names.into_iter().find(|name| require::answers(Command::new(name).arg("--version")))
}

fn node() -> Process {
    let env = [("BROADCAST_HTTP_TOKEN", TOKEN), ("BROADCAST_FAULTS", "ready")];
    // A voter of its own, so that there is a store.
    let voter = ["--role", "receiver,voter", "--voters", "node1"];
    let node = Process::node_with(&[&["--name", "node1", "--http", "127.0.0.1:0"], &voter[..]].concat(), &env);
    node.log.wait_line(0, &serde_json::json!({ "event": "store_leads" }));
    node
}

/// The header `Allow` of each path names exactly the methods that are described.
fn it_describes_what_can_be_done() {
    let node = node();
    let at = node.http();
    let token = format!("authorization: Bearer {TOKEN}");
    let described = http::ask(at, "GET", "/openapi.json", &[&token], b"").json();
    for (path, operations) in described["paths"].as_object().expect("paths") {
        let operations: BTreeSet<_> =
            operations.as_object().expect("operations").keys().map(|name| name.to_ascii_uppercase()).collect();
        let refused = http::ask(at, "PATCH", path, &[&token], b"");
        assert_eq!(refused.status, 405, "{path}");
        let allow = refused.header("allow").unwrap_or_default();
        // Whatever can be had can be asked for without its body.
        let allowed: BTreeSet<_> =
            allow.split(',').map(str::trim).filter(|name| *name != "HEAD").map(String::from).collect();
        assert_eq!(operations, allowed, "{path}");
        // What needs no body, and names nothing in its path, would be done.
        let is_asked = |name: &&String| {
            let has_body = described["paths"][path][name.to_ascii_lowercase()].get("requestBody").is_some();
            *name != "GET" && (has_body || path.contains('{'))
        };
        for operation in operations.iter().filter(is_asked) {
            let status = http::ask(at, operation, path, &[&token], b"").status;
            // What a path names may be changed without a body.
            let is_fine = status == 400 || path.contains('{') && status < 500;
            assert!(is_fine, "{operation} {path} without a body: {status}");
        }
        let head = http::ask(at, "HEAD", path, &[&token], b"");
        let is_fine = match head.status {
            200 | 503 => true,
            404 => path.contains('{'),
            // It is not written as one.
            400 => path.contains("{session}"),
            405 => !operations.contains("GET"),
            _ => false,
        };
        assert!(is_fine, "{path}: {}", head.status);
        assert_eq!(head.body, b"", "HEAD {path}");
        let open = described["paths"][path]["get"]["security"] == Value::Array(Vec::new());
        let status = http::ask(at, "HEAD", path, &[], b"").status;
        assert_eq!(status == 401, !open, "{path} without a token");
    }
    let absent = http::ask(at, "GET", "/v2", &[&token], b"");
    assert_eq!((absent.status, &absent.json()["status"]), (404, &Value::from(404)));
}

fn schemathesis_finds_nothing() {
    let node = node();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemathesis");
    let scratch = tempfile::tempdir().expect("a folder for what it keeps");
    let ran = Command::new(program().expect("it was found"))
        .args(["--config-file", &format!("{folder}/schemathesis.toml"), "run", "--checks", "all", "--max-time", "30"])
        // What was deleted can still be read at the revisions before that. Where calls follow each other, schemathesis takes
        // no such exception from a file.
        .args(["--exclude-checks", "use_after_free"])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .arg(format!("http://{}/openapi.json", node.http()))
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("PYTHONPATH", folder)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(scratch.path())
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&ran.stdout);
    println!("{told}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{}", ran.status);
    let described =
        http::ask(node.http(), "GET", "/openapi.json", &[&format!("authorization: Bearer {TOKEN}")], b"").json();
    let paths = described["paths"].as_object().expect("paths").values();
    let operations: usize = paths.map(|operations| operations.as_object().expect("operations").len()).sum();
    // It leaves out the one that gives the description.
    assert!(told.contains(&format!("{} total", operations - 1)), "it has read all of the description");
}
