//! Who is in the cluster: SWIM over memberlist's wire, as a state machine.
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
//! An accusation counts when its incarnation is at least the one known; "alive" needs a higher one, and
//! only the node itself raises its incarnation, when it hears itself accused (it *refutes*). Left and
//! dead members are remembered for `gossip_to_the_dead`, then forgotten.
//!
//! # Messages
//!
//! Each probe interval one member is pinged, and one of those that have never answered ([`newcomers`]).
//! Without an ack in time others are asked to ping it; without an ack by the end of the interval it is
//! suspected. Whatever changes here is queued, named by the member it speaks of, and gossiped; the node
//! asks [`Membership::fill`] for it whenever it sends.
//!
//! # What can go wrong
//!
//! - *The same name at two addresses*: the live holder keeps it, both sides report a conflict; that of a
//!   left or dead one is taken over at once, that of a suspect after `dead_node_reclaim`.
//! - *A node restarts with a low incarnation*: it learns in the exchange of views what is said of it, and
//!   refutes; and whoever hears a stale "alive" answers with the accusation, so that it can.
//! - *An accusation with one of the highest incarnations there are* could never be refuted, and an "alive" with it
//!   never be taken back; what is far above the incarnation known is not believed.
//! - *A member that speaks another protocol version* would make every exchange of views fail; it is not
//!   let in. Nor is one from a network that is not allowed, one that the application refuses, or one for
//!   which there is no room ([`Bounds::max_members`](crate::Bounds)).

mod awareness;
mod cohort;
mod conflict;
mod counts;
mod index;
mod members;
mod myself;
mod newcomers;
mod probe;
mod queue;
mod record;
mod refusal;
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
    counts::{Counting, Overflow},
    members::Members,
    myself::FormerAddresses,
    newcomers::Newcomers,
    probe::{Probe, Relay, Round},
    suspicion::Suspicion,
};
pub(crate) use self::{
    cohort::Cohort,
    queue::{TransmitLimitedQueue, digits},
    record::Record,
    refusal::Refusal,
};
pub(crate) use crate::member::{Belief, Member, MemberState, NodeName};
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

/// What the membership wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send these encoded messages in one packet, filled up with what is queued if so wanted.
    Packet { to: Target, messages: Vec<Bytes>, piggyback: bool },
    /// Exchange views with a member.
    PushPull { to: SocketAddr },
    /// Ping a member over a stream; later the answer would be none any more.
    StreamPing { to: SocketAddr, ping: Ping, until: Instant },
    /// A member has answered for the first time, or at a new address.
    Proven(NodeName),
    /// Tell the application.
    Event(Event),
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    /// Whether the peer understands a checksum.
    pub(crate) checksum: bool,
    pub(crate) versions: Versions,
}

impl Target {
    /// A bare address, of which nothing is known.
    fn unknown(addr: SocketAddr) -> Self {
        Self { addr, checksum: false, versions: Versions::default() }
    }
}

impl From<&Record> for Target {
    fn from(record: &Record) -> Self {
        Self { addr: record.addr(), checksum: record.versions[1] >= CHECKSUM_PROTOCOL, versions: record.versions }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    // The end of a probe comes before the next one when both are due.
    ProbeEnd(Round),
    ProbeTimeout(Round),
    Probe,
    /// Newcomers are to be greeted.
    Greet,
    PushPull,
    Relay(u32),
    Suspicion(NodeName),
    Leave,
    /// This node is to announce itself at its new address.
    Hello,
}

/// Whether this node is still taking part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    Leaving,
    Gone,
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
    presence: Presence,
    awareness: Awareness,
    /// What this node's acknowledgements carry.
    ack_payload: Bytes,
    /// Whether the application is told of every ping that is answered.
    report_probes: bool,
    seq: u32,
    /// The probe under way in each round, and the place in the table where it goes on.
    probes: [Option<Probe>; 2],
    probe_places: [usize; 2],
    newcomers: Newcomers,
    relays: BTreeMap<u32, Relay>,
    suspicions: HashMap<NodeName, Suspicion>,
    conflicts: Conflicts,
    former: FormerAddresses,
    counting: Counting,
    queue: TransmitLimitedQueue,
    /// What is to be told of newcomers: after all else.
    hearsay: TransmitLimitedQueue,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
}

impl Membership {
    /// A node alone in its cluster.
    pub(crate) fn new(now: Instant, config: &Config, address: Address, versions: Versions, rng_seed: u64) -> Self {
        let (me, tuning) = (NodeName::from(&*config.name), config.tuning.clone());
        let max_members = config.bounds.max_members;
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(rng_seed);
        let mut members = Members::new(now);
        let record = members.insert(me.clone(), address, versions, now, &mut rng);
        record.incarnation = 1;
        record.set_meta(&config.told_meta());
        members.prove(me.as_bytes(), &mut rng);
        let mut timers = Timers::new();
        for (timer, interval) in [(Timer::Probe, tuning.probe_interval), (Timer::PushPull, tuning.push_pull_interval)] {
            // A random start keeps nodes that were started together from doing everything together.
            timers.set(timer, now + interval.mul_f64(rng.random()));
        }
        // Not where a former life of this node began: what was answered then is no answer now.
        let seq = rng.random();
        let mut this = Self {
            me,
            awareness: Awareness::new(tuning.awareness_max_multiplier),
            ack_payload: Bytes::new(),
            report_probes: config.report_probes,
            queue: TransmitLimitedQueue::new(tuning.retransmit_mult, max_members),
            hearsay: TransmitLimitedQueue::new(tuning.retransmit_mult, max_members),
            tuning,
            max_members,
            admission: config.admission.clone(),
            rng,
            members,
            incarnation: 1,
            presence: Presence::Here,
            seq,
            probes: [None, None],
            probe_places: [0; 2],
            newcomers: Newcomers::default(),
            relays: BTreeMap::new(),
            suspicions: HashMap::new(),
            conflicts: Conflicts::new(),
            former: FormerAddresses::new(),
            counting: Counting::default(),
            timers,
            outputs: VecDeque::new(),
        };
        this.announce();
        this
    }

    /// Makes this node, which has just begun, know these live members as if it had been in their cluster for long:
    /// nothing is told of them, to others or to the application. For simulations, whose large clusters would take
    /// longer to form than to do what they are for.
    pub(crate) fn acquaint(&mut self, cohort: Arc<Cohort>) {
        self.members.acquaint(cohort, &mut self.rng);
        // They know this node just as well.
        self.hearsay = TransmitLimitedQueue::new(self.tuning.retransmit_mult, self.max_members);
        self.queue = TransmitLimitedQueue::new(self.tuning.retransmit_mult, self.max_members);
    }

    /// These places on a ring, which are those of the whole cohort in most nodes that have one: kept once for all of those.
    pub(crate) fn share_ring(&self, places: Vec<(u64, SocketAddr)>) -> Arc<[(u64, SocketAddr)]> {
        match self.members.cohort() {
            Some(cohort) => cohort.share_ring(places),
            None => places.into(),
        }
    }

    /// What this node's acknowledgements carry from now on.
    pub(crate) fn set_ack_payload(&mut self, payload: Bytes) {
        self.ack_payload = payload;
    }

    /// How unhealthy this node takes itself to be; 0 is healthy.
    pub(crate) fn health_score(&self) -> u32 {
        self.awareness.score()
    }

    /// How many messages wait to be told.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len() + self.hearsay.len()
    }

    /// Changes who is let in.
    #[cfg(test)]
    pub(crate) fn set_admission(&mut self, admission: Admission) {
        self.admission = admission;
    }

    /// Changes how many members are let in.
    #[cfg(test)]
    pub(crate) fn set_max_members(&mut self, max_members: usize) {
        self.max_members = max_members;
    }

    /// How many members are remembered at most, and messages about them queued.
    pub(crate) fn max_members(&self) -> usize {
        self.max_members
    }

    /// Whether what comes from there, of members and of views, is listened to.
    pub(crate) fn allows(&self, from: SocketAddr) -> bool {
        self.admission.allows(from.ip())
    }

    /// What was counted until now.
    pub(crate) fn counts(&self) -> MembershipCounts {
        self.counting.counts
    }

    /// What was dropped for lack of room until now.
    pub(crate) fn overflow(&self) -> Overflow {
        self.counting.overflow
    }

    /// How often a record came, went, or may have changed.
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

    /// What this node believes of everybody it remembers, itself included, by name.
    pub(crate) fn beliefs(&self) -> Vec<Belief> {
        Belief::all_of(&self.local_state(false).nodes)
    }

    /// What this node says of itself to one that may not know it. Nothing once it has left.
    pub(crate) fn introduction(&self) -> Option<Bytes> {
        (!self.has_left()).then(|| encode_alive(self.me()))
    }

    /// This node's own record.
    pub(crate) fn me(&self) -> &Record {
        self.members.me()
    }

    /// What is known of a node.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Record> {
        self.members.get(name)
    }

    /// Whose address this is: of several who are said to be there, one that has answered.
    pub(crate) fn find_addr(&self, addr: SocketAddr) -> Option<&Record> {
        self.members.at_addr(addr, |record| record.name != self.me)
    }

    /// Every other node that is remembered, the proven ones first.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Record> {
        let me = self.me();
        self.members.iter().filter(move |record| !std::ptr::eq(*record, me))
    }

    /// Whom to gossip to in one round: live members that are proven, and the dead of late, so that they can refute.
    pub(crate) fn gossip_targets(&mut self, now: Instant) -> Vec<Target> {
        let (members, me, dead_for) = (&self.members, &self.me, self.tuning.gossip_to_the_dead);
        let allowed = |record: &Record| {
            record.name != *me
                && match record.state() {
                    MemberState::Alive | MemberState::Suspect => true,
                    MemberState::Dead => members.in_state(record, now) < dead_for,
                    MemberState::Left => false,
                }
        };
        self.members.random(self.tuning.gossip_nodes, &mut self.rng, allowed).into_iter().map(Target::from).collect()
    }

    /// Whether something is waiting to be told.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty() || !self.hearsay.is_empty()
    }

    /// Takes what is to be told, for one packet with `budget` bytes left; gives the bytes used.
    pub(crate) fn fill(&mut self, budget: usize, out: &mut Vec<Bytes>) -> usize {
        let n = self.audience();
        let used = self.queue.take(n, packet::PART_OVERHEAD, budget, out);
        used + self.hearsay.take(n, packet::PART_OVERHEAD, budget - used, out)
    }

    /// This node's view, to exchange with another.
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

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Probe => self.next_probe(now),
                Timer::ProbeTimeout(round) => self.probe_others(round),
                Timer::ProbeEnd(round) => self.fail_probe(now, round),
                Timer::Greet => self.greet(now),
                Timer::Relay(seq) => self.give_up_relay(seq),
                Timer::Suspicion(name) => self.declare_dead(now, &name),
                Timer::PushPull => self.next_push_pull(now),
                Timer::Leave => self.finish_leave(),
                Timer::Hello => self.say_hello(),
            }
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Handles one message of a packet; user messages are not for here.
    ///
    /// # Errors
    ///
    /// The message is not believed; nothing has changed.
    pub(crate) fn handle(&mut self, now: Instant, from: SocketAddr, message: Message) -> Result<(), Refusal> {
        self.counting.arrived(&message);
        // memberlist asks only of "alive" messages who sent them.
        if let Message::Suspect(Suspect { node, .. })
        | Message::Alive(Alive { node, .. })
        | Message::Dead(Dead { node, .. }) = &message
            && !self.allows(from)
        {
            return Err(Refusal::Outside { name: NodeName::from(&**node), addr: from });
        }
        match message {
            Message::Ping(ping) => self.handle_ping(from, &ping)?,
            Message::IndirectPing(ping) => self.handle_indirect_ping(now, from, &ping)?,
            Message::Ack(ack) => self.handle_ack(now, &ack)?,
            Message::Nack(nack) => self.handle_nack(nack.seq),
            Message::Suspect(suspect) => self.suspect(now, &suspect),
            Message::Alive(alive) => self.alive(now, Some(from), &alive)?,
            Message::Dead(dead) => self.dead(now, &dead),
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
            self.outputs.push_back(Output::PushPull { to: record.addr() });
        }
    }

    /// Queues what is to be told of a member.
    fn enqueue(&mut self, name: NodeName, message: Bytes) {
        let is_proven = self.members.get(name.as_bytes()).is_none_or(Record::is_proven);
        let (queue, other) =
            if is_proven { (&mut self.queue, &mut self.hearsay) } else { (&mut self.hearsay, &mut self.queue) };
        other.remove(&name);
        self.counting.overflow.queued += queue.push_named(name, message) as u64;
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
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

/// By how much exchanges of views become rarer in a cluster of `n`, so that their number does not grow
/// with its square: memberlist's `pushPullScale`.
fn push_pull_scale(n: usize) -> u32 {
    const THRESHOLD: usize = 32;
    if n <= THRESHOLD { 1 } else { ((n as f64).log2() - 5.0).ceil() as u32 + 1 }
}
