//! Publishing and following over HTTP: what is acknowledged, what is refused, and that a follower that comes back receives
//! everything once.

use std::{
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    thread,
};

use crate::support::{
    cluster::{api_node, api_nodes},
    http::{ask, open_stream},
    wait,
};
use serde_json::{Value, json};

const LINES: &str = "content-type: application/x-ndjson";
const FORMS: [&str; 2] = ["text/event-stream", "application/x-ndjson"];

/// Publishes messages of these keys, whose values count from 0.
#[track_caller]
fn publish(at: SocketAddr, keys: &[&str], count: usize) {
    let line = |i: usize| format!("{{\"key\":\"{}\",\"value\":{i}}}\n", keys[i % keys.len()]);
    let body: String = (0..count).map(line).collect();
    let answer = ask(at, "POST", "/v1/messages", &[LINES], body.as_bytes());
    assert_eq!((answer.status, &answer.json()["published"]), (202, &json!(count)), "{}", answer.text());
}

/// A client that follows messages.
struct Follower {
    stream: BufReader<TcpStream>,
    events: bool,
    /// The cursor to resume at.
    place: String,
}

impl Follower {
    #[track_caller]
    fn new(at: SocketAddr, form: &str, query: &str, place: &str) -> Self {
        Self::of(at, form, &format!("/v1/messages{query}"), place)
    }

    /// Over HTTP/1.0, whose bodies have no chunks.
    #[track_caller]
    fn of(at: SocketAddr, form: &str, path: &str, place: &str) -> Self {
        let (accept, id) = (format!("accept: {form}"), format!("last-event-id: {place}"));
        let headers = if place.is_empty() { &[&*accept][..] } else { &[&*accept, &id] };
        let (stream, head) = open_stream(at, path, headers);
        assert!(head.iter().any(|line| *line == format!("content-type: {form}")), "{head:?}");
        Self { stream, events: form == FORMS[0], place: place.into() }
    }

    /// The next event with data; nothing when it ends.
    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).expect("it goes on") == 0 {
                return None;
            }
            let line = line.trim_end();
            if let (true, Some(id)) = (self.events, line.strip_prefix("id: ")) {
                self.place = id.into();
            }
            let data =
                if self.events { line.strip_prefix("data: ") } else { Some(line).filter(|line| !line.is_empty()) };
            let Some(data) = data else { continue };
            let data: Value = serde_json::from_str(data).expect("it is JSON");
            if let Some(cursor) = data["cursor"].as_str() {
                assert!(!self.events || self.place == cursor, "{data} at {}", self.place);
                self.place = cursor.into();
            }
            // Only names the place.
            if data["event"] == "here" {
                continue;
            }
            return Some(data);
        }
    }

    #[track_caller]
    fn expect(&mut self) -> Value {
        self.next().expect("it goes on")
    }
}

#[test]
fn who_has_not_acknowledged_is_named() {
    let [first, second] = api_nodes(&["--profile", "lan"]);
    let (at, body) = (first.http(), br#"{"key":"a","value":1}"#);
    let done = ask(at, "POST", "/v1/messages?ack=all&timeout=20s", &[], body);
    let told = done.json();
    assert_eq!((done.status, &told["delivered"], &told["members"]), (200, &json!(1), &json!(1)), "{told}");
    second.signal("STOP");
    let late = ask(at, "POST", "/v1/messages?ack=all&timeout=300ms", &[], body);
    let problem = late.json();
    assert_eq!((late.status, &problem["missing"], &problem["seq"]), (504, &json!(["node2"]), &json!(1)), "{problem}");
    assert!(problem["waited_ms"].as_u64().is_some_and(|waited| waited >= 300), "{problem}");
    let late = ask(at, "POST", "/v1/messages?ack=all&timeout=300ms", &[LINES], body).json();
    assert_eq!((&late["published"], &late["missing"]), (&json!(1), &json!(["node2"])), "{late}");
    second.signal("CONT");
    let mut follower = Follower::new(second.http(), FORMS[1], "?last=3", "");
    (0..3).for_each(|seq| assert_eq!(follower.expect()["seq"], seq));
}

#[test]
fn a_full_log_takes_nothing_until_there_is_room() {
    let [first, second] = api_nodes(&["--profile", "lan", "--retain-messages", "16"]);
    // Large ones, of which few wait before the log.
    let body = format!("{{\"key\":\"a\",\"value\":\"{}\"}}", "x".repeat(100 << 10));
    let publish = || ask(first.http(), "POST", "/v1/messages", &[], body.as_bytes());
    // Once the two have met: who was never heard of is not waited for.
    assert_eq!(ask(first.http(), "POST", "/v1/messages?ack=all&timeout=20s", &[], body.as_bytes()).status, 200);
    second.signal("STOP");
    let mut taken = 1;
    let refused = loop {
        let answer = publish();
        if answer.status != 202 {
            break answer;
        }
        taken += 1;
        assert!(taken < 1000, "it is bounded");
    };
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{}", refused.text());
    assert!(refused.text().contains("have not caught up"), "{}", refused.text());
    second.signal("CONT");
    wait("there is room again", || publish().status == 202);
    let mut follower = Follower::new(second.http(), FORMS[1], "?last=1000", "");
    (0..=taken).for_each(|seq| assert_eq!(follower.expect()["seq"], seq, "what was taken arrives, and no more"));
}

#[test]
fn a_batch_is_published_up_to_the_line_that_is_none() {
    let [first, second] = api_nodes(&[]);
    let mut follower = Follower::new(second.http(), FORMS[1], "", "");
    let body = b"{\"key\":\"a\",\"value\":1}\n\n{\"key\":\"b\",\"value\":2}\r\n{\"key\":\"c\" \"value\":3}\n{\"key\":\"d\",\"value\":4}\n";
    let answer = ask(first.http(), "POST", "/v1/messages", &[LINES], body);
    let problem = answer.json();
    assert_eq!(
        (answer.status, &problem["published"], &problem["line"], &problem["column"]),
        (400, &json!(2), &json!(4), &json!(12)),
        "{problem}"
    );
    publish(first.http(), &["e"], 1);
    let keys: Vec<_> = (0..3).map(|_| follower.expect()["key"].clone()).collect();
    assert_eq!(keys, ["a", "b", "e"]);
    let long = [&body[..46], &vec![b' '; 2 << 20]].concat();
    let problem = ask(first.http(), "POST", "/v1/messages", &[LINES], &long).json();
    assert_eq!((&problem["status"], &problem["published"], &problem["line"]), (&json!(413), &json!(2), &json!(4)));
    let none = ask(first.http(), "POST", "/v1/messages", &[LINES], b"\n\n");
    assert_eq!((none.status, &none.json()["published"]), (400, &json!(0)));
}

#[test]
fn whoever_comes_back_hears_all_once() {
    let [first, second] = api_nodes(&[]);
    let (at, count) = (first.http(), 20_000);
    let names = ["apple", "pear", "apricot"];
    let followers = FORMS.iter().flat_map(|form| [(form, ""), (form, "?key=ap&from=node2"), (form, "?from=node2")]);
    thread::scope(|scope| {
        for (form, query) in followers {
            let mut follower = Follower::new(at, form, query, "");
            if follower.events {
                let mut line = String::new();
                while !line.starts_with("id: ") {
                    line.clear();
                    follower.stream.read_line(&mut line).expect("it tells the place");
                }
                follower.place = line[4..].trim_end().into();
            }
            scope.spawn(move || {
                let wanted = (0..count).filter(|i| !query.contains("ap&") || names[i % 3].starts_with("ap"));
                for (heard, i) in wanted.enumerate() {
                    let told = follower.expect();
                    let all = (&told["value"], &told["key"], &told["origin"]);
                    assert_eq!(all, (&json!(i), &json!(names[i % 3]), &json!("node2")), "{form} {query}: {told}");
                    // What was sent on this connection and not read is sent again.
                    if heard % 700 == 0 {
                        follower = Follower::new(at, form, query, &follower.place);
                    }
                }
            });
        }
        scope.spawn(|| publish(second.http(), &names, count));
    });
    let mut last = Follower::new(at, FORMS[0], "?last=3&key=pear", "");
    for i in [count - 7, count - 4, count - 1].map(|i| i - (i + 2) % 3) {
        assert_eq!(last.expect()["value"], i);
    }
}

#[test]
fn one_stream_tells_all_there_is() {
    let [first, second] = api_nodes(&[]);
    let (at, count) = (first.http(), 2000);
    let follow = |place: &str| Follower::of(at, FORMS[0], "/v1/events?messages=1", place);
    let mut plain = Follower::of(at, FORMS[0], "/v1/events", "1f.7");
    publish(second.http(), &["before"], 2);
    let mut follower = follow("");
    while follower.expect()["seq"] != 1 {}
    // Some are told in many pieces, within which nothing else may come.
    let long = "x".repeat(200 << 10);
    let line =
        |i: usize| format!("{{\"key\":\"a\",\"value\":\"{}\"}}\n", if i.is_multiple_of(100) { &long } else { "short" });
    let body: String = (0..count).map(line).collect();
    let mut besides = 0;
    thread::scope(|scope| {
        scope.spawn(|| ask(second.http(), "POST", "/v1/messages", &[LINES], body.as_bytes()));
        for seq in 2..count + 2 {
            let told = loop {
                let told = follower.expect();
                if told["seq"].is_number() {
                    break told;
                }
                besides += 1;
            };
            assert_eq!((&told["origin"], &told["seq"]), (&json!("node2"), &json!(seq)));
            if seq % 300 == 0 {
                follower = follow(&follower.place);
            }
        }
    });
    assert!(besides > 0, "members and acknowledgements come as well");
    loop {
        let told = plain.expect();
        assert!(
            told["members"].is_array() || told["members"].is_object(),
            "no messages unless they are wanted: {told}"
        );
        if told["origin"] == "node2" && told["members"]["node1"] == count + 2 {
            break;
        }
    }
    let gone = follow("1f.7").expect();
    assert_eq!((&gone["event"], &gone["missed"]), (&json!("gone"), &Value::Null), "{gone}");
    first.signal("TERM");
    for follower in [&mut follower, &mut plain] {
        let left: Vec<_> = std::iter::from_fn(|| follower.next()).filter(|told| told["event"] == "left").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}

#[test]
fn what_is_not_kept_is_told() {
    let mut node1 = api_node("node1", None, &[]);
    let at = node1.http();
    for form in FORMS {
        let mut follower = Follower::new(at, form, "", "1f.7");
        let gone = follower.expect();
        assert_eq!((&gone["event"], &gone["missed"]), (&json!("gone"), &Value::Null), "{gone}");
    }
    publish(at, &["a"], 1);
    let first = Follower::new(at, FORMS[1], "?last=1", "").expect()["cursor"].as_str().expect("a place").to_owned();
    let (life, position) = first.split_once('.').expect("a life, and a position");
    assert_eq!(position, "1");
    let mut reading = Follower::new(at, FORMS[1], "", "");
    for step in 1..=14 {
        publish(at, &["a"], 5000);
        // They are on their way when that is answered.
        while reading.expect()["seq"] != step * 5000 {}
    }
    for form in FORMS {
        let mut follower = Follower::new(at, form, "", &first);
        let gone = follower.expect();
        let missed = gone["missed"].as_u64().expect("how many");
        assert_eq!(gone["cursor"], format!("{life}.{}", missed + 1), "{gone}");
        assert!(missed >= 70_001 - 65_536 - 1, "{gone}");
        let next = follower.expect();
        assert_eq!((&next["cursor"], &next["seq"]), (&json!(format!("{life}.{}", missed + 2)), &json!(missed + 1)));
        // It goes on from here, also for those who come back with the place of that event.
        let place = gone["cursor"].as_str().expect("a place");
        assert_eq!(Follower::new(at, form, "", place).expect(), next);
    }
    let mut followers = FORMS.map(|form| Follower::new(at, form, "", ""));
    node1.signal("TERM");
    for follower in &mut followers {
        let left = follower.expect();
        assert!(left["reason"].as_str().is_some_and(|reason| reason.contains("has left its cluster")), "{left}");
        assert_eq!(follower.next(), None);
    }
    node1.wait();
    let again = api_node("node1", None, &[]);
    let gone = Follower::new(again.http(), FORMS[0], "", &first).expect();
    assert_eq!((&gone["event"], &gone["missed"]), (&json!("gone"), &Value::Null), "{gone}");
    let reason = gone["reason"].as_str().expect("a reason");
    assert!(reason.contains("has restarted since"), "{reason}");
}
