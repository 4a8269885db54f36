//! A few nodes on the virtual network, for tests that say by name what happens to which.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    link::Link,
    network::{Advertises, Boot, Cut, HostId, Network, Notification},
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
    /// Of the nodes that are started from now on; and whether they begin with what is still retained.
    pub(crate) limits: Retention,
    pub(crate) replay: bool,
    pub(crate) envelope: Envelope,
    /// How far their clocks are ahead of the time since the beginning.
    pub(crate) clock: Duration,
    /// The share of datagrams that are lost.
    pub(crate) loss: f64,
    pub(crate) datagrams: u64,
    network: Network,
    hosts: BTreeMap<SocketAddr, HostId>,
    told: Vec<(HostId, Notification)>,
    cuts: u64,
}

impl Sim {
    pub(crate) fn new(seed: u64, profile: Profile) -> Self {
        let network = Network::new(seed, Link::default());
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
            told: Vec::new(),
            cuts: 0,
        }
    }

    /// Starts a node at `10.0.0.host:7946`, which joins through the seeds named.
    pub(crate) fn start(&mut self, name: &str, host: u16, seeds: &[&str]) -> SocketAddr {
        let addr = Network::address(u32::from(host));
        let seeds: Vec<Seed> = seeds.iter().map(|seed| seed.parse().expect("a test's seed")).collect();
        let id = self.network.add_host(name, addr);
        let epoch = u64::try_from((self.clock + self.network.elapsed()).as_micros()).expect("tests are short");
        let (tuning, limits, replay, envelope) = (&self.tuning, self.limits, self.replay, self.envelope.clone());
        self.network.boot(
            id,
            &Boot {
                seeds: &seeds,
                tuning,
                limits,
                replay,
                envelope,
                epoch,
                advertises: Advertises::Fixed,
                acquainted: None,
            },
        );
        let old = self.hosts.insert(addr, id);
        assert!(old.is_none(), "{addr} is taken");
        self.settle();
        addr
    }

    /// Lets a name stand for several nodes.
    pub(crate) fn alias(&mut self, name: &str, addrs: &[SocketAddr]) {
        self.network.alias(name, addrs);
    }

    /// From now on datagrams of more bytes than this are dropped on the way from one host to another; with
    /// `usize::MAX` none are.
    pub(crate) fn narrow(&mut self, from: SocketAddr, to: SocketAddr, max: usize) {
        self.network.narrow.insert((from, to), max);
    }

    /// Gives a running node's host another address, `10.0.0.host:7946`; its old one is nobody's then.
    pub(crate) fn relocate(&mut self, addr: SocketAddr, host: u16) -> SocketAddr {
        let (id, new) = (self.id(addr), Network::address(u32::from(host)));
        self.network.move_host(id, new);
        self.hosts.remove(&addr);
        self.hosts.insert(new, id);
        new
    }

    /// Changes what a node tells of itself.
    pub(crate) fn update_meta(&mut self, addr: SocketAddr, meta: &'static [u8]) {
        assert!(self.with(addr, |node, now| node.update_meta(now, &Bytes::from_static(meta))), "it has left");
    }

    /// Ends a node without a word.
    pub(crate) fn kill(&mut self, addr: SocketAddr) {
        let id = self.hosts.remove(&addr).expect("a running node");
        self.network.kill(id);
    }

    /// Stops a node's process.
    pub(crate) fn pause(&mut self, addr: SocketAddr) {
        self.network.pause(self.id(addr));
    }

    /// Lets it go on.
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

    /// Lets a node see who has acknowledged what, or no longer.
    pub(crate) fn watch(&mut self, addr: SocketAddr, wanted: bool) {
        self.with(addr, |node, now| node.watch(now, wanted));
    }

    /// Makes a plain memberlist node, "go", known to these. It answers nothing, and fails after a while.
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

    /// Hands a node a datagram, as from an address.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, payload: Bytes) {
        self.with(to, |node, now| node.handle_datagram(now, from, &payload));
    }

    /// Hands a node what comes over a stream from an address.
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
        self.network.cut(self.cuts, Cut { sides, one_way: false });
        self.cuts += 1;
    }

    pub(crate) fn heal(&mut self) {
        for id in 0..self.cuts {
            self.network.heal(id);
        }
    }

    /// Takes what a node told its application since the last time, messages and events.
    pub(crate) fn events(&mut self, addr: SocketAddr) -> Vec<Notification> {
        self.settle();
        let id = self.id(addr);
        let all = std::mem::take(&mut self.told);
        let (its, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|(host, _)| *host == id);
        self.told = others;
        its.into_iter().map(|(_, told)| told).collect()
    }

    /// The names a node believes live, sorted, its own included.
    pub(crate) fn view(&self, addr: SocketAddr) -> Vec<String> {
        let mut names: Vec<_> = self.look(addr).members().iter().map(|m| m.name.to_string()).collect();
        names.sort();
        names
    }

    /// What a node believes of a member, if it sees it.
    pub(crate) fn find(&self, addr: SocketAddr, name: &str) -> Option<Member> {
        self.look(addr).members().into_iter().find(|member| member.name == *name)
    }

    /// What a node believes of a member that it must see.
    pub(crate) fn member(&self, addr: SocketAddr, name: &str) -> Member {
        self.find(addr, name).unwrap_or_else(|| panic!("{addr} sees no {name}"))
    }

    /// The running nodes' addresses.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        self.hosts.keys().copied().collect()
    }

    /// A node, to look into.
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

    /// Runs until a condition holds; gives the time that took.
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
        self.network.take_told(&mut self.told);
    }

    /// Has a node do something.
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
