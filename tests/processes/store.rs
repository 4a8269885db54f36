//! The replicated store: three voters with data directories, a node without the role, the HTTP API and the commands.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{LIMIT, Log, Process, http::ask, program, refusal, stdout, wait};

const VOTERS: &str = "node1,node2,node3";

/// A voter that keeps what it knows in a folder of its name.
fn voter(name: &str, folder: &Path, join: &str, more_args: &[&str], env: &[(&str, &str)]) -> Process {
    let data = folder.join(name);
    let args = ["--name", name, "--role", "voter", "--voters", VOTERS, "--http", "127.0.0.1:0"];
    let more = ["--data", data.to_str().expect("text"), "--join", join, "--interval", "100ms"];
    Process::node_with(&[&args[..], &more, more_args].concat(), env)
}

/// Three voters, and a node without the role.
pub(super) struct Cluster {
    pub(super) folder: TempDir,
    pub(super) voters: Vec<Process>,
    pub(super) other: Process,
}

impl Cluster {
    pub(super) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// The same, with arguments and variables for each node.
    pub(super) fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let other = Process::node_with(&[&["--name", "other", "--http", "127.0.0.1:0"], args].concat(), env);
        let (folder, join) = (TempDir::new().expect("a folder"), other.addr().to_string());
        let voters = VOTERS.split(',').map(|name| voter(name, folder.path(), &join, args, env)).collect();
        let cluster = Self { folder, voters, other };
        cluster.wait_led(3);
        cluster
    }

    pub(super) fn restart(&mut self, at: usize) {
        let name = format!("node{}", at + 1);
        self.voters[at] = voter(&name, self.folder.path(), &self.other.addr().to_string(), &[], &[]);
    }

    fn status(&self) -> Value {
        ask(self.other.http(), "GET", "/v1/store", &[], b"").json()
    }

    /// Waits until somebody leads, and so many voters take part; gives the place of who leads.
    #[track_caller]
    pub(super) fn wait_led(&self, count: usize) -> usize {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            let voters = status["voters"].as_array().expect("a list");
            let well = voters.iter().filter(|voter| voter["votes"] == true && voter.get("problem").is_none());
            let leads = voters.iter().find(|voter| voter["leads"] == true).map(|voter| voter["name"].clone());
            if well.count() == count
                && let Some(name) = leads
                && name == status["leader"]
            {
                let digit = name.as_str().and_then(|name| name.strip_prefix("node")).expect("a voter");
                return digit.parse::<usize>().expect("a number") - 1;
            }
            assert!(Instant::now() < deadline, "nobody leads {count} voters: {status}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

pub(super) fn put(at: SocketAddr, key: &str, value: &[u8]) -> (u16, Value) {
    let answer = ask(at, "PUT", &format!("/v1/kv/{key}"), &[], value);
    (answer.status, answer.json())
}

/// A stream of server-sent events, from after the head on.
fn events(at: SocketAddr, path: &str, headers: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(at).expect("the node listens");
    stream.set_read_timeout(Some(LIMIT)).expect("it can be set");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {at}\r\n{headers}\r\n").expect("it is sent");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).expect("a head");
    assert!(line.starts_with("HTTP/1.1 200"), "{line}");
    stream
}

/// The ids and data of so many events that have data.
fn told(stream: &mut BufReader<TcpStream>, count: usize) -> Vec<(String, Value)> {
    let (mut told, mut id, mut line) = (Vec::new(), String::new(), String::new());
    while told.len() < count {
        line.clear();
        assert_ne!(stream.read_line(&mut line).expect("an event in time"), 0, "the stream ended after {told:?}");
        match line.trim_end().split_once(": ") {
            Some(("id", place)) => id = place.to_owned(),
            Some(("data", data)) => told.push((id.clone(), serde_json::from_str(data).expect("JSON"))),
            _ => {}
        }
    }
    told
}

/// The names of the store's metrics that a node has.
fn metrics(at: SocketAddr) -> Vec<String> {
    let text = ask(at, "GET", "/metrics", &[], b"").text();
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE broadcast_store_")?.split(' ').next());
    names.map(String::from).collect()
}

#[test]
fn a_node_that_does_not_use_the_store_counts_nothing_of_it() {
    let node = Process::node(&["--name", "node1", "--http", "127.0.0.1:0"]);
    assert_eq!(metrics(node.http()), [""; 0]);
    assert_eq!(ask(node.http(), "GET", "/v1/store", &[], b"").status, 200);
    assert_eq!(metrics(node.http()), ["requests_total"]);
}

#[test]
fn a_voter_that_hears_of_no_leader_says_so() {
    let mut cluster = Cluster::start();
    let leader = cluster.wait_led(3);
    let follows = (leader + 1) % 3;
    assert_eq!(put(cluster.voters[follows].http(), "color", b"green").0, 200);
    let last = cluster.voters[follows].http();
    let told = |name: &str| {
        let text = ask(last, "GET", "/metrics", &[], b"").text();
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("broadcast_store_{name} ")));
        value.and_then(|value| value.parse::<u64>().ok()).expect("a number")
    };
    // It passed the change on, and carries it out itself once it hears that a majority has it.
    wait("it carries the change out", || told("revision") == 2);
    assert_eq!((told("has_leader"), told("leads"), told("voters")), (1, 0, 3));
    assert!(told("sync_seconds_count") > 0 && told("log_bytes") > 0);
    for at in [leader, (leader + 2) % 3] {
        cluster.voters[at].kill();
    }
    wait("it has no leader", || told("has_leader") == 0);
    let status = ask(last, "GET", "/v1/store", &[], b"").json();
    assert_eq!(status["leader"], Value::Null, "{status}");
    let problem = status["problems"][0].as_str().expect("a problem");
    assert!(problem.starts_with("no voter leads"), "{status}");
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
    let mut watching = events(other, "/v1/watch?prefix=app/&after=1&prev=true", "");
    let seen = told(&mut watching, 4);
    assert_eq!(seen[2].1["events"][0]["prev"]["value"], "green", "{seen:?}");
    drop(watching);
    let deleted = ask(first, "DELETE", "/v1/kv/app/?prefix=true&prev=true", &[], b"").json();
    assert_eq!((&deleted["deleted"], deleted["prev"].as_array().map(Vec::len)), (&json!(3), Some(3)));
    let mut watching = events(first, "/v1/watch?prefix=app/", &format!("last-event-id: {}\r\n", seen[3].0));
    let rest = told(&mut watching, 1);
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

/// Puts keys one after the other until told to stop; remembers those that were acknowledged, and where the outcome is
/// not known.
pub(super) fn put_on(
    at: SocketAddr,
    prefix: &'static str,
    stop: &Arc<AtomicBool>,
) -> thread::JoinHandle<(Vec<u64>, Vec<u64>)> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let (mut done, mut unknown) = (Vec::new(), Vec::new());
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match put(at, &format!("{prefix}/{number}"), number.to_string().as_bytes()).0 {
                200 => done.push(number),
                503 | 504 => unknown.push(number),
                other => panic!("{other}"),
            }
        }
        (done, unknown)
    })
}

#[test]
fn what_was_acknowledged_outlives_a_leader_that_is_killed_and_a_restart_of_all() {
    let mut cluster = Cluster::start();
    let at = cluster.other.http();
    let leader = cluster.wait_led(3);
    let follower = cluster.voters[(leader + 1) % 3].http();
    let stop = Arc::new(AtomicBool::new(false));
    let writers = [put_on(at, "a", &stop), put_on(follower, "b", &stop)];
    let count = |prefix: &str| {
        let list = ask(at, "GET", &format!("/v1/kv?prefix={prefix}/&count_only=true"), &[], b"");
        if list.status == 200 { list.json()["count"].as_u64().expect("a number") } else { 0 }
    };
    let wait_more = |than: u64| wait("more is put", || count("a") >= than && count("b") >= than);
    wait_more(20);
    cluster.voters[leader].signal("KILL");
    cluster.voters[leader].wait();
    let before = count("a").max(count("b"));
    wait_more(before + 20);
    stop.store(true, Ordering::Relaxed);
    let counts = writers.map(|writer| writer.join().expect("it puts"));
    cluster.restart(leader);
    cluster.wait_led(3);
    let check = |at: SocketAddr| {
        for (prefix, (done, unknown)) in ["a", "b"].into_iter().zip(&counts) {
            let list = ask(at, "GET", &format!("/v1/kv?prefix={prefix}/&limit=100000"), &[], b"").json();
            let kvs = list["kvs"].as_array().expect("a list");
            let mut found: Vec<u64> = kvs
                .iter()
                .map(|kv| {
                    // Put once, however often it was sent.
                    assert_eq!(kv["version"], 1, "{kv}");
                    kv["value"].as_str().expect("text").parse().expect("a number")
                })
                .collect();
            found.sort_unstable();
            let lost: Vec<_> = done.iter().filter(|number| found.binary_search(number).is_err()).collect();
            assert!(lost.is_empty(), "{prefix}: acknowledged and lost: {lost:?}");
            let known = |number: &u64| done.binary_search(number).is_ok() || unknown.binary_search(number).is_ok();
            assert!(found.iter().all(known), "{prefix}");
        }
    };
    check(at);

    // All of them end in order, one leads until the last.
    for voter in &mut cluster.voters {
        voter.signal("TERM");
    }
    for voter in &mut cluster.voters {
        let told = Instant::now();
        assert_eq!(voter.wait().code(), Some(0));
        assert!(told.elapsed() < Duration::from_secs(10));
    }
    (0..3).for_each(|at| cluster.restart(at));
    cluster.wait_led(3);
    check(at);
}

#[test]
fn settings_of_voters_that_cannot_be_are_refused_and_named() {
    let refused = |args: &[&str]| {
        let mut command = program(&["node", "--bind", "127.0.0.1:0", "--http", "off"]);
        refusal(command.args(args).output().expect("it runs"), 2)
    };
    assert_eq!(
        refused(&["--role", "voter"]),
        "BROADCAST_ROLE (--role) has voter, so BROADCAST_VOTERS (--voters) is needed, too: the names of all nodes that \
         found the store together"
    );
    assert_eq!(
        refused(&["--name", "node4", "--role", "sender,voter", "--voters", VOTERS]),
        "BROADCAST_VOTERS (--voters) = \"node1,node2,node3\": this node has the role voter, and its name, \"node4\", is \
         not among them; add it on all voters, or correct BROADCAST_NAME (--name)"
    );
    for (voters, problem) in [
        (" , ", "it names no node; write the names of all voters, like node1,node2,node3"),
        ("a,b,a", "\"a\" is named twice; name each voter once"),
        ("a,b,c,d,e,f,g,h,i,j", "10 voters are too many; name at most 9, and best three or five"),
    ] {
        let line = refused(&["--name", "a", "--role", "voter", "--voters", voters]);
        assert!(line.starts_with("BROADCAST_VOTERS (--voters) = ") && line.ends_with(problem), "{line}");
    }
    // A process of the same folder.
    let folder = TempDir::new().expect("a folder");
    let node = voter("node1", folder.path(), "127.0.0.1:9", &[], &[]);
    node.http();
    let data = folder.path().join("node1");
    let args = ["node", "--name", "node1", "--role", "voter", "--voters", VOTERS, "--http", "off"];
    let mut second = program(&args);
    let second = second.args(["--bind", "127.0.0.1:0", "--data", data.to_str().expect("text")]);
    let line = refusal(second.output().expect("it runs"), 1);
    assert!(line.starts_with("BROADCAST_DATA (--data): another process uses "), "{line}");
}

#[test]
fn a_voter_whose_folder_cannot_be_read_leaves_and_says_why() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("node1");
    fs::create_dir(&data).expect("a folder");
    // What should be a folder.
    fs::write(data.join("store"), "x").expect("a file");
    let args = ["node", "--name", "node1", "--role", "voter", "--voters", "node1", "--http", "off", "--log", "error"];
    let mut command = program(&args);
    let command = command.args(["--bind", "127.0.0.1:0", "--data", data.to_str().expect("text")]);
    let line = refusal(command.output().expect("it runs"), 1);
    assert!(line.starts_with("the node has left, as its role voter cannot go on: "), "{line}");
    assert!(line.contains("/node1/store"), "{line}");
}

#[test]
fn a_cluster_without_voters_says_how_to_have_some() {
    let node = Process::node(&["--http", "127.0.0.1:0"]);
    let status = ask(node.http(), "GET", "/v1/store", &[], b"").json();
    let problem = status["problems"][0].as_str().expect("text");
    assert!(problem.contains("no live member has the role voter"), "{problem}");
    assert!(problem.contains("BROADCAST_VOTERS (--voters)"), "{problem}");
    let at = node.http().to_string();
    let shown = program(&["store", "status", "--node", &at]).output().expect("it runs");
    assert_eq!(shown.status.code(), Some(1));
}

/// A command at a node.
pub(super) fn command(at: SocketAddr, args: &[&str]) -> Command {
    program(&[args, &["--node", &at.to_string()]].concat())
}

#[test]
fn the_demo_has_a_store_in_memory() {
    let demo = Process::spawn(&mut program(&["demo", "--http", "127.0.0.1:0", "--log-format", "json", "--for", "60s"]));
    let at = demo.http();
    demo.log.wait_line(0, &json!({ "event": "store_leads" }));
    let run = |args: &[&str]| stdout(command(at, args).output().expect("it runs"));
    assert_eq!(run(&["kv", "put", "color", "green"]), "revision 2\n");
    assert_eq!(run(&["kv", "get", "color"]), "green\n");
    let status = ask(at, "GET", "/v1/store", &[], b"").json();
    assert_eq!(status["voters"].as_array().map(Vec::len), Some(3), "{status}");
    // That nothing is kept is no news in a demo.
    assert!(demo.log.lines().iter().all(|line| line["level"] != "WARN"), "{:#?}", demo.log.lines());
}

#[test]
fn commands_do_what_they_say() {
    // One voter, in memory: it agrees with itself.
    let args = ["--name", "alone", "--role", "receiver,voter", "--voters", "alone", "--http", "127.0.0.1:0"];
    let node = Process::node(&args);
    let at = node.http();
    node.log.wait_line(0, &json!({ "event": "store_leads" }));
    assert_eq!(node.log.count(&json!({ "event": "store_ephemeral" })), 1);
    // What openraft says is for who asks for it.
    let strange: Vec<_> = node.log.lines().into_iter().filter(|line| line["event"].is_null()).collect();
    assert!(strange.is_empty(), "{strange:?}");
    let run = |args: &[&str]| stdout(command(at, args).output().expect("it runs"));

    assert_eq!(run(&["kv", "put", "color", "green"]), "revision 2\n");
    assert_eq!(run(&["kv", "get", "color"]), "green\n");
    assert_eq!(run(&["kv", "get", "color", "--raw"]), "green");
    assert_eq!(run(&["kv", "put", "color", "-1", "--prev"]), "revision 3\ncolor = green\n");
    assert_eq!(run(&["kv", "get", "color", "--rev", "2"]), "green\n");
    let mut child = command(at, &["kv", "put", "a/b c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("it is piped").write_all(b"line\n\xff").expect("it reads");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(ask(at, "GET", "/v1/kv/a/b%20c", &[], b"").body, b"line\n\xff");
    assert_eq!(run(&["kv", "get", "--prefix"]), "a/b c = line\\n\u{fffd}\ncolor = -1\n");
    assert_eq!(run(&["kv", "get", "--prefix", "a", "--keys-only"]), "a/b c\n");
    let json: Value = serde_json::from_str(&run(&["kv", "get", "color", "--json"])).expect("JSON");
    assert_eq!((&json["kvs"][0]["value"], &json["kvs"][0]["version"]), (&json!("-1"), &json!(2)));
    let gone = command(at, &["kv", "get", "colour"]).output().expect("it runs");
    assert_eq!(refusal(gone, 1), "there is no key \"colour\"");

    let txn = r#"{"compare": [{"key": "n", "version": 0}], "success": [{"put": {"key": "n", "value": "1"}}], "failure": [{"get": {"key": "n"}}]}"#;
    assert_eq!(run(&["kv", "txn", txn]), "the comparisons held, revision 5\nput\n");
    let again = command(at, &["kv", "txn", txn]).output().expect("it runs");
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        "the comparisons did not hold, revision 5\nget: 1 keys\n  n = 1\n"
    );

    let watching = Watching::start(command(at, &["kv", "watch", "--prefix", "--rev", "4", "--prev"]));
    watching.log.wait("5 PUT n = 1", |lines| lines.iter().any(|line| line == "5 PUT n = 1").then_some(()));
    assert_eq!(run(&["kv", "del", "n", "--prev"]), "deleted 1\nn = 1\n");
    watching.log.wait("the delete", |lines| lines.iter().any(|line| line == "6 DELETE n (was 1)").then_some(()));
    assert_eq!(run(&["kv", "del", "n"]), "deleted 0\n");
    assert_eq!(watching.log.len(), 3, "{:?}", watching.log.lines());

    let voters = run(&["voters", "list"]);
    let row = voters.lines().nth(1).expect("a row");
    assert!(row.starts_with("alone  leads  ") && row.ends_with("in memory"), "{voters}");
    let status = run(&["store", "status"]);
    assert!(status.contains("\nleader    alone, in term 1\nrevision  6\nproblems  none\n"), "{status}");
    let refused = command(at, &["voters", "remove", "alone"]).output().expect("it runs");
    assert_eq!(refusal(refused, 1), "alone is the last voter; somebody has to vote");
    let refused = command(at, &["voters", "add", "alone"]).output().expect("it runs");
    assert!(refusal(refused, 1).contains("alone votes already"));
    let refused = command(at, &["kv", "put", "", "x"]).output().expect("it runs");
    assert_eq!(refusal(refused, 2), "KEY: a key has a letter at least");
}

#[test]
fn a_watch_goes_on_where_it_was_when_its_node_comes_back() {
    let mut cluster = Cluster::start();
    let at = cluster.voters[0].http();
    let watching = Watching::start(command(at, &["kv", "watch", "--prefix", "w/"]));
    // It watches from the next revision on; which is its first, nobody knows until it prints.
    let other = cluster.other.http();
    wait("it prints", || {
        assert_eq!(put(other, "w/first", b"1").0, 200);
        watching.log.len() > 0
    });
    cluster.voters[0].signal("KILL");
    cluster.voters[0].wait();
    cluster.wait_led(2);
    assert_eq!(put(other, "w/meanwhile", b"1").0, 200);
    // At the same address, with the same data.
    let data = cluster.folder.path().join("node1");
    let http = at.to_string();
    let args = ["--name", "node1", "--role", "voter", "--voters", VOTERS, "--http", &http];
    let join = cluster.other.addr().to_string();
    let more = ["--data", data.to_str().expect("text"), "--join", &join];
    cluster.voters[0] = Process::node(&[&args[..], &more].concat());
    cluster.wait_led(3);
    assert_eq!(put(other, "w/after", b"1").0, 200);
    let has = |lines: &[Value], what: &str| {
        lines.iter().filter(|line| line.as_str().is_some_and(|l| l.contains(what))).count()
    };
    watching.log.wait("what came after", |lines| (has(lines, "w/after") == 1).then_some(()));
    let lines = watching.log.lines();
    assert_eq!((has(&lines, "w/meanwhile"), has(&lines, "w/after")), (1, 1), "{lines:?}");
}

/// A command that prints as long as it runs.
struct Watching {
    child: Child,
    log: Arc<Log>,
}

impl Watching {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let log = Log::follow(child.stdout.take().expect("it is piped"));
        let mut stderr = child.stderr.take().expect("it is piped");
        // It is read, so that nobody waits for it.
        thread::spawn(move || drop(stderr.read_to_end(&mut Vec::new())));
        Self { child, log }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node with the store alone, with some MiB in it: more than fits in sockets.
pub(super) fn alone_with_much() -> Process {
    let node = Process::node(&["--name", "node1", "--role", "voter", "--voters", "node1", "--http", "127.0.0.1:0"]);
    put_much(node.http());
    node
}

/// Puts some MiB.
pub(super) fn put_much(at: SocketAddr) {
    let value = vec![b'x'; 1 << 20];
    for key in 0..24 {
        wait("it is put", || put(at, &format!("key{key}"), &value).0 == 200);
    }
}

#[test]
fn a_list_has_some_mib_at_most_and_goes_on_with_the_next_key() {
    let node = alone_with_much();
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
