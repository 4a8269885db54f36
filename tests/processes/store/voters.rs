//! Voters: which data survives their failures, what they report, and which of their settings are refused.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Cluster, put, put_until_stopped, voter};
use crate::support::{
    Process,
    http::{self, ask},
    program, refusal,
    voters::VOTERS,
    wait,
};

/// The names of the store's metrics that a node has.
fn metrics(at: SocketAddr) -> Vec<String> {
    let text = http::metrics(at);
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
        let text = http::metrics(last);
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
fn what_was_acknowledged_outlives_a_leader_that_is_killed_and_a_restart_of_all() {
    let mut cluster = Cluster::start();
    let at = cluster.other.http();
    let leader = cluster.wait_led(3);
    let follower = cluster.voters[(leader + 1) % 3].http();
    let stop = Arc::new(AtomicBool::new(false));
    let writers = [put_until_stopped(at, "a", &stop), put_until_stopped(follower, "b", &stop)];
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
