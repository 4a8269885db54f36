//! Who is in the cluster: SWIM over memberlist's wire protocol, as a state machine without clock or sockets.
//!
//! It promises that a member that stays up and can be reached remains a member, and that one that fails is found dead by
//! all others, after a time that depends on [`Tuning`].
//!
//! # Sources
//!
//! Das, Gupta, Motivala: "SWIM: Scalable Weakly-consistent Infection-style Process Group Membership
//! Protocol" (DSN 2002); Lifeguard (arXiv 1707.00788); and, wherever those leave a choice, what
//! hashicorp/memberlist does.
//!
//! # States of a member
//!
//! ```text
//!            alive(i+1)                   no ack, or suspect(≥i)
//!   ┌──────────────────────────┐       ┌──────────────────────────┐
//!   ▼                          │       │                          ▼
//! alive(i) ────────────────────┴───────┘                      suspect(i)
//!   ▲  │ dead(≥i) by itself      dead(≥i), or nobody refutes in time │
//!   │  ▼                                                             ▼
//!   │ left(i)                                                     dead(i)
//!   └──┴── alive(i+1), or any alive from a new address ──────────────┘
//! ```
//!
//! An accusation ("suspect" or "dead") counts if its incarnation is at least the known one. "Alive" needs a higher one, and
//! only the node itself raises its incarnation, when it hears that it is accused: it *refutes*. Members that are dead or
//! have left are remembered for `gossip_to_the_dead`, then forgotten.
//!
//! # Messages
//!
//! In each probe interval one member is pinged, and one of those that have never answered ([`newcomers`]). Without an ack in
//! time, others are asked to ping it; without an ack by the end of the interval, it is suspected. Each change is queued
//! under the name of its member, and gossiped; the node calls [`Membership::take_broadcasts`] whenever it sends.
//!
//! # What can go wrong
//!
//! - *The same name at two addresses*: the live holder keeps it, and both sides report a conflict. The name of a member that
//!   is dead or has left is free at once, that of a suspect after `dead_node_reclaim`.
//! - *A node restarts with a low incarnation*: it learns from the exchange of views what others believe of it, and refutes.
//!   Whoever gets a stale "alive" answers with the accusation, so that the node can refute.
//! - *An accusation with one of the highest incarnations there are* could never be refuted, and an "alive" with it never be
//!   taken back. An incarnation far above the known one is not believed.
//! - *A member that speaks another protocol version* would make every exchange of views fail: it does not become a member.
//!   Nor does a node in a network that is not allowed, one that the application refuses, or one for which there is no room
//!   ([`ResourceLimits::max_members`](crate::ResourceLimits::max_members)).

mod awareness;
mod cohort;
mod conflict;
mod counts;
mod error;
mod index;
mod local_node;
mod members;
mod newcomers;
mod probe;
mod queue;
mod record;
mod rtt;
mod rules;
mod suspicion;
#[cfg(test)]
mod tests;
mod versions;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

pub use self::counts::MembershipCounts;
use self::{
    awareness::Awareness,
    conflict::Conflicts,
    counts::{OverLimitCounts, Recorder},
    local_node::FormerAddresses,
    members::Members,
    newcomers::Newcomers,
    probe::{Probe, ProbeRound, RelayedPing},
    suspicion::Suspicion,
};
pub(crate) use self::{
    cohort::Cohort,
    error::MembershipError,
    queue::{TransmitLimitedQueue, digits},
    record::Record,
};
pub(crate) use crate::member::{Member, MemberState, NodeName, ViewEntry};
use crate::{
    config::{Admission, Config, Tuning},
    event::Event,
    timers::Timers,
    wire::{Address, Alive, Dead, Message, NodeState, Ping, PushPull, PushPullState, Suspect, Versions, packet},
};

/// The protocol versions this node can speak with, as memberlist counts them.
const PROTOCOLS: std::ops::RangeInclusive<u8> = 1..=5;
/// From this protocol version on a peer understands a checksum.
const CHECKSUM_PROTOCOL: u8 = 5;

/// What the membership asks the node to do.
#[derive(Debug)]
pub(crate) enum MembershipOutput {
    /// Send these encoded messages in one packet; with `piggyback`, fill it up with queued news.
    Packet { to: Target, messages: Vec<Bytes>, piggyback: bool },
    /// Exchange views with a member.
    PushPull { to: SocketAddr },
    /// Ping a member over a stream. After `until`, an answer comes too late.
    StreamPing { to: SocketAddr, ping: Ping, until: Instant },
    /// A member has answered for the first time, or at a new address.
    Proven(NodeName),
    /// Tell the application.
    Event(Event),
}

/// The recipient of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    /// Whether the peer understands a checksum.
    pub(crate) checksum: bool,
    pub(crate) versions: Versions,
    /// Whether it is known to be live. Else its versions may be another's by now: of a node that is back in its place, perhaps of an
    /// earlier release.
    pub(crate) is_live: bool,
}

impl Target {
    /// An address of which nothing else is known.
    fn unknown(addr: SocketAddr) -> Self {
        Self { addr, checksum: false, versions: Versions::default(), is_live: false }
    }
}

impl From<&Record> for Target {
    fn from(record: &Record) -> Self {
        Self {
            addr: record.addr(),
            checksum: record.versions[1] >= CHECKSUM_PROTOCOL,
            versions: record.versions,
            is_live: record.is_live(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    // Variants are in the order in which they go off at the same time: a probe ends before the next one begins.
    ProbeEnd(ProbeRound),
    ProbeTimeout(ProbeRound),
    Probe,
    /// Greet newcomers.
    Greet,
    PushPull,
    Relay(u32),
    Suspicion(NodeName),
    Leave,
    /// Announce this node at its new address.
    AnnounceMove,
}

/// Whether this node takes part, or has begun to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeaveState {
    Active,
    Leaving,
    Left,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Membership {
    me: NodeName,
    tuning: Tuning,
    max_members: usize,
    admission: Admission,
    rng: Xoshiro256PlusPlus,
    members: Members,
    incarnation: u32,
    leave_state: LeaveState,
    awareness: Awareness,
    /// The payload of this node's acknowledgements.
    ack_payload: Bytes,
    /// Whether the application is told of every ping that is answered.
    report_probes: bool,
    seq: u32,
    /// By round: the probe in progress, and the position in the table where the round goes on.
    probes: [Option<Probe>; 2],
    probe_positions: [usize; 2],
    newcomers: Newcomers,
    relays: BTreeMap<u32, RelayedPing>,
    suspicions: HashMap<NodeName, Suspicion>,
    conflicts: Conflicts,
    former_addresses: FormerAddresses,
    recorder: Recorder,
    queue: TransmitLimitedQueue,
    /// News about newcomers, which goes after all other news.
    newcomer_queue: TransmitLimitedQueue,
    timers: Timers<Timer>,
    outputs: VecDeque<MembershipOutput>,
}

impl Membership {
    /// A node alone in its cluster.
    pub(crate) fn new(now: Instant, config: &Config, address: Address, versions: Versions, rng_seed: u64) -> Self {
        let (me, tuning) = (NodeName::from(&*config.name), config.tuning.clone());
        let max_members = config.resource_limits.max_members;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(rng_seed);
        let mut members = Members::new(now);
        let record = members.insert(me.clone(), address, versions, now, &mut rng);
        record.incarnation = 1;
        record.set_meta(&config.announced_meta());
        members.mark_proven(me.as_bytes(), &mut rng);
        let mut timers = Timers::new();
        for (timer, interval) in [(Timer::Probe, tuning.probe_interval), (Timer::PushPull, tuning.push_pull_interval)] {
            // A random start keeps nodes that were started together from doing everything together.
            timers.set(timer, now + interval.mul_f64(rng.random()));
        }
        // Random, so that late answers to a former run of this node match no ping of this one.
        let seq = rng.random();
        let mut this = Self {
            me,
            awareness: Awareness::new(tuning.awareness_max_multiplier),
            ack_payload: Bytes::new(),
            report_probes: config.report_probes,
            queue: TransmitLimitedQueue::new(tuning.retransmit_mult, max_members),
            newcomer_queue: TransmitLimitedQueue::new(tuning.retransmit_mult, max_members),
            tuning,
            max_members,
            admission: config.admission.clone(),
            rng,
            members,
            incarnation: 1,
            leave_state: LeaveState::Active,
            seq,
            probes: [None, None],
            probe_positions: [0; 2],
            newcomers: Newcomers::default(),
            relays: BTreeMap::new(),
            suspicions: HashMap::new(),
            conflicts: Conflicts::new(),
            former_addresses: FormerAddresses::new(),
            recorder: Recorder::default(),
            timers,
            outputs: VecDeque::new(),
        };
        this.announce();
        this
    }

    /// Makes a new node know these live members as if it had long been in their cluster: nothing is told about them, neither
    /// to others nor to the application. For simulations, in which large clusters would take longer to form than to do
    /// what they are for.
    pub(crate) fn preload_cohort(&mut self, cohort: Arc<Cohort>) {
        self.members.preload_cohort(cohort, &mut self.rng);
        // They know this node just as well.
        self.newcomer_queue = TransmitLimitedQueue::new(self.tuning.retransmit_mult, self.max_members);
        self.queue = TransmitLimitedQueue::new(self.tuning.retransmit_mult, self.max_members);
    }

    /// These places on a hash ring, shared with other nodes of the cohort that have the same ones, as most do.
    pub(crate) fn share_ring(&self, places: Vec<(u64, SocketAddr)>) -> Arc<[(u64, SocketAddr)]> {
        match self.members.cohort() {
            Some(cohort) => cohort.share_ring(places),
            None => places.into(),
        }
    }

    /// Sets the payload of this node's acknowledgements.
    pub(crate) fn set_ack_payload(&mut self, payload: Bytes) {
        self.ack_payload = payload;
    }

    /// How unhealthy this node takes itself to be: Lifeguard's health score; 0 is healthy.
    pub(crate) fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// How much news waits to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len() + self.newcomer_queue.len()
    }

    /// Changes who may become a member.
    #[cfg(test)]
    pub(crate) fn set_admission(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// Changes how many members there can be.
    #[cfg(test)]
    pub(crate) fn set_max_members(&mut self, max_members: usize) {
        self.max_members = max_members;
    }

    /// How many members are remembered at most, and how much news about them is queued in each queue.
    pub(crate) fn max_members(&self) -> usize {
        self.max_members
    }

    /// Whether messages about members, and views, are accepted from this address.
    pub(crate) fn allows(&self, from: SocketAddr) -> bool {
        self.admission.allows(from.ip())
    }

    /// What was counted since the start.
    pub(crate) fn counts(&self) -> MembershipCounts {
        self.recorder.counts
    }

    /// What was dropped for lack of room since the start.
    pub(crate) fn overflow(&self) -> OverLimitCounts {
        self.recorder.overflow
    }

    /// Changes whenever a record came, went, or may have changed.
    pub(crate) fn changes(&self) -> u64 {
        self.members.changes()
    }

    /// Every record, this node's own included.
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.members.iter()
    }

    /// How many members are alive or suspect, this node included.
    pub(crate) fn live(&self) -> usize {
        self.members.live()
    }

    /// Every member that is alive or suspect, this node first.
    pub(crate) fn members(&self) -> Vec<Member> {
        let live = |record: &&Record| record.is_live();
        let others = self.others().filter(live);
        Some(self.me()).filter(live).into_iter().chain(others).map(Record::to_member).collect()
    }

    /// What this node believes of all members that it remembers, itself included, sorted by name.
    pub(crate) fn view_entries(&self) -> Vec<ViewEntry> {
        ViewEntry::from_view(&self.local_state(false).nodes)
    }

    /// This node's own "alive", for a node that may not know it. `None` once this node has begun to leave.
    pub(crate) fn introduction(&self) -> Option<Bytes> {
        (!self.has_left()).then(|| encode_alive(self.me()))
    }

    /// This node's own record.
    pub(crate) fn me(&self) -> &Record {
        self.members.me()
    }

    /// The record of a node.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Record> {
        self.members.get(name)
    }

    /// The other member that has this address: of several, one that has answered.
    pub(crate) fn find_addr(&self, addr: SocketAddr) -> Option<&Record> {
        self.members.at_addr(addr, |record| record.name != self.me)
    }

    /// Every other node that is remembered, the proven ones first.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Record> {
        let me = self.me();
        self.members.iter().filter(move |record| !std::ptr::eq(*record, me))
    }

    /// Random members to gossip to in one round: proven ones that are live, and those that died lately, so that they can
    /// refute.
    pub(crate) fn gossip_targets(&mut self, now: Instant) -> Vec<Target> {
        let (members, me, dead_for) = (&self.members, &self.me, self.tuning.gossip_to_the_dead);
        let allowed = |record: &Record| {
            record.name != *me
                && match record.state() {
                    MemberState::Alive | MemberState::Suspect => true,
                    MemberState::Dead => members.time_in_state(record, now) < dead_for,
                    MemberState::Left => false,
                }
        };
        self.members.random(self.tuning.gossip_nodes, &mut self.rng, allowed).into_iter().map(Target::from).collect()
    }

    /// Whether news waits to be sent.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty() || !self.newcomer_queue.is_empty()
    }

    /// Takes news for one packet with `budget` bytes left, and gives the number of bytes used. memberlist's
    /// `getBroadcasts`.
    pub(crate) fn take_broadcasts(&mut self, budget: usize, out: &mut Vec<Bytes>) -> usize {
        let n = self.num_nodes();
        let used = self.queue.take_broadcasts(n, packet::PART_OVERHEAD, budget, out);
        used + self.newcomer_queue.take_broadcasts(n, packet::PART_OVERHEAD, budget - used, out)
    }

    /// This node's view, to exchange with another node.
    pub(crate) fn local_state(&self, join: bool) -> PushPull {
        // All names in one piece of memory, instead of a thousand small ones.
        let mut names = BytesMut::new();
        self.members.iter().for_each(|record| names.extend_from_slice(record.name.as_bytes()));
        let mut names = names.freeze();
        let nodes = self.members.iter().map(|record| PushPullState {
            name: names.split_to(record.name.as_bytes().len()),
            address: record.address(),
            meta: record.meta(),
            incarnation: record.incarnation,
            state: match record.state() {
                MemberState::Alive => NodeState::Alive,
                MemberState::Suspect => NodeState::Suspect,
                MemberState::Dead => NodeState::Dead,
                MemberState::Left => NodeState::Left,
            },
            versions: Some(record.versions),
        });
        PushPull { join, nodes: nodes.collect(), user_state: Bytes::new() }
    }

    /// Does all that is due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Probe => self.next_probe(now),
                Timer::ProbeTimeout(round) => self.probe_indirectly(round),
                Timer::ProbeEnd(round) => self.fail_probe(now, round),
                Timer::Greet => self.greet(now),
                Timer::Relay(seq) => self.expire_relay(seq),
                Timer::Suspicion(name) => self.expire_suspicion(now, &name),
                Timer::PushPull => self.next_push_pull(now),
                Timer::Leave => self.finish_leave(),
                Timer::AnnounceMove => self.announce_new_address(),
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) fn poll_output(&mut self) -> Option<MembershipOutput> {
        self.outputs.pop_front()
    }

    /// Handles one message of a packet. User messages are handled elsewhere.
    ///
    /// # Errors
    ///
    /// The message is not believed; nothing has changed.
    pub(crate) fn handle(&mut self, now: Instant, from: SocketAddr, message: Message) -> Result<(), MembershipError> {
        self.recorder.record_arrival(&message);
        // memberlist checks only the senders of "alive" messages.
        if let Message::Suspect(Suspect { node, .. })
        | Message::Alive(Alive { node, .. })
        | Message::Dead(Dead { node, .. }) = &message
            && !self.allows(from)
        {
            return Err(MembershipError::NetworkNotAllowed { name: NodeName::from(&**node), addr: from });
        }
        match message {
            Message::Ping(ping) => self.handle_ping(from, &ping)?,
            Message::IndirectPing(ping) => self.handle_indirect_ping(now, from, &ping)?,
            Message::Ack(ack) => self.handle_ack(now, &ack)?,
            Message::Nack(nack) => self.handle_nack(nack.seq),
            Message::Suspect(suspect) => self.suspect_node(now, &suspect),
            Message::Alive(alive) => self.alive_node(now, Some(from), &alive)?,
            Message::Dead(dead) => self.dead_node(now, &dead),
            Message::User(_) => {}
        }
        Ok(())
    }

    fn next_push_pull(&mut self, now: Instant) {
        let interval = self.tuning.push_pull_interval * push_pull_scale(self.members.proven());
        self.timers.set(Timer::PushPull, now + interval);
        let me = &self.me;
        let allowed = |record: &Record| record.name != *me && record.state() == MemberState::Alive;
        if let Some(record) = self.members.random(1, &mut self.rng, allowed).first() {
            self.outputs.push_back(MembershipOutput::PushPull { to: record.addr() });
        }
    }

    /// Queues news about a member, instead of what was queued about it.
    fn queue_broadcast(&mut self, name: NodeName, message: Bytes) {
        let is_proven = self.members.get(name.as_bytes()).is_none_or(Record::is_proven);
        let (queue, other) = if is_proven {
            (&mut self.queue, &mut self.newcomer_queue)
        } else {
            (&mut self.newcomer_queue, &mut self.queue)
        };
        other.remove(&name);
        self.recorder.overflow.queued += queue.push_named(name, message) as u64;
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(MembershipOutput::Event(event));
    }
}

fn encode_alive(record: &Record) -> Bytes {
    packet::encode_message(&Message::Alive(Alive {
        incarnation: record.incarnation,
        node: Bytes::copy_from_slice(record.name.as_bytes()),
        address: record.address(),
        meta: record.meta(),
        versions: Some(record.versions),
    }))
}

/// By how much exchanges of views become rarer in a cluster of `n`, so that the bytes of all of them do not grow with the
/// square of its size: memberlist's `pushPullScale`.
fn push_pull_scale(n: usize) -> u32 {
    const THRESHOLD: usize = 32;
    if n <= THRESHOLD { 1 } else { ((n as f64).log2() - 5.0).ceil() as u32 + 1 }
}
