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
//! Each probe interval one member is pinged. Without an ack in time others are asked to ping it; without
//! an ack by the end of the interval it is suspected. Whatever changes here is queued, named by the
//! member it speaks of, and gossiped; the node asks [`Membership::fill`] for it whenever it sends.
//!
//! # What can go wrong
//!
//! - *The same name at two addresses*: the live holder keeps it, both sides report a conflict; a left or
//!   dead one is taken over at once.
//! - *A node restarts with a low incarnation*: it learns in the exchange of views what is said of it, and
//!   refutes; and whoever hears a stale "alive" answers with the accusation, so that it can.
//! - *An accusation with the highest incarnation there is* could never be refuted, and an "alive" with it
//!   never be taken back; both are ignored.
//! - *A member that speaks another protocol version* would make every exchange of views fail; it is not
//!   let in.

mod awareness;
mod members;
mod probe;
mod queue;
mod rtt;
mod rules;
mod suspicion;
#[cfg(test)]
mod tests;

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use self::{
    awareness::Awareness,
    members::Members,
    probe::{Probe, Relay},
    suspicion::Suspicion,
};
pub(crate) use self::{
    members::Record,
    queue::{TransmitLimitedQueue, digits},
};
use crate::{
    config::Tuning,
    timers::Timers,
    wire::{Address, Alive, Dead, Message, NodeState, Ping, PushPull, PushPullState, Versions, limits, packet},
};

/// A node's name, unique in its cluster. Go nodes may put any bytes in it; it is shown as UTF-8 with
/// what is not replaced.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<[u8]>);

impl NodeName {
    /// The name's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for NodeName {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for NodeName {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl Borrow<[u8]> for NodeName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for NodeName {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// What is believed of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer lately; it has some time left to say otherwise.
    Suspect,
    /// It failed.
    Dead,
    /// It said good-bye.
    Left,
}

impl MemberState {
    /// Whether the member may still be there: alive or suspect.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// A member of the cluster, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it tells about itself, at most 512 bytes.
    pub meta: Bytes,
    /// What is believed of it.
    pub state: MemberState,
    /// Which of its lives is meant: it counts up when it has to refute something said of it.
    pub incarnation: u32,
    /// How long it took to answer this node's last ping that it answered at once, within 3.2 %.
    pub rtt: Option<Duration>,
}

/// The protocol versions this node can speak with, as memberlist counts them.
const PROTOCOLS: std::ops::RangeInclusive<u8> = 1..=5;
/// From this protocol version on a peer understands a checksum.
const CHECKSUM_PROTOCOL: u8 = 5;
/// How many members are remembered at most.
pub(crate) const MAX_MEMBERS: usize = 100_000;
/// How long a leaving node goes on telling so.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How many members a leaving node tells so directly.
const LEAVE_FANOUT: usize = 64;
/// The same conflict is not reported again for this long.
const CONFLICT_SILENCE: Duration = Duration::from_secs(30);
/// How many conflicts are remembered, so as not to report them again.
const MAX_CONFLICTS: usize = 1024;

/// Something that happened in the cluster.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Joined(Member),
    Left(Member),
    Failed(Member),
    Updated(Member),
    NameConflict {
        name: NodeName,
        holder: SocketAddr,
        claimant: SocketAddr,
    },
    /// A member answered a ping.
    Probed {
        name: NodeName,
        rtt: Duration,
        payload: Bytes,
    },
    /// This node has told that it leaves.
    LeaveComplete,
}

/// What the membership wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send these encoded messages in one packet, filled up with what is queued if so wanted.
    Packet { to: Target, messages: Vec<Bytes>, piggyback: bool },
    /// Exchange views with a member.
    PushPull { to: SocketAddr },
    /// Ping a member over a stream; later the answer would be none any more.
    StreamPing { to: SocketAddr, ping: Ping, until: Instant },
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

/// Why a message was not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a ping for \"{0}\" arrived, which is not this node's name; does its address belong to another node now?")]
    NotMe(NodeName),
    #[error(
        "node \"{name}\" speaks protocol versions {min} to {max} (currently {current}), this node {} to {}; \
         run versions that overlap",
        PROTOCOLS.start(), PROTOCOLS.end()
    )]
    Protocol { name: NodeName, min: u8, max: u8, current: u8 },
    #[error(
        "node \"{name}\" has {kind} version {version}, but this cluster needs {min} to {max}; run versions that overlap"
    )]
    Incompatible { name: NodeName, kind: &'static str, version: u8, min: u8, max: u8 },
    #[error(
        "node \"{name}\" understands {kind} versions {min} to {max}, but this cluster speaks {version}; \
         run versions that overlap"
    )]
    Deaf { name: NodeName, kind: &'static str, version: u8, min: u8, max: u8 },
    #[error("node \"{0}\" was not let in: {MAX_MEMBERS} members are known already")]
    Full(NodeName),
    #[error("a node without a name announces itself at {0}; give it one")]
    NoName(SocketAddr),
    #[error("node \"{0}\" announces no usable address ({1})")]
    NoAddress(NodeName, SocketAddr),
    #[error(
        "the acknowledgement of node \"{name}\" carries {size} bytes, which are passed over: let it carry {} at most",
        limits::ACK_PAYLOAD
    )]
    AckPayload { name: NodeName, size: usize },
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    // The end of a probe comes before the next one when both are due.
    ProbeEnd,
    ProbeTimeout,
    Probe,
    PushPull,
    Relay(u32),
    Suspicion(NodeName),
    Leave,
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
    probe: Option<Probe>,
    probe_place: usize,
    relays: BTreeMap<u32, Relay>,
    suspicions: HashMap<NodeName, Suspicion>,
    conflicts: BTreeMap<NodeName, (SocketAddr, Instant)>,
    queue: TransmitLimitedQueue,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
}

impl Membership {
    /// A node alone in its cluster.
    pub(crate) fn new(
        now: Instant,
        me: NodeName,
        address: Address,
        meta: Bytes,
        versions: Versions,
        tuning: Tuning,
        rng_seed: u64,
    ) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(rng_seed);
        let mut members = Members::new();
        let record = members.insert(me.clone(), address, versions, now, &mut rng);
        record.incarnation = 1;
        record.set_meta(&meta);
        let mut timers = Timers::new();
        for (timer, interval) in [(Timer::Probe, tuning.probe_interval), (Timer::PushPull, tuning.push_pull_interval)] {
            // A random start keeps nodes that were started together from doing everything together.
            timers.set(timer, now + interval.mul_f64(rng.random()));
        }
        let mut this = Self {
            me,
            awareness: Awareness::new(tuning.awareness_max_multiplier),
            ack_payload: Bytes::new(),
            report_probes: false,
            queue: TransmitLimitedQueue::new(tuning.retransmit_mult, MAX_MEMBERS),
            tuning,
            rng,
            members,
            incarnation: 1,
            presence: Presence::Here,
            seq: 0,
            probe: None,
            probe_place: 0,
            relays: BTreeMap::new(),
            suspicions: HashMap::new(),
            conflicts: BTreeMap::new(),
            timers,
            outputs: VecDeque::new(),
        };
        this.announce();
        this
    }

    /// Makes this node know these live members as if it had been in their cluster for long: nothing is
    /// told of them, to others or to the application. For simulations, whose large clusters would take
    /// longer to form than to do what they are for.
    pub(crate) fn acquaint(&mut self, now: Instant, members: &[(NodeName, Address, Versions)]) {
        let new: Vec<_> = members.iter().filter(|(name, ..)| self.members.get(name.as_bytes()).is_none()).collect();
        self.members.extend(new.into_iter().cloned(), now, &mut self.rng);
        // They know this node just as well.
        self.queue = TransmitLimitedQueue::new(self.tuning.retransmit_mult, MAX_MEMBERS);
    }

    /// From now on the application is told of every ping that is answered.
    pub(crate) fn report_probes(&mut self) {
        self.report_probes = true;
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
        self.queue.len()
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

    /// What this node says of itself to one that may not know it. Nothing once it has left.
    pub(crate) fn introduction(&self) -> Option<Bytes> {
        (!self.has_left()).then(|| encode_alive(self.me()))
    }

    /// This node's own record.
    pub(crate) fn me(&self) -> &Record {
        self.members.get(self.me.as_bytes()).expect("a node never forgets itself")
    }

    /// What is known of a node.
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Record> {
        self.members.get(name)
    }

    /// Whose address this is. Looks at every member.
    pub(crate) fn find_addr(&self, addr: SocketAddr) -> Option<&Record> {
        self.others().filter(|record| record.addr() == addr).max_by_key(|record| record.is_live())
    }

    /// Some member that is `wanted`, at random.
    pub(crate) fn pick(&self, rng: &mut Xoshiro256PlusPlus, wanted: impl Fn(&Record) -> bool) -> Option<&Record> {
        self.members.random(1, rng, wanted).pop()
    }

    /// Every other node that is remembered.
    pub(crate) fn others(&self) -> impl Iterator<Item = &Record> {
        self.members.iter().filter(|record| record.name != self.me)
    }

    /// Whom to gossip to in one round: live members, and the dead of late, so that they can refute.
    pub(crate) fn gossip_targets(&mut self, now: Instant) -> Vec<Target> {
        let (me, dead_for) = (&self.me, self.tuning.gossip_to_the_dead);
        let allowed = |record: &Record| {
            record.name != *me
                && match record.state() {
                    MemberState::Alive | MemberState::Suspect => true,
                    MemberState::Dead => now.saturating_duration_since(record.since()) < dead_for,
                    MemberState::Left => false,
                }
        };
        self.members.random(self.tuning.gossip_nodes, &mut self.rng, allowed).into_iter().map(Target::from).collect()
    }

    /// Whether something is waiting to be told.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes what is to be told, for one packet with `budget` bytes left; gives the bytes used.
    pub(crate) fn fill(&mut self, budget: usize, out: &mut Vec<Bytes>) -> usize {
        self.queue.take(self.members.live(), packet::PART_OVERHEAD, budget, out)
    }

    /// This node's view, to exchange with another.
    pub(crate) fn local_state(&self, join: bool) -> PushPull {
        let nodes = self.members.iter().map(|record| PushPullState {
            name: Bytes::copy_from_slice(record.name.as_bytes()),
            address: record.address,
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

    /// Whether this node has begun to leave.
    pub(crate) fn has_left(&self) -> bool {
        self.presence != Presence::Here
    }

    /// Tells the others that this node leaves, unless it is to be `silent`. [`Event::LeaveComplete`]
    /// follows.
    pub(crate) fn leave(&mut self, now: Instant, silent: bool) {
        if self.presence != Presence::Here {
            return;
        }
        self.presence = Presence::Leaving;
        let name = Bytes::copy_from_slice(self.me.as_bytes());
        let dead = Message::Dead(Dead { incarnation: self.incarnation, node: name.clone(), from: name });
        let message = packet::encode_message(&dead);
        let me = self.me.clone();
        self.members.set_state(me.as_bytes(), MemberState::Left, now);
        self.timers.cancel(&Timer::Probe);
        self.timers.cancel(&Timer::PushPull);
        // At once to as many as reasonable, ahead of whatever else is queued; the rest hear by gossip.
        let told = self.members.random(LEAVE_FANOUT, &mut self.rng, Record::is_live);
        if silent || told.is_empty() {
            self.presence = Presence::Gone;
            self.outputs.push_back(Output::Event(Event::LeaveComplete));
            return;
        }
        for record in told {
            let messages = vec![message.clone()];
            self.outputs.push_back(Output::Packet { to: record.into(), messages, piggyback: false });
        }
        self.queue.push_named(me, message);
        self.timers.set(Timer::Leave, now + LEAVE_TIMEOUT);
    }

    /// To be called after each round of gossip: notices when a leave has been told often enough.
    pub(crate) fn after_gossip(&mut self) {
        if self.presence == Presence::Leaving && !self.queue.contains(&self.me) {
            self.finish_leave();
        }
    }

    fn finish_leave(&mut self) {
        self.presence = Presence::Gone;
        self.timers.cancel(&Timer::Leave);
        self.outputs.push_back(Output::Event(Event::LeaveComplete));
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Probe => self.next_probe(now),
                Timer::ProbeTimeout => self.probe_others(),
                Timer::ProbeEnd => self.fail_probe(now),
                Timer::Relay(seq) => self.give_up_relay(seq),
                Timer::Suspicion(name) => self.declare_dead(now, &name),
                Timer::PushPull => self.next_push_pull(now),
                Timer::Leave => self.finish_leave(),
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
        match message {
            Message::Ping(ping) => self.handle_ping(from, &ping)?,
            Message::IndirectPing(ping) => self.handle_indirect_ping(now, from, &ping),
            Message::Ack(ack) => self.handle_ack(now, &ack)?,
            Message::Nack(nack) => self.handle_nack(nack.seq),
            Message::Suspect(suspect) => self.suspect(now, &suspect),
            Message::Alive(alive) => self.alive(now, &alive)?,
            Message::Dead(dead) => self.dead(now, &dead),
            Message::User(_) => {}
        }
        Ok(())
    }

    fn next_push_pull(&mut self, now: Instant) {
        let interval = self.tuning.push_pull_interval * push_pull_scale(self.members.len());
        self.timers.set(Timer::PushPull, now + interval);
        let me = &self.me;
        let allowed = |record: &Record| record.name != *me && record.state() == MemberState::Alive;
        if let Some(record) = self.members.random(1, &mut self.rng, allowed).first() {
            self.outputs.push_back(Output::PushPull { to: record.addr() });
        }
    }

    /// Queues this node's own "alive".
    fn announce(&mut self) {
        let alive = encode_alive(self.me());
        self.queue.push_named(self.me.clone(), alive);
    }

    fn emit(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Somebody claims the name of a live member. The application is told, and so are both of them, since
    /// neither gossips to its own name.
    fn report_conflict(&mut self, now: Instant, name: &NodeName, claim: &Alive) {
        let Some(record) = self.members.get(name.as_bytes()) else { return };
        let (holder, claimant) = (Target::from(record), claim.address.socket_addr());
        let fresh = |at: Instant| now.saturating_duration_since(at) < CONFLICT_SILENCE;
        if self.conflicts.get(name).is_some_and(|&(known, at)| known == claimant && fresh(at)) {
            return;
        }
        self.conflicts.retain(|_, (_, at)| fresh(*at));
        if self.conflicts.len() >= MAX_CONFLICTS {
            return;
        }
        self.conflicts.insert(name.clone(), (claimant, now));
        let held = encode_alive(record);
        if *name != self.me {
            let claimed = packet::encode_message(&Message::Alive(claim.clone()));
            self.outputs.push_back(Output::Packet { to: holder, messages: vec![claimed], piggyback: false });
        }
        let to = Target::unknown(claimant);
        self.outputs.push_back(Output::Packet { to, messages: vec![held], piggyback: false });
        self.emit(Event::NameConflict { name: name.clone(), holder: holder.addr, claimant });
    }
}

fn encode_alive(record: &Record) -> Bytes {
    packet::encode_message(&Message::Alive(Alive {
        incarnation: record.incarnation,
        node: Bytes::copy_from_slice(record.name.as_bytes()),
        address: record.address,
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
