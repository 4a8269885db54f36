//! Clusters of real processes: what their nodes see, hear and say, by their logs, and how they are
//! asked over the wire.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use broadcast::wire::{
    PushPull, PushPullState,
    stream::{StreamMessage, StreamReader, encode},
};
use serde_json::Value;

use super::{LIMIT, Log, Process};

/// How often the senders of these tests send.
pub const INTERVAL: &str = "200ms";

/// A node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The program that runs it.
    pub process: Process,
}

impl Node {
    /// Starts a node that joins through `seeds`. It is a receiver unless `args` say otherwise.
    pub fn start(name: &str, seeds: &[&str], args: &[&str]) -> Self {
        let seeds = seeds.join(",");
        let process = Process::node(&[&["--name", name, "--join", &seeds], args].concat());
        Self { name: name.into(), process }
    }

    /// Starts a node that sends.
    pub fn sender(name: &str, seeds: &[&str], args: &[&str]) -> Self {
        Self::start(name, seeds, &[&["--role", "sender", "--interval", INTERVAL], args].concat())
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.process.log
    }

    /// Where it listens, once it does.
    #[track_caller]
    pub fn addr(&self) -> SocketAddr {
        self.process.addr()
    }

    /// Waits until it sees these nodes, itself included, and no others.
    #[track_caller]
    pub fn wait_view(&self, names: &BTreeSet<String>) {
        let what = format!("{} to see {names:?}", self.name);
        self.log().wait(&what, |lines| (view(&self.name, lines) == *names).then_some(()));
    }

    /// Waits for a line on what happened to a member, from the place `from` on; gives its place.
    #[track_caller]
    pub fn wait_event(&self, from: usize, event: &str, member: &str) -> usize {
        let what = format!("{}: {member} {event}, from line {from} on", self.name);
        let is = |line: &Value| line["event"] == event && line["member"] == member;
        self.log().wait(&what, |lines| (from..lines.len()).find(|&i| is(&lines[i])))
    }

    /// Waits for a message of `sender`, from the place `from` on.
    #[track_caller]
    pub fn wait_heard(&self, from: usize, sender: &str) -> usize {
        let what = format!("{} to hear {sender}, from line {from} on", self.name);
        let is = |line: &Value| line["event"] == "received" && line["from"] == sender;
        self.log().wait(&what, |lines| (from..lines.len()).find(|&i| is(&lines[i])))
    }

    /// How many lines there are of an event.
    pub fn count(&self, event: &str) -> usize {
        self.log().lines().iter().filter(|line| line["event"] == event).count()
    }
}

/// Whom a node sees, as its log tells.
pub fn view(name: &str, lines: &[Value]) -> BTreeSet<String> {
    let mut view = BTreeSet::from([name.to_owned()]);
    for line in lines {
        let member = || line["member"].as_str().expect("text").to_owned();
        match line["event"].as_str() {
            Some("joined") => _ = view.insert(member()),
            Some("left" | "failed") => _ = view.remove(&member()),
            _ => {}
        }
    }
    view
}

/// Nodes that know each other.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// `node1`, a receiver, and senders `node2` to `node<n>` that join through it, once they agree.
    #[track_caller]
    pub fn start(n: usize) -> Self {
        let mut nodes = vec![Node::start("node1", &[], &[])];
        let seed = nodes[0].addr().to_string();
        nodes.extend((2..=n).map(|i| Node::sender(&format!("node{i}"), &[&seed], &[])));
        let cluster = Self { nodes };
        cluster.agree();
        cluster
    }

    /// Waits until every node sees all of them, and nobody else.
    #[track_caller]
    pub fn agree(&self) {
        let names: BTreeSet<_> = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.nodes.iter().for_each(|node| node.wait_view(&names));
    }

    /// Waits until every node has heard something new of every other that sends.
    #[track_caller]
    pub fn flow(&self) {
        let from: Vec<_> = self.nodes.iter().map(|node| node.log().len()).collect();
        for sender in self.nodes.iter().filter(|node| node.count("send") > 0) {
            for (node, from) in self.nodes.iter().zip(&from).filter(|(node, _)| node.name != sender.name) {
                node.wait_heard(*from, &sender.name);
            }
        }
    }

    /// Whatever was done to it: messages flow, all agree, and nobody was ever taken for gone.
    #[track_caller]
    pub fn assert_unharmed(&self) {
        self.flow();
        self.agree();
        for node in &self.nodes {
            let gone = |line: &Value| line["event"] == "failed" || line["event"] == "left";
            let lines = node.log().lines();
            assert!(
                !lines.iter().any(gone),
                "{}: {:?}",
                node.name,
                lines.iter().filter(|l| gone(l)).collect::<Vec<_>>()
            );
        }
    }
}

/// An address of loopback that no other test has, so that its port is still free when a node that was
/// not running gets it.
pub fn own_addr() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 64 | (high & 0x3f), low, COUNT.fetch_add(1, Ordering::Relaxed));
    for _ in 0..100 {
        let tcp = TcpListener::bind((ip, 0)).expect("all of 127.0.0.0/8 is this machine's");
        let addr = tcp.local_addr().expect("a bound socket has an address");
        if UdpSocket::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no port of {ip} is free for both TCP and UDP");
}

/// A node's view of the cluster, asked for over the wire.
pub fn ask_view(addr: SocketAddr) -> Vec<PushPullState> {
    let mut stream = TcpStream::connect(addr).expect("the node listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time above zero");
    stream.write_all(&encode(&StreamMessage::PushPull(PushPull::default()), false)).expect("the node reads");
    let mut reader = StreamReader::new();
    let mut chunk = [0; 4096];
    loop {
        let len = stream.read(&mut chunk).expect("the node answers");
        assert_ne!(len, 0, "the answer was cut off");
        match reader.push(&chunk[..len]).expect("an answer in memberlist's protocol") {
            Some(StreamMessage::PushPull(view)) => return view.nodes,
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
}

/// Waits until `addr` believes of `name` what `wanted` asks for; gives it.
#[track_caller]
pub fn wait_believed(addr: SocketAddr, name: &str, wanted: impl Fn(&PushPullState) -> bool) -> PushPullState {
    let deadline = Instant::now() + LIMIT;
    loop {
        let believed = ask_view(addr).into_iter().find(|state| *state.name == *name.as_bytes());
        match believed {
            Some(state) if wanted(&state) => return state,
            believed => assert!(Instant::now() < deadline, "{addr} believes {believed:?} of {name}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
