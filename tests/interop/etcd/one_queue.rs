//! One lock, asked for by `etcdctl lock` and by `broadcast lock`: they wait for each other in one queue.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;

use super::{Cluster, etcdctl, wait};
use crate::support::{LIMIT, child::OwnedChild, http::ask, program, refusal, signal, stdout};

/// Somebody who holds a lock, or waits for it.
struct Holder(OwnedChild);

impl Holder {
    fn start(mut command: Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(OwnedChild(command.spawn().expect("it runs")))
    }

    /// What it prints once it has the lock.
    fn line(&mut self) -> String {
        let output = self.0.stdout.take().expect("nobody has read it");
        let (printed, line) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).expect("text");
            printed.send(line)
        });
        line.recv_timeout(LIMIT).expect("it is granted in time").trim_end().to_owned()
    }

    /// Ends it as Ctrl-C does.
    fn interrupt(mut self) {
        signal(self.0.id(), "INT");
        self.0.wait().expect("it ends");
    }
}

fn ours(http: SocketAddr, more: &[&str]) -> Command {
    let node = http.to_string();
    program(&[&["lock", "jobs", "--node", &node], more].concat())
}

/// The tokens of those who hold the lock, and how many wait.
fn places(http: SocketAddr) -> (Vec<Value>, u64) {
    let answer = ask(http, "GET", "/v1/locks/jobs", &[], b"");
    if answer.status == 404 {
        return (Vec::new(), 0);
    }
    let lock = answer.json();
    let holders = lock["holders"].as_array().expect("a list").iter().map(|holder| holder["token"].clone());
    (holders.collect(), lock["waiting"].as_u64().expect("a number"))
}

pub fn whoever_asks() {
    let cluster = Cluster::start_with(&["--http", "127.0.0.1:0"], &[]);
    let (etcd, http) = (cluster.other.etcd(), cluster.voters[0].http());
    wait("the store answers", || etcdctl::run(etcd, &["endpoint", "health"]).0);
    let script = "echo $BROADCAST_LOCK_TOKEN; exec sleep 1000";
    let mut first = Holder::start(ours(http, &["--", "sh", "-c", script]));
    let token = first.line();
    let mut theirs = Holder::start(etcdctl::command(etcd, &["lock", "jobs"]));
    wait("etcdctl waits for ours", || places(http).1 == 1);
    let mut next = Holder::start(ours(http, &["--", "sh", "-c", script]));
    wait("ours waits behind it", || places(http).1 == 2);
    assert_eq!(places(http).0, [token.parse::<u64>().expect("a number")]);
    first.interrupt();
    let key = theirs.line();
    assert!(key.starts_with("jobs/"), "{key}");
    // Its token is the revision of its key, and passes the fence as any other.
    let (held, waiting) = places(http);
    let (_, listed) = etcdctl::run(etcd, &["get", &key, "-w", "json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((&held[..], waiting), (&[listed["kvs"][0]["create_revision"].clone()][..], 1));
    let fenced = ask(http, "PUT", &format!("/v1/kv/result?fence=jobs:{}", held[0]), &[], b"done");
    assert_eq!(fenced.status, 200, "{}", fenced.text());
    let line = refusal(ours(http, &["--try", "--", "true"]).output().expect("it runs"), 124);
    assert!(line.contains("etcd lease "), "{line}");
    theirs.interrupt();
    assert!(next.line().parse::<u64>().expect("a number") > held[0].as_u64().expect("a number"));
    // Who deletes the key of one of ours takes the lock away: it was put there when etcdctl came.
    let (_, keys) = etcdctl::run(etcd, &["del", "--prefix", "jobs/"]);
    assert_eq!(keys.trim(), "1");
    assert_eq!(next.0.wait().expect("it ends").code(), Some(123), "it is lost");
    // And then it is free for both.
    stdout(ours(http, &["--", "true"]).output().expect("it runs"));
    let (done, said) = etcdctl::run(etcd, &["lock", "jobs", "true"]);
    assert!(done, "{said}");
}
