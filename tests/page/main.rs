//! The live page in a real browser, at real nodes.
//!
//! `BROADCAST_SCREENSHOT=docs/page.png cargo test --test page -- screenshot` makes the moving picture in the README and
//! in docs/demo.md.

mod animation;
mod locks;
#[path = "../support/mod.rs"]
mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use broadcast::{Config, Seed};
use libtest_mimic::Arguments;
use serde_json::{Value, json};
use support::{
    LIMIT, Process,
    browser::{self, Browser, ENTER, RIGHT, TAB},
    embedded::Embedded,
    http::{ask, connect, request},
    program, require, stdout, talk,
};

fn main() -> ExitCode {
    let mut tests: Vec<require::Test> = vec![
        // The longest come first.
        ("long_values_are_not_kept", long_values_are_not_kept),
        ("windows_do_not_hold_up_each_other", windows_do_not_hold_up_each_other),
        ("what_is_published_in_the_form_arrives_at_all", what_is_published_in_the_form_arrives_at_all),
        ("what_is_typed_is_what_is_published", what_is_typed_is_what_is_published),
        ("long_names_leave_room", long_names_leave_room),
        ("it_does_not_guess_who_has_acknowledged", it_does_not_guess_who_has_acknowledged),
        ("it_says_who_has_not_acknowledged", it_says_who_has_not_acknowledged),
        ("a_killed_node_is_seen_to_fail", a_killed_node_is_seen_to_fail),
        ("the_timeline_shows_who_has_what", the_timeline_shows_who_has_what),
        ("the_tab_of_the_store_shows_its_voters", the_tab_of_the_store_shows_its_voters),
        ("the_tab_of_locks_shows_who_holds_them", locks::the_tab_of_locks_shows_who_holds_them),
        ("the_keyboard_is_enough", the_keyboard_is_enough),
        ("it_fits_a_phone", it_fits_a_phone),
        ("nothing_stops_it_for_good", nothing_stops_it_for_good),
        ("a_rate_below_one_is_shown_as_such", a_rate_below_one_is_shown_as_such),
        ("it_works_behind_a_token", it_works_behind_a_token),
        ("it_works_over_tls", it_works_over_tls),
        ("it_shows_a_hundred_members", it_shows_a_hundred_members),
    ];
    if std::env::var_os(SCREENSHOT).is_some() {
        tests.push(("screenshot", screenshot));
    }
    let run = |threads, tests: &[require::Test]| {
        let args = Arguments { test_threads: Some(threads), ..Arguments::from_args() };
        require::run_cases(&args, require::cases(browser::missing().as_ref(), tests))
    };
    let code = run(THREADS, &tests);
    // It counts frames, and so has the machine to itself.
    let alone = run(1, &[("it_keeps_up_with_thirteen_nodes", it_keeps_up_with_thirteen_nodes)]);
    if code == ExitCode::SUCCESS { alone } else { code }
}

/// A browser takes much of a small machine while it starts, and then it waits.
const THREADS: usize = 3;

/// The variable that says where to write the picture.
const SCREENSHOT: &str = "BROADCAST_SCREENSHOT";

const MEMBERS: &str = "[...document.querySelectorAll('.member')].map(member => member.ariaLabel)";
const OUTCOME: &str = "document.querySelector('#outcome').textContent";
/// How many have acknowledged the newest message, of all others.
const REACH: &str = "document.querySelector('#rows .reach')?.textContent";

/// A node with an HTTP API of its own.
fn node(name: &str, seed: Option<&Process>, args: &[&str]) -> Process {
    let seed = seed.map(|seed| seed.addr().to_string()).unwrap_or_default();
    Process::node(&[&["--name", name, "--join", &seed, "--http", "127.0.0.1:0"], args].concat())
}

/// node1 to node3, once they see each other.
fn three(args: &[&str]) -> [Process; 3] {
    let first = node("node1", None, args);
    let [second, third] = ["node2", "node3"].map(|name| node(name, Some(&first), args));
    talk::everyone_sees(3, &[("node1", &first.log), ("node2", &second.log), ("node3", &third.log)]);
    [first, second, third]
}

/// Where a node has its page: host and port.
fn page(node: &Process) -> String {
    node.log.wait("where its page is", |lines| {
        let line = lines.iter().find(|line| line["event"] == "http")?;
        line["addr"].as_str().map(Into::into)
    })
}

/// A browser that shows the page of a node, which is live.
fn open(node: &Process) -> Browser {
    let browser = Browser::start(1280, 900);
    browser.open(&format!("http://{}/", page(node)));
    browser.wait_text("#connection", "live");
    // What comes before that, the page takes for what was there before it, and draws no dots for it.
    browser.wait("performance.now() > backlog", true);
    browser
}

/// Types a message into the form, and sends it.
fn publish(browser: &Browser, key: &str, value: &str) {
    browser.eval("document.querySelector('#key').select()");
    browser.keys(key);
    browser.eval("document.querySelector('#value').select()");
    browser.keys(value);
    browser.keys(ENTER);
}

#[track_caller]
fn check_quiet(browser: &Browser) {
    assert_eq!(browser.complaints(), Vec::<Value>::new(), "in the console");
}

fn what_is_published_in_the_form_arrives_at_all() {
    let [first, second, third] = three(&[]);
    let browser = open(&first);
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive", "node3, alive"]));
    browser.wait_text("#self", "node1");
    publish(&browser, "cache:drop", r#"{"user": 42}"#);
    for node in [&second, &third] {
        node.log.wait_line(0, &json!({ "event": "received", "key": "cache:drop", "from": "node1" }));
    }
    let outcome = browser.wait_for(OUTCOME, |outcome| outcome.as_str().is_some_and(|text| text.contains(" ms")));
    assert!(outcome.as_str().expect("text").starts_with("delivered to 2 of 2 nodes in "), "{outcome}");
    browser.wait_text("#rows .value", r#"{"user": 42}"#);
    browser.wait(REACH, "2/2");
    browser.wait("broadcastPage.stats().arrived", 2);

    let other = open(&second);
    other.wait_text("#self", "node2");
    other.wait_text("#rows .origin", "node1");
    other.wait(REACH, "2/2");
    publish(&browser, "cache:drop", "<b>not markup</b>");
    other.wait_text("#rows .value", "<b>not markup</b>");
    other.wait("broadcastPage.stats().arrived", 2);
    check_quiet(&browser);
    check_quiet(&other);
}

fn what_is_typed_is_what_is_published() {
    let first = node("node1", None, &[]);
    let browser = open(&first);
    for value in ["12345678901234567890", "1.0", r#"{"a":1,"a":2}"#, r#"[1, ",\"hops\":"]"#, "null"] {
        publish(&browser, r#"","value":1"#, value);
        browser.wait_text("#rows .value", value);
        let query = "/v1/messages?last=1";
        let mut told = BufReader::new(connect(first.http()));
        let lines = request("GET", query, &["accept: application/x-ndjson", "connection: close"], b"");
        told.get_mut().write_all(&lines).expect("it is taken");
        let line = told.lines().map(|line| line.expect("it goes on")).find(|line| line.contains(r#""key""#));
        let line = line.expect("it is told");
        assert!(line.contains(&format!(r#","value":{value},"hops":0"#)), "{line}");
    }
    publish(&browser, "text", r#"1 "and" more"#);
    browser.wait_text("#rows .value", r#"1 "and" more"#);
    browser.eval("document.querySelector('#key').value = ''");
    publish(&browser, "", "without a key");
    browser.wait_text("#rows .value", "without a key");
    check_quiet(&browser);
}

fn windows_do_not_hold_up_each_other() {
    let first = node("node1", None, &[]);
    let browser = open(&first);
    for i in 0..4 {
        browser.open_beside(&format!("http://{}/", page(&first)));
        browser.wait_text("#connection", "live");
        browser.wait("document.hidden", false);
        let value = format!("in window {i}");
        publish(&browser, "window", &value);
        browser.wait_text("#rows .value", &value);
        browser.wait_for(OUTCOME, |outcome| outcome.as_str().is_some_and(|text| text.starts_with("delivered to")));
    }
}

fn long_names_leave_room() {
    let name = "w".repeat(200);
    let first = node(&name, None, &[]);
    let pod = "payments-worker-production-eu-west-1-5d4f8c7b9d-x2x7k-0";
    let second = node(pod, Some(&first), &[]);
    talk::everyone_sees(2, &[(&name, &first.log), (pod, &second.log)]);
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

fn long_values_are_not_kept() {
    let first = node("node1", None, &[]);
    let browser = open(&first);
    let before = browser.heap();
    let value = "x".repeat(1000 << 10);
    let count = 40;
    for i in 0..count {
        // A text, and something else.
        let value = if i % 2 == 0 { format!("\"{value}\"") } else { format!("[\"{value}\"]") };
        let body = format!(r#"{{"key":"long","value":{value}}}"#);
        assert_eq!(ask(first.http(), "POST", "/v1/messages", &[], body.as_bytes()).status, 202);
        browser.wait("broadcastPage.stats().messages", i + 1);
    }
    browser.wait("broadcastPage.stats().rows", count);
    let grown = browser.heap().saturating_sub(before);
    println!("{count} values of 1 MB: {grown} bytes more");
    assert!(grown < 10 << 20, "{grown} bytes more");
}

fn it_does_not_guess_who_has_acknowledged() {
    let [first, second, third] = three(&[]);
    let browser = open(&first);
    browser.wait("broadcastPage.stats().members", 3);
    // As where the origin tells others, and has no room for this node.
    browser.eval("positions.set = () => positions");
    browser.eval("positions.clear()");
    let body = br#"{"key":"of node2","value":1}"#;
    assert_eq!(ask(second.http(), "POST", "/v1/messages?ack=all", &[], body).status, 200);
    browser.wait_text("#rows .key", "of node2");
    browser.wait(REACH, "?/2");
    let title = browser.eval("document.querySelector('#rows .reach').title");
    assert!(title.as_str().is_some_and(|title| title.starts_with("unknown: node2 does not tell")), "{title}");
    browser.wait("broadcastPage.stats().dots", 0);
    drop(third);
}

fn it_says_who_has_not_acknowledged() {
    // Slow enough that node3 is not taken for dead before the page has given up on it.
    let [first, _second, third] = three(&["--profile", "wan"]);
    let browser = open(&first);
    browser.wait("broadcastPage.stats().members", 3);
    third.signal("STOP");
    publish(&browser, "who", "is there");
    browser.wait(REACH, "1/2");
    browser.wait(OUTCOME, "not acknowledged within 5 s by node3");
    browser.wait(REACH, "1/2");
    third.signal("CONT");
    browser.wait(REACH, "2/2");
}

fn a_killed_node_is_seen_to_fail() {
    let [first, second, mut third] = three(&[]);
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

/// The timeline's rows: of each cell, its column and its text.
const TIMELINE: &str = "[...document.querySelectorAll('#timeline [role=row]')].map(row => \
    [...row.children].map(cell => `${cell.ariaColIndex} ${cell.textContent}`).sort())";

fn the_timeline_shows_who_has_what() {
    let [first, second, mut third] = three(&[]);
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

fn the_tab_of_the_store_shows_its_voters() {
    let mut nodes = three(&["--role", "receiver,voter", "--voters", "node1,node2,node3"]);
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

fn the_keyboard_is_enough() {
    let [first, second, _third] = three(&[]);
    let browser = open(&first);
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive", "node3, alive"]));
    let tab_to = |element: &str| {
        let reached = (0..20).any(|_| {
            browser.keys(TAB);
            browser.eval(&format!("document.activeElement.matches('{element}')")) == true
        });
        assert!(reached, "Tab leads to {element}");
    };
    tab_to(".member");
    browser.keys(RIGHT);
    browser.wait_text("#member", "node2");
    tab_to("#key");
    browser.keys("apples");
    tab_to("#value");
    browser.keys("1");
    browser.keys(ENTER);
    browser.wait("document.querySelectorAll('#rows .key').length", 1);
    browser.eval("document.querySelector('#key').select()");
    browser.keys("pears");
    browser.keys(ENTER);
    browser.wait("document.querySelectorAll('#rows .key').length", 2);
    second.log.wait_line(0, &json!({ "event": "received", "key": "pears" }));
    tab_to("#filter");
    browser.keys("APPLE");
    let keys = "[...document.querySelectorAll('#rows .key')].map(key => key.textContent)";
    browser.wait(keys, json!(["apples"]));
    browser.eval("document.querySelector('#filter').select()");
    browser.keys("node1");
    browser.wait(keys, json!(["pears", "apples"]));
    tab_to("#pause");
    browser.keys(ENTER);
    browser.wait("document.querySelector('#pause').ariaPressed", "true");
    browser.eval("document.querySelector('#matrix').scrollIntoView()");
    browser.wait("document.querySelectorAll('td').length", 9);
    tab_to("td");
    browser.keys(RIGHT);
    let cell = browser.eval("document.querySelector('#cell').textContent");
    assert!(cell.as_str().expect("text").starts_with("node1 believes node2 alive"), "{cell}");
    check_quiet(&browser);
}

fn it_fits_a_phone() {
    let [first, _second, _third] = three(&[]);
    let browser = open(&first);
    for theme in ["dark", "light"] {
        browser.prefer("prefers-color-scheme", theme);
        browser.resize(390, 844);
        browser.wait("innerWidth", 390);
        browser.wait("document.documentElement.scrollWidth", 390);
        browser.eval("document.querySelector('#matrix').scrollIntoView()");
        browser.wait("document.querySelectorAll('td').length", 9);
        browser.wait("document.documentElement.scrollWidth", 390);
    }
    on_a_phone_keys_are_whole_and_hints_fit(&browser);
    check_quiet(&browser);
}

fn on_a_phone_keys_are_whole_and_hints_fit(browser: &Browser) {
    browser.resize(390, 844);
    let key = "cache:drop/a-rather-long-key/of-some-service/in-production/42";
    publish(browser, key, "a value");
    browser.wait_text("#rows .key", key);
    let whole = "(() => {
        const [key, list] = ['#rows .key', '#rows'].map(of => document.querySelector(of).getBoundingClientRect());
        const { scrollWidth, clientWidth } = document.querySelector('#rows .key');
        return scrollWidth <= clientWidth && key.left >= list.left && key.right <= list.right;
    })()";
    browser.wait(whole, true);
    let hints = "[...document.querySelectorAll('.keys, .touch')].filter(hint => hint.checkVisibility()).map(hint => hint.className)";
    browser.wait(hints, json!(["keys", "keys"]));
    browser.touch();
    browser.wait(hints, json!(["touch", "touch"]));
}

fn nothing_stops_it_for_good() {
    let [first, _second, _third] = three(&[]);
    let browser = open(&first);
    browser.wait("broadcastPage.stats().members", 3);
    // For a moment it has no size, as in a window that is folded up, while something moves.
    browser.eval("document.querySelector('#ring').style.display = 'none'");
    browser.wait("circle.radius", 0);
    publish(&browser, "unseen", "1");
    browser.wait_text("#rows .key", "unseen");
    browser.wait("broadcastPage.stats().arrived", 2);
    browser.eval("document.querySelector('#ring').style.display = ''");
    browser.wait("circle.radius > 100", true);
    publish(&browser, "seen", "1");
    browser.wait("broadcastPage.stats().arrived", 4);
    browser.wait("broadcastPage.stats().failed", 0);
    check_quiet(&browser);

    // Nor does anything else that is thrown, but it is told.
    browser.eval("window.drawBefore = drawMember");
    browser.eval("drawMember = () => { throw new Error('on purpose') }");
    publish(&browser, "thrown", "1");
    browser.wait_text("#rows .key", "thrown");
    browser.wait("broadcastPage.stats().arrived", 6);
    browser.eval("drawMember = drawBefore");
    publish(&browser, "after", "1");
    browser.wait("broadcastPage.stats().arrived", 8);
    let complaints = browser.complaints();
    assert!(complaints.len() == 1 && complaints[0].to_string().contains("on purpose"), "{complaints:?}");
}

fn a_rate_below_one_is_shown_as_such() {
    let first = node("node1", None, &[]);
    let _second = node("node2", Some(&first), &["--role", "sender", "--interval", "2s"]);
    let browser = open(&first);
    browser.wait_for("document.querySelector('#rate').textContent", |rate| {
        let rate = rate.as_str().and_then(|text| text.strip_suffix(" msg/s")?.parse::<f64>().ok());
        rate.is_some_and(|rate| rate > 0.0 && rate < 1.0)
    });
    for (rate, text) in [("0", "0 msg/s"), ("2 / 3", "0.67 msg/s"), ("4.23", "4.2 msg/s"), ("50", "50 msg/s")] {
        browser.wait(&format!("perSecond({rate})"), text);
    }
    check_quiet(&browser);
}

fn it_works_behind_a_token() {
    let first = Process::node_with(
        &["--name", "node1", "--http", "127.0.0.1:0"],
        &[("BROADCAST_HTTP_TOKEN", "a-token-for-this-test")],
    );
    let second = node("node2", Some(&first), &[]);
    let browser = Browser::start(1280, 900);
    browser.open(&format!("http://any:a-token-for-this-test@{}/", page(&first)));
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive"]));
    browser.wait_text("#connection", "live");
    publish(&browser, "secret", "1");
    second.log.wait_line(0, &json!({ "event": "received", "key": "secret" }));
    browser.eval("document.querySelector('#matrix').scrollIntoView()");
    browser.wait_text("#agreement", "All 2 views agree.");
    check_quiet(&browser);
}

fn it_works_over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    stdout(program(&["tls-selfsigned", &path("")]).output().expect("the program runs"));
    let (cert, key) = (path("server.pem"), path("server-key.pem"));
    let tls = ["--tls-cert-file", &*cert, "--tls-key-file", &key];
    let first = Process::node_with(
        &[&["--name", "node1", "--http", "127.0.0.1:0"], &tls[..]].concat(),
        &[("BROADCAST_TOKEN", "a-token-for-this-test")],
    );
    let second = node("node2", Some(&first), &[]);
    let browser = Browser::start(1280, 900);
    browser.open(&format!("https://any:a-token-for-this-test@{}/", page(&first)));
    browser.wait(MEMBERS, json!(["node1, alive", "node2, alive"]));
    browser.wait_text("#connection", "live");
    publish(&browser, "secret", "1");
    second.log.wait_line(0, &json!({ "event": "received", "key": "secret" }));
    first.log.wait_line(0, &json!({ "event": "audit", "who": "token", "route": "/v1/messages", "status": 200 }));
    check_quiet(&browser);
}

fn it_shows_a_hundred_members() {
    let first = node("node1", None, &["--profile", "lan"]);
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

/// A receiver, and twelve senders that each send a message at this interval.
fn thirteen(interval: &str) -> Vec<Process> {
    let first = node("node1", None, &[]);
    let names = ["node2", "node3"].map(String::from).into_iter().chain((1..=10).map(|n| format!("sender-{n}")));
    let sender = |name: String| node(&name, Some(&first), &["--role", "sender", "--interval", interval]);
    let senders: Vec<_> = names.map(sender).collect();
    [first].into_iter().chain(senders).collect()
}

fn it_keeps_up_with_thirteen_nodes() {
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

/// Screenshots, one after the other.
struct Film<'a> {
    browser: &'a Browser,
    began: Instant,
    shots: Vec<(Duration, Vec<u8>)>,
}

impl Film<'_> {
    /// From one screenshot to the next, at least.
    const STEP: Duration = Duration::from_millis(160);

    /// Goes on until an expression in the page is true, and for some time after that.
    fn until(&mut self, expression: &str, and_then: Duration) {
        let deadline = Instant::now() + LIMIT;
        let mut end = None;
        while end.is_none_or(|end| Instant::now() < end) {
            assert!(Instant::now() < deadline, "in the page, `{expression}` is not true");
            let taken = Instant::now();
            self.shots.push((taken - self.began, self.browser.screenshot()));
            if end.is_none() && self.browser.eval(expression) == true {
                end = Some(Instant::now() + and_then);
            }
            thread::sleep(Self::STEP.saturating_sub(taken.elapsed()));
        }
    }
}

/// Thirteen nodes talk; one of them is killed, and comes back.
fn screenshot() {
    let file = std::env::var_os(SCREENSHOT).expect("it is asked for");
    let mut nodes = thirteen("4s");
    let last = nodes.pop().expect("thirteen");
    let browser = open(&nodes[0]);
    browser.resize(960, 576);
    browser.wait("broadcastPage.stats().members", 13);
    publish(&browser, "cache:drop", r#"{"user": 42}"#);
    browser.wait_for(OUTCOME, |outcome| outcome.as_str().is_some_and(|text| text.starts_with("delivered to")));
    browser.wait_for("broadcastPage.stats().rows", |rows| rows.as_u64().is_some_and(|rows| rows > 15));
    let mut film = Film { browser: &browser, began: Instant::now(), shots: Vec::new() };
    film.until("true", Duration::from_millis(800));
    drop(last);
    film.until("members.get('sender-10').state === 'dead'", Duration::from_millis(500));
    let _back = node("sender-10", Some(&nodes[0]), &["--role", "sender", "--interval", "4s"]);
    film.until("members.get('sender-10').state === 'alive'", Duration::from_millis(1000));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::write(&file, animation::animate(&film.shots)).expect("the file can be written");
}
