//! What ends the wait for a lock: a signal at any moment, the time limit, and that the lock could never be granted.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Fake, Fault, Holder, run};
use crate::support::{program, refusal, stdout};

/// How much longer than asked a command may take, doubled for a busy machine.
const MARGIN: Duration = Duration::from_secs(4 + 4);

/// Runs a command; gives how long it took.
fn timed(fake: &Fake, args: &[&str]) -> (Output, Duration) {
    let began = Instant::now();
    (run(fake, args), began.elapsed())
}

#[test]
fn a_signal_at_the_grant_leaves_no_session_behind() {
    let fake = Fake::start();
    let mut first = Holder::start(&fake, &["lock", "a", "--ttl", "60s"]);
    fake.wait("it to be held", |state| state.locks.contains_key("a").then_some(()));
    let mut second = Holder::start(&fake, &["lock", "a", "--ttl", "6s", "--", "echo", "ran"]);
    let until =
        fake.wait("it to wait", |state| (state.locks["a"].len() == 2).then(Instant::now)) + Duration::from_secs(4);
    // A grant that comes when half of its time has gone is relied on once it is confirmed that the session lives.
    fake.change(|state| state.keepalives = Fault::Hang);
    fake.wait("the time to pass", |_| (Instant::now() > until).then_some(()));
    first.process.signal("TERM");
    first.ends(143);
    fake.wait("it to be granted", |state| (state.locks["a"].len() == 1).then_some(()));
    second.process.signal("TERM");
    second.ends(143);
    assert_eq!(second.process.log.lines(), Vec::<Value>::new());
    assert!(fake.look().sessions.is_empty(), "{:?}", fake.look());
}

#[test]
fn a_signal_before_the_answer_waits_for_which_session_it_is() {
    let fake = Fake::start();
    fake.change(|state| state.mute_streams = true);
    let mut holder = Holder::start(&fake, &["lock", "a", "--", "echo", "ran"]);
    fake.wait("it to be held", |state| state.locks.contains_key("a").then_some(()));
    holder.process.signal("INT");
    fake.change(|state| state.mute_streams = false);
    holder.ends(130);
    assert_eq!(holder.process.log.lines(), Vec::<Value>::new());
    assert!(fake.look().sessions.is_empty(), "{:?}", fake.look());
    // What is never answered is not waited for.
    fake.change(|state| state.others = Fault::Hang);
    let mut holder = Holder::start(&fake, &["lock", "a", "--", "echo", "ran"]);
    fake.wait("it to ask", |state| {
        (state.calls.iter().filter(|(call, _)| call == "POST /v1/locks").count() == 2).then_some(())
    });
    let began = Instant::now();
    holder.process.signal("TERM");
    holder.ends(143);
    assert!(began.elapsed() < MARGIN, "{:?}", began.elapsed());
}

#[test]
fn the_time_to_wait_is_over_whatever_the_node_does() {
    let fake = Fake::start();
    fake.change(|state| state.others = Fault::Hang);
    let (output, took) = timed(&fake, &["lock", "a", "--wait", "500ms", "--", "true"]);
    let node = format!("http://{}", fake.addr);
    assert_eq!(refusal(output, 124), format!("a was not granted within 500ms: {node} did not answer"));
    assert!(took > Duration::from_millis(500) && took < MARGIN, "{took:?}");
    // A node that answers, and whose voters do not.
    fake.change(|state| (state.others, state.mute_streams) = (Fault::None, true));
    let (output, took) = timed(&fake, &["lock", "a", "--try", "--", "true"]);
    let line = refusal(output, 124);
    assert_eq!(
        line,
        format!(
            "a was not granted at once: the voters gave {node} no answer; see broadcast store status whether one leads"
        )
    );
    assert!(took < MARGIN, "{took:?}");
    // One that falls silent while the place is in the queue.
    fake.change(|state| (state.mute_streams, state.locks, state.sessions) = Default::default());
    let mut first = Holder::start(&fake, &["lock", "a"]);
    first.process.log.wait("its token", |lines| lines.first().map(|_| ()));
    let mut second = Holder::start(&fake, &["elect", "a", "--wait", "1s", "--json", "--", "true"]);
    second.errors.wait_line(0, &json!({"event": "queued"}));
    fake.change(|state| state.mute_streams = true);
    let text = second.ends(124);
    let why = format!("a was not granted within 1s: {node} does not say what became of the place in the queue");
    assert!(text.ends_with(&format!("error: {why}\n")), "{text}");
    second.errors.wait_line(0, &json!({"event": "refused", "reason": why}));
    assert_eq!(fake.look().locks["a"].len(), 1, "its place is given up");
    fake.change(|state| state.mute_streams = false);
    first.process.signal("TERM");
    first.ends(143);
}

#[test]
fn a_refusal_is_an_event() {
    let fake = Fake::start();
    let first = Holder::start(&fake, &["lock", "a", "--label", "one"]);
    first.process.log.wait("its token", |lines| lines.first().map(|_| ()));
    let mut second = Holder::start(&fake, &["lock", "a", "--try", "--json", "--", "true"]);
    second.ends(124);
    let lines = second.errors.lines();
    let [refused, error] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&refused["event"], &refused["holders"][0]["label"]), (&json!("refused"), &json!("one")));
    assert_eq!(error, &json!(format!("error: {}", refused["reason"].as_str().expect("text"))));
    fake.change(|state| state.others = Fault::Status(403));
    let mut third = Holder::start(&fake, &["lock", "a", "--json"]);
    third.ends(125);
    assert_eq!(third.process.log.lines(), [json!({"event": "refused", "reason": "it is told to refuse"})]);
}

#[test]
fn a_loss_that_nobody_tells_is_an_event_as_well() {
    let fake = Fake::start();
    let mut holder = Holder::start(&fake, &["lock", "a", "--ttl", "2s", "--json", "--", "sleep", "1000"]);
    holder.errors.wait_line(0, &json!({"event": "granted"}));
    fake.change(|state| (state.keepalives, state.others) = (Fault::Close, Fault::Close));
    let text = holder.ends(123);
    let lost = holder.errors.lines().into_iter().find(|line| line["event"] == "lost");
    let reason = lost.expect(&text)["reason"].as_str().expect("text").to_owned();
    assert!(reason.starts_with("no node confirmed in time that its session lives"), "{reason}");
}

#[test]
fn a_lock_within_itself_is_refused_and_not_waited_for() {
    let fake = Fake::start();
    let broadcast = program(&[]).get_program().to_str().expect("text").to_owned();
    let says = "error: a is held by the command that this is part of, and would be waited for for ever; leave it out here, \
        or say how long to wait (--wait)\n";
    let check = |args: &[&str], code, says: &str| {
        let output = run(&fake, args);
        assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(code), says), "{args:?}");
    };
    check(&["lock", "a", "--", &broadcast, "lock", "a", "--", "true"], 125, says);
    check(&["lock", "a", "--", &broadcast, "lock", "b", "--", &broadcast, "elect", "a"], 125, says);
    check(&["lock", "b", "--also", "a", "--", &broadcast, "lock", "c", "--also", "a", "--", "true"], 125, says);
    check(&["lock", "a", "--", &broadcast, "lock", "b", "--", "true"], 0, "");
    // Whoever does not wait for ever is told by whom it is held.
    let tried = run(&fake, &["lock", "a", "--", &broadcast, "lock", "a", "--try", "--", "true"]);
    assert_eq!(tried.status.code(), Some(124));
    // What is left behind when the lock is released may take it.
    let script = "(while \"$0\" locks a; do :; done >/dev/null 2>&1; \"$0\" lock a -- echo later) &";
    let mut command = program(&["lock", "a", "--", "sh", "-c", script, &broadcast]);
    command.env("BROADCAST_NODE", format!("http://{}", fake.addr));
    assert_eq!(stdout(command.output().expect("it runs")), "later\n");
    assert!(fake.look().sessions.is_empty());
    // The server would refuse it.
    assert_eq!(run(&fake, &["lock", "a", "--also", "b", "--shared", "--", "true"]).status.code(), Some(2));
    assert_eq!(run(&fake, &["lock", "a", "--also", "b", "--semaphore", "2", "--", "true"]).status.code(), Some(2));
}

#[test]
fn a_command_asks_the_same_node() {
    let fake = Fake::start();
    let node = format!("http://{}", fake.addr);
    let broadcast = program(&[]).get_program().to_str().expect("text").to_owned();
    let run = |args: &[&str]| program(args).output().expect("it runs");
    let inner = [&*broadcast, "locks", "a", "--json"];
    let output = run(&[&["lock", "a", "--node", &node, "--"], &inner[..]].concat());
    assert!(stdout(output).starts_with("{\"name\":\"a\""));
    let files = tempfile::TempDir::new().expect("a folder");
    let token = files.path().join("token").to_str().expect("text").to_owned();
    std::fs::write(&token, "a-token-of-enough-letters\n").expect("it can be written");
    let script = "echo $BROADCAST_NODE $BROADCAST_TOKEN_FILE";
    let output = run(&["lock", "a", "--node", &node, "--token-file", &token, "--", "sh", "-c", script]);
    assert_eq!(stdout(output), format!("{node} {token}\n"));
}

#[test]
fn lists_go_on_behind_the_first_thousand() {
    let fake = Fake::start();
    fake.change(|state| {
        for n in 0..2100 {
            let id = format!("{n:016x}");
            state.locks.insert(format!("many/{n:04}"), vec![(n, id.clone())]);
            state.sessions.insert(id, super::fake::Session::idle());
        }
    });
    let json = |args: &[&str]| -> Value { serde_json::from_str(&stdout(run(&fake, args))).expect("JSON") };
    for (command, id, last) in [("locks", "name", "many/2099"), ("sessions", "session", "0000000000000833")] {
        let all = json(&[command, "--json", "--limit", "5000"]);
        let entries = all[command].as_array().expect("a list");
        assert_eq!((entries.len(), &entries[2099][id], &all["more"]), (2100, &json!(last), &json!(false)));
        let some = json(&[command, "--json", "--limit", "1001"]);
        assert_eq!((some[command].as_array().map(Vec::len), &some["more"]), (Some(1001), &json!(true)));
    }
    // How long the last of them has left is found as well.
    let one = stdout(run(&fake, &["locks", "many/2099"]));
    assert!(one.contains("  0000000000000833  1.5 s  "), "{one}");
}
