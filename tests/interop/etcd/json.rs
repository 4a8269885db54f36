//! Calls in JSON: the store answers as etcd's gateway does.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

use super::{RealEtcd, one_voter};
use crate::support::http::{ask, request};

/// Calls, one after the other. Keys and values are in base64: `YQ==` is a.
const CALLS: &[(&str, &str)] = &[
    ("/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#),
    ("/v3/kv/put", r#"{"key":"YQ==","value":"Yw==","prev_kv":true}"#),
    ("/v3/kv/put", r#"{"key":"YQ==","value":"ZA==","prevKv":true,"unknown":[1]}"#),
    ("/v3/kv/put", "{}"),
    ("/v3/kv/put", r#"{"key":"YQ==","lease":"77"}"#),
    ("/v3/kv/range", r#"{"key":"YQ=="}"#),
    ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","limit":1}"#),
    ("/v3/kv/range", r#"{"key":"AA==","rangeEnd":"AA==","limit":"1","sort_order":"DESCEND","sort_target":"KEY"}"#),
    ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","sort_order":2,"sort_target":2,"keys_only":true}"#),
    ("/v3/kv/range", r#"{"key":"YQ==","revision":"1000"}"#),
    ("/v3/kv/range", r#"{"key":"bm9uZQ==","count_only":true}"#),
    ("/v3/kv/range", ""),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"key":"YQ==","target":"VERSION","result":"GREATER","version":"1"}],
            "success":[{"request_put":{"key":"bg==","value":"MQ=="}},{"requestRange":{"key":"bg=="}},
                       {"request_delete_range":{"key":"YQ==","prev_kv":true}}],
            "failure":[{"request_txn":{"compare":[]}}]}"#,
    ),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"key":"YQ==","target":"CREATE","create_revision":0,"result":"NOT_EQUAL"}],
            "failure":[{"request_txn":{"success":[{"request_range":{"key":"bg=="}}]}}]}"#,
    ),
    ("/v3/kv/txn", r#"{"success":[{"request_put":{"key":"bg=="}},{"request_put":{"key":"bg=="}}]}"#),
    ("/v3/kv/deleterange", r#"{"key":"bg==","prev_kv":true}"#),
    ("/v3/lease/grant", r#"{"ID":"77","TTL":"600"}"#),
    ("/v3/lease/grant", r#"{"ID":77,"TTL":600}"#),
    ("/v3/kv/put", r#"{"key":"bGVhc2Vk","value":"eA==","lease":"77"}"#),
    ("/v3/lease/keepalive", r#"{"ID":"77"}"#),
    ("/v3/lease/keepalive", r#"{"ID":"78"}"#),
    ("/v3/lease/timetolive", r#"{"ID":"78","keys":true}"#),
    ("/v3/kv/lease/timetolive", r#"{"ID":"78"}"#),
    ("/v3/lease/leases", "{}"),
    ("/v3/kv/lease/leases", "{}"),
    ("/v3/lease/revoke", r#"{"ID":"77"}"#),
    ("/v3/kv/lease/revoke", r#"{"ID":"77"}"#),
    ("/v3/kv/compaction", r#"{"revision":"4"}"#),
    ("/v3/kv/compaction", r#"{"revision":"4"}"#),
    ("/v3/kv/range", r#"{"key":"YQ==","revision":"2"}"#),
];

/// Without what says who answers.
fn same(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for name in ["cluster_id", "member_id", "raft_term"] {
                fields.remove(name);
            }
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), same(value.clone()))).collect())
        }
        Value::Array(items) => items.iter().cloned().map(same).collect(),
        _ => value,
    }
}

fn called(addr: SocketAddr, path: &str, body: &str) -> (u16, Value) {
    let answer = ask(addr, "POST", path, &["Content-Type: application/json"], body.as_bytes());
    // In pieces, and with trailers behind them, as etcd sends it.
    let text = answer.text();
    let json = text.find('{').zip(text.rfind('}')).map_or("", |(from, to)| &text[from..=to]);
    (answer.status, same(serde_json::from_str(json).unwrap_or_else(|error| panic!("{path} {body}: {error}: {text}"))))
}

pub fn is_the_same() {
    let (real, voter) = (RealEtcd::start(), one_voter());
    let ours = voter.etcd();
    for (path, body) in CALLS {
        assert_eq!(called(ours, path, body), called(real.addr, path, body), "{path} {body}");
    }
    for bad in [
        "[]",
        "{",
        r#"{"key":"YQ==","lease":"x"}"#,
        r#"{"key":"*"}"#,
        r#"{"key":"YQ"}"#,
        r#"{"key":"__8="}"#,
        r#"{"key":"YQ==","prev_kv":"yes"}"#,
    ] {
        // In words of its own.
        let [ours, real] = [ours, real.addr].map(|addr| called(addr, "/v3/kv/put", bad));
        assert_eq!((ours.0, &ours.1["code"]), (real.0, &real.1["code"]), "{bad}: {ours:?} {real:?}");
    }
    let watch = r#"{"create_request":{"key":"YQ==","start_revision":"4","prev_kv":true}}"#;
    let told = [ours, real.addr].map(|addr| {
        let mut stream = TcpStream::connect(addr).expect("somebody listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
        stream.write_all(&request("POST", "/v3/watch", &[], watch.as_bytes())).expect("it reads");
        let lines = BufReader::new(stream).lines().map(|line| line.expect("it goes on"));
        // Until it is told of the delete, however many answers that takes.
        let answers = lines.filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(&line).expect("JSON"));
        let mut events = Vec::new();
        for answer in answers.map(|answer: Value| same(answer)) {
            let result = answer["result"].clone();
            events.extend(result["events"].as_array().cloned().unwrap_or_default());
            if events.iter().any(|event| event["type"] == "DELETE") {
                break;
            }
        }
        events
    });
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0].len(), 2, "{told:?}");
    for path in ["/version", "/health"] {
        let [ours, real] = [ours, real.addr].map(|addr| ask(addr, "GET", path, &[], b""));
        assert_eq!((ours.status, ours.json()), (real.status, real.json()), "{path}");
    }
    // What is not there says so, and not that there is nothing at this path.
    for (path, why) in [
        ("/v3/auth/enable", "users and roles"),
        ("/v3beta/auth/role/add", "users and roles"),
        ("/v3/cluster/member/add", "broadcast voters add"),
        ("/v3/maintenance/snapshot", "snapshot save"),
    ] {
        let refused = ask(ours, "POST", path, &[], b"{}");
        let (code, message) = (refused.json()["code"].as_i64(), refused.json()["message"].to_string());
        assert!(refused.status == 501 && code == Some(12) && message.contains(why), "{path}: {}", refused.text());
    }
    // A page of another origin may not call.
    let foreign = ask(ours, "POST", "/v3/kv/range", &["Origin: http://example.org"], br#"{"key":"YQ=="}"#);
    assert_eq!(foreign.status, 403, "{}", foreign.text());
}
