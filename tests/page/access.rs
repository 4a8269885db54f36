//! The page behind a token, and over TLS.

use serde_json::json;

use super::{MEMBERS, check_quiet, publish};
use crate::support::{Process, browser::Browser, cluster::api_node, tls::Certificates};

pub(super) fn it_works_behind_a_token() {
    let first = Process::node_with(
        &["--name", "node1", "--http", "127.0.0.1:0"],
        &[("BROADCAST_HTTP_TOKEN", "a-token-for-this-test")],
    );
    let second = api_node("node2", Some(&first), &[]);
    let browser = Browser::start(1280, 900);
    browser.open(&format!("http://any:a-token-for-this-test@{}/", first.http()));
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive"]));
    browser.wait_text("#connection", "live");
    publish(&browser, "secret", "1");
    second.log.wait_line(0, &json!({ "event": "received", "key": "secret" }));
    browser.eval("document.querySelector('#matrix').scrollIntoView()");
    browser.wait_text("#agreement", "All 2 views agree.");
    check_quiet(&browser);
}

pub(super) fn it_works_over_tls() {
    let made = Certificates::new(&[]);
    let first = made.node(&[], &[("BROADCAST_TOKEN", "a-token-for-this-test")]);
    let second = api_node("node2", Some(&first), &[]);
    let browser = Browser::start(1280, 900);
    browser.open(&format!("https://any:a-token-for-this-test@{}/", first.http()));
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive"]));
    browser.wait_text("#connection", "live");
    publish(&browser, "secret", "1");
    second.log.wait_line(0, &json!({ "event": "received", "key": "secret" }));
    first.log.wait_line(0, &json!({ "event": "audit", "who": "token", "route": "/v1/messages", "status": 200 }));
    check_quiet(&browser);
}
