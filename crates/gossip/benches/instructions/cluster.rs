//! A cluster in memory: nodes under a virtual clock, whose datagrams and streams are handed over at once.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use broadcast::{
    Config, Seed,
    node::{Action, Node, NodeConfig, StreamId, StreamInput, Transmit},
};

/// How long the nodes may take to find each other, and tell each other what there is to tell.
const START: Duration = Duration::from_secs(30);

pub struct World {
    pub now: Instant,
    pub nodes: Vec<Node>,
    pub addrs: Vec<SocketAddr>,
    /// Where each end of a stream leads: to which node, and what it calls the stream.
    ends: BTreeMap<(usize, StreamId), (usize, StreamId)>,
}

impl World {
    /// So many nodes that know each other, and have nothing left to say.
    pub fn new(size: u8) -> Self {
        let now = Instant::now();
        let addrs: Vec<_> = (1..=size).map(|n| SocketAddr::from(([10, 0, 0, n], 7946))).collect();
        let seed = Seed { host: addrs[0].ip().to_string(), port: addrs[0].port() };
        let node = |(at, addr): (usize, &SocketAddr)| {
            let config = Config::new(format!("node{}", at + 1)).join((at > 0).then(|| seed.clone()));
            Node::new(now, NodeConfig { rng_seed: at as u64 + 1, ..NodeConfig::new(config, *addr) })
        };
        let nodes = addrs.iter().enumerate().map(node).collect();
        let mut world = Self { now, nodes, addrs, ends: BTreeMap::new() };
        world.run(START);
        assert!(world.nodes.iter().all(|node| node.members().len() == usize::from(size)), "all know all");
        world
    }

    /// Lets so much time pass.
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

    /// Hands over what nodes want sent, until none wants anything.
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

    /// Which node has an address.
    pub fn place(&self, addr: SocketAddr) -> usize {
        self.addrs.iter().position(|at| *at == addr).expect("nodes know no others")
    }

    fn hand_over(&mut self, from: usize, transmit: &Transmit) {
        let to = self.place(transmit.to);
        self.nodes[to].handle_datagram(self.now, self.addrs[from], &transmit.payload);
    }

    fn perform(&mut self, at: usize, action: Action) {
        match action {
            Action::Connect { id, to } => {
                let other = self.place(to);
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
            // No addresses that change.
            Action::GuessAddress { .. } | Action::CheckAddress { .. } => {}
        }
    }

    fn arrive(&mut self, at: usize, id: StreamId, input: StreamInput<'_>) {
        let (other, end) = self.ends[&(at, id)];
        self.nodes[other].handle_stream(self.now, end, input);
    }
}

/// All datagrams that a node wants sent.
pub fn transmits(node: &mut Node) -> Vec<Transmit> {
    std::iter::from_fn(|| node.poll_transmit()).collect()
}

/// Takes what a node has for its application; gives how many messages that were.
pub fn messages(node: &mut Node) -> usize {
    let mut count = 0;
    while let Some(message) = node.poll_message() {
        message.expect("nothing is missed");
        count += 1;
    }
    count
}
