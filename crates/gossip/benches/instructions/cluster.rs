//! A cluster in memory: nodes on a virtual clock, with a perfect network that delivers everything at once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use broadcast::{
    Config, Seed,
    node::{Action, Node, NodeConfig, StreamId, StreamInput, Transmit},
};

/// How long the nodes may take to find each other and to exchange all they know.
const START: Duration = Duration::from_secs(30);

pub struct Cluster {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub addrs: Vec<SocketAddr>,
    /// The other end of each end of a stream: the node, and its number for the stream.
    ends: BTreeMap<(usize, StreamId), (usize, StreamId)>,
}

impl Cluster {
    /// A cluster of so many nodes that know each other and are idle.
    pub fn new(size: u8) -> Self {
        let now = Instant::now();
        let addrs: Vec<_> = (1..=size).map(|n| SocketAddr::from(([10, 0, 0, n], 7946))).collect();
        let seed = Seed { host: addrs[0].ip().to_string(), port: addrs[0].port() };
        let node = |(at, addr): (usize, &SocketAddr)| {
            let config = Config::new(format!("node{}", at + 1)).join((at > 0).then(|| seed.clone()));
            Node::new(now, NodeConfig { rng_seed: at as u64 + 1, ..NodeConfig::new(config, *addr) })
        };
        let nodes = addrs.iter().enumerate().map(node).collect();
        let mut cluster = Self { now, nodes, addrs, ends: BTreeMap::new() };
        cluster.run(START);
        assert!(cluster.nodes.iter().all(|node| node.members().len() == usize::from(size)), "all know all");
        cluster
    }

    /// Advances the clock.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(due) = self.nodes.iter().filter_map(Node::poll_timeout).min().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            for at in 0..self.nodes.len() {
                if self.nodes[at].poll_timeout().is_some_and(|due| due <= self.now) {
                    self.nodes[at].handle_timeout(self.now);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    /// Delivers what nodes send, until none sends anything.
    pub fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for at in 0..self.nodes.len() {
                while let Some(transmit) = self.nodes[at].poll_transmit() {
                    quiet = false;
                    self.hand_over(at, &transmit);
                }
                while let Some(action) = self.nodes[at].poll_action() {
                    quiet = false;
                    self.perform(at, action);
                }
                while self.nodes[at].poll_message().is_some() {}
                while self.nodes[at].poll_event().is_some() {}
            }
            if quiet {
                return;
            }
        }
    }

    /// The index of the node with this address.
    pub fn index_of(&self, addr: SocketAddr) -> usize {
        self.addrs.iter().position(|at| *at == addr).expect("nodes know no others")
    }

    fn hand_over(&mut self, from: usize, transmit: &Transmit) {
        let to = self.index_of(transmit.to);
        self.nodes[to].handle_datagram(self.now, self.addrs[from], &transmit.payload);
    }

    fn perform(&mut self, at: usize, action: Action) {
        match action {
            Action::Connect { id, to } => {
                let other = self.index_of(to);
                let end = self.nodes[other].handle_accept(self.now, self.addrs[at]).expect("there is room");
                self.ends.insert((at, id), (other, end));
                self.ends.insert((other, end), (at, id));
            }
            Action::Write { id, data } => self.arrive(at, id, StreamInput::Data(&data)),
            Action::Close { id } => self.arrive(at, id, StreamInput::Closed),
            Action::Lookup { seed } => {
                let addr = SocketAddr::new(seed.host.parse().expect("seeds are addresses"), seed.port);
                self.nodes[at].handle_lookup(self.now, &seed, Ok(vec![addr]));
            }
            // Addresses never change here.
            Action::GuessAddress { .. } | Action::CheckAddress { .. } => {}
        }
    }

    fn arrive(&mut self, at: usize, id: StreamId, input: StreamInput<'_>) {
        let (other, end) = self.ends[&(at, id)];
        self.nodes[other].handle_stream(self.now, end, input);
    }
}

/// All datagrams that a node sends.
pub fn transmits(node: &mut Node) -> Vec<Transmit> {
    std::iter::from_fn(|| node.poll_transmit()).collect()
}

/// Takes all messages for a node's application, and returns their number.
pub fn messages(node: &mut Node) -> usize {
    let mut count = 0;
    while let Some(message) = node.poll_message() {
        message.expect("nothing is missed");
        count += 1;
    }
    count
}
