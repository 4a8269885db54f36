//! Newcomers: members that have not answered this node yet. Without keys anybody can make them up, so they must not
//! cost anything to members that answer.
//!
//! A member is *proven* once it has answered this node at its present address: a ping, however the answer came, or an
//! exchange of views. A newcomer is a member too, is told to the application and to others, and gets messages. But it is
//! treated differently:
//!
//! | what | proven members | newcomers |
//! |---|---|---|
//! | probes | each in its turn, one an interval | the same, in a round of their own |
//! | gossip, exchanges of views, indirect pings, goodbyes | go to some of them | only while nobody is proven |
//! | news about them | first | in the room that is left in a packet |
//! | the size of the cluster, on which timeouts depend | counts them | does not |
//! | how often news is sent | counts them | counts as many as are proven, or a few |
//! | this node's health score | depends on them | does not |
//! | messages, voices, repair, receipts | see `dissemination` | |
//!
//! So that a real newcomer is proven at once, each is *greeted*: pinged apart from all probes, within a tenth of a gossip
//! interval, up to [`GREETING_TRIES`] times, one gossip interval apart. With the first ping this node introduces itself, as
//! the two are newcomers to each other; from the second on, it also tries a stream. In each gossip interval there are at
//! most [`GREETINGS_PER_INTERVAL`] greetings ([`GREETING_BURST`] after some time without) and
//! [`STREAM_GREETINGS_PER_INTERVAL`] streams. Newcomers that said themselves where they are go first: by an announcement
//! from their own address, or with their view.
//!
//! # What can go wrong
//!
//! - *Whoever makes up members answers for them*: they are proven, and members as all others are. `max_members` bounds
//!   them.
//! - *There is no room for a real newcomer, for all those that are made up*: a newcomer that has answered no greeting gives
//!   way to the next.
//! - *A greeting or its answer is lost*: the greeting is repeated, and then the probes of the newcomers' round go on, which
//!   also try other nodes and a stream.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::RngExt;

use super::{
    Event, Member, MemberState, Membership, MembershipOutput, NodeName, Record, Target, Timer,
    probe::STREAM_PING_PROTOCOL,
};
use crate::wire::{Message, Ping, PushPull, packet};

/// How many newcomers are greeted in each gossip interval at most.
const GREETINGS_PER_INTERVAL: usize = 128;
/// How many at once, after some time without: all of a cluster that a node has just joined.
const GREETING_BURST: usize = 512;
/// How many newcomers count in [`Membership::num_nodes`], even if fewer members are proven.
const NEWCOMERS_COUNTED: usize = 64;
/// How often each newcomer is greeted.
const GREETING_TRIES: u8 = 3;
/// How many of those that are greeted again in a gossip interval are greeted over a stream, too.
const STREAM_GREETINGS_PER_INTERVAL: usize = 8;
/// After how many probe intervals without an answer a newcomer gives way to another, if there is no room.
const EVICTION_INTERVALS: u32 = 2;
/// How many newcomers are looked at to find one that gives way.
const EVICTION_SAMPLES: usize = 32;
/// How many newcomers at the address that a view came from are greeted first.
const PRIORITY_GREETINGS: usize = 8;

/// The order of greetings: those that spoke for themselves first (`false`), then by time, then in the order of coming.
type GreetingRank = (bool, Instant, u64);

/// Which newcomers to greet, and which greetings await an answer. Holds no more than there are members, and the greetings
/// of the last probe interval.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    due: BTreeMap<GreetingRank, NodeName>,
    next_id: u64,
    /// The rank of each in `due`, and how often it was greeted.
    scheduled: HashMap<NodeName, (GreetingRank, u8)>,
    /// At what time how many greetings were left.
    allowance_left: Option<(Instant, usize)>,
    /// Greeted newcomers and when, by the sequence numbers of their pings.
    pending_acks: BTreeMap<u32, (NodeName, Instant)>,
}

impl Newcomers {
    /// Schedules another greeting of a newcomer, instead of the one it had.
    fn schedule(&mut self, name: NodeName, first: bool, at: Instant, tries: u8) {
        let rank = (!first, at, self.next_id);
        self.next_id += 1;
        if let Some((old, _)) = self.scheduled.insert(name.clone(), (rank, tries)) {
            self.due.remove(&old);
        }
        self.due.insert(rank, name);
    }

    /// Takes out the next newcomer to greet, and how often it was greeted.
    fn pop_due(&mut self, now: Instant) -> Option<(NodeName, u8)> {
        let entry = self.due.first_entry().filter(|entry| entry.key().1 <= now)?;
        let name = entry.remove();
        let (_, tries) = self.scheduled.remove(&name)?;
        Some((name, tries))
    }

    /// How many newcomers may be greeted now.
    fn allowance(&self, now: Instant, interval: Duration) -> usize {
        self.allowance_left.map_or(GREETING_BURST, |(then, left)| {
            let intervals = now.saturating_duration_since(then).as_nanos() / interval.as_nanos().max(1);
            let earned = usize::try_from(intervals).unwrap_or(GREETING_BURST).saturating_mul(GREETINGS_PER_INTERVAL);
            left.saturating_add(earned).min(GREETING_BURST)
        })
    }

    fn remove(&mut self, name: &NodeName) {
        if let Some((rank, _)) = self.scheduled.remove(name) {
            self.due.remove(&rank);
        }
    }

    /// The newcomer that this answers for, if it answers a greeting.
    pub(super) fn take_answered(&mut self, seq: u32) -> Option<NodeName> {
        self.pending_acks.remove(&seq).map(|(name, _)| name)
    }
}

impl Membership {
    /// How many live members are proven, this node included.
    pub(crate) fn proven_live(&self) -> usize {
        self.members.proven_live()
    }

    /// The number of nodes by which this node scales its gossip: `NumNodes` in memberlist. Of newcomers it counts as many
    /// as members are proven, or a few: while a cluster forms, most are newcomers to each other.
    pub(crate) fn num_nodes(&self) -> usize {
        let proven = self.members.proven_live();
        proven + (self.members.live() - proven).min(proven.max(NEWCOMERS_COUNTED))
    }

    /// A member has come that has not answered yet: it is greeted soon, and before others if it spoke for itself (`first`).
    pub(super) fn schedule_greeting(&mut self, now: Instant, name: &NodeName, first: bool) {
        if first || !self.newcomers.scheduled.contains_key(name) {
            self.newcomers.schedule(name.clone(), first, now, 0);
        }
        self.arm_greet_timer(now + self.tuning.gossip_interval / 10);
    }

    /// A view has come from `peer`: newcomers in it that have this address, such as its sender, are greeted first.
    pub(crate) fn prioritize_greetings(&mut self, now: Instant, peer: IpAddr, remote: &PushPull) {
        let at_home =
            remote.nodes.iter().filter(|node| node.address.socket_addr().ip() == peer).take(PRIORITY_GREETINGS);
        let is_new = |name: &[u8]| self.members.get(name).is_some_and(|record| !record.is_proven());
        let names: Vec<_> = at_home.filter(|node| is_new(&node.name)).map(|node| NodeName::from(&*node.name)).collect();
        for name in names {
            self.schedule_greeting(now, &name, true);
        }
    }

    /// Makes the next round of greetings begin at `at` or before.
    fn arm_greet_timer(&mut self, at: Instant) {
        if !self.has_left() && self.timers.get(&Timer::Greet).is_none_or(|due| due > at) {
            self.timers.set(Timer::Greet, at);
        }
    }

    /// Greets the newcomers that are due.
    pub(super) fn greet(&mut self, now: Instant) {
        let patience = self.tuning.probe_interval;
        self.newcomers.pending_acks.retain(|_, (_, sent)| now.saturating_duration_since(*sent) < patience);
        let allowed = self.newcomers.allowance(now, self.tuning.gossip_interval);
        let (mut greeted, mut streams) = (0, 0);
        while greeted < allowed
            && let Some((name, tries)) = self.newcomers.pop_due(now)
        {
            let record = self.members.get(name.as_bytes());
            let Some(record) = record.filter(|record| record.is_live() && !record.is_proven()) else { continue };
            let to: Target = record.into();
            greeted += 1;
            let seq = self.next_seq();
            let (node, source) = (Bytes::copy_from_slice(name.as_bytes()), Some(self.source()));
            let ping = Ping { seq, node, source };
            // A stream may get through where packets do not.
            if tries > 0 && streams < STREAM_GREETINGS_PER_INTERVAL && to.versions[1] >= STREAM_PING_PROTOCOL {
                streams += 1;
                let until = now + self.tuning.probe_interval;
                self.outputs.push_back(MembershipOutput::StreamPing { to: to.addr, ping: ping.clone(), until });
            }
            let ping = packet::encode_message(&Message::Ping(ping));
            let introduction = self.introduction().filter(|_| tries == 0);
            let messages = [ping].into_iter().chain(introduction).collect();
            self.outputs.push_back(MembershipOutput::Packet { to, messages, piggyback: false });
            self.newcomers.pending_acks.insert(seq, (name.clone(), now));
            if tries + 1 < GREETING_TRIES {
                self.newcomers.schedule(name, false, now + self.tuning.gossip_interval, tries + 1);
            }
        }
        self.newcomers.allowance_left = Some((now, allowed - greeted));
        if let Some((_, next, _)) = self.newcomers.due.keys().next() {
            self.arm_greet_timer((*next).max(now + self.tuning.gossip_interval));
        }
    }

    /// Makes room for one more member: a newcomer that has answered no greeting gives way, if there is one. Gives whether
    /// there is room now.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        let patience = self.tuning.probe_interval * EVICTION_INTERVALS;
        let (proven, all) = (self.members.proven(), self.members.len());
        let samples = EVICTION_SAMPLES.min(all - proven);
        let found = (0..samples).find_map(|_| {
            let place = self.rng.random_range(proven..all);
            let record = self.members.at(place)?;
            let gives_way = self.members.time_in_state(record, now) >= patience
                && !self.newcomers.scheduled.contains_key(&record.name);
            gives_way.then(|| (place, record.name.clone()))
        });
        let Some((place, name)) = found else { return false };
        self.drop_suspicion(&name);
        self.newcomer_queue.remove(&name);
        let gone = self.members.remove_newcomer(place);
        if let Some(record) = gone.filter(Record::is_live) {
            self.emit(Event::Failed(Member { state: MemberState::Dead, ..record.to_member() }));
        }
        true
    }

    /// A member has answered.
    pub(super) fn mark_proven(&mut self, name: &NodeName) {
        if !self.members.mark_proven(name.as_bytes(), &mut self.rng) {
            return;
        }
        self.newcomers.remove(name);
        // News about it now goes among that about proven members.
        if let Some(message) = self.newcomer_queue.remove(name) {
            self.queue_broadcast(name.clone(), message);
        }
        self.outputs.push_back(MembershipOutput::Proven(name.clone()));
    }

    /// A node at this address, to which this node had connected, has answered with its view: it is the member that is known
    /// to be there, unless several are.
    pub(crate) fn mark_proven_at(&mut self, addr: SocketAddr) {
        let name = {
            let mut there = self.others().filter(|record| record.is_live() && record.addr() == addr);
            there.next().filter(|_| there.next().is_none()).map(|record: &Record| record.name.clone())
        };
        name.into_iter().for_each(|name| self.mark_proven(&name));
    }

    /// A member is at another address now, where it has not answered yet.
    pub(super) fn mark_unproven(&mut self, now: Instant, name: &NodeName, first: bool) {
        self.members.mark_unproven(name.as_bytes());
        self.schedule_greeting(now, name, first);
    }
}
