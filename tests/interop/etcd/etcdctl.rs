//! etcd's own `etcdctl`, unchanged, at the store: each command does what it does with etcd.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Command, Output, Stdio},
    thread,
};

use super::{Cluster, wait};
use crate::support::{program, signal, stdout};

pub fn command(addr: SocketAddr, args: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").stdin(Stdio::null());
    // Said twice, both count.
    if !args.contains(&"--endpoints") {
        command.args(["--endpoints", &addr.to_string()]);
    }
    command.args(args);
    command
}

/// Whether it succeeds, and its output.
pub fn run(addr: SocketAddr, args: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = command(addr, args).output().expect("it runs");
    (status.success(), [stdout, stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat())
}

#[track_caller]
fn say(addr: SocketAddr, args: &[&str]) -> String {
    let (done, said) = run(addr, args);
    assert!(done, "etcdctl {args:?}: {said}");
    said
}

#[track_caller]
fn refuse(addr: SocketAddr, args: &[&str], why: &str) {
    let (done, said) = run(addr, args);
    assert!(!done && said.contains(why), "etcdctl {args:?}, which is to be refused with {why:?}: {said}");
}

/// Its output, for this input.
fn talk(addr: SocketAddr, args: &[&str], text: &str) -> String {
    let mut child = command(addr, args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    // What reads for ever calls the end of its input an error.
    String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("text")
}

/// The output of a command that goes on for ever, up to `end`. Its input stays open until then.
fn told_until(mut command: Command, text: &str, end: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(text.as_bytes()).expect("it reads");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut told = String::new();
    while !told.contains(end) {
        let before = told.len();
        output.read_line(&mut told).expect("text");
        assert!(told.len() > before && told.len() < 1000, "it has ended, or goes on: {told}");
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    told
}

pub fn does_everything() {
    let cluster = Cluster::start();
    let addr = cluster.other.etcd();
    wait("the store answers", || run(addr, &["endpoint", "health"]).0);
    for node in cluster.voters.iter().chain([&cluster.other]) {
        keys(node.etcd());
    }
    leases(addr);
    history(addr);
    members(&cluster);
    told_until(command(addr, &["watch", "-i"]), "watch missing\nprogress\n", "progress notify: ");
    let mut elected = command(addr, &["elect", "e", "me"]).stdout(Stdio::piped()).spawn().expect("it runs");
    wait("somebody is elected", || say(addr, &["get", "--prefix", "e/", "--print-value-only"]) == "me\n");
    // It resigns only if it knows by then that it was elected.
    let told = BufReader::new(elected.stdout.take().expect("it is piped")).lines().nth(1);
    assert_eq!(told.expect("it says who is elected").expect("text"), "me");
    signal(elected.id(), "TERM");
    elected.wait().expect("it ends");
    assert_eq!(say(addr, &["get", "--prefix", "e/"]), "", "who ends resigns");
}

/// `etcdctl check perf` puts for a minute. Its verdict on the slowest puts holds for an idle machine only, and is not tested.
pub fn measures_the_performance() {
    let cluster = Cluster::start();
    let addr = cluster.other.etcd();
    wait("the store answers", || run(addr, &["endpoint", "health"]).0);
    let (_, perf) = run(addr, &["check", "perf", "--load", "s"]);
    let result = perf.rsplit('\r').next().unwrap_or_default();
    assert!(result.contains("Throughput") && result.contains("Stddev") && !result.contains("rpc error"), "{perf}");
}

fn keys(addr: SocketAddr) {
    assert_eq!(say(addr, &["put", "color", "green"]), "OK\n");
    assert_eq!(say(addr, &["put", "color", "red", "--prev-kv"]), "OK\ncolor\ngreen\n");
    assert_eq!(say(addr, &["get", "color"]), "color\nred\n");
    say(addr, &["put", "colors/1", "one"]);
    assert_eq!(
        say(addr, &["get", "--prefix", "color", "--sort-by", "MODIFY", "--order", "DESCEND", "--keys-only"]),
        "colors/1\n\ncolor\n\n"
    );
    let json: serde_json::Value = serde_json::from_str(&say(addr, &["get", "color", "-w", "json"])).expect("JSON");
    let before = (json["kvs"][0]["mod_revision"].as_i64().expect("a revision") - 1).to_string();
    assert_eq!(say(addr, &["get", "color", "--rev", &before]), "color\ngreen\n");
    assert_eq!(say(addr, &["get", "color", "--consistency", "s", "--print-value-only"]).lines().count(), 1);
    let txn = "value(\"color\") = \"red\"\n\nput color blue\nget color\n\nput color black\n\n";
    assert!(talk(addr, &["txn", "-i"], txn).contains("SUCCESS\n\nOK\n\ncolor\nblue\n"));
    refuse(addr, &["put", "", "x"], "etcdserver: key is not provided");
    refuse(addr, &["get", "color", "--rev", "1000000"], "etcdserver: mvcc: required revision is a future revision");
    assert_eq!(say(addr, &["del", "--prefix", "color", "--prev-kv"]), "2\ncolor\nblue\ncolors/1\none\n");
}

fn leases(addr: SocketAddr) {
    let granted = say(addr, &["lease", "grant", "600"]);
    let id = granted.split(' ').nth(1).expect("an id").to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(600s)\n"));
    say(addr, &["put", "leased", "x", "--lease", &id]);
    assert_eq!(say(addr, &["lease", "keep-alive", "--once", &id]), format!("lease {id} keepalived with TTL(600)\n"));
    let left = say(addr, &["lease", "timetolive", &id, "--keys"]);
    assert!(left.contains("granted with TTL(600s), remaining(") && left.contains("attached keys([leased])"), "{left}");
    assert_eq!(say(addr, &["lease", "list"]), format!("found 1 leases\n{id}\n"));
    assert_eq!(say(addr, &["lease", "revoke", &id]), format!("lease {id} revoked\n"));
    assert_eq!(say(addr, &["get", "leased"]), "");
    refuse(addr, &["lease", "revoke", &id], "etcdserver: requested lease not found");
    assert_eq!(say(addr, &["lease", "timetolive", &id]), format!("lease {id} already expired\n"));
    assert_eq!(say(addr, &["lease", "keep-alive", &id]), format!("lease {id} expired or revoked.\n"));
    refuse(addr, &["put", "leased", "x", "--lease", &id], "etcdserver: requested lease not found");
}

fn history(addr: SocketAddr) {
    let put = say(addr, &["put", "h", "1", "-w", "json"]);
    let put: serde_json::Value = serde_json::from_str(&put).expect("JSON");
    let first = put["header"]["revision"].as_i64().expect("a revision");
    say(addr, &["put", "h", "2"]);
    say(addr, &["del", "h"]);
    let watch = command(addr, &["watch", "h", "--rev", &first.to_string(), "--prev-kv"]);
    let lines = told_until(watch, "", "DELETE\nh\n2\nh\n\n");
    assert_eq!(lines, "PUT\nh\n1\nPUT\nh\n1\nh\n2\nDELETE\nh\n2\nh\n\n");
    let revision = (first + 1).to_string();
    assert_eq!(say(addr, &["compaction", &revision]), format!("compacted revision {revision}\n"));
    refuse(addr, &["compaction", &revision], "etcdserver: mvcc: required revision has been compacted");
    let first = first.to_string();
    refuse(addr, &["get", "h", "--rev", &first], "etcdserver: mvcc: required revision has been compacted");
    refuse(addr, &["watch", "h", "--rev", &first], "watch is canceled by the server");
}

fn members(cluster: &Cluster) {
    let addr = cluster.other.etcd();
    let list = say(addr, &["member", "list"]);
    let members: Vec<Vec<&str>> = list.lines().map(|line| line.split(", ").collect()).collect();
    assert_eq!(members.len(), 3, "{list}");
    for (member, voter) in members.iter().zip(["node1", "node2", "node3"]) {
        let at = cluster.voters[usize::from(voter.as_bytes()[4] - b'1')].etcd().port();
        let listed = list.lines().find(|line| line.contains(&format!(", {voter}, "))).expect("each is listed");
        assert!(listed.contains(&format!(", http://127.0.0.1:{at}, ")) && member[1] == "started", "{list}");
    }
    // To each of them it speaks as if the whole URL was the host's name.
    let endpoints: Vec<_> = cluster.voters.iter().map(|voter| format!("http://{}", voter.etcd())).collect();
    let status = || -> Vec<serde_json::Value> {
        let told = say(addr, &["--endpoints", &endpoints.join(","), "endpoint", "status", "-w", "json"]);
        serde_json::from_str(&told).expect("JSON")
    };
    let leads = |told: &serde_json::Value| {
        let status = &told["Status"];
        status["leader"].as_u64().is_some_and(|leader| status["header"]["member_id"].as_u64() == Some(leader))
    };
    wait("somebody leads", || status().iter().filter(|told| leads(told)).count() == 1);
    let told = status();
    let leader =
        told.iter().find(|told| leads(told)).expect("somebody leads")["Endpoint"].as_str().expect("text").to_owned();
    let next =
        told.iter().find(|told| !leads(told)).expect("somebody does not")["Status"]["header"]["member_id"].as_u64();
    let next = format!("{:x}", next.expect("an id"));
    let other = told.iter().find(|told| !leads(told)).expect("somebody does not")["Endpoint"].as_str().expect("text");
    refuse(addr, &["--endpoints", other, "move-leader", &next], "no leader endpoint given");
    let moved = say(addr, &["--endpoints", &leader, "move-leader", &next]);
    assert!(moved.starts_with("Leadership transferred"), "{moved}");
    let hashes = say(addr, &["--endpoints", &endpoints.join(","), "endpoint", "hashkv", "-w", "json"]);
    let hashes: Vec<serde_json::Value> = serde_json::from_str(&hashes).expect("JSON");
    assert_eq!(hashes.len(), 3);
    assert!(say(addr, &["endpoint", "health", "--cluster"]).matches("is healthy").count() == 3);
    assert_eq!(say(addr, &["alarm", "list"]), "");
    say(addr, &["alarm", "disarm"]);
    say(addr, &["defrag"]);
    refuse(addr, &["member", "add", "x", "--peer-urls", "http://127.0.0.1:1"], "broadcast voters add NAME");
    refuse(addr, &["member", "remove", "7"], "etcdserver: member not found");
    refuse(addr, &["user", "add", "x:y"], "users and roles are not served here");
}

pub fn finds_a_lock_free() {
    let cluster = Cluster::start();
    let addr = cluster.other.etcd();
    wait("the store answers", || run(addr, &["endpoint", "health"]).0);
    let locks = 4;
    let took: Vec<_> = (0..locks)
        .map(|_| {
            thread::spawn(move || run(addr, &["lock", "l", "--", "sh", "-c", "etcdctl_lock=held; echo $etcdctl_lock"]))
        })
        .collect();
    for holder in took {
        let (done, said) = holder.join().expect("it ends");
        assert!(done && said == "held\n", "{said}");
    }
    assert_eq!(say(addr, &["get", "--prefix", "l/"]), "", "nobody holds it any more");
}

pub fn is_let_in_by_a_token() {
    const TOKEN: &str = "a-token-for-this-test";
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    stdout(program(&["tls-selfsigned", &path("")]).output().expect("the program runs"));
    let (ca, cert, key) = (path("ca.pem"), path("server.pem"), path("server-key.pem"));
    let looks = path("tokens");
    std::fs::write(&looks, "looks: read another-token-for-this-test\n").expect("it can be written");
    let args = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tokens-file", &looks];
    let cluster = Cluster::start_with(&args, &[("BROADCAST_TOKEN", TOKEN)]);
    let addr = cluster.other.etcd();
    let secure = |user: &str, args: &[&str]| {
        let mut all = vec!["--cacert", ca.as_str()];
        if !user.is_empty() {
            all.extend(["--user", user]);
        }
        run(addr, &[&all[..], args].concat())
    };
    let all = format!("anybody:{TOKEN}");
    wait("the store answers", || secure(&all, &["endpoint", "health"]).0);
    assert_eq!(secure(&all, &["put", "a", "b"]), (true, "OK\n".into()));
    let read = "anybody:another-token-for-this-test";
    assert_eq!(secure(read, &["get", "a"]), (true, "a\nb\n".into()));
    for (user, why) in
        [(read, "PermissionDenied"), ("", "Unauthenticated"), ("x:no-token-at-all", "invalid user ID or password")]
    {
        let (done, said) = secure(user, &["put", "a", "c"]);
        assert!(!done && said.contains(why), "{user}: {said}");
    }
}
