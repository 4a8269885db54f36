//! The tab of locks.

use serde_json::{Value, json};

use super::{check_quiet, open};
use crate::support::{cluster::api_nodes, http::ask, voters::VOTERS};

pub(super) fn the_tab_of_locks_shows_who_holds_them() {
    let nodes = api_nodes::<3>(&["--role", "receiver,voter", "--voters", VOTERS]);
    let at = nodes[0].http();
    let send = |method: &str, path: &str, body: Value| {
        let answer = ask(at, method, path, &["content-type: application/json"], body.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let session = |label: &str| json!({"ttl": 600, "label": label});
    let held = send("POST", "/v1/locks", json!({"names": ["jobs/<b>"], "session": session("nightly"), "value": "x"}));
    let waits = send("POST", "/v1/sessions", session("waits"));
    let browser = open(&nodes[1]);
    browser.wait("document.querySelector('#locks-tab').hidden", false);
    browser.eval("document.querySelector('#locks-tab').click()");
    browser.wait_text("#stream-title span", "Locks");
    browser.wait_text("#held", "1 locks are held or waited for; 0 wait; 2 sessions.");
    let cells = |table: &str| {
        format!("[...document.querySelectorAll('#locks table[aria-label={table}] td')].map(cell => cell.textContent)")
    };
    let token = held["token"].to_string();
    browser.wait(&cells("locks"), json!(["jobs/<b>", "exclusive", "nightly (node1)", token, "0", "x"]));
    browser.wait("document.querySelectorAll('#locks table[aria-label=sessions] tbody tr').length", 2);

    // It goes from one to the next as it is released.
    let path = format!("/v1/sessions/{}", held["session"].as_str().expect("a session"));
    send("DELETE", &path, Value::Null);
    let next = send("POST", "/v1/locks", json!({"names": ["jobs/<b>"], "session": waits["session"]}));
    let changes = "[...document.querySelectorAll('#lock-changes li')].map(line => line.textContent.slice(9))";
    let said =
        |holds: &str, label: &str, token: &Value| format!("jobs/<b> is {holds} by {label} (node1), token {token}");
    browser.wait_for(changes, |seen| {
        let has = |text: String| seen.as_array().is_some_and(|lines| lines.iter().any(|line| *line == text));
        has(said("no longer held", "nightly", &held["token"])) && has(said("held", "waits", &next["token"]))
    });
    browser.resize(390, 844);
    browser.wait("document.documentElement.scrollWidth", 390);
    check_quiet(&browser);
}
