//! Clients that use the store during the faults: a process beside each node. It prints each operation with its answer, and each
//! event of its watches, as a line of JSON. All times are those of the machine's one clock. The clients here ask over HTTP.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::time::{ClockId, clock_gettime};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng as _, SeedableRng as _},
};
use serde_json::{Value, json};

use crate::support::http::{Answer, read, read_head, request};

/// The key whose change ends a watch.
pub(crate) const LAST: &str = "last";
/// Where a node answers in its own network.
pub(crate) const HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8946);
/// The variable that names a file with the address of the node at present, if that is in another network.
pub(crate) const NODE: &str = "BROADCAST_TESTS_NEMESIS_NODE";
/// A request waits for a leader for 10 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// The variable that is set in the processes that use the store: their name.
pub(crate) const NAME: &str = "BROADCAST_TESTS_NEMESIS_CLIENT";
/// Between two requests of a thread; more of them would tell nothing else.
pub(super) const PACE: Duration = Duration::from_millis(60);
const KEYS: u64 = 4;
/// The least that a lease lives.
const TTL: Duration = Duration::from_secs(2);

/// The machine's time since its start, asleep or not.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("each system has it").into()
}

/// How many seconds long things are broken.
pub(crate) fn seconds(usually: u64) -> u64 {
    std::env::var("BROADCAST_TESTS_NEMESIS").map_or(usually, |text| text.parse().expect("seconds"))
}

/// Watches until it has seen that the last key was put; has the client's name.
pub(crate) type Watch = fn(&str);
/// Uses the store until it is told to rest; has the client's name, and a number that is another one in each run.
pub(crate) type Work = fn(&str, u64, &AtomicBool);

/// What is done over HTTP.
pub(crate) const WATCH: Watch = watch;
pub(crate) const WORK: [Work; 2] = [
    |name, _, rest| hold_leases(name, rest, &mut Http),
    |name, seed, rest| change_keys(&format!("{name}-HTTP"), Xoshiro256PlusPlus::seed_from_u64(seed), rest, operate),
];

/// Runs until its standard input has a line, and then until its watches have seen that the last key was put.
pub(crate) fn run(name: &str, watches: &[Watch], work: &[Work]) {
    let rest = AtomicBool::new(false);
    let seed = now().as_nanos() as u64;
    thread::scope(|scope| {
        let rest = &rest;
        scope.spawn(move || {
            // Whoever started this may have ended.
            let _ = std::io::stdin().lines().next();
            rest.store(true, Ordering::Relaxed);
        });
        watches.iter().for_each(|watch| _ = scope.spawn(move || watch(name)));
        thread::scope(|scope| {
            for (at, work) in (0..).zip(work) {
                scope.spawn(move || work(name, seed ^ at, rest));
            }
        });
        print_line(&json!({"resting": name}));
    });
}

pub(crate) fn print_line(line: &Value) {
    let mut output = std::io::stdout().lock();
    // Nobody may be there any more.
    if writeln!(output, "{line}").is_err() {
        std::process::exit(1);
    }
}

/// A connection to the node; nothing, if it is not reached.
fn connect() -> Option<TcpStream> {
    let mut node = HTTP;
    if let Some(file) = std::env::var_os(NODE) {
        node.set_ip(std::fs::read_to_string(file).ok()?.trim().parse().ok()?);
    }
    let stream = TcpStream::connect_timeout(&node, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

/// Nothing, if the node was not reached, or does not answer.
pub(super) fn ask(method: &str, path: &str, body: &[u8]) -> Option<Answer> {
    let mut stream = connect()?;
    stream.write_all(&request(method, path, &["connection: close"], body)).ok()?;
    read(&mut BufReader::new(stream))
}

/// The answer to what was done.
fn ask_json(method: &str, path: &str, body: &[u8]) -> Option<Value> {
    let answer = ask(method, path, body).filter(|answer| answer.status == 200)?;
    serde_json::from_slice(&answer.body).ok()
}

/// What is to be done with a key: `put`, `delete` or `swap` it, or `read` all.
pub(super) struct Operation<'a> {
    pub kind: &'a str,
    pub key: &'a str,
    pub value: &'a str,
    /// Of a swap: the revision that the key is to have.
    pub expected: u64,
}

fn operate(operation: &Operation<'_>) -> Option<Value> {
    let Operation { kind, key, value, expected } = *operation;
    let one = format!("/v1/kv/{key}");
    let txn = json!({
        "compare": [{"key": key, "mod_revision": expected}],
        "success": [{"put": {"key": key, "value": value}}],
        "failure": [{"get": {"key": key}}],
    });
    match kind {
        "put" => ask_json("PUT", &one, value.as_bytes()),
        "delete" => ask_json("DELETE", &one, b""),
        "swap" => ask_json("POST", "/v1/kv", txn.to_string().as_bytes()),
        "read" => ask_json("GET", "/v1/kv?prefix=k", b""),
        _ => ask_json("GET", "/v1/kv?prefix=k&serializable=true", b""),
    }
}

/// Does one thing after the other by `operate`, and tells how each was answered.
pub(super) fn change_keys(
    name: &str,
    mut random: Xoshiro256PlusPlus,
    rest: &AtomicBool,
    mut operate: impl FnMut(&Operation<'_>) -> Option<Value>,
) {
    let mut below = move |most: u64| random.next_u64() % most;
    let mut known: HashMap<String, u64> = HashMap::new();
    let mut number = 0;
    while !rest.load(Ordering::Relaxed) {
        thread::sleep(PACE);
        number += 1;
        let (key, value) = (&*format!("k{}", below(KEYS)), &*format!("{name}-{number}"));
        let expected = known.get(key).copied().unwrap_or_default();
        let kind = match below(20) {
            0..6 => "put",
            6..9 => "delete",
            9..14 => "swap",
            14..18 => "read",
            _ => "read_locally",
        };
        let began = now();
        let answer = operate(&Operation { kind, key, value, expected });
        let ended = now();
        if let Some(kvs) = answer.as_ref().and_then(|answer| answer["kvs"].as_array()) {
            known =
                kvs.iter().filter_map(|kv| Some((kv["key"].as_str()?.into(), kv["mod_revision"].as_u64()?))).collect();
        }
        print_line(&json!({
            "op": kind, "key": key, "value": value, "expected": expected, "answer": answer,
            "began": began.as_nanos() as u64, "ended": ended.as_nanos() as u64,
        }));
    }
}

/// A client of leases, over HTTP or over gRPC. Gives nothing if nobody answers.
pub(super) trait LeaseClient {
    type Id;

    /// With the time to live that it has then.
    fn grant(&mut self, ttl: Duration) -> Option<(Self::Id, Duration)>;
    /// Puts a key under it: at which revision.
    fn put(&mut self, key: &str, lease: &Self::Id) -> Option<u64>;
    fn keep_alive(&mut self, lease: &Self::Id) -> bool;
}

pub(super) struct Http;

impl LeaseClient for Http {
    type Id = String;

    fn grant(&mut self, ttl: Duration) -> Option<(String, Duration)> {
        let granted = ask_json("POST", "/v1/leases", json!({"ttl": ttl.as_secs()}).to_string().as_bytes())?;
        Some((granted["lease"].as_str()?.to_owned(), Duration::from_secs(granted["ttl"].as_u64()?)))
    }

    fn put(&mut self, key: &str, lease: &String) -> Option<u64> {
        ask_json("PUT", &format!("/v1/kv/{key}?lease={lease}"), key.as_bytes())?["revision"].as_u64()
    }

    fn keep_alive(&mut self, lease: &String) -> bool {
        ask_json("PUT", &format!("/v1/leases/{lease}"), b"").is_some()
    }
}

/// Has a lease, with a key; keeps it alive for a while, and then not any more.
pub(super) fn hold_leases(name: &str, rest: &AtomicBool, by: &mut impl LeaseClient) {
    let mut number = 0;
    while !rest.load(Ordering::Relaxed) {
        thread::sleep(PACE);
        number += 1;
        let mut not_before = now();
        let Some((lease, ttl)) = by.grant(TTL) else { continue };
        let key = format!("lease-{name}-{number}");
        let Some(since) = by.put(&key, &lease) else { continue };
        for _ in 0..4 {
            thread::sleep(ttl / 4);
            let began = now();
            if !by.keep_alive(&lease) {
                break;
            }
            not_before = began;
        }
        let not_before = (not_before + ttl).as_nanos() as u64;
        print_line(&json!({"lease": key, "since": since, "not_before": not_before}));
    }
}

/// Prints each revision. Whenever it is cut off, it resumes at its cursor, as a browser does.
fn watch(name: &str) {
    let mut place = String::from("1");
    loop {
        match follow(name, &mut place) {
            Some(true) => return,
            Some(false) => {}
            // The node is not there, and may be again.
            None => thread::sleep(PACE * 4),
        }
    }
}

/// Whether the last key was seen; nothing, if the watch was cut off.
fn follow(name: &str, place: &mut String) -> Option<bool> {
    let mut stream = connect()?;
    let after = format!("last-event-id: {place}");
    stream.write_all(&request("GET", "/v1/watch?prev=true", &[&after], b"")).ok()?;
    let mut stream = BufReader::new(stream);
    let (status, _) = read_head(&mut stream)?;
    if status != 200 {
        return None;
    }
    let mut event = String::new();
    loop {
        let mut line = String::new();
        // The end of the stream, or a line that is cut.
        stream.read_line(&mut line).ok().filter(|_| line.ends_with('\n'))?;
        match line.trim_end().split_once(": ") {
            Some(("id", id)) => *place = id.into(),
            Some(("event", name)) => event = name.into(),
            Some(("data", data)) => {
                let data: Value = serde_json::from_str(data).expect("the data of events is JSON");
                if !event.is_empty() {
                    print_line(&json!({"ended": event, "why": data}));
                    return (event == "gone").then_some(true);
                }
                let is_last = data["events"].as_array()?.iter().any(|event| event["kv"]["key"] == LAST);
                print_line(&json!({"watcher": name, "told": data, "at": now().as_nanos() as u64}));
                if is_last {
                    return Some(true);
                }
            }
            _ => {}
        }
    }
}
