//! Nodes on a virtual clock and network: the very same [`Node`] that the driver runs, many at a time,
//! with no sockets and no waiting. The same seed gives the same run.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::{
    config::{Limits, Profile, Seed, Tuning},
    membership::Member,
    node::{Action, Event, Node, NodeConfig, StreamId, StreamInput, Transmit},
};

/// A connection, by the order in which they were opened.
type Connection = u64;

/// Something on its way.
enum Arrival {
    Datagram { from: SocketAddr, to: SocketAddr, payload: Bytes },
    Connect { connection: Connection },
    Data { connection: Connection, to_opener: bool, data: Bytes },
    Close { connection: Connection, to_opener: bool },
    Lookup { at: SocketAddr, seed: Seed },
}

struct Line {
    opener: (SocketAddr, StreamId),
    acceptor: SocketAddr,
    accepted: Option<StreamId>,
}

struct Host {
    node: Node,
    name: String,
    events: Vec<Event>,
}

/// A network of nodes.
pub(crate) struct Sim {
    pub(crate) now: Instant,
    start: Instant,
    rng: Xoshiro256PlusPlus,
    tuning: Tuning,
    latency: Range<Duration>,
    /// The share of datagrams that are lost.
    pub(crate) loss: f64,
    hosts: BTreeMap<SocketAddr, Host>,
    /// One-way cuts between addresses.
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    names: BTreeMap<String, Vec<SocketAddr>>,
    arrivals: BTreeMap<(Instant, u64), Arrival>,
    count: u64,
    lines: BTreeMap<Connection, Line>,
    pub(crate) datagrams: u64,
}

impl Sim {
    pub(crate) fn new(seed: u64, profile: Profile) -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            tuning: profile.tuning(),
            latency: Duration::from_micros(100)..Duration::from_millis(2),
            loss: 0.0,
            hosts: BTreeMap::new(),
            cut: BTreeSet::new(),
            names: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            count: 0,
            lines: BTreeMap::new(),
            datagrams: 0,
        }
    }

    /// Starts a node at `10.0.0.host:7946`, which joins through the seeds named.
    pub(crate) fn start(&mut self, name: &str, host: u16, seeds: &[&str]) -> SocketAddr {
        let [high, low] = host.to_be_bytes();
        let addr = SocketAddr::from(([10, 0, high, low], 7946));
        let config = NodeConfig {
            name: name.into(),
            address: addr.into(),
            meta: Bytes::new(),
            seeds: seeds.iter().map(|seed| seed.parse().expect("a test's seed")).collect(),
            tuning: self.tuning.clone(),
            limits: Limits::default(),
            replay: false,
            epoch: u64::try_from((self.now - self.start).as_micros()).expect("tests are short"),
            rng_seed: self.rng.random(),
        };
        let node = Node::new(self.now, config);
        let old = self.hosts.insert(addr, Host { node, name: name.to_owned(), events: Vec::new() });
        assert!(old.is_none(), "{addr} is taken");
        self.names.insert(name.to_owned(), vec![addr]);
        self.drain(addr);
        addr
    }

    /// Lets a name stand for several nodes.
    pub(crate) fn alias(&mut self, name: &str, addrs: &[SocketAddr]) {
        self.names.insert(name.to_owned(), addrs.to_vec());
    }

    /// Ends a node without a word.
    pub(crate) fn kill(&mut self, addr: SocketAddr) {
        self.hosts.remove(&addr).expect("a running node");
    }

    pub(crate) fn leave(&mut self, addr: SocketAddr) {
        let now = self.now;
        self.with(addr, |node| node.leave(now));
    }

    pub(crate) fn publish(&mut self, addr: SocketAddr, key: &str, value: &str) {
        let now = self.now;
        let published = self.with(addr, |node| Some(node.publish(now, key, value)));
        published.expect("a running node").expect("a message of the usual size");
    }

    /// Hands a node a datagram, as from an address.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, payload: Bytes) {
        let now = self.now;
        self.with(to, |node| node.handle_datagram(now, from, &payload));
    }

    /// Separates two groups from each other.
    pub(crate) fn partition(&mut self, one: &[SocketAddr], other: &[SocketAddr]) {
        for a in one {
            for b in other {
                self.cut.insert((*a, *b));
                self.cut.insert((*b, *a));
            }
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Takes what a node told its application since the last time.
    pub(crate) fn events(&mut self, addr: SocketAddr) -> Vec<Event> {
        std::mem::take(&mut self.host(addr).events)
    }

    /// The names a node believes live, sorted, its own included.
    pub(crate) fn view(&self, addr: SocketAddr) -> Vec<String> {
        let mut names: Vec<_> = self.hosts[&addr].node.members().iter().map(|m| m.name.to_string()).collect();
        names.sort();
        names
    }

    /// What a node believes of a member, if it sees it.
    pub(crate) fn find(&self, addr: SocketAddr, name: &str) -> Option<Member> {
        self.hosts[&addr].node.members().into_iter().find(|member| member.name == *name)
    }

    /// What a node believes of a member that it must see.
    pub(crate) fn member(&self, addr: SocketAddr, name: &str) -> Member {
        self.find(addr, name).unwrap_or_else(|| panic!("{addr} sees no {name}"))
    }

    /// A node, to look into.
    pub(crate) fn node(&mut self, addr: SocketAddr) -> &mut Node {
        &mut self.host(addr).node
    }

    /// Whether every node sees all the nodes that run, and only them.
    pub(crate) fn agreed(&self) -> bool {
        let mut names: Vec<_> = self.hosts.values().map(|host| host.name.clone()).collect();
        names.sort();
        self.hosts.keys().all(|addr| self.view(*addr) == names)
    }

    /// Runs for a time.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
    }

    /// Runs until a condition holds; gives the time that took.
    ///
    /// # Panics
    ///
    /// It does not hold within `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let (begin, end) = (self.now, self.now + limit);
        while !condition(self) {
            assert!(self.step(end), "the condition does not hold after {limit:?}");
        }
        self.now - begin
    }

    /// Moves to the next thing that happens before `end`, and lets it happen.
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.arrivals.first_key_value().map(|(at, _)| at.0);
        let due = self.hosts.iter().filter_map(|(addr, host)| Some((host.node.poll_timeout()?, *addr))).min();
        let next = arrival.into_iter().chain(due.map(|(at, _)| at)).min();
        let Some(next) = next.filter(|at| *at <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next) {
            let (_, arrival) = self.arrivals.pop_first().expect("it has just been looked at");
            self.arrive(arrival);
        } else if let Some((_, addr)) = due {
            let now = self.now;
            self.with(addr, |node| node.handle_timeout(now));
        }
        true
    }

    fn arrive(&mut self, arrival: Arrival) {
        let now = self.now;
        match arrival {
            Arrival::Datagram { from, to, payload } => {
                if self.passes(from, to) {
                    self.with(to, |node| node.handle_datagram(now, from, &payload));
                }
            }
            Arrival::Connect { connection } => {
                let Line { opener: (from, id), acceptor, .. } = self.lines[&connection];
                if !self.passes(from, acceptor) {
                    return;
                }
                if !self.hosts.contains_key(&acceptor) {
                    self.with(from, |node| node.handle_stream(now, id, StreamInput::Failed("refused".to_owned())));
                    return;
                }
                let accepted = self.with(acceptor, |node| node.handle_accept(now, from));
                if let Some(line) = self.lines.get_mut(&connection) {
                    line.accepted = accepted;
                }
            }
            Arrival::Data { connection, to_opener, data } => {
                if let Some((to, id)) = self.end(connection, to_opener) {
                    self.with(to, |node| node.handle_stream(now, id, StreamInput::Data(&data)));
                }
            }
            Arrival::Close { connection, to_opener } => {
                if let Some((to, id)) = self.end(connection, to_opener) {
                    self.with(to, |node| node.handle_stream(now, id, StreamInput::Closed));
                }
            }
            Arrival::Lookup { at, seed } => {
                let addrs = match seed.host.parse() {
                    Ok(ip) => Ok(vec![SocketAddr::new(ip, seed.port)]),
                    Err(_) => self.names.get(&seed.host).cloned().ok_or_else(|| "no such name".to_owned()),
                };
                self.with(at, |node| node.handle_lookup(now, &seed, addrs));
            }
        }
    }

    /// Where bytes on a connection come out, unless the network is cut between its ends.
    fn end(&self, connection: Connection, to_opener: bool) -> Option<(SocketAddr, StreamId)> {
        let line = &self.lines[&connection];
        let (opener, acceptor) = (line.opener, (line.acceptor, line.accepted?));
        let (from, to) = if to_opener { (acceptor, opener) } else { (opener, acceptor) };
        self.passes(from.0, to.0).then_some(to)
    }

    fn passes(&self, from: SocketAddr, to: SocketAddr) -> bool {
        !self.cut.contains(&(from, to))
    }

    fn host(&mut self, addr: SocketAddr) -> &mut Host {
        self.hosts.get_mut(&addr).expect("a running node")
    }

    /// One mutation, then drain. A node that is gone does nothing.
    fn with<T: Default>(&mut self, addr: SocketAddr, act: impl FnOnce(&mut Node) -> T) -> T {
        let Some(host) = self.hosts.get_mut(&addr) else { return T::default() };
        let result = act(&mut host.node);
        self.drain(addr);
        result
    }

    fn drain(&mut self, addr: SocketAddr) {
        while let Some(Transmit { to, payload }) = self.host(addr).node.poll_transmit() {
            self.datagrams += 1;
            if !self.rng.random_bool(self.loss) {
                let delay = self.rng.random_range(self.latency.clone());
                self.send(delay, Arrival::Datagram { from: addr, to, payload });
            }
        }
        while let Some(action) = self.host(addr).node.poll_action() {
            self.act(addr, action);
        }
        while let Some(event) = self.host(addr).node.poll_event() {
            self.host(addr).events.push(event);
        }
    }

    fn act(&mut self, addr: SocketAddr, action: Action) {
        // Streams keep their order, so their latency does not vary.
        let latency = self.latency.end;
        match action {
            Action::Lookup { seed } => self.send(latency, Arrival::Lookup { at: addr, seed }),
            Action::Connect { id, to } => {
                let connection = self.count;
                self.lines.insert(connection, Line { opener: (addr, id), acceptor: to, accepted: None });
                self.send(latency, Arrival::Connect { connection });
            }
            Action::Write { id, data } => {
                if let Some((connection, to_opener)) = self.line(addr, id) {
                    self.send(latency, Arrival::Data { connection, to_opener, data });
                }
            }
            Action::Close { id } => {
                if let Some((connection, to_opener)) = self.line(addr, id) {
                    self.send(latency, Arrival::Close { connection, to_opener });
                }
            }
        }
    }

    /// The connection that a stream of a node is an end of, and whether its other end is the opener.
    fn line(&self, addr: SocketAddr, id: StreamId) -> Option<(Connection, bool)> {
        self.lines.iter().rev().find_map(|(connection, line)| {
            if line.opener == (addr, id) {
                Some((*connection, false))
            } else if (line.acceptor, line.accepted) == (addr, Some(id)) {
                Some((*connection, true))
            } else {
                None
            }
        })
    }

    fn send(&mut self, delay: Duration, arrival: Arrival) {
        self.arrivals.insert((self.now + delay, self.count), arrival);
        self.count += 1;
    }
}
