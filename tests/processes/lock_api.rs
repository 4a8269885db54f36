//! Locks over HTTP, on three voters and a node that does not vote.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    store::Cluster,
    support::{
        Process,
        child::OwnedChild,
        http::{self, Answer, ask},
        program, refusal, stdout, wait,
    },
};

fn send(at: SocketAddr, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    ask(at, method, path, &["content-type: application/json"], body.as_bytes())
}

fn get(at: SocketAddr, path: &str) -> Value {
    ask(at, "GET", path, &[], b"").json()
}

/// A request for a lock, and the events that tell what happens to it.
struct LockRequest {
    lines: BufReader<TcpStream>,
    /// As long as it is open, it waits.
    stream: TcpStream,
}

impl LockRequest {
    fn ask(at: SocketAddr, body: &Value) -> Self {
        let mut stream = http::connect(at);
        let headers = ["accept: text/event-stream", "content-type: application/json"];
        let request = http::request("POST", "/v1/locks", &headers, body.to_string().as_bytes());
        stream.write_all(&request).expect("it is sent");
        let mut lines = BufReader::new(stream.try_clone().expect("a second end"));
        let (status, _) = http::read_head(&mut lines).expect("an answer");
        assert_eq!(status, 200);
        Self { lines, stream }
    }

    /// The next event of that name. Only the events in `before` may come first.
    fn event(&mut self, name: &str, before: &[&str]) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.lines.read_line(&mut line).expect("it is told in time") > 0, "no {name}");
            let Some(event) = line.trim().strip_prefix("event: ").map(str::to_owned) else { continue };
            line.clear();
            self.lines.read_line(&mut line).expect("it is told in time");
            let data = line.trim().strip_prefix("data: ").expect("data");
            if event == name {
                return serde_json::from_str(data).expect("JSON");
            }
            assert!(before.contains(&&*event), "{event} {data}, and not {name}");
        }
    }
}

fn waiting(at: SocketAddr, name: &str) -> u64 {
    get(at, &format!("/v1/locks/{name}"))["waiting"].as_u64().unwrap_or_default()
}

#[test]
fn a_lock_is_taken_waited_for_and_handed_over_at_any_node() {
    let cluster = Cluster::start();
    let (here, there) = (cluster.other.http(), cluster.voters[1].http());
    let session = json!({"ttl": 60, "label": "nightly job"});
    let held = send(here, "POST", "/v1/locks", &json!({"names": ["jobs/nightly"], "session": session, "wait": 0}));
    assert_eq!(held.status, 200, "{}", held.text());
    let held = held.json();
    let (token, session) = (held["token"].as_u64().expect("a token"), held["session"].as_str().expect("a session"));

    // Whoever tries is told by whom it is held; whoever waits, when it is granted.
    let other = json!({"ttl": 60});
    let tried = send(there, "POST", "/v1/locks", &json!({"names": ["jobs/nightly"], "session": other, "wait": 0}));
    assert_eq!((tried.status, &tried.json()["holders"][0]["token"]), (409, &token.into()));
    assert_eq!(tried.json()["holders"][0]["label"], "nightly job");
    let mut next = LockRequest::ask(there, &json!({"names": ["jobs/nightly"], "session": other}));
    let queued = next.event("queued", &[]);
    assert_eq!((&queued["ahead"], &queued["ttl"]), (&1.into(), &60.into()));
    // Whoever goes away gives up its place.
    let mut gone = LockRequest::ask(here, &json!({"names": ["jobs/nightly"], "session": other}));
    assert_eq!(gone.event("queued", &[])["ahead"], 2);
    drop(gone);
    wait("one waits", || waiting(here, "jobs/nightly") == 1);
    let late = send(here, "POST", "/v1/locks", &json!({"names": ["jobs/nightly"], "session": other, "wait": 0.1}));
    assert_eq!((late.status, waiting(here, "jobs/nightly")), (409, 1), "{}", late.text());

    // Only who holds it releases it, and then the next one has it.
    let path = |token, session: &str| format!("/v1/locks/jobs/nightly?token={token}&session={session}");
    let wrong = send(here, "DELETE", &path(token + 1, session), &Value::Null);
    assert_eq!(wrong.status, 409, "{}", wrong.text());
    let put =
        |token| send(here, "PUT", &format!("/v1/kv/done?fence=jobs/nightly:{token}"), &"by this one".into()).status;
    assert_eq!((put(token), put(token + 1)), (200, 412));
    assert_eq!(send(there, "DELETE", &path(token, session), &Value::Null).json(), json!({"released": [token]}));
    let granted = next.event("granted", &["queued"]);
    assert!(granted["token"].as_u64().expect("a token") > token, "{granted}");
    assert_eq!(put(token), 412);

    // An operator takes it away, and its holder is told so.
    let forced = send(here, "DELETE", "/v1/locks/jobs/nightly?force=true", &Value::Null);
    assert_eq!(forced.json(), json!({"released": [granted["token"]]}));
    assert_eq!(next.event("lost", &[])["reason"], "somebody took it away");
    drop(next.stream);
    assert_eq!(get(here, "/v1/locks")["locks"], json!([]));

    // All ends with the session.
    let sessions = get(there, "/v1/sessions");
    let mine = sessions["sessions"].as_array().expect("a list").iter().find(|each| each["session"] == session);
    assert_eq!(mine.expect("it is there")["label"], "nightly job");
    let several = json!({"names": ["a", "b/c"], "session": session});
    assert_eq!(send(here, "POST", "/v1/locks", &several).status, 200);
    assert_eq!(get(here, &format!("/v1/sessions/{session}"))["holds"].as_array().map(Vec::len), Some(2));
    assert_eq!(send(there, "PUT", &format!("/v1/sessions/{session}"), &Value::Null).json()["ttl"], 60);
    assert_eq!(send(there, "DELETE", &format!("/v1/sessions/{session}"), &Value::Null).status, 200);
    assert_eq!(get(here, "/v1/locks")["locks"], json!([]));
    assert_eq!(send(here, "PUT", &format!("/v1/sessions/{session}"), &Value::Null).status, 404);
}

#[test]
fn who_is_elected_says_something_and_all_who_observe_hear_it() {
    let cluster = Cluster::start();
    let (here, there) = (cluster.other.http(), cluster.voters[0].http());
    assert_eq!(ask(here, "GET", "/v1/elections/leader", &[], b"").status, 404);
    let mut stream = http::connect(there);
    let request = http::request("GET", "/v1/elections/leader", &["accept: text/event-stream"], b"");
    stream.write_all(&request).expect("it is sent");
    let mut lines = BufReader::new(stream.try_clone().expect("a second end"));
    let (status, _) = http::read_head(&mut lines).expect("an answer");
    assert_eq!(status, 200);
    let mut observed = LockRequest { lines, stream };
    assert_eq!(observed.event("vacant", &[]), json!({}));
    let campaign = json!({"names": ["leader"], "session": {"ttl": 60}, "value": "10.0.0.7:80"});
    let won = send(here, "POST", "/v1/locks", &campaign).json();
    assert_eq!(observed.event("leader", &[])["value"], "10.0.0.7:80");
    let proclaimed = json!({"session": won["session"], "token": won["token"], "value": "10.0.0.8:80"});
    assert_eq!(send(here, "PUT", "/v1/elections/leader", &proclaimed).json()["value"], "10.0.0.8:80");
    assert_eq!(observed.event("leader", &[])["value"], "10.0.0.8:80");
    let path = format!("/v1/sessions/{}", won["session"].as_str().expect("a session"));
    assert_eq!(send(there, "DELETE", &path, &Value::Null).status, 200);
    assert_eq!(observed.event("vacant", &[]), json!({}));

    // A resource outside remembers the highest token.
    let token = won["token"].as_u64().expect("a token");
    let fence = |token: u64| send(here, "PUT", &format!("/v1/fences/disk/1?token={token}"), &Value::Null);
    assert_eq!(fence(token).status, 200);
    let old = fence(token - 1);
    assert_eq!((old.status, &old.json()["highest"]), (412, &token.into()));
    assert_eq!(get(there, "/v1/fences/disk/1"), json!({"token": token}));
}

#[test]
fn what_is_wrong_is_said_and_changes_nothing() {
    let cluster = Cluster::start();
    let at = cluster.other.http();
    let new = json!({"ttl": 10});
    for (body, says) in [
        (json!({"names": [], "session": new}), "0 locks"),
        (json!({"names": ["/a"], "session": new}), "begins or ends with /"),
        (json!({"names": ["a", "a"], "session": new}), "twice"),
        (json!({"names": ["a", "b"], "session": new, "mode": "shared"}), "exclusive"),
        (json!({"names": ["a"], "session": new, "mode": "semaphore"}), "permits"),
        (json!({"names": ["a"], "session": new, "wait": -1}), "wait = -1"),
        (json!({"names": ["a"], "session": {"ttl": 1}}), "ttl = 1"),
        (json!({"names": ["a"], "session": {"ttl": 1e300}}), "ttl = "),
        (json!({"names": ["a"], "session": "xyz"}), "session = "),
        (json!({"names": ["a"], "session": new, "value": "x", "value_base64": "eA=="}), "both"),
    ] {
        let refused = send(at, "POST", "/v1/locks", &body);
        assert_eq!(refused.status, 400, "{body}: {}", refused.text());
        assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.contains(says)), "{}", refused.text());
    }
    let unknown = json!({"names": ["a"], "session": "0000000000000007"});
    assert_eq!(send(at, "POST", "/v1/locks", &unknown).status, 404);
    let long = "x".repeat(300);
    for (method, path, status) in [
        ("GET", format!("/v1/locks/{long}"), 400),
        ("DELETE", "/v1/locks/a".into(), 400),
        ("DELETE", "/v1/locks/a?token=1".into(), 400),
        ("DELETE", "/v1/locks/a?token=1&session=7&force=true".into(), 400),
        ("DELETE", "/v1/locks/a?force=true".into(), 404),
        ("DELETE", "/v1/locks/a?token=1&session=0000000000000007".into(), 409),
        ("GET", "/v1/locks?limit=0".into(), 400),
        ("PUT", "/v1/fences/a".into(), 400),
        ("PUT", "/v1/fences/a?token=18446744073709551615".into(), 400),
        ("PUT", "/v1/kv/a?fence=a".into(), 400),
        ("PUT", "/v1/kv/a?fence=/a:1".into(), 400),
        ("GET", "/v1/sessions/0".into(), 400),
        ("GET", "/v1/sessions/0000000000000007".into(), 404),
    ] {
        let answered = send(at, method, &path, &Value::Null);
        assert_eq!(answered.status, status, "{method} {path}: {}", answered.text());
    }
    assert_eq!(
        (get(at, "/v1/locks")["locks"].clone(), get(at, "/v1/sessions")["sessions"].clone()),
        (json!([]), json!([]))
    );
}

#[test]
fn locks_outlive_the_voters_and_who_waits_is_told_by_whoever_leads_then() {
    let mut cluster = Cluster::start();
    let here = cluster.other.http();
    let held = send(here, "POST", "/v1/locks", &json!({"names": ["a"], "session": {"ttl": 60}})).json();
    let mut next = LockRequest::ask(here, &json!({"names": ["a"], "session": {"ttl": 60}}));
    next.event("queued", &[]);
    let leads = cluster.wait_led(3);
    cluster.voters[leads].kill();
    cluster.wait_led(2);
    let session = held["session"].as_str().expect("a session");
    let path = format!("/v1/locks/a?token={}&session={session}", held["token"]);
    assert_eq!(send(here, "DELETE", &path, &Value::Null).status, 200);
    let granted = next.event("granted", &["queued"]);
    // All voters end, and begin again with what they kept.
    cluster.restart(leads);
    for at in 0..3 {
        cluster.voters[at].kill();
        cluster.restart(at);
    }
    cluster.wait_led(3);
    let lock = get(here, "/v1/locks/a");
    assert_eq!(lock["holders"][0]["token"], granted["token"], "{lock}");
}

#[test]
fn commands_hold_locks_of_a_real_cluster() {
    let cluster = Cluster::start();
    let (here, there) = (cluster.other.http().to_string(), cluster.voters[2].http().to_string());
    let first = program(&["lock", "jobs/a", "--node", &here, "--", "sleep", "60"]).spawn().expect("it starts");
    let mut first = OwnedChild(first);
    wait("it has the lock", || get(cluster.other.http(), "/v1/locks/jobs/a")["holders"][0]["token"].is_u64());
    let run = |args: &[&str]| program(args).output().expect("it runs");
    let tried = run(&["lock", "jobs/a", "--node", &there, "--try", "--", "true"]);
    assert_eq!(tried.status.code(), Some(124), "{}", String::from_utf8_lossy(&tried.stderr));
    let listed = stdout(run(&["locks", "--node", &there]));
    assert!(listed.contains("jobs/a  exclusive  "), "{listed}");
    assert!(stdout(run(&["locks", "jobs/a", "--node", &there])).contains("holds"), "{listed}");

    // Somebody waits, and has it once the first one has lost it: then that has ended its command.
    let script = "echo \"$BROADCAST_LOCK_NAME $BROADCAST_LOCK_TOKEN\"";
    let waits = program(&["lock", "jobs/a", "--node", &there, "--", "sh", "-c", script]);
    let waits = thread::spawn(move || { waits }.output().expect("it runs"));
    wait("it waits", || waiting(cluster.other.http(), "jobs/a") == 1);
    let released = stdout(run(&["locks", "release", "jobs/a", "--force", "--node", &here]));
    assert!(released.starts_with("released jobs/a, token "), "{released}");
    assert_eq!(first.0.wait().expect("it was started here").code(), Some(123));
    let waited = stdout(waits.join().expect("it does not panic"));
    let token: u64 = waited.trim().strip_prefix("jobs/a ").expect("its name").parse().expect("its token");
    let put = send(cluster.other.http(), "PUT", &format!("/v1/kv/a?fence=jobs/a:{token}"), &Value::Null);
    assert_eq!(put.status, 412, "it is released with the end of its command");

    // A command that holds it does not wait for itself, and asks the same node.
    let own = program(&[]).get_program().to_str().expect("text").to_owned();
    let nested = run(&["lock", "jobs/a", "--node", &here, "--", &own, "lock", "jobs/a", "--", "true"]);
    let line = refusal(nested, 125);
    assert!(line.starts_with("jobs/a is held by the command that this is part of"), "{line}");

    let elected = program(&["elect", "leader", "--node", &here, "--value", "10.0.0.7:80", "--", "sleep", "60"]);
    let _elected = OwnedChild({ elected }.spawn().expect("it starts"));
    let leader = || run(&["elect", "leader", "--leader", "--node", &there]);
    wait("somebody leads", || leader().status.success());
    assert!(stdout(leader()).contains(": 10.0.0.7:80"));
    let fence = |token: u64| run(&["fence", "disk", &token.to_string(), "--node", &here, "--", "true"]).status.code();
    assert_eq!((fence(token), fence(token - 1)), (Some(0), Some(124)));
    assert!(run(&["fence", "disk", "--forget", "--node", &here]).status.success());
    assert_eq!(fence(token - 1), Some(0));
}

#[test]
fn a_failed_node_has_its_sessions_end_that_ask_for_it_and_no_others() {
    let cluster = Cluster::start();
    let join = cluster.other.addr().to_string();
    let mut failing = Process::node(&["--name", "failing", "--http", "127.0.0.1:0", "--join", &join]);
    let (here, there) = (failing.http(), cluster.voters[0].http());
    const DELAY: Duration = Duration::from_secs(4);
    for (name, delay, release) in [("at-once", 0, true), ("delayed", DELAY.as_secs(), true), ("kept", 0, false)] {
        let session = json!({"ttl": 3600, "lock_delay": delay, "release_on_failure": release});
        let held = send(here, "POST", "/v1/locks", &json!({"names": [name], "session": session}));
        assert_eq!(held.status, 200, "{}", held.text());
    }
    // So it is for a node that has not failed.
    let other = json!({"ttl": 3600, "release_on_failure": true});
    let held = send(there, "POST", "/v1/locks", &json!({"names": ["other"], "session": other}));
    assert_eq!(held.status, 200, "{}", held.text());
    failing.kill();
    let is_held = |name: &str| get(there, &format!("/v1/locks/{name}"))["holders"][0]["token"].is_u64();
    wait("the lock of a failed node is released", || !is_held("at-once"));
    let released = Instant::now();
    assert!(is_held("delayed"), "its lock-delay is not over");
    wait("the delayed one is released", || !is_held("delayed"));
    // It is looked every half second who has failed.
    assert!(released.elapsed() > DELAY - Duration::from_secs(1), "{:?}", released.elapsed());
    assert!(is_held("kept") && is_held("other"));
}

#[test]
fn how_long_locks_are_waited_for_and_held_is_counted_by_whoever_leads() {
    let cluster = Cluster::start();
    let here = cluster.other.http();
    let take = || send(here, "POST", "/v1/locks", &json!({"names": ["a"], "session": {"ttl": 60}})).json();
    let release = |held: &Value| {
        let session = held["session"].as_str().expect("a session");
        assert_eq!(send(here, "DELETE", &format!("/v1/sessions/{session}"), &Value::Null).status, 200);
    };
    let count = |what: &str| -> u64 {
        let of = |voter: &Process| {
            let text = http::metrics(voter.http());
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("broadcast_lock_{what} ")));
            line.expect("it is there").parse::<f64>().expect("a number") as u64
        };
        cluster.voters.iter().map(of).sum()
    };
    // It begins a moment after it came to lead.
    wait("it is counted", || {
        release(&take());
        count("hold_seconds_count") > 0
    });
    let before = (count("wait_seconds_count"), count("wait_seconds_sum"), count("hold_seconds_sum"));
    let held = take();
    let mut next = LockRequest::ask(here, &json!({"names": ["a"], "session": {"ttl": 60}}));
    next.event("queued", &[]);
    let until = Instant::now() + Duration::from_secs(2);
    wait("it has waited", || Instant::now() > until);
    release(&held);
    next.event("granted", &["queued"]);
    wait("both are counted", || count("wait_seconds_count") >= before.0 + 2);
    assert!(count("wait_seconds_sum") > before.1 && count("hold_seconds_sum") > before.2);
}

#[test]
fn nobody_waits_longer_than_asked_for_a_node_that_is_paused_or_has_no_leader() {
    let mut cluster = Cluster::start();
    let node = format!("http://{}", cluster.other.http());
    let waits = |why: &str| {
        let began = Instant::now();
        let output = program(&["lock", "a", "--node", &node, "--wait", "1s", "--", "true"]).output();
        assert_eq!(refusal(output.expect("it runs"), 124), format!("a was not granted within 1s: {why}"));
        // 4 s more at most, and what a machine with much to do takes.
        assert!(began.elapsed() < Duration::from_secs(1 + 4 + 4), "{:?}", began.elapsed());
    };
    cluster.voters[0].kill();
    cluster.voters[1].kill();
    waits(&format!("the voters gave {node} no answer; see broadcast store status whether one leads"));
    cluster.other.signal("STOP");
    waits(&format!("{node} did not answer"));
}
