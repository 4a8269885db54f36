//! What the page shows of members: failures, long names, and a hundred of them.

use std::time::Instant;

use broadcast::{Config, Seed};
use serde_json::json;

use super::{MEMBERS, REACH, check_quiet, open, publish, thirteen};
use crate::support::{
    cluster::{api_node, api_nodes},
    embedded::Embedded,
    traffic,
};

pub(super) fn long_names_leave_room() {
    let name = "w".repeat(200);
    let first = api_node(&name, None, &[]);
    let pod = "payments-worker-production-eu-west-1-5d4f8c7b9d-x2x7k-0";
    let second = api_node(pod, Some(&first), &[]);
    traffic::wait_members(2, &[(&name, &first.log), (pod, &second.log)]);
    let browser = open(&first);
    for width in [1280, 390] {
        browser.resize(width, 900);
        browser.eval("document.querySelector('#matrix').scrollIntoView()");
        let cells = "(() => {
            const table = document.querySelector('#table').getBoundingClientRect();
            const seen = cell => {
                const { left, right, top, bottom } = cell.getBoundingClientRect();
                return left >= table.left && right <= table.right && top >= table.top && bottom <= table.bottom;
            };
            return [...document.querySelectorAll('td')].map(seen);
        })()";
        browser.wait(cells, json!([true, true, true, true]));
        browser.wait("document.documentElement.scrollWidth", width);
    }
    browser.wait("document.querySelector('th.self').title", name);
    check_quiet(&browser);
}

pub(super) fn a_killed_node_is_seen_to_fail() {
    let [first, second, mut third] = api_nodes(&[]);
    let browser = open(&first);
    browser.eval("document.querySelector('#matrix').scrollIntoView()");
    browser.wait_text("#agreement", "All 3 views agree.");
    third.kill();
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive", "node3, dead"]));
    browser.wait_text("#counts", "✓ 2 alive× 1 dead");
    let believes = "[...document.querySelectorAll('td.dead')].map(cell => cell.title.replace(/ \\(.*/, ''))";
    browser.wait(believes, json!(["node1 believes node3 dead", "node2 believes node3 dead"]));
    let notes = "[...document.querySelectorAll('#rows .note.dead')].map(note => note.textContent.slice(13))";
    let notes = browser.wait_for(notes, |notes| *notes != json!([]));
    assert!(notes[0].as_str().expect("text").starts_with("node3 is dead, was "), "{notes}");
    publish(&browser, "still", "here");
    second.log.wait_line(0, &json!({ "event": "received", "key": "still" }));
    browser.wait(REACH, "1/1");
    check_quiet(&browser);
}

pub(super) fn it_shows_a_hundred_members() {
    let first = api_node("node1", None, &["--profile", "lan"]);
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let seed = first.addr().to_string().parse::<Seed>().expect("an address is a seed");
    let config = |n| Config::new(format!("node{n}")).bind(loopback).join([seed.clone()]);
    let others: Vec<_> = (2..=100).map(|n| Embedded::start(config(n))).collect();
    let browser = open(&first);
    browser.wait("broadcastPage.stats().members", 100);
    let readable = "document.querySelectorAll('.spokes .member span').length";
    browser.wait(readable, 100);
    publish(&browser, "to", "many");
    browser.wait(REACH, "99/99");
    // Of that one, two packets tell who has it.
    others[0].publish("from another", &json!(1));
    browser.wait_text("#rows .key", "from another");
    browser.wait(REACH, "99/99");
    browser.eval("document.querySelector('#matrix').scrollIntoView()");
    browser.wait("document.querySelectorAll('td.alive').length", 10_000);
    browser.wait("document.documentElement.scrollWidth", 1280);
    browser.resize(390, 844);
    browser.wait("document.documentElement.scrollWidth", 390);
    let names = "[...document.querySelectorAll('.member span')].filter(name => name.checkVisibility())";
    browser.wait(&format!("{names}.map(name => name.textContent)"), json!(["node1"]));
    check_quiet(&browser);
}

pub(super) fn it_keeps_up_with_thirteen_nodes() {
    // Fifty messages a second.
    let nodes = thirteen("240ms");
    let browser = open(&nodes[0]);
    browser.wait("broadcastPage.stats().members", 13);
    let messages = || browser.eval("broadcastPage.stats().messages").as_u64().expect("a count");
    let (before, began) = (messages(), Instant::now());
    let count = 500;
    browser.wait_for("broadcastPage.stats().messages", |now| now.as_u64().is_some_and(|now| now >= before + count));
    let rate = (messages() - before) as f64 / began.elapsed().as_secs_f64();
    let fps = browser.eval("broadcastPage.fps()").as_f64().expect("a number");
    let stats = browser.eval("broadcastPage.stats()");
    println!("{fps:.1} frames a second at {rate:.0} messages a second on 13 nodes; {stats}");
    // What it reaches, a busy machine without a graphics card does not; below this, it would be broken.
    assert!(fps > 20.0, "{fps} frames a second: {stats}");
    assert!(stats["rows"].as_u64().is_some_and(|rows| rows <= 200), "{stats}");
    check_quiet(&browser);
}
