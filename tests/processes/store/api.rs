//! Keys over HTTP: reading, changing, watching, leases, and lists in parts.

use std::io::BufRead;

use serde_json::{Value, json};

use super::{Cluster, put, single_voter_with_data};
use crate::support::http::{ask, open_stream};

/// The ids and data of the next server-sent events that have data.
fn read_events(stream: &mut impl BufRead, count: usize) -> Vec<(String, Value)> {
    let (mut events, mut id, mut line) = (Vec::new(), String::new(), String::new());
    while events.len() < count {
        line.clear();
        assert_ne!(stream.read_line(&mut line).expect("an event in time"), 0, "the stream ended after {events:?}");
        match line.trim_end().split_once(": ") {
            Some(("id", place)) => id = place.to_owned(),
            Some(("data", data)) => events.push((id.clone(), serde_json::from_str(data).expect("JSON"))),
            _ => {}
        }
    }
    events
}

#[test]
fn keys_are_read_changed_and_watched_through_any_node() {
    let cluster = Cluster::start();
    let (other, first) = (cluster.other.http(), cluster.voters[0].http());

    let (status, done) = put(other, "app/color", b"green");
    assert_eq!(status, 200, "{done}");
    let revision = done["revision"].as_u64().expect("a revision");
    for at in [other, first] {
        let got = ask(at, "GET", "/v1/kv/app/color", &[], b"");
        assert_eq!((got.status, &*got.body), (200, &b"green"[..]));
        assert_eq!(got.header("etag"), Some(&*format!("\"{revision}\"")));
        assert_eq!((got.header("kv-version"), got.header("kv-lease")), (Some("1"), None));
    }
    // Any bytes, in the key as well.
    assert_eq!(put(first, "app/%ff%2F", &[0, 255]).0, 200);
    assert_eq!(ask(other, "GET", "/v1/kv/app/%FF/", &[], b"").body, [0, 255]);
    let list = ask(other, "GET", "/v1/kv?prefix=app/", &[], b"").json();
    assert_eq!((&list["count"], &list["more"]), (&json!(2), &json!(false)));
    assert_eq!((&list["kvs"][0]["key"], &list["kvs"][0]["value"]), (&json!("app/color"), &json!("green")));
    assert_eq!((&list["kvs"][1]["key_base64"], &list["kvs"][1]["value_base64"]), (&json!("YXBwL/8v"), &json!("AP8=")));
    let part = ask(other, "GET", "/v1/kv?prefix=app/&limit=1&sort=-mod&keys_only=true", &[], b"").json();
    assert_eq!(
        (&part["more"], &part["kvs"][0]["version"], part["kvs"][0].get("value")),
        (&json!(true), &json!(1), None)
    );

    // Preconditions.
    let change = |headers: &[&str]| ask(other, "PUT", "/v1/kv/app/color", headers, b"red").status;
    assert_eq!(change(&["if-none-match: *"]), 412);
    assert_eq!(change(&["if-match: \"1\""]), 412);
    let refused = ask(other, "DELETE", "/v1/kv/app/color", &["if-match: \"1\""], b"");
    assert_eq!((refused.status, &refused.json()["mod_revision"]), (412, &json!(revision)));
    assert_eq!(change(&[&format!("if-match: \"{revision}\"")]), 200);
    assert_eq!(ask(other, "GET", &format!("/v1/kv/app/color?revision={revision}"), &[], b"").body, b"green");

    // A transaction, and what it tells.
    let txn = json!({
        "compare": [{"key": "app/color", "value": "red"}, {"key": "app/size", "version": 0}],
        "success": [{"put": {"key": "app/size", "value": "7", "prev": true}}, {"get": {"key": "app/", "prefix": true}}],
        "failure": [{"get": {"key": "app/color"}}],
    });
    let done = ask(other, "POST", "/v1/kv", &[], txn.to_string().as_bytes());
    assert_eq!(done.status, 200, "{}", done.text());
    let done = done.json();
    assert_eq!((&done["succeeded"], &done["responses"][1]["get"]["count"]), (&json!(true), &json!(3)));
    let again = ask(other, "POST", "/v1/kv", &[], txn.to_string().as_bytes()).json();
    assert_eq!((&again["succeeded"], &again["responses"][0]["get"]["kvs"][0]["value"]), (&json!(false), &json!("red")));

    // A watch from the beginning, through a node that does not vote; it goes on at another node.
    let (mut watching, _) = open_stream(other, "/v1/watch?prefix=app/&after=1&prev=true", &[]);
    let seen = read_events(&mut watching, 4);
    assert_eq!(seen[2].1["events"][0]["prev"]["value"], "green", "{seen:?}");
    drop(watching);
    let deleted = ask(first, "DELETE", "/v1/kv/app/?prefix=true&prev=true", &[], b"").json();
    assert_eq!((&deleted["deleted"], deleted["prev"].as_array().map(Vec::len)), (&json!(3), Some(3)));
    let after = format!("last-event-id: {}", seen[3].0);
    let (mut watching, _) = open_stream(first, "/v1/watch?prefix=app/", &[&after]);
    let rest = read_events(&mut watching, 1);
    let revision = |event: &(String, Value)| event.1["revision"].as_u64().expect("a revision");
    assert_eq!(revision(&rest[0]), revision(&seen[3]) + 1, "each revision once");
    let store = cluster.status()["cluster"].as_str().expect("an id").to_owned();
    assert_eq!(rest[0].0, format!("{store}.{}", revision(&rest[0])));
    // A revision of another store means nothing here.
    let other_store = ask(other, "GET", "/v1/watch", &["last-event-id: 0000000000000001.1"], b"");
    assert_eq!(other_store.status, 410, "{}", other_store.text());
    assert_eq!(rest[0].1["events"].as_array().map(Vec::len), Some(3));
    assert_eq!(rest[0].1["events"][0]["type"], "delete");

    // A lease, with the key that it holds.
    let lease = ask(other, "POST", "/v1/leases", &[], b"{\"ttl\": 60}").json();
    let id = lease["lease"].as_str().expect("text");
    assert_eq!((lease["ttl"].as_u64(), id.len()), (Some(60), 16));
    assert_eq!(ask(first, "PUT", &format!("/v1/kv/held?lease={id}"), &[], b"x").status, 200);
    assert_eq!(ask(first, "GET", "/v1/kv/held", &[], b"").header("kv-lease"), Some(id));
    assert_eq!(ask(other, "PUT", &format!("/v1/leases/{id}"), &[], b"").status, 200);
    assert_eq!(ask(other, "DELETE", &format!("/v1/leases/{id}"), &[], b"").status, 200);
    assert_eq!(ask(other, "DELETE", &format!("/v1/leases/{id}"), &[], b"").status, 404);
    assert_eq!(ask(other, "GET", "/v1/kv/held", &[], b"").status, 404);
    assert_eq!(ask(first, "PUT", &format!("/v1/kv/held?lease={id}"), &[], b"x").status, 409);

    // What cannot be.
    for (method, path, body, status) in [
        ("GET", "/v1/kv/app/none", &b""[..], 404),
        ("GET", "/v1/kv?limit=0", b"", 400),
        ("GET", "/v1/kv?sort=size", b"", 400),
        ("DELETE", "/v1/kv/a?prefix=", b"", 400),
        ("DELETE", "/v1/kv/a?prefix", b"", 400),
        ("GET", "/v1/kv/a?revision=1000000", b"", 400),
        ("GET", "/v1/kv?key=a&prefix=b", b"", 400),
        ("GET", "/v1/kv/%zz", b"", 400),
        ("GET", "/v1/watch?key=a&prefix=b", b"", 400),
        ("GET", "/v1/watch?after=-1", b"", 400),
        ("POST", "/v1/kv", b"{}x", 400),
        ("POST", "/v1/kv", b"{\"compare\": [{\"key\": \"a\"}]}", 400),
        ("POST", "/v1/kv", b"{\"success\": [{\"put\": {\"key\": \"a\"}}, {\"put\": {\"key\": \"a\"}}]}", 400),
        ("POST", "/v1/kv", b"{\"success\": [{\"put\": {\"key\": \"a\", \"key_base64\": \"YQ==\"}}]}", 400),
        ("POST", "/v1/leases", b"{\"ttl\": 0}", 400),
        ("PUT", "/v1/leases/x", b"", 400),
        ("PUT", "/v1/kv/a", &vec![0; 2 << 20], 413),
        ("PUT", "/v1/kv/a", &vec![0; 3 << 19], 413),
    ] {
        let answer = ask(other, method, path, &[], body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }

    // Each change has a line of its own in the audit log, with what it changes.
    for value in [b"1", b"2", b"3"] {
        assert_eq!(put(other, "audited", value).0, 200);
    }
    assert_eq!(ask(other, "GET", "/v1/store/snapshot", &[], b"").status, 200);
    let log = &cluster.other.log;
    for (count, method, path, what) in [
        (3, "PUT", "/v1/kv/audited", Value::Null),
        (1, "POST", "/v1/kv", json!(r#"may put "app/size""#)),
        (1, "POST", "/v1/leases", json!(format!("lease {id}"))),
        (1, "DELETE", &format!("/v1/leases/{id}"), Value::Null),
        (1, "GET", "/v1/store/snapshot", Value::Null),
    ] {
        let line = json!({"event": "audit", "outcome": "done", "method": method, "path": path, "what": what});
        log.wait_lines(count, &line);
    }
    for (path, what) in [("/v1/kv/app/%ff%2F", Value::Null), ("/v1/kv/app/", json!("all keys that begin with it"))] {
        let line = json!({"event": "audit", "outcome": "done", "path": path, "what": what});
        cluster.voters[0].log.wait_lines(1, &line);
    }
}

#[test]
fn a_list_has_some_mib_at_most_and_goes_on_with_the_next_key() {
    let node = single_voter_with_data();
    let list = |query: &str| ask(node.http(), "GET", &format!("/v1/kv?{query}"), &[], b"");
    let (mut keys, mut start) = (Vec::new(), String::new());
    loop {
        let part = list(&format!("prefix=key&start={start}"));
        assert!(part.body.len() < 5 << 20, "{} bytes", part.body.len());
        let part = part.json();
        let found =
            part["kvs"].as_array().expect("a list").iter().map(|kv| kv["key"].as_str().expect("text").to_owned());
        keys.extend(found);
        if part["more"] == false {
            break;
        }
        start = format!("{}%00", keys.last().expect("a key at least"));
    }
    assert_eq!(keys.len(), 24);
    assert!(keys.is_sorted(), "{keys:?}");
    let all = list("prefix=key&keys_only=true").json();
    assert_eq!((&all["count"], &all["more"]), (&json!(24), &json!(false)));
}
