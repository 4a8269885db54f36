//! The tab of the timeline.

use serde_json::json;

use super::{check_quiet, open, publish};
use crate::support::{
    browser::{ENTER, RIGHT},
    cluster::api_nodes,
    http::ask,
};

/// The timeline's rows: of each cell, its column and its text.
const TIMELINE: &str = "[...document.querySelectorAll('#timeline [role=row]')].map(row => \
    [...row.children].map(cell => `${cell.ariaColIndex} ${cell.textContent}`).sort())";

pub(super) fn the_timeline_shows_who_has_what() {
    let [first, second, mut third] = api_nodes(&[]);
    let browser = open(&first);
    browser.wait("broadcastPage.stats().members", 3);
    // Nobody has the role voter.
    browser.wait("document.querySelector('#store-tab').hidden", true);
    browser.eval("document.querySelector('#timeline-tab').focus()");
    browser.keys(ENTER);
    let head = json!(["1 node1 says", "2 node2 (others say)", "3 node3 (others say)"]);
    browser.wait(TIMELINE, json!([head]));
    publish(&browser, "cache:drop", "7");
    let own = [
        json!(["1 send key=cache:drop value=7"]),
        json!(["2 acknowledged key=cache:drop value=7", "3 acknowledged key=cache:drop value=7"]),
    ];
    browser.wait(TIMELINE, json!([head, own[0], own[1]]));
    let body = br#"{"key":"I am node2","value":0}"#;
    assert_eq!(ask(second.http(), "POST", "/v1/messages?ack=all", &[], body).status, 200);
    let of_node2 = [
        json!(["2 send key=I am node2 value=0"]),
        json!(["1 received key=I am node2 value=0", "3 acknowledged key=I am node2 value=0"]),
    ];
    browser.wait(TIMELINE, json!([head, own[0], own[1], of_node2[0], of_node2[1]]));
    // What the filter leaves out is not shown either, and the list has them still.
    browser.eval("document.querySelector('#filter').focus()");
    browser.keys("cache");
    browser.wait(TIMELINE, json!([head, own[0], own[1]]));
    browser.eval("document.querySelector('#filter').select()");
    browser.keys("i am");
    browser.wait(TIMELINE, json!([head, of_node2[0], of_node2[1]]));
    browser.resize(390, 844);
    browser.wait("document.documentElement.scrollWidth", 390);
    // It scrolls within itself.
    browser.wait_for("document.querySelector('#timeline').scrollWidth", |width| {
        width.as_u64().is_some_and(|width| width > 390)
    });
    // Who is gone keeps no column, if it has sent nothing that is shown.
    third.kill();
    browser.wait(
        "[...document.querySelectorAll('#timeline [role=columnheader]')].map(cell => cell.textContent)",
        json!(["node1 says", "node2 (others say)"]),
    );
    browser.eval("document.querySelector('#timeline-tab').focus()");
    browser.keys(RIGHT);
    browser.wait("document.activeElement.id", "list-tab");
    browser.wait("document.querySelector('#timeline').hidden", true);
    browser.wait_text("#rows .key", "I am node2");
    check_quiet(&browser);
}
