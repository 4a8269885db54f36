//! The live page in a real browser, at real nodes.
//!
//! `BROADCAST_SCREENSHOT=docs/page.png cargo test --test page -- screenshot` makes the moving picture in the README and
//! in docs/demo.md.

mod access;
mod animation;
mod film;
mod locks;
mod members;
mod messages;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod timeline;
mod usability;

use std::process::ExitCode;

use libtest_mimic::Arguments;
use serde_json::Value;
use support::{
    Process,
    browser::{self, Browser, ENTER},
    cluster::api_node,
    require,
};

fn main() -> ExitCode {
    let mut tests: Vec<require::Test> = vec![
        // The longest come first.
        ("long_values_are_not_kept", messages::long_values_are_not_kept),
        ("windows_do_not_hold_up_each_other", messages::windows_do_not_hold_up_each_other),
        ("what_is_published_in_the_form_arrives_at_all", messages::what_is_published_in_the_form_arrives_at_all),
        ("what_is_typed_is_what_is_published", messages::what_is_typed_is_what_is_published),
        ("long_names_leave_room", members::long_names_leave_room),
        ("it_does_not_guess_who_has_acknowledged", messages::it_does_not_guess_who_has_acknowledged),
        ("it_says_who_has_not_acknowledged", messages::it_says_who_has_not_acknowledged),
        ("a_killed_node_is_seen_to_fail", members::a_killed_node_is_seen_to_fail),
        ("the_timeline_shows_who_has_what", timeline::the_timeline_shows_who_has_what),
        ("the_tab_of_the_store_shows_its_voters", store::the_tab_of_the_store_shows_its_voters),
        ("the_tab_of_locks_shows_who_holds_them", locks::the_tab_of_locks_shows_who_holds_them),
        ("the_keyboard_is_enough", usability::the_keyboard_is_enough),
        ("it_fits_a_phone", usability::it_fits_a_phone),
        ("nothing_stops_it_for_good", usability::nothing_stops_it_for_good),
        ("a_rate_below_one_is_shown_as_such", messages::a_rate_below_one_is_shown_as_such),
        ("it_works_behind_a_token", access::it_works_behind_a_token),
        ("it_works_over_tls", access::it_works_over_tls),
        ("it_shows_a_hundred_members", members::it_shows_a_hundred_members),
    ];
    if std::env::var_os(film::SCREENSHOT).is_some() {
        tests.push(("screenshot", film::screenshot));
    }
    let run = |threads, tests: &[require::Test]| {
        let args = Arguments { test_threads: Some(threads), ..Arguments::from_args() };
        require::run_cases(&args, require::cases(browser::missing().as_ref(), tests))
    };
    let code = run(THREADS, &tests);
    // It counts frames, and so has the machine to itself.
    let alone = run(1, &[("it_keeps_up_with_thirteen_nodes", members::it_keeps_up_with_thirteen_nodes)]);
    if code == ExitCode::SUCCESS { alone } else { code }
}

/// A browser takes much of a small machine while it starts, and then it waits.
const THREADS: usize = 3;

const MEMBERS: &str = "[...document.querySelectorAll('.member')].map(member => member.ariaLabel)";
const OUTCOME: &str = "document.querySelector('#outcome').textContent";
/// How many have acknowledged the newest message, of all others.
const REACH: &str = "document.querySelector('#rows .reach')?.textContent";

/// A receiver, and twelve senders with this interval.
fn thirteen(interval: &str) -> Vec<Process> {
    let first = api_node("node1", None, &[]);
    let names = ["node2", "node3"].map(String::from).into_iter().chain((1..=10).map(|n| format!("sender-{n}")));
    let sender = |name: String| api_node(&name, Some(&first), &["--role", "sender", "--interval", interval]);
    let senders: Vec<_> = names.map(sender).collect();
    [first].into_iter().chain(senders).collect()
}

/// A browser that shows the page of a node, which is live.
fn open(node: &Process) -> Browser {
    let browser = Browser::start(1280, 900);
    browser.open(&format!("http://{}/", node.http()));
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
    assert_eq!(browser.console_errors(), Vec::<Value>::new(), "in the console");
}
