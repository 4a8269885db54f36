//! The replicated store: three voters with data directories, a node without the role, the HTTP API and the commands.

mod api;
mod commands;
mod voters;

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Process,
    http::ask,
    program,
    voters::{VOTERS, leader},
    wait, wait_for,
};

/// A voter with a data directory of its name in `folder`.
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
        wait_for(&format!("somebody leads {count} voters"), || {
            let status = self.status();
            leader(&status, count).ok_or(status)
        })
    }
}

pub(super) fn put(at: SocketAddr, key: &str, value: &[u8]) -> (u16, Value) {
    let answer = ask(at, "PUT", &format!("/v1/kv/{key}"), &[], value);
    (answer.status, answer.json())
}

/// Puts keys one after the other until told to stop. Gives those that were acknowledged, and those whose outcome is
/// not known.
pub(super) fn put_until_stopped(
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

/// A command at a node.
pub(super) fn command(at: SocketAddr, args: &[&str]) -> Command {
    program(&[args, &["--node", &at.to_string()]].concat())
}

/// A single voter with 24 MiB in its store: more than fits into socket buffers.
pub(super) fn single_voter_with_data() -> Process {
    let node = Process::node(&["--name", "node1", "--role", "voter", "--voters", "node1", "--http", "127.0.0.1:0"]);
    put_24_mib(node.http());
    node
}

/// Puts 24 MiB.
pub(super) fn put_24_mib(at: SocketAddr) {
    let value = vec![b'x'; 1 << 20];
    for key in 0..24 {
        wait("it is put", || put(at, &format!("key{key}"), &value).0 == 200);
    }
}
