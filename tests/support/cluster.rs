//! Clusters of real processes: whom their nodes see and what they receive, by their logs, and their views, asked for over the
//! wire.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU8, Ordering},
};

use broadcast::{
    Envelope,
    wire::{
        PushPull, PushPullState,
        envelope::Direction,
        envelope_reader::EnvelopeReader,
        stream::{self, StreamMessage},
    },
};
use serde_json::Value;

use super::{LIMIT, Log, Process, traffic, wait_for};

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

    /// Waits for a line on what happened to a member, from the line `from` on; gives its number.
    #[track_caller]
    pub fn wait_event(&self, from: usize, event: &str, member: &str) -> usize {
        let what = format!("{}: {member} {event}, from line {from} on", self.name);
        let is = |line: &Value| line["event"] == event && line["member"] == member;
        self.log().wait(&what, |lines| (from..lines.len()).find(|&i| is(&lines[i])))
    }

    /// Waits for a message of `sender`, from the line `from` on; gives its line.
    #[track_caller]
    pub fn wait_received(&self, from: usize, sender: &str) -> usize {
        let what = format!("{} to receive from {sender}, from line {from} on", self.name);
        let is = |line: &Value| line["event"] == "received" && line["from"] == sender;
        self.log().wait(&what, |lines| (from..lines.len()).find(|&i| is(&lines[i])))
    }

    /// How many lines there are of an event.
    pub fn count(&self, event: &str) -> usize {
        self.log().lines().iter().filter(|line| line["event"] == event).count()
    }
}

/// The members that a node sees, by its log.
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

    /// Waits until every node has received new messages of every sender.
    #[track_caller]
    pub fn flow(&self) {
        let from: Vec<_> = self.nodes.iter().map(|node| node.log().len()).collect();
        for sender in self.nodes.iter().filter(|node| node.count("send") > 0) {
            for (node, from) in self.nodes.iter().zip(&from).filter(|(node, _)| node.name != sender.name) {
                node.wait_received(*from, &sender.name);
            }
        }
    }

    /// Checks that whatever was done to it, messages flow, all nodes agree, and no node was ever declared failed or gone.
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

/// A node that serves its HTTP API, and joins through `seed` if there is one.
pub fn api_node(name: &str, seed: Option<&Process>, args: &[&str]) -> Process {
    let seed = seed.map(|seed| seed.addr().to_string()).unwrap_or_default();
    Process::node(&[&["--name", name, "--join", &seed, "--http", "127.0.0.1:0"], args].concat())
}

/// `node1` to `node<N>`, which serve their HTTP APIs, once they see each other.
#[track_caller]
pub fn api_nodes<const N: usize>(args: &[&str]) -> [Process; N] {
    let names: [String; N] = std::array::from_fn(|at| format!("node{}", at + 1));
    let mut nodes: Vec<Process> = Vec::new();
    for name in &names {
        let node = api_node(name, nodes.first(), args);
        nodes.push(node);
    }
    let logs: Vec<_> = names.iter().map(String::as_str).zip(nodes.iter().map(|node| &*node.log)).collect();
    traffic::wait_members(N, &logs);
    nodes.try_into().expect("there are as many")
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

/// A node's view of the cluster, asked for over the wire as a newcomer does; nothing if the node gives no answer that can be
/// read with this envelope.
pub fn try_view(envelope: &Envelope, addr: SocketAddr) -> Option<Vec<PushPullState>> {
    let question = stream::encode(&StreamMessage::PushPull(PushPull::default()), false);
    let mut stream = TcpStream::connect(addr).expect("the node listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time above zero");
    // The nonce is the same each time, and so is what it seals.
    stream.write_all(&envelope.seal_stream([7; 12], question, Direction::Request)).expect("the node reads");
    let mut reader = EnvelopeReader::new(Direction::Answer);
    let mut chunk = [0; 4096];
    loop {
        let len = stream.read(&mut chunk).ok().filter(|len| *len > 0)?;
        match reader.push(envelope, &chunk[..len]).ok()? {
            Some(StreamMessage::PushPull(view)) => return Some(view.nodes),
            Some(_) => return None,
            None => {}
        }
    }
}

/// The view of a node without a key or a label.
#[track_caller]
pub fn ask_view(addr: SocketAddr) -> Vec<PushPullState> {
    try_view(&Envelope::default(), addr).expect("an answer in memberlist's protocol")
}

/// Waits until `addr` believes of `name` what `wanted` asks for; gives it.
#[track_caller]
pub fn wait_believed(
    envelope: &Envelope,
    addr: SocketAddr,
    name: &str,
    wanted: impl Fn(&PushPullState) -> bool,
) -> PushPullState {
    wait_for(&format!("{addr} believes of {name} what is wanted"), || {
        let view = try_view(envelope, addr).expect("it tells its view");
        let state = view.into_iter().find(|state| *state.name == *name.as_bytes());
        state.ok_or(None).and_then(|state| if wanted(&state) { Ok(state) } else { Err(Some(state)) })
    })
}
