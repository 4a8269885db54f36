//! The store through etcd's protocol: `etcdctl`, and a client that asks a real etcd the same.
//!
//! `etcd` and `etcdctl` are Debian's: `apt-get download etcd-server etcd-client`, then `dpkg -x` unpacks them into a folder. If
//! they were installed, they would run as a service.

pub(crate) mod client;
mod differential;
mod etcdctl;
mod json;
mod limits;
mod locks;
mod one_queue;
mod requests;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use crate::support::{Process, child::OwnedChild, require, voters::VOTERS, wait};

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let beside: &[require::Test] = &[
        ("etcd/ten_thousand_operations_have_the_same_outcomes", differential::ten_thousand_operations),
        ("etcd/etcdctl_measures_the_performance", etcdctl::measures_the_performance),
        ("etcd/json_is_the_same", json::is_the_same),
        ("etcd/etcdctl_does_everything", etcdctl::does_everything),
        ("etcd/etcdctl_finds_a_lock_free_when_its_holder_ends", etcdctl::finds_a_lock_free),
        ("etcd/locks_and_elections_are_the_same", locks::are_the_same),
        ("etcd/one_queue_whoever_asks", one_queue::whoever_asks),
        ("etcd/etcdctl_is_let_in_by_a_token_over_tls", etcdctl::is_let_in_by_a_token),
    ];
    let alone: &[require::Test] = &[
        ("etcd/large_requests_are_refused", limits::large_requests_are_refused),
        ("etcd/watchers_that_do_not_read_are_bounded", limits::watchers_that_do_not_read_are_bounded),
        ("etcd/many_streams_are_served", limits::many_streams_are_served),
        ("etcd/streams_end_where_nobody_leads", limits::streams_end_where_nobody_leads),
    ];
    let missing = missing();
    require::cases(missing.as_ref(), beside).into_iter().chain(require::cases(None, alone)).collect()
}

fn missing() -> Option<String> {
    let there = |program: &str, args: &[&str]| require::answers(Command::new(program).args(args));
    let both = there("etcd", &["--version"]) && there("etcdctl", &["version"]);
    (!both).then(|| {
        "etcd and etcdctl are not installed: apt-get download etcd-server etcd-client, dpkg -x each into a folder, and add \
         its usr/bin to PATH"
            .into()
    })
}

/// A folder in memory, if there is one: a sync costs nothing there.
fn folder() -> TempDir {
    let builder = tempfile::Builder::new();
    builder.tempdir_in("/dev/shm").or_else(|_| builder.tempdir()).expect("a folder")
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address").port()
}

/// A real etcd with one member.
struct RealEtcd {
    child: OwnedChild,
    addr: SocketAddr,
    _folder: TempDir,
}

impl RealEtcd {
    fn start() -> Self {
        // Somebody may take the ports before it does.
        loop {
            if let Some(etcd) = Self::try_start() {
                return etcd;
            }
        }
    }

    /// Nothing, if it ends at once.
    fn try_start() -> Option<Self> {
        let folder = folder();
        let [client, peer] = [free_port(), free_port()];
        let [client_url, peer_url] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new("etcd");
        command.args(["--name", "a", "--data-dir"]).arg(folder.path());
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("a={peer_url}"), "--log-level", "error"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, client));
        let mut etcd = Self { child: OwnedChild(child), addr, _folder: folder };
        let mut has_ended = false;
        wait("etcd answers", || {
            has_ended = etcd.child.try_wait().expect("it was started here").is_some();
            has_ended || etcdctl::run(addr, &["endpoint", "health"]).0
        });
        (!has_ended).then_some(etcd)
    }
}

/// Three voters in memory, and a node that does not vote; each serves clients of etcd.
struct Cluster {
    voters: Vec<Process>,
    other: Process,
}

impl Cluster {
    fn start() -> Self {
        Self::start_with(&[], &[])
    }

    fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let etcd = ["--etcd", "127.0.0.1:0"];
        // One listens at all addresses, and tells those that others reach it at.
        let at_all = ["--etcd", "0.0.0.0:0"];
        let other = Process::node_with(&[&["--name", "other"], &etcd[..], args].concat(), env);
        let join = other.addr().to_string();
        let voters = VOTERS.split(',').map(|name| {
            let role = ["--name", name, "--role", "voter", "--voters", VOTERS, "--join", &join];
            let etcd = if name == "node3" { at_all } else { etcd };
            Process::node_with(&[&role[..], &etcd, args].concat(), env)
        });
        Self { voters: voters.collect(), other }
    }
}

/// One voter in memory.
fn one_voter() -> Process {
    let role = ["--name", "node1", "--role", "voter", "--voters", "node1"];
    let voter = Process::node(&[&role[..], &["--etcd", "127.0.0.1:0"]].concat());
    voter.log.wait("it leads", |lines| lines.iter().find(|line| line["event"] == "store_leads").map(|_| ()));
    voter
}
