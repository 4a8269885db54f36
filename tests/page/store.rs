//! The tab of the store.

use serde_json::json;

use super::{check_quiet, open};
use crate::support::{browser::RIGHT, cluster::api_nodes, http::ask, voters::VOTERS};

pub(super) fn the_tab_of_the_store_shows_its_voters() {
    let mut nodes = api_nodes::<3>(&["--role", "receiver,voter", "--voters", VOTERS]);
    assert_eq!(ask(nodes[0].http(), "PUT", "/v1/kv/color", &[], b"green").status, 200);
    let status = ask(nodes[0].http(), "GET", "/v1/store", &[], b"").json();
    let leader = status["leader"].as_str().expect("somebody leads").to_owned();
    let leads = ["node1", "node2", "node3"].iter().position(|name| *name == leader).expect("one of them");
    let browser = open(&nodes[(leads + 1) % 3]);
    browser.wait("document.querySelector('#store-tab').hidden", false);
    browser.eval("document.querySelector('#timeline-tab').focus()");
    browser.keys(RIGHT);
    browser.wait("document.activeElement.id", "store-tab");
    browser.wait_text("#leads", &format!("{leader} leads in term {}; revision 2.", status["term"]));
    browser.wait_text("#stream-title span", "Store");
    browser.wait("document.querySelector('#search').hidden", true);
    // The name, the state, the lag and the revision.
    let rows =
        "[...document.querySelectorAll('#store tbody tr')].map(row => [0, 1, 2, 4].map(i => row.cells[i].innerText))";
    let row =
        |at: usize, state: &str, lag: &str, revision: &str| json!([format!("node{}", at + 1), state, lag, revision]);
    let all = |leads: usize| [0, 1, 2].map(|at| row(at, if at == leads { "leads" } else { "follows" }, "0", "2"));
    browser.wait(rows, json!(all(leads)));

    nodes[leads].kill();
    let elections = "[...document.querySelectorAll('#elections li')].map(line => line.textContent.slice(9))";
    let seen = browser.wait_for(elections, |seen| seen[0].as_str().is_some_and(|line| line.contains(", after ")));
    let (next, after) = seen[0].as_str().and_then(|line| line.split_once(" leads in term ")).expect("an election");
    assert!(next != leader && after.ends_with(&format!(", after {leader}")), "{seen}");
    browser.wait_text("#store tr:has(.dead) td", &leader);
    browser.wait("document.querySelector('#store td.dead').textContent", "away");
    browser.resize(390, 844);
    browser.wait("document.documentElement.scrollWidth", 390);
    let whole = "(({ clientHeight, firstChild }) => clientHeight >= firstChild.offsetHeight)\
        (document.querySelector('#store .voters'))";
    browser.wait(whole, true);

    browser.eval("document.querySelector('#store-tab').focus()");
    browser.keys(RIGHT);
    browser.wait_text("#stream-title span", "Locks");
    browser.keys(RIGHT);
    browser.wait_text("#stream-title span", "Messages");
    browser.wait("document.querySelector('#search').hidden", false);
    check_quiet(&browser);
}
