//! A small cluster on the virtual network, for unit tests that control each node.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    link::LinkConditions,
    network::{BootOptions, HostId, Network, Notification, Partition},
};
use crate::{
    Envelope,
    config::{Profile, Retention, Seed, Tuning},
    dissemination::{MessageId, PublishError},
    membership::Member,
    node::{Node, StreamInput},
    wire::{Alive, Message, packet},
};

/// A network of nodes.
pub(crate) struct Sim {
    pub(crate) now: Instant,
    tuning: Tuning,
    /// For nodes that are started from now on; and whether these ask for retained messages.
    pub(crate) limits: Retention,
    pub(crate) replay: bool,
    pub(crate) envelope: Envelope,
    /// How far the wall clocks of new nodes are ahead of the time since the beginning.
    pub(crate) clock: Duration,
    /// The share of datagrams that are lost.
    pub(crate) loss: f64,
    pub(crate) datagrams: u64,
    network: Network,
    hosts: BTreeMap<SocketAddr, HostId>,
    notifications: Vec<(HostId, Notification)>,
    partitions: u64,
}

impl Sim {
    pub(crate) fn new(seed: u64, profile: Profile) -> Self {
        let network = Network::new(seed, LinkConditions::default());
        Self {
            now: network.now(),
            tuning: profile.tuning(),
            limits: Retention::default(),
            replay: false,
            envelope: Envelope::default(),
            clock: Duration::ZERO,
            loss: 0.0,
            datagrams: 0,
            network,
            hosts: BTreeMap::new(),
            notifications: Vec::new(),
            partitions: 0,
        }
    }

    /// Starts a node at `10.0.0.host:7946`, which joins through these seeds.
    pub(crate) fn start(&mut self, name: &str, host: u16, seeds: &[&str]) -> SocketAddr {
        let addr = Network::address(u32::from(host));
        let seeds: Vec<Seed> = seeds.iter().map(|seed| seed.parse().expect("a test's seed")).collect();
        let id = self.network.add_host(name, addr);
        let epoch = u64::try_from((self.clock + self.network.elapsed()).as_micros()).expect("tests are short");
        let (limits, replay, envelope) = (self.limits, self.replay, self.envelope.clone());
        let options = BootOptions { seeds: &seeds, limits, replay, envelope, epoch, ..BootOptions::new(&self.tuning) };
        self.network.boot(id, &options);
        let old = self.hosts.insert(addr, id);
        assert!(old.is_none(), "{addr} is taken");
        self.settle();
        addr
    }

    /// Gives a name several addresses.
    pub(crate) fn alias(&mut self, name: &str, addrs: &[SocketAddr]) {
        self.network.alias(name, addrs);
    }

    /// From now on, drops larger datagrams on the way from one host to another; with `usize::MAX`, none.
    pub(crate) fn narrow(&mut self, from: SocketAddr, to: SocketAddr, max: usize) {
        self.network.narrow.insert((from, to), max);
    }

    /// Moves a running node's host to another address, `10.0.0.host:7946`. No host has its old one then.
    pub(crate) fn relocate(&mut self, addr: SocketAddr, host: u16) -> SocketAddr {
        let (id, new) = (self.id(addr), Network::address(u32::from(host)));
        self.network.move_host(id, new);
        self.hosts.remove(&addr);
        self.hosts.insert(new, id);
        new
    }

    /// Changes a node's metadata.
    pub(crate) fn update_meta(&mut self, addr: SocketAddr, meta: &'static [u8]) {
        assert!(self.with(addr, |node, now| node.update_meta(now, &Bytes::from_static(meta))), "it has left");
    }

    /// Crashes a node.
    pub(crate) fn kill(&mut self, addr: SocketAddr) {
        let id = self.hosts.remove(&addr).expect("a running node");
        self.network.kill(id);
    }

    /// Stops a node's process.
    pub(crate) fn pause(&mut self, addr: SocketAddr) {
        self.network.pause(self.id(addr));
    }

    /// Continues a node's process.
    pub(crate) fn resume(&mut self, addr: SocketAddr) {
        self.network.resume(self.id(addr));
    }

    pub(crate) fn leave(&mut self, addr: SocketAddr) {
        self.with(addr, |node, now| node.leave(now));
    }

    pub(crate) fn publish(&mut self, addr: SocketAddr, key: &str, value: &str) {
        self.try_publish(addr, key, value).expect("a message of the usual size is published");
    }

    /// The same, where it may be refused.
    pub(crate) fn try_publish(&mut self, addr: SocketAddr, key: &str, value: &str) -> Result<MessageId, PublishError> {
        self.with(addr, |node, now| node.publish(now, key, value))
    }

    /// Has a node watch acknowledgements, or no longer.
    pub(crate) fn watch(&mut self, addr: SocketAddr, wanted: bool) {
        self.with(addr, |node, now| node.watch(now, wanted));
    }

    /// Tells these nodes of a plain memberlist node, "go". It answers nothing, and fails after a while.
    pub(crate) fn introduce_plain(&mut self, addrs: &[SocketAddr]) -> SocketAddr {
        let plain = SocketAddr::from(([10, 0, 9, 9], 7946));
        let alive = Alive {
            incarnation: 1,
            node: "go".into(),
            address: plain.into(),
            meta: Bytes::new(),
            versions: Some([1, 5, 2, 0, 0, 0]),
        };
        let alive = packet::encode_message(&Message::Alive(alive));
        for addr in addrs {
            self.inject(plain, *addr, alive.clone());
        }
        plain
    }

    /// Hands a datagram from an address to a node.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, payload: Bytes) {
        self.with(to, |node, now| node.handle_datagram(now, from, &payload));
    }

    /// Hands data of a stream from an address to a node.
    pub(crate) fn inject_stream(&mut self, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        self.with(to, |node, now| {
            let id = node.handle_accept(now, from).expect("room for a stream");
            node.handle_stream(now, id, StreamInput::Data(data));
        });
    }

    /// Separates two groups from each other.
    pub(crate) fn partition(&mut self, one: &[SocketAddr], other: &[SocketAddr]) {
        let mut sides = Vec::new();
        for (side, addrs) in [(false, one), (true, other)] {
            for addr in addrs {
                let id = self.id(*addr);
                sides.resize(sides.len().max(id + 1), None);
                sides[id] = Some(side);
            }
        }
        self.network.partition(self.partitions, Partition { sides, one_way: false });
        self.partitions += 1;
    }

    pub(crate) fn heal(&mut self) {
        for id in 0..self.partitions {
            self.network.heal(id);
        }
    }

    /// Takes the messages and events that a node has delivered since the last time.
    pub(crate) fn events(&mut self, addr: SocketAddr) -> Vec<Notification> {
        self.settle();
        let id = self.id(addr);
        let all = std::mem::take(&mut self.notifications);
        let (its, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(host, _)| *host == id);
        self.notifications = others;
        its.into_iter().map(|(_, notification)| notification).collect()
    }

    /// The sorted names of the members that a node believes live, its own included.
    pub(crate) fn view(&self, addr: SocketAddr) -> Vec<String> {
        let mut names: Vec<_> = self.look(addr).members().iter().map(|m| m.name.to_string()).collect();
        names.sort();
        names
    }

    /// A member as a node sees it, if it does.
    pub(crate) fn find(&self, addr: SocketAddr, name: &str) -> Option<Member> {
        self.look(addr).members().into_iter().find(|member| member.name == *name)
    }

    /// A member as a node sees it, which it must.
    pub(crate) fn member(&self, addr: SocketAddr, name: &str) -> Member {
        self.find(addr, name).unwrap_or_else(|| panic!("{addr} sees no {name}"))
    }

    /// The running nodes' addresses.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.hosts.keys().copied().collect()
    }

    /// A node, to change it.
    pub(crate) fn node(&mut self, addr: SocketAddr) -> &mut Node {
        let id = self.id(addr);
        self.network.node_mut(id).expect("a running node")
    }

    /// Whether every node sees all the nodes that run, and only them.
    pub(crate) fn agreed(&self) -> bool {
        let mut names: Vec<_> = self.hosts.values().map(|id| self.network.name(*id).to_string()).collect();
        names.sort();
        self.hosts.keys().all(|addr| self.view(*addr) == names)
    }

    /// Runs for a time.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.network.elapsed() + time;
        while self.step(end) {}
    }

    /// Runs until a condition holds, and returns how long that took.
    ///
    /// # Panics
    ///
    /// It does not hold within `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let begin = self.network.elapsed();
        while !condition(self) {
            assert!(self.step(begin + limit), "the condition does not hold after {limit:?}");
        }
        self.network.elapsed() - begin
    }

    fn step(&mut self, end: Duration) -> bool {
        self.network.link.loss = self.loss;
        let step = self.network.step(end);
        self.settle();
        step.is_some()
    }

    fn settle(&mut self) {
        self.now = self.network.now();
        self.datagrams = self.network.datagrams;
        self.network.drain_notifications(&mut self.notifications);
    }

    /// Runs something on a node.
    pub(crate) fn with<T>(&mut self, addr: SocketAddr, act: impl FnOnce(&mut Node, Instant) -> T) -> T {
        self.network.link.loss = self.loss;
        let id = self.id(addr);
        let result = self.network.with(id, act).expect("a running node");
        self.settle();
        result
    }

    /// A node, to look at.
    pub(crate) fn look(&self, addr: SocketAddr) -> &Node {
        self.network.node(self.id(addr)).expect("a running node")
    }

    fn id(&self, addr: SocketAddr) -> HostId {
        *self.hosts.get(&addr).unwrap_or_else(|| panic!("no node runs at {addr}"))
    }
}
