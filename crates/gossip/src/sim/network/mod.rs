//! The virtual network: hosts with nodes on them, and everything that is on its way between them.
//!
//! No step costs more in a larger network: what is to happen waits in one [`Agenda`], a node's deadline
//! with one entry that is checked when it comes up, and addresses, streams and their ends are found by
//! number.
//!
//! A host outlives its node: it is up or down, paused or cut off, and each node that is started on it is
//! one *life*.

mod addresses;
mod boot;
mod host;
mod paths;
mod streams;

use std::{
    collections::BTreeMap,
    mem,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

pub(crate) use self::{
    boot::{Advertises, Boot},
    host::{HostId, Traffic},
    paths::{Ways, Wrong},
};
use self::{
    host::{ConnectionId, Due, Host, Unsent},
    paths::Paths,
    streams::Connection,
};
use super::{
    agenda::{Agenda, Time},
    digest::Digest,
    link::Link,
    trace::Trace,
};
use crate::{
    Event, Message,
    member::NodeName,
    node::{Action, AddressGuess, Node, Transmit},
};

/// What a node tells its application: a message, or what else has happened.
pub(crate) type Notification = Result<Message, Event>;

/// How long a node takes for each of what has piled up while it was paused.
const HANDLING: Time = 20_000;
/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A node may have changed.
    Host(HostId),
    /// A call that was asked for.
    Call(u64),
}

/// A division of the network.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// For each host, the side that it is on, if any.
    pub(crate) sides: Vec<Option<bool>>,
    /// Whether only what the `false` side sends to the `true` side is lost.
    pub(crate) one_way: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Network {
    start: Instant,
    now: Time,
    rng: Xoshiro256PlusPlus,
    pub(crate) link: Link,
    hosts: Vec<Host>,
    /// The host at each address, by the lower three bytes of it.
    by_ip: Vec<Option<HostId>>,
    by_name: BTreeMap<String, Vec<SocketAddr>>,
    cuts: BTreeMap<u64, Cut>,
    paths: Paths,
    agenda: Agenda<Due>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    told: Vec<(HostId, Notification)>,
    /// Steps done.
    pub(crate) steps: u64,
    digest: Digest,
    pub(crate) trace: Trace,
    pub(crate) datagrams: u64,
    /// Datagrams from one address to another that have more bytes than this are dropped.
    #[cfg(test)]
    pub(crate) narrow: BTreeMap<(SocketAddr, SocketAddr), usize>,
}

impl Network {
    pub(crate) fn new(seed: u64, link: Link) -> Self {
        Self {
            start: Instant::now(),
            now: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            link,
            hosts: Vec::new(),
            by_ip: Vec::new(),
            by_name: BTreeMap::new(),
            cuts: BTreeMap::new(),
            paths: Paths::default(),
            agenda: Agenda::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            told: Vec::new(),
            steps: 0,
            digest: Digest::new(),
            trace: Trace::off(),
            datagrams: 0,
            #[cfg(test)]
            narrow: BTreeMap::new(),
        }
    }

    /// How long it has been running.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn time(&self, at: Instant) -> Time {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).expect("a run is shorter than 500 years")
    }

    /// A host without a node.
    pub(crate) fn add_host(&mut self, name: &str, addr: SocketAddr) -> HostId {
        let host = self.hosts.len();
        self.hosts.push(Host::new(name.into(), addr));
        self.move_host(host, addr);
        host
    }

    /// Has a datagram arrive at a host, whoever sent it.
    pub(crate) fn inject(&mut self, from: SocketAddr, host: HostId, payload: Bytes) {
        let delay = self.link.delay.draw(&mut self.rng);
        self.after(delay, Due::Datagram { from, to: self.hosts[host].addr, payload });
    }

    /// Starts a node on a host that has none.
    pub(crate) fn boot(&mut self, host: HostId, boot: &Boot<'_>) {
        let (now, rng_seed) = (self.now(), self.rng.random());
        let place = &mut self.hosts[host];
        assert!(place.node.is_none(), "a node is running on {} already", place.addr);
        place.life += 1;
        place.has_moved = false;
        place.armed = None;
        let node = boot.start(now, &place.name, place.addr, rng_seed);
        place.node = Some(Box::new(node));
        self.drain(host);
    }

    /// Ends a node without a word. Its host refuses streams from then on, and drops datagrams.
    pub(crate) fn kill(&mut self, host: HostId) {
        let place = &mut self.hosts[host];
        place.node = None;
        place.armed = None;
        (place.paused, place.muted) = (false, false);
        place.held.clear();
        place.unsent.clear();
        (place.held_bytes, place.unsent_bytes) = (0, 0);
        self.reset_streams(host);
    }

    /// Stops a node's process, as SIGSTOP does: what arrives waits, and so do its deadlines.
    pub(crate) fn pause(&mut self, host: HostId) {
        self.hosts[host].paused = self.hosts[host].node.is_some();
    }

    /// Lets it go on. It works off what has piled up, while its deadlines are long due.
    pub(crate) fn resume(&mut self, host: HostId) {
        let place = &mut self.hosts[host];
        if !mem::take(&mut place.paused) {
            return;
        }
        self.work_off(host);
        self.arm(host);
    }

    /// Blocks a node's messages, in both directions, while its time goes on: a process that is overloaded
    /// notices that answers do not come, and cannot know that it is itself the reason.
    pub(crate) fn mute(&mut self, host: HostId) {
        self.hosts[host].muted = self.hosts[host].node.is_some();
    }

    /// Lets its messages through: what it has sent meanwhile leaves, and what has arrived is worked off.
    pub(crate) fn unmute(&mut self, host: HostId) {
        let place = &mut self.hosts[host];
        place.muted = false;
        place.unsent_bytes = 0;
        for unsent in mem::take(&mut place.unsent) {
            match unsent {
                Unsent::Datagram(transmit) => self.send(host, transmit),
                Unsent::Action(action) => self.act(host, action),
            }
        }
        self.work_off(host);
    }

    fn work_off(&mut self, host: HostId) {
        let place = &mut self.hosts[host];
        place.held_bytes = 0;
        for (at, due) in (self.now..).step_by(HANDLING as usize).zip(mem::take(&mut place.held)) {
            self.agenda.push(at, due);
        }
    }

    pub(crate) fn cut(&mut self, id: u64, cut: Cut) {
        self.cuts.insert(id, cut);
    }

    pub(crate) fn heal(&mut self, id: u64) {
        self.cuts.remove(&id);
    }

    pub(crate) fn impair(&mut self, id: u64, ways: Ways, wrong: Wrong) {
        self.paths.impair(id, ways, wrong);
    }

    pub(crate) fn restore(&mut self, id: u64) {
        self.paths.restore(id);
    }

    /// Whether a host is on a side of some division, or something is wrong with its paths.
    pub(crate) fn is_cut(&self, host: HostId) -> bool {
        self.cuts.values().any(|cut| cut.sides.get(host).is_some_and(Option::is_some)) || self.paths.involve(host)
    }

    fn passes(&self, from: HostId, to: HostId) -> bool {
        self.cuts.values().all(|cut| {
            let side = |host: HostId| cut.sides.get(host).copied().flatten();
            match (side(from), side(to)) {
                (Some(false), Some(true)) => false,
                (Some(true), Some(false)) => cut.one_way,
                _ => true,
            }
        })
    }

    pub(crate) fn node(&self, host: HostId) -> Option<&Node> {
        self.hosts[host].node.as_deref()
    }

    #[cfg(test)]
    pub(super) fn node_mut(&mut self, host: HostId) -> Option<&mut Node> {
        self.hosts[host].node.as_deref_mut()
    }

    pub(crate) fn addr(&self, host: HostId) -> SocketAddr {
        self.hosts[host].addr
    }

    pub(crate) fn name(&self, host: HostId) -> &NodeName {
        &self.hosts[host].name
    }

    pub(crate) fn is_paused(&self, host: HostId) -> bool {
        self.hosts[host].paused
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.hosts.iter().fold(Traffic::default(), |sum, Host { traffic, .. }| Traffic {
            packets: sum.packets + traffic.packets,
            packet_bytes: sum.packet_bytes + traffic.packet_bytes,
            stream_bytes: sum.stream_bytes + traffic.stream_bytes,
        })
    }

    /// What stands for all that has happened: equal runs have equal ones.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// Asks to be called after a time.
    pub(crate) fn call(&mut self, after: Duration, call: u64) {
        self.after(after, Due::Call(call));
    }

    /// Takes what nodes have told their applications.
    pub(crate) fn take_told(&mut self, told: &mut Vec<(HostId, Notification)>) {
        told.append(&mut self.told);
    }

    /// Moves to the next thing that happens within a time from the start, and lets it happen.
    pub(crate) fn step(&mut self, end: Duration) -> Option<Step> {
        let end = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
        while let Some((at, due)) = self.agenda.pop(end) {
            self.now = self.now.max(at);
            if let Some(step) = self.happen(due) {
                self.steps += 1;
                return Some(step);
            }
        }
        self.now = self.now.max(end);
        None
    }

    /// Lets something happen; nothing may come of it.
    fn happen(&mut self, due: Due) -> Option<Step> {
        match due {
            Due::Timer { host } => {
                let now = self.now();
                let place = &mut self.hosts[host];
                if place.armed != Some(self.now) {
                    return None;
                }
                place.armed = None;
                if place.paused {
                    return None;
                }
                let is_due = place.node.as_ref()?.poll_timeout().is_some_and(|at| at <= now);
                if !is_due {
                    self.arm(host);
                    return None;
                }
                self.record("timer", host, &[]);
                self.with(host, |node, now| node.handle_timeout(now));
                Some(Step::Host(host))
            }
            Due::Datagram { from, to, payload } => {
                let host = self.host_at(to)?;
                if self.host_at(from).is_some_and(|from| !self.passes(from, host)) {
                    return None;
                }
                let place = &mut self.hosts[host];
                place.node.as_ref()?;
                if place.holds() {
                    if place.held_bytes + payload.len() <= self.link.socket_buffer {
                        place.held_bytes += payload.len();
                        place.held.push_back(Due::Datagram { from, to, payload });
                    }
                    return None;
                }
                self.record("datagram", host, &payload);
                self.with(host, |node, now| node.handle_datagram(now, from, &payload));
                Some(Step::Host(host))
            }
            Due::Flow { connection, side } => self.flow(connection, side),
            Due::Lookup { host, life, seed } => {
                let place = &mut self.hosts[host];
                if place.life != life {
                    return None;
                }
                if place.holds() {
                    place.held.push_back(Due::Lookup { host, life, seed });
                    return None;
                }
                let addrs = match seed.host.parse() {
                    Ok(ip) => Ok(vec![SocketAddr::new(ip, seed.port)]),
                    Err(_) => self.by_name.get(&seed.host).cloned().ok_or_else(|| "no such name".into()),
                };
                self.record("lookup", host, seed.host.as_bytes());
                self.with(host, |node, now| node.handle_lookup(now, &seed, addrs));
                Some(Step::Host(host))
            }
            Due::Address { host, life } => {
                let place = &mut self.hosts[host];
                if place.life != life {
                    return None;
                }
                if place.holds() {
                    place.held.push_back(Due::Address { host, life });
                    return None;
                }
                let addr = place.addr;
                self.record("address", host, &[]);
                self.with(host, |node, now| node.set_guess(now, addr.ip(), AddressGuess::Interfaces));
                Some(Step::Host(host))
            }
            Due::Call(call) => {
                self.digest.add(&[self.now, call]);
                self.trace.note(self.steps, self.now, || format!("call {call}"));
                Some(Step::Call(call))
            }
        }
    }

    fn record(&mut self, what: &'static str, host: HostId, payload: &[u8]) {
        self.digest.add(&[self.now, host as u64]);
        self.digest.add_bytes(what.as_bytes());
        self.digest.add_bytes(payload);
        let name = &self.hosts[host].name;
        self.trace.note(self.steps, self.now, || match payload.len() {
            0 => format!("{name}: {what}"),
            len => format!("{name}: {what} of {len} bytes"),
        });
    }

    /// One mutation, then drain. A node that is gone does nothing.
    pub(crate) fn with<T>(&mut self, host: HostId, act: impl FnOnce(&mut Node, Instant) -> T) -> Option<T> {
        let now = self.now();
        let result = act(self.hosts[host].node.as_deref_mut()?, now);
        self.drain(host);
        Some(result)
    }

    fn drain(&mut self, host: HostId) {
        let Some(mut node) = self.hosts[host].node.take() else { return };
        while let Some(transmit) = node.poll_transmit() {
            let place = &mut self.hosts[host];
            if !place.muted {
                self.send(host, transmit);
            } else if place.unsent_bytes + transmit.payload.len() <= self.link.socket_buffer {
                place.unsent_bytes += transmit.payload.len();
                place.unsent.push_back(Unsent::Datagram(transmit));
            }
        }
        while let Some(action) = node.poll_action() {
            let place = &mut self.hosts[host];
            if place.muted {
                place.unsent.push_back(Unsent::Action(action));
            } else {
                self.act(host, action);
            }
        }
        while let Some(message) = node.poll_message() {
            self.told.push((host, message));
        }
        while let Some(event) = node.poll_event() {
            self.told.push((host, Err(event)));
        }
        self.hosts[host].node = Some(node);
        self.arm(host);
    }

    fn send(&mut self, host: HostId, Transmit { to, payload }: Transmit) {
        let place = &mut self.hosts[host];
        let from = place.sends_from();
        self.datagrams += 1;
        #[cfg(test)]
        if self.narrow.get(&(from, to)).is_some_and(|max| payload.len() > *max) {
            return;
        }
        place.traffic.packets += 1;
        place.traffic.packet_bytes += payload.len() as u64;
        let mut begin = self.now;
        if !self.paths.are_clear() {
            let Some(at) = self.paths.datagram(self.now, host, self.host_at(to), payload.len()) else { return };
            begin = at;
        }
        for delay in self.link.datagram(&mut self.rng).into_iter().flatten() {
            let at = begin + u64::try_from(delay.as_nanos()).expect("delays are short");
            self.at(at, Due::Datagram { from, to, payload: payload.clone() });
        }
    }

    fn act(&mut self, host: HostId, action: Action) {
        match action {
            Action::Lookup { seed } => {
                let (life, delay) = (self.hosts[host].life, self.link.delay.draw(&mut self.rng));
                self.after(delay, Due::Lookup { host, life, seed });
            }
            Action::Connect { id, to } => self.connect(host, id, to),
            Action::Write { id, data } => self.write(host, id, data),
            Action::Close { id } => self.close(host, id),
            Action::CheckAddress { .. } => self.check_address(host),
            // There is one way to each host.
            Action::GuessAddress { .. } => {}
        }
    }

    /// Has the agenda call up a node's deadline. One that has moved back is found to be so when it
    /// comes up.
    fn arm(&mut self, host: HostId) {
        let place = &self.hosts[host];
        let Some(at) = place.node.as_ref().and_then(|node| node.poll_timeout()) else { return };
        let at = self.time(at).max(self.now);
        let place = &mut self.hosts[host];
        if !place.paused && place.armed.is_none_or(|armed| at < armed) {
            place.armed = Some(at);
            self.agenda.push(at, Due::Timer { host });
        }
    }

    fn after(&mut self, delay: Duration, due: Due) {
        let delay = u64::try_from(delay.as_nanos()).expect("delays are short");
        self.at(self.now + delay, due);
    }

    fn at(&mut self, at: Time, due: Due) {
        self.agenda.push(at, due);
    }
}
