//! Newcomers: members which have not answered this node yet. Without keys anybody can make them up, and so they
//! must cost those that answer nothing.
//!
//! A member is *proven* once it has answered this node at its present address: a ping, however the answer came, or an
//! exchange of views. Until then it is a member, is told to the application and to others, and gets messages, but
//! stands beside those that are proven:
//!
//! | what | the proven | newcomers |
//! |---|---|---|
//! | probes | each in its turn, one an interval | in a round of their own, one an interval beside |
//! | gossip, exchanges of views, indirect pings, good-byes | go to some of them | only while nobody is proven |
//! | what is told of them | first | in the room that is left in a packet |
//! | the size of the cluster, on which times depend | counts them | does not |
//! | how often news is told | counts them | counts as many, or a few |
//! | this node's view of its own health | goes by them | does not |
//! | messages, voices, repair, receipts | see `dissemination` | |
//!
//! So that a real newcomer is proven at once, each is *greeted*: pinged beside all probes, within a tenth of a gossip
//! interval, up to [`TRIES`] times, one gossip interval apart. With the first ping this node introduces itself, as the
//! two are newcomers to each other; from the second on a stream is tried as well. In each gossip interval there are
//! [`AT_ONCE`] greetings at most, [`BURST`] after some time without, and [`STREAMS_AT_ONCE`] streams: first for those
//! that said themselves where they are, by an announcement from their own address, or with their view.
//!
//! # What can go wrong
//!
//! - *Who makes up members answers for them*: they are proven, and members as all others are. `max_members` bounds them.
//! - *There is no room for a real newcomer, for all those that are made up*: who has answered none of its greetings gives
//!   way to the next.
//! - *A greeting or its answer is lost*: it is repeated, and then the probes of the newcomers' round go on, which try
//!   other nodes and a stream as well.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::RngExt;

use super::{
    Event, Member, MemberState, Membership, NodeName, Output, Record, Target, Timer, probe::STREAM_PING_PROTOCOL,
};
use crate::wire::{Message, Ping, PushPull, packet};

/// How many newcomers are greeted in each gossip interval at most; and at once, after some time without: all of a
/// cluster that a node has just joined.
const AT_ONCE: usize = 128;
const BURST: usize = 512;
/// So many newcomers count in full.
const FEW: usize = 64;
/// How often each is greeted.
const TRIES: u8 = 3;
/// How many of those greeted again in a gossip interval are greeted over a stream as well.
const STREAMS_AT_ONCE: usize = 8;
/// After how many probe intervals without an answer a newcomer gives way to another, where there is no room.
const PATIENCE: u32 = 2;
/// How many are looked at to find such a one.
const LOOKED_AT: usize = 32;
/// How many at the address that a view came from are greeted first.
const AT_HOME: usize = 8;

/// When a newcomer is greeted next: those first that spoke for themselves, then by time and in the order of their coming.
type Turn = (bool, Instant, u64);

/// Whom to greet, and whose answers are awaited. Holds no more than there are members, and the greetings of the last
/// probe interval.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    due: BTreeMap<Turn, NodeName>,
    next_id: u64,
    /// The turn of each in `due`, and how often it was greeted.
    waiting: HashMap<NodeName, (Turn, u8)>,
    /// How many greetings were left at that time.
    left: Option<(Instant, usize)>,
    /// By the numbers of their pings.
    awaited: BTreeMap<u32, (NodeName, Instant)>,
}

impl Newcomers {
    /// Gives a newcomer another turn.
    fn put(&mut self, name: NodeName, first: bool, at: Instant, tries: u8) {
        let turn = (!first, at, self.next_id);
        self.next_id += 1;
        if let Some((old, _)) = self.waiting.insert(name.clone(), (turn, tries)) {
            self.due.remove(&old);
        }
        self.due.insert(turn, name);
    }

    /// Takes the next one to greet, and how often it was greeted.
    fn take(&mut self, now: Instant) -> Option<(NodeName, u8)> {
        let entry = self.due.first_entry().filter(|entry| entry.key().1 <= now)?;
        let name = entry.remove();
        let (_, tries) = self.waiting.remove(&name)?;
        Some((name, tries))
    }

    /// How many may be greeted now.
    fn allowance(&self, now: Instant, interval: Duration) -> usize {
        self.left.map_or(BURST, |(then, left)| {
            let intervals = now.saturating_duration_since(then).as_nanos() / interval.as_nanos().max(1);
            let earned = usize::try_from(intervals).unwrap_or(BURST).saturating_mul(AT_ONCE);
            left.saturating_add(earned).min(BURST)
        })
    }

    fn remove(&mut self, name: &NodeName) {
        if let Some((turn, _)) = self.waiting.remove(name) {
            self.due.remove(&turn);
        }
    }

    /// Whose answer this is, if it is one to a greeting.
    pub(super) fn answered(&mut self, seq: u32) -> Option<NodeName> {
        self.awaited.remove(&seq).map(|(name, _)| name)
    }
}

impl Membership {
    /// How many live members are proven, this node included.
    pub(crate) fn proven_live(&self) -> usize {
        self.members.proven_live()
    }

    /// How many are to hear what this node tells in gossip. Of newcomers it counts as many as have answered, or a few:
    /// where a cluster forms most are newcomers to each other.
    pub(crate) fn audience(&self) -> usize {
        let proven = self.members.proven_live();
        proven + (self.members.live() - proven).min(proven.max(FEW))
    }

    /// A member has come that has not answered yet: it is greeted soon, `first` of all if it spoke for itself.
    pub(super) fn meet(&mut self, now: Instant, name: &NodeName, first: bool) {
        if first || !self.newcomers.waiting.contains_key(name) {
            self.newcomers.put(name.clone(), first, now, 0);
        }
        self.greet_by(now + self.tuning.gossip_interval / 10);
    }

    /// A view has come from there: who says in it that this is its own address is greeted first.
    pub(crate) fn meet_first(&mut self, now: Instant, peer: IpAddr, remote: &PushPull) {
        let at_home = remote.nodes.iter().filter(|node| node.address.socket_addr().ip() == peer).take(AT_HOME);
        let is_new = |name: &[u8]| self.members.get(name).is_some_and(|record| !record.is_proven());
        let names: Vec<_> = at_home.filter(|node| is_new(&node.name)).map(|node| NodeName::from(&*node.name)).collect();
        for name in names {
            self.meet(now, &name, true);
        }
    }

    fn greet_by(&mut self, at: Instant) {
        if !self.has_left() && self.timers.get(&Timer::Greet).is_none_or(|due| due > at) {
            self.timers.set(Timer::Greet, at);
        }
    }

    /// Greets those whose turn it is.
    pub(super) fn greet(&mut self, now: Instant) {
        let patience = self.tuning.probe_interval;
        self.newcomers.awaited.retain(|_, (_, sent)| now.saturating_duration_since(*sent) < patience);
        let allowed = self.newcomers.allowance(now, self.tuning.gossip_interval);
        let (mut greeted, mut streams) = (0, 0);
        while greeted < allowed
            && let Some((name, tries)) = self.newcomers.take(now)
        {
            let record = self.members.get(name.as_bytes());
            let Some(record) = record.filter(|record| record.is_live() && !record.is_proven()) else { continue };
            let to: Target = record.into();
            greeted += 1;
            let seq = self.next_seq();
            let (node, source) = (Bytes::copy_from_slice(name.as_bytes()), Some(self.source()));
            let ping = Ping { seq, node, source };
            // Where packets do not get through, this may.
            if tries > 0 && streams < STREAMS_AT_ONCE && to.versions[1] >= STREAM_PING_PROTOCOL {
                streams += 1;
                let until = now + self.tuning.probe_interval;
                self.outputs.push_back(Output::StreamPing { to: to.addr, ping: ping.clone(), until });
            }
            let ping = packet::encode_message(&Message::Ping(ping));
            let introduction = self.introduction().filter(|_| tries == 0);
            let messages = [ping].into_iter().chain(introduction).collect();
            self.outputs.push_back(Output::Packet { to, messages, piggyback: false });
            self.newcomers.awaited.insert(seq, (name.clone(), now));
            if tries + 1 < TRIES {
                self.newcomers.put(name, false, now + self.tuning.gossip_interval, tries + 1);
            }
        }
        self.newcomers.left = Some((now, allowed - greeted));
        if let Some((_, next, _)) = self.newcomers.due.keys().next() {
            self.greet_by((*next).max(now + self.tuning.gossip_interval));
        }
    }

    /// Where there is no room for one more member, one that has answered none of its greetings gives way. Whether
    /// there is room then.
    pub(super) fn make_room(&mut self, now: Instant) -> bool {
        let patience = self.tuning.probe_interval * PATIENCE;
        let (proven, all) = (self.members.proven(), self.members.len());
        let looked_at = LOOKED_AT.min(all - proven);
        let found = (0..looked_at).find_map(|_| {
            let place = self.rng.random_range(proven..all);
            let record = self.members.at(place)?;
            let gives_way =
                self.members.in_state(record, now) >= patience && !self.newcomers.waiting.contains_key(&record.name);
            gives_way.then(|| (place, record.name.clone()))
        });
        let Some((place, name)) = found else { return false };
        self.drop_suspicion(&name);
        self.hearsay.remove(&name);
        let gone = self.members.remove_newcomer(place);
        if let Some(record) = gone.filter(Record::is_live) {
            self.emit(Event::Failed(Member { state: MemberState::Dead, ..record.to_member() }));
        }
        true
    }

    /// A member has answered.
    pub(super) fn prove(&mut self, name: &NodeName) {
        if !self.members.prove(name.as_bytes(), &mut self.rng) {
            return;
        }
        self.newcomers.remove(name);
        // What is still to be told of it is told among what is told of the proven.
        if let Some(message) = self.hearsay.remove(name) {
            self.enqueue(name.clone(), message);
        }
        self.outputs.push_back(Output::Proven(name.clone()));
    }

    /// A node that was connected to at that address has answered with its view: it is the member that is known to be
    /// there, unless several are said to be.
    pub(crate) fn prove_at(&mut self, addr: SocketAddr) {
        let one = {
            let mut there = self.others().filter(|record| record.is_live() && record.addr() == addr);
            there.next().filter(|_| there.next().is_none()).map(|record: &Record| record.name.clone())
        };
        one.into_iter().for_each(|one| self.prove(&one));
    }

    /// A member is at another address, where it has not answered.
    pub(super) fn unprove(&mut self, now: Instant, name: &NodeName, first: bool) {
        self.members.unprove(name.as_bytes());
        self.meet(now, name, first);
    }
}
