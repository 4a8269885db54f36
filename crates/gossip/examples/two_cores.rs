//! Two nodes without sockets, tasks or a clock (sans-IO): this program carries their datagrams and streams in memory, and
//! moves their clock. That is all a driver does; the library's own does it with tokio, the simulator with a virtual network.
//!
//! `cargo run -p broadcast-gossip --example two_cores`

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use broadcast::{
    Config, Event, Seed,
    node::{Action, Node, NodeConfig, StreamId, StreamInput},
};

/// Both nodes and their clock. `ends` has for each end of a stream, a node and its id of the stream, the other end.
struct World {
    now: Instant,
    addrs: [SocketAddr; 2],
    nodes: [Node; 2],
    ends: HashMap<(usize, StreamId), (usize, StreamId)>,
}

impl World {
    /// Carries all that the nodes want to send, back and forth, until neither has anything left. Prints what happens.
    fn settle(&mut self) {
        for who in [0, 1, 0, 1, 0, 1, 0, 1] {
            while let Some(datagram) = self.nodes[who].poll_transmit() {
                self.nodes[1 - who].handle_datagram(self.now, self.addrs[who], &datagram.payload);
            }
            while let Some(action) = self.nodes[who].poll_action() {
                self.perform(who, action);
            }
            while let Some(Ok(message)) = self.nodes[who].poll_message() {
                println!("node{} heard {} = {}", who + 1, message.key(), message.value());
            }
            while let Some(event) = self.nodes[who].poll_event() {
                if let Event::Joined(member) = event {
                    println!("{} joined node{}", member.name, who + 1);
                }
            }
        }
    }

    /// Does what a node asks for.
    fn perform(&mut self, who: usize, action: Action) {
        match action {
            Action::Connect { id, .. } => {
                let other = self.nodes[1 - who].handle_accept(self.now, self.addrs[who]).expect("it has room");
                self.ends.insert((who, id), (1 - who, other));
                self.ends.insert((1 - who, other), (who, id));
            }
            Action::Write { id, data } => self.deliver(who, id, StreamInput::Data(&data)),
            Action::Close { id } => self.deliver(who, id, StreamInput::Closed),
            Action::Lookup { seed } => {
                let addr = SocketAddr::new(seed.host.parse().expect("no names here"), seed.port);
                self.nodes[who].handle_lookup(self.now, &seed, Ok(vec![addr]));
            }
            // The addresses never change.
            Action::GuessAddress { .. } | Action::CheckAddress { .. } => {}
        }
    }

    /// Delivers stream input to the other end.
    fn deliver(&mut self, who: usize, id: StreamId, input: StreamInput<'_>) {
        let (other, stream) = self.ends[&(who, id)];
        self.nodes[other].handle_stream(self.now, stream, input);
    }
}

fn main() {
    let now = Instant::now();
    let addrs: [SocketAddr; 2] = ["10.0.0.1:7946", "10.0.0.2:7946"].map(|addr| addr.parse().expect("an address"));
    let first = NodeConfig::new(Config::new("node1"), addrs[0]);
    let seed = Seed { host: "10.0.0.1".into(), port: 7946 };
    let second = NodeConfig { rng_seed: 2, ..NodeConfig::new(Config::new("node2").join([seed]), addrs[1]) };
    let nodes = [first, second].map(|config| Node::new(now, config));
    let mut world = World { now, addrs, nodes, ends: HashMap::new() };

    let end = now + Duration::from_secs(5);
    let mut published = false;
    while world.now < end {
        world.settle();
        if !published && world.nodes[1].members().len() == 2 {
            world.nodes[1].publish(world.now, "greeting", "\"hello\"").expect("there is room");
            published = true;
            continue;
        }
        // Nobody waits: the clock jumps to the next deadline.
        let due = world.nodes.iter().filter_map(Node::poll_timeout).min();
        world.now = due.unwrap_or(end).max(world.now);
        world.nodes.iter_mut().for_each(|node| node.handle_timeout(world.now));
    }
}
