//! The virtual network: hosts with nodes on them, and everything that is on its way between them.
//!
//! It is a discrete-event simulation. The cost of a step does not depend on the size of the network: all events are in one
//! [`EventQueue`], a node's deadline takes one entry that is checked when it comes up, and addresses, streams and their ends
//! are found by number.
//!
//! A host outlives its nodes. Each node that starts on a host is one *life* of it; other documents call this an epoch.

mod addresses;
mod boot;
mod host;
mod paths;
mod streams;

use std::{
    collections::BTreeMap,
    mem,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

pub(crate) use self::{
    boot::{AddressSource, BootOptions},
    host::{HostId, HostTraffic, host_name},
    paths::{AffectedPaths, Impairment},
};
use self::{
    host::{ConnectionId, Host, OutboxItem, ScheduledEvent},
    paths::Paths,
    streams::Connection,
};
use super::{
    digest::Digest,
    event_queue::{EventQueue, VirtualTime, nanos},
    link::LinkConditions,
    trace::Trace,
};
use crate::{
    Event, Message,
    member::NodeName,
    membership::Cohort,
    node::{Action, AddressGuess, Node, Transmit, VERSIONS},
};

/// What a node delivers to its application: a message or an event.
pub(crate) type Notification = Result<Message, Event>;

/// How long a node takes for each event that has piled up while it was stalled.
const HANDLING: VirtualTime = 20_000;

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A node may have changed.
    Host(HostId),
    /// A scheduled callback is due.
    Callback(u64),
}

/// A network partition.
#[derive(Clone, Debug)]
pub(crate) struct Partition {
    /// The side that each host is on, if any.
    pub(crate) sides: Vec<Option<bool>>,
    /// Only what the `false` side sends to the `true` side is lost.
    pub(crate) one_way: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Network {
    start: Instant,
    now: VirtualTime,
    rng: Xoshiro256PlusPlus,
    pub(crate) link: LinkConditions,
    hosts: Vec<Host>,
    /// The host at each address, by the address's lower three bytes.
    by_ip: Vec<Option<HostId>>,
    by_name: BTreeMap<String, Vec<SocketAddr>>,
    partitions: BTreeMap<u64, Partition>,
    paths: Paths,
    event_queue: EventQueue<ScheduledEvent>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    notifications: Vec<(HostId, Notification)>,
    /// How many steps were made.
    pub(crate) steps: u64,
    digest: Digest,
    pub(crate) trace: Trace,
    pub(crate) datagrams: u64,
    /// Datagrams from one address to another that have more bytes than this are dropped.
    #[cfg(test)]
    pub(crate) narrow: BTreeMap<(SocketAddr, SocketAddr), usize>,
}

impl Network {
    pub(crate) fn new(seed: u64, link: LinkConditions) -> Self {
        Self {
            start: Instant::now(),
            now: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            link,
            hosts: Vec::new(),
            by_ip: Vec::new(),
            by_name: BTreeMap::new(),
            partitions: BTreeMap::new(),
            paths: Paths::default(),
            event_queue: EventQueue::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            notifications: Vec::new(),
            steps: 0,
            digest: Digest::new(),
            trace: Trace::off(),
            datagrams: 0,
            #[cfg(test)]
            narrow: BTreeMap::new(),
        }
    }

    /// The virtual time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    pub(crate) fn now(&self) -> Instant {
        self.start + self.elapsed()
    }

    fn time(&self, at: Instant) -> VirtualTime {
        nanos(at.saturating_duration_since(self.start))
    }

    /// Adds a host without a node.
    pub(crate) fn add_host(&mut self, name: &str, addr: SocketAddr) -> HostId {
        let host = self.hosts.len();
        self.hosts.push(Host::new(name.into(), addr));
        self.move_host(host, addr);
        host
    }

    /// Sends a forged datagram to a host.
    pub(crate) fn inject(&mut self, from: SocketAddr, host: HostId, payload: Bytes) {
        let delay = self.link.delay.draw(&mut self.rng);
        self.after(delay, ScheduledEvent::Datagram { from, to: self.hosts[host].addr, payload });
    }

    /// Starts a node on a host that has none.
    pub(crate) fn boot(&mut self, host: HostId, options: &BootOptions<'_>) {
        let (now, rng_seed) = (self.now(), self.rng.random());
        let state = &mut self.hosts[host];
        assert!(state.node.is_none(), "a node is running on {} already", state.addr);
        state.life += 1;
        state.has_moved = false;
        state.timer_at = None;
        let node = options.start(now, &state.name, state.addr, rng_seed);
        state.node = Some(Box::new(node));
        self.drain(host);
    }

    /// Crashes a node. From then on its host refuses streams, and drops datagrams.
    pub(crate) fn kill(&mut self, host: HostId) {
        let state = &mut self.hosts[host];
        state.node = None;
        state.timer_at = None;
        (state.paused, state.muted) = (false, false);
        state.inbox.clear();
        state.outbox.clear();
        (state.inbox_bytes, state.outbox_bytes) = (0, 0);
        self.reset_streams(host);
    }

    /// Stops a node's process, as SIGSTOP does: arriving events and its deadlines wait.
    pub(crate) fn pause(&mut self, host: HostId) {
        self.hosts[host].paused = self.hosts[host].node.is_some();
    }

    /// Continues a paused process, as SIGCONT does. Its deadlines are overdue, and its inbox is full.
    pub(crate) fn resume(&mut self, host: HostId) {
        let state = &mut self.hosts[host];
        if !mem::take(&mut state.paused) {
            return;
        }
        self.work_off(host);
        self.arm_timer(host);
    }

    /// Blocks a node's messages in both directions while its time goes on, as in an overloaded process: it notices missing
    /// answers, and cannot know that it is itself the cause.
    pub(crate) fn mute(&mut self, host: HostId) {
        self.hosts[host].muted = self.hosts[host].node.is_some();
    }

    /// Ends [`mute`](Self::mute): what the node has sent meanwhile leaves, and it handles what has arrived.
    pub(crate) fn unmute(&mut self, host: HostId) {
        let state = &mut self.hosts[host];
        state.muted = false;
        state.outbox_bytes = 0;
        for item in mem::take(&mut state.outbox) {
            match item {
                OutboxItem::Datagram(transmit) => self.send(host, transmit),
                OutboxItem::Action(action) => self.perform(host, action),
            }
        }
        self.work_off(host);
    }

    fn work_off(&mut self, host: HostId) {
        let state = &mut self.hosts[host];
        state.inbox_bytes = 0;
        for (at, event) in (self.now..).step_by(HANDLING as usize).zip(mem::take(&mut state.inbox)) {
            self.event_queue.push(at, event);
        }
    }

    pub(crate) fn partition(&mut self, id: u64, partition: Partition) {
        self.partitions.insert(id, partition);
    }

    pub(crate) fn heal(&mut self, id: u64) {
        self.partitions.remove(&id);
    }

    pub(crate) fn impair(&mut self, id: u64, paths: AffectedPaths, impairment: Impairment) {
        self.paths.impair(id, paths, impairment);
    }

    pub(crate) fn restore(&mut self, id: u64) {
        self.paths.restore(id);
    }

    /// Whether a host is in a partition, or a path of it is impaired.
    pub(crate) fn is_disturbed(&self, host: HostId) -> bool {
        self.partitions.values().any(|partition| partition.sides.get(host).is_some_and(Option::is_some))
            || self.paths.affect(host)
    }

    fn is_connected(&self, from: HostId, to: HostId) -> bool {
        self.partitions.values().all(|partition| {
            let side = |host: HostId| partition.sides.get(host).copied().flatten();
            match (side(from), side(to)) {
                (Some(false), Some(true)) => false,
                (Some(true), Some(false)) => partition.one_way,
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

    /// What nodes know from the start if so many hosts, the first ones, know each other.
    pub(crate) fn cohort(&self, hosts: usize) -> Arc<Cohort> {
        let members = self.hosts[..hosts].iter().map(|host| (host.name.clone(), host.addr.into(), VERSIONS));
        Arc::new(Cohort::new(members))
    }

    pub(crate) fn is_paused(&self, host: HostId) -> bool {
        self.hosts[host].paused
    }

    pub(crate) fn traffic(&self) -> HostTraffic {
        self.hosts.iter().fold(HostTraffic::default(), |sum, Host { traffic, .. }| HostTraffic {
            packets: sum.packets + traffic.packets,
            packet_bytes: sum.packet_bytes + traffic.packet_bytes,
            stream_bytes: sum.stream_bytes + traffic.stream_bytes,
        })
    }

    /// The digest of everything that has happened. Equal runs have equal digests.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    /// Schedules a step for the owner of the network, who gives `callback` a meaning.
    pub(crate) fn schedule_callback(&mut self, after: Duration, callback: u64) {
        self.after(after, ScheduledEvent::Callback(callback));
    }

    /// Moves what nodes have delivered to their applications into `drained`.
    pub(crate) fn drain_notifications(&mut self, drained: &mut Vec<(HostId, Notification)>) {
        drained.append(&mut self.notifications);
    }

    /// Advances to the next event, no later than `end` after the start, and processes it. `None` if there is none.
    pub(crate) fn step(&mut self, end: Duration) -> Option<Step> {
        let end = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
        while let Some((at, event)) = self.event_queue.pop(end) {
            self.now = self.now.max(at);
            if let Some(step) = self.process(event) {
                self.steps += 1;
                return Some(step);
            }
        }
        self.now = self.now.max(end);
        None
    }

    /// Processes an event. `None` if nothing comes of it.
    fn process(&mut self, event: ScheduledEvent) -> Option<Step> {
        match event {
            ScheduledEvent::Timer { host } => {
                let now = self.now();
                let state = &mut self.hosts[host];
                if state.timer_at != Some(self.now) {
                    return None;
                }
                state.timer_at = None;
                if state.paused {
                    return None;
                }
                let is_due = state.node.as_ref()?.poll_timeout().is_some_and(|at| at <= now);
                if !is_due {
                    self.arm_timer(host);
                    return None;
                }
                self.record("timer", host, &[]);
                self.with(host, |node, now| node.handle_timeout(now));
                Some(Step::Host(host))
            }
            ScheduledEvent::Datagram { from, to, payload } => {
                let host = self.host_at(to)?;
                if self.host_at(from).is_some_and(|from| !self.is_connected(from, host)) {
                    return None;
                }
                let state = &mut self.hosts[host];
                state.node.as_ref()?;
                if state.is_stalled() {
                    if state.inbox_bytes + payload.len() <= self.link.socket_buffer {
                        state.inbox_bytes += payload.len();
                        state.inbox.push_back(ScheduledEvent::Datagram { from, to, payload });
                    }
                    return None;
                }
                self.record("datagram", host, &payload);
                self.with(host, |node, now| node.handle_datagram(now, from, &payload));
                Some(Step::Host(host))
            }
            ScheduledEvent::Flow { connection, side } => self.flow(connection, side),
            ScheduledEvent::Lookup { host, life, seed } => {
                let state = &mut self.hosts[host];
                if state.life != life {
                    return None;
                }
                if state.is_stalled() {
                    state.inbox.push_back(ScheduledEvent::Lookup { host, life, seed });
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
            ScheduledEvent::Address { host, life } => {
                let state = &mut self.hosts[host];
                if state.life != life {
                    return None;
                }
                if state.is_stalled() {
                    state.inbox.push_back(ScheduledEvent::Address { host, life });
                    return None;
                }
                let addr = state.addr;
                self.record("address", host, &[]);
                self.with(host, |node, now| node.set_guess(now, addr.ip(), AddressGuess::Interfaces));
                Some(Step::Host(host))
            }
            ScheduledEvent::Callback(callback) => {
                self.digest.add(&[self.now, callback]);
                self.trace.note(self.steps, self.now, || format!("call {callback}"));
                Some(Step::Callback(callback))
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

    /// Runs `act` on a node, then drains the node. `None` if there is no node.
    pub(crate) fn with<T>(&mut self, host: HostId, act: impl FnOnce(&mut Node, Instant) -> T) -> Option<T> {
        let now = self.now();
        let result = act(self.hosts[host].node.as_deref_mut()?, now);
        self.drain(host);
        Some(result)
    }

    fn drain(&mut self, host: HostId) {
        let Some(mut node) = self.hosts[host].node.take() else { return };
        while let Some(transmit) = node.poll_transmit() {
            let state = &mut self.hosts[host];
            if !state.muted {
                self.send(host, transmit);
            } else if state.outbox_bytes + transmit.payload.len() <= self.link.socket_buffer {
                state.outbox_bytes += transmit.payload.len();
                state.outbox.push_back(OutboxItem::Datagram(transmit));
            }
        }
        while let Some(action) = node.poll_action() {
            let state = &mut self.hosts[host];
            if state.muted {
                state.outbox.push_back(OutboxItem::Action(action));
            } else {
                self.perform(host, action);
            }
        }
        while let Some(message) = node.poll_message() {
            self.notifications.push((host, message));
        }
        while let Some(event) = node.poll_event() {
            self.notifications.push((host, Err(event)));
        }
        self.hosts[host].node = Some(node);
        self.arm_timer(host);
    }

    fn send(&mut self, host: HostId, Transmit { to, payload }: Transmit) {
        let state = &mut self.hosts[host];
        let from = state.sends_from();
        self.datagrams += 1;
        #[cfg(test)]
        if self.narrow.get(&(from, to)).is_some_and(|max| payload.len() > *max) {
            return;
        }
        state.traffic.packets += 1;
        state.traffic.packet_bytes += payload.len() as u64;
        let mut begin = self.now;
        if !self.paths.are_clear() {
            let Some(at) = self.paths.datagram(self.now, host, self.host_at(to), payload.len()) else { return };
            begin = at;
        }
        for delay in self.link.datagram(&mut self.rng).into_iter().flatten() {
            self.at(begin + nanos(delay), ScheduledEvent::Datagram { from, to, payload: payload.clone() });
        }
    }

    fn perform(&mut self, host: HostId, action: Action) {
        match action {
            Action::Lookup { seed } => {
                let (life, delay) = (self.hosts[host].life, self.link.delay.draw(&mut self.rng));
                self.after(delay, ScheduledEvent::Lookup { host, life, seed });
            }
            Action::Connect { id, to } => self.connect(host, id, to),
            Action::Write { id, data } => self.write(host, id, data),
            Action::Close { id } => self.close(host, id),
            Action::CheckAddress { .. } => self.check_address(host),
            // Each host has one address.
            Action::GuessAddress { .. } => {}
        }
    }

    /// Schedules an event for a node's deadline, unless there is an earlier one: that is checked when it comes up.
    fn arm_timer(&mut self, host: HostId) {
        let state = &self.hosts[host];
        let Some(at) = state.node.as_ref().and_then(|node| node.poll_timeout()) else { return };
        let at = self.time(at).max(self.now);
        let state = &mut self.hosts[host];
        if !state.paused && state.timer_at.is_none_or(|timer_at| at < timer_at) {
            state.timer_at = Some(at);
            self.event_queue.push(at, ScheduledEvent::Timer { host });
        }
    }

    fn after(&mut self, delay: Duration, event: ScheduledEvent) {
        self.at(self.now + nanos(delay), event);
    }

    fn at(&mut self, at: VirtualTime, event: ScheduledEvent) {
        self.event_queue.push(at, event);
    }
}
