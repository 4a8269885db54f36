//! Serf on top of memberlist: what a member of a cluster of
//! [hashicorp/serf](https://github.com/hashicorp/serf) agents says and hears besides.
//!
//! Serf's messages are memberlist user messages. This is a state machine as the others: it is handed what
//! came, and asked for what is to be told.
//!
//! # Messages
//!
//! | message | says | here |
//! |---|---|---|
//! | join, leave | a node joins, or is about to leave, at a time | remembered ([`intents`]): who said so and fails has left; a leave that is said of this node while it stays is answered with a join |
//! | user event | something happened | delivered as a message, once ([`events`]) |
//! | query | who is there, and asks for answers | acknowledged; answered where serf itself would ([`queries`]), and otherwise there is nobody to ask |
//! | response | an answer | not for this node, which asks nothing |
//! | relay | pass this on to another node | done for members, within limits |
//! | push/pull | all of it at once | merged |
//!
//! Three Lamport clocks ([`clock`]) give the times: one of intents, one of events, one of queries. Whatever
//! is heard for the first time is passed on once, through a transmit-limited queue for each of the three;
//! that is how serf floods a cluster.
//!
//! # Events and messages are one thing, once
//!
//! *An agent's event* reaches each of our nodes by the flood, or by an exchange of views, as it reaches every
//! agent. Time, name and payload tell it from all others, so that each of our nodes can deliver it for
//! itself, once. (What plain memberlist nodes say has no identity and is passed on by nobody; it takes a
//! voice, see `dissemination`.)
//!
//! *A message of ours* reaches our nodes by the dissemination, in order. Its origin floods it as an event,
//! too. That this must not become a second message, is seen to twice:
//!
//! 1. The event has a mark, which serf passes on as it is in the flood: our nodes pass on the event and
//!    deliver nothing.
//! 2. In an agent's push/pull the mark is lost. So the message bears the event's time, and with it the event
//!    is known: whichever of the two comes first is delivered, the other is not.
//!
//! # What can go wrong
//!
//! - *A message is longer than an event may be, or there are more than the flood takes*: our nodes get it all
//!   the same; that the agents do not is counted and told.
//! - *Messages that cannot be read*: refused with a reason, changing nothing.
//! - *A time far in the future*: serf's clocks can be pushed ahead by anybody, 2^20 at a time ([`clock`]), and what is
//!   further ahead is refused, and not passed on. What is more than 512 times old is too old to be told from what was
//!   heard, and is not heard: so a clock that was pushed ahead costs the agents' events that are on their way.
//! - *A flood of intents, events, queries*: each table and queue has its bound.
//! - *This node as an amplifier*: answers and relays go to members only, so many a second.

mod clock;
mod events;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod intents;
mod message;
mod payload;
mod queries;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub(crate) use self::payload::{from_json, to_json};
use self::{
    clock::{Clock, LEAP, LEAP_WHEN_ASKED},
    events::{Events, Heard},
    intents::{Intents, Status},
    message::{Intent, MAX_ENTRIES, Message, PushPull, Query, UserEvent},
    queries::Queries,
};
use crate::{
    config::Tags,
    membership::{MemberState, Membership, NodeName, Record, Target, TransmitLimitedQueue},
    rate::RateLimit,
    wire::{self, Malformed, kind, msgpack, packet},
};

/// The delegate versions of serf that this node understands: the smallest, and the one it speaks.
pub(crate) const DELEGATE_MIN: u8 = 2;
pub(crate) const DELEGATE: u8 = 4;
/// An event's name and payload at most: serf's default.
pub(crate) const MAX_EVENT: usize = 512;
/// What agents' events are said to come from: they do not say which agent it was.
pub(crate) const SOURCE: &str = "serf";
/// Messages that wait to be told, in each queue.
const QUEUE: usize = 1024;
/// How many answers and relays a node sends in a second.
const ERRANDS_PER_SECOND: u32 = 256;

/// Why something of serf's was not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("{}", match .0 {
        None => "an empty message is not a serf message".to_owned(),
        Some(kind) => format!("serf has no message of type {kind} for this node"),
    })]
    Kind(Option<u8>),
    #[error("a serf {kind} cannot be read: {source}")]
    Malformed { kind: &'static str, source: Malformed },
    #[error("a serf message has the time {0}, which is beyond the maximum")]
    Time(u64),
    #[error("a serf message has the time {time}, far ahead of {clock}, the latest that is known")]
    Leap { time: u64, clock: u64 },
    #[error("a serf message is to be relayed to an address of {0} bytes; IPv4 has 4 and IPv6 16")]
    Address(usize),
    #[error("{}", match .0 {
        None => "the other node is in no serf cluster, this one is; set `serf` for all or none".to_owned(),
        Some(kind) => format!("a serf state begins with type 2, this one with {kind}"),
    })]
    State(Option<u8>),
    #[error("a serf state has more entries than {MAX_ENTRIES} members and their events need")]
    TooMany,
    #[error("a serf user event was dropped: there are too many with the same time")]
    NoRoom,
    #[error("the name of a serf user event, {0} bytes long, is not text")]
    Name(usize),
    #[error("a serf message to {0} was dropped, because no member is there")]
    Stranger(std::net::SocketAddr),
    #[error("more than {ERRANDS_PER_SECOND} answers and relays were asked for within a second")]
    Errands,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Tell the application of an agent's event.
    Deliver { name: String, payload: Bytes },
    /// Tell the application that a member that failed has left: somebody says so now.
    Left(NodeName),
    /// Send a message.
    Send { to: Target, message: Bytes },
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Serf {
    me: NodeName,
    tags: Tags,
    member_clock: Clock,
    event_clock: Clock,
    query_clock: Clock,
    intents: Intents,
    events: Events,
    queries: Queries,
    /// What is to be told, in the order in which serf asks for it: intents, queries, events.
    queues: [TransmitLimitedQueue; 3],
    /// What is larger is not passed on: it fits in no packet.
    max_in_packet: usize,
    /// The length of the longest message since the queues were last empty.
    longest: usize,
    /// Whether events from before this node joined are to be heard.
    replay: bool,
    leaving: bool,
    errands: RateLimit,
    outputs: VecDeque<Output>,
}

const INTENTS: usize = 0;
const QUERIES: usize = 1;
const EVENTS: usize = 2;

impl Serf {
    pub(crate) fn new(me: NodeName, tags: Tags, replay: bool, retransmit_mult: u32, udp_buffer_size: usize) -> Self {
        Self {
            me,
            tags,
            member_clock: Clock::default(),
            event_clock: Clock::default(),
            query_clock: Clock::default(),
            intents: Intents::default(),
            events: Events::default(),
            queries: Queries::default(),
            queues: [(); 3].map(|()| TransmitLimitedQueue::new(retransmit_mult, QUEUE)),
            max_in_packet: udp_buffer_size - packet::COMPOUND_OVERHEAD - packet::PART_OVERHEAD,
            longest: 0,
            replay,
            leaving: false,
            errands: RateLimit::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Whether a user message is one of serf's. Messages of this crate begin otherwise.
    pub(crate) fn is_one(payload: &[u8]) -> bool {
        payload.first().is_none_or(|kind| *kind <= message::kind::RELAY)
    }

    /// Takes a message of serf's.
    ///
    /// # Errors
    ///
    /// See [`Unusable`].
    pub(crate) fn handle(&mut self, now: Instant, data: &Bytes, membership: &Membership) -> Result<(), Unusable> {
        match Message::decode(data)? {
            Message::Join(intent) => {
                if self.hear_intent(now, &intent, false, LEAP, membership)? {
                    self.pass_on(INTENTS, data);
                }
            }
            Message::Leave(intent) => {
                if self.hear_intent(now, &intent, true, LEAP, membership)? {
                    self.pass_on(INTENTS, data);
                }
            }
            Message::Event(event) => {
                self.event_clock.witness(event.time, LEAP)?;
                if self.hear_event(&event)? {
                    self.pass_on(EVENTS, data);
                }
            }
            Message::Query(query) => {
                self.query_clock.witness(query.time, LEAP)?;
                if self.queries.is_new(self.query_clock.time(), query.time, query.id) {
                    if query.flags & Query::NO_BROADCAST == 0 {
                        self.pass_on(QUERIES, data);
                    }
                    if queries::is_for(&query.filters, &self.me, &self.tags) {
                        self.answer(now, &query, membership)?;
                    }
                }
            }
            Message::Response => {}
            Message::Relay { to, message } => self.send(now, to, &message, membership)?,
        }
        Ok(())
    }

    /// Takes an intent whose time is no more than `leap` ahead; gives whether others are to be told.
    fn hear_intent(
        &mut self,
        now: Instant,
        intent: &Intent,
        leaving: bool,
        leap: u64,
        membership: &Membership,
    ) -> Result<bool, Unusable> {
        let Intent { time, node } = intent;
        self.member_clock.witness(*time, leap)?;
        if leaving && *node == self.me && !self.leaving {
            // It is of a former life, or somebody's wish.
            if *time > self.intents.status(node).time {
                self.join(now);
            }
            return Ok(false);
        }
        let record = membership.get(node.as_bytes());
        let before = record.map(|record| self.state_of(record));
        let news = self.intents.hear(now, node, Status { time: *time, leaving }, record.is_some());
        if news && leaving && before == Some(MemberState::Dead) {
            self.outputs.push_back(Output::Left(node.clone()));
        }
        Ok(news)
    }

    /// What became of a member. Who failed has left, if it had said that it would, or somebody said so for it:
    /// of a good-bye, memberlist's own part reaches a few only, who may fail to pass it on.
    pub(crate) fn state_of(&self, record: &Record) -> MemberState {
        match record.state() {
            MemberState::Dead if self.intents.status(&record.name).leaving => MemberState::Left,
            state => state,
        }
    }

    /// Takes an event; gives whether others are to be told.
    fn hear_event(&mut self, event: &UserEvent) -> Result<bool, Unusable> {
        let len = event.name.len();
        let name = std::str::from_utf8(&event.name).map_err(|_| Unusable::Name(len))?;
        match self.events.hear(self.event_clock.time(), event) {
            Heard::Known => return Ok(false),
            Heard::NoRoom => return Err(Unusable::NoRoom),
            Heard::New => {}
        }
        if !event.ours {
            self.outputs.push_back(Output::Deliver { name: name.into(), payload: event.payload.clone() });
        }
        Ok(true)
    }

    fn pass_on(&mut self, queue: usize, data: &Bytes) {
        if data.len() < self.max_in_packet {
            // What gives way here has been told by others, or will be.
            self.push(queue, data);
        }
    }

    /// Queues a message; gives how many gave way for it.
    fn push(&mut self, queue: usize, data: &[u8]) -> usize {
        self.longest = self.longest.max(data.len() + 1);
        self.queues[queue].push([&[kind::USER], data].concat().into())
    }

    /// Says that this node is here.
    pub(crate) fn join(&mut self, now: Instant) {
        let time = self.member_clock.tick();
        self.intents.hear(now, &self.me, Status { time, leaving: false }, true);
        let message = message::join(time, &self.me);
        self.push(INTENTS, &message);
    }

    /// Says that this node is about to leave: in gossip, and at once to `told`.
    pub(crate) fn leave<'a>(&mut self, now: Instant, told: impl Iterator<Item = &'a Record>) {
        self.leaving = true;
        let time = self.member_clock.tick();
        self.intents.hear(now, &self.me, Status { time, leaving: true }, true);
        let message = message::leave(time, &self.me);
        self.push(INTENTS, &message);
        let message = Bytes::from([&[kind::USER], &*message].concat());
        self.outputs.extend(told.map(|record| Output::Send { to: record.into(), message: message.clone() }));
    }

    /// A node is a member, for the first time or again.
    pub(crate) fn member_up(&mut self, node: &NodeName, membership: &Membership) {
        self.intents.come(node);
        let members = membership.records().len();
        self.intents.forget(members, |node| membership.get(node.as_bytes()).is_some());
    }

    /// The time of the next event of this node.
    pub(crate) fn next_event(&self) -> u64 {
        self.event_clock.time()
    }

    /// Makes a message of this node, which bears the time of [`next_event`](Self::next_event), an event. Gives
    /// how many events that wait to be told gave way for it.
    pub(crate) fn emit(&mut self, name: &str, payload: &[u8]) -> usize {
        let time = self.event_clock.tick();
        self.events.claim(self.event_clock.time(), time, name.as_bytes(), payload);
        let message = message::user_event(time, name.as_bytes(), payload);
        if message.len() < self.max_in_packet { self.push(EVENTS, &message) } else { 1 }
    }

    /// Whether a message of another node of ours, an event of that time, is to be delivered.
    pub(crate) fn claim(&mut self, time: u64, name: &str, payload: &[u8]) -> bool {
        // One that is far ahead is no event that agents could have heard.
        if self.event_clock.witness(time, LEAP).is_err() {
            return true;
        }
        self.events.claim(self.event_clock.time(), time, name.as_bytes(), payload)
    }

    fn answer(&mut self, now: Instant, query: &Query, membership: &Membership) -> Result<(), Unusable> {
        let Some(to) = query.asker() else { return Ok(()) };
        if query.flags & Query::ACK != 0 {
            let ack = message::response(query, &self.me, Query::ACK, &[]);
            self.send(now, to, &ack, membership)?;
        }
        let answer = match &*query.name {
            b"_serf_conflict" if query.payload != self.me.as_bytes() => describe(membership.get(&query.payload), self),
            b"_serf_install-key" | b"_serf_use-key" | b"_serf_remove-key" | b"_serf_list-keys" => {
                message::no_keys("this node's keys cannot be seen or changed through serf")
            }
            _ => return Ok(()),
        };
        let response = message::response(query, &self.me, 0, &answer);
        self.send(now, to, &response, membership)
    }

    /// Sends a message to a member.
    fn send(
        &mut self,
        now: Instant,
        to: std::net::SocketAddr,
        message: &[u8],
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let record = membership.find_addr(to).filter(|record| record.is_live()).ok_or(Unusable::Stranger(to))?;
        let second = Duration::from_secs(1);
        if !self.errands.take(now, second / ERRANDS_PER_SECOND, second) {
            return Err(Unusable::Errands);
        }
        let message = [&[kind::USER], message].concat().into();
        self.outputs.push_back(Output::Send { to: record.into(), message });
        Ok(())
    }

    /// How much of a packet with `budget` bytes left it wants: half of it, or, if that is to be `enough`, what
    /// the longest message takes. Nothing when nothing waits to be told.
    pub(crate) fn share(&self, budget: usize, enough: bool) -> usize {
        if self.queues.iter().all(TransmitLimitedQueue::is_empty) {
            return 0;
        }
        let longest = Some(self.longest + packet::PART_OVERHEAD).filter(|longest| enough && *longest <= budget);
        longest.unwrap_or_default().max(budget / 2)
    }

    /// Takes what is to be told, for one packet with `budget` bytes left, in a cluster of `live` members.
    pub(crate) fn fill(&mut self, live: usize, mut budget: usize, out: &mut Vec<Bytes>) {
        for queue in &mut self.queues {
            budget -= queue.take(live, packet::PART_OVERHEAD, budget, out);
        }
        if self.queues.iter().all(TransmitLimitedQueue::is_empty) {
            self.longest = 0;
        }
    }

    /// What this node knows, with what our nodes tell each other if that is `ours`.
    pub(crate) fn state(&self, membership: &Membership, ours: Option<Bytes>) -> Bytes {
        let records = membership.records();
        let left = membership.records().filter(|record| self.state_of(record) == MemberState::Left);
        let state = PushPull {
            time: self.member_clock.time(),
            left: left.map(|record| record.name.clone()).collect(),
            statuses: records.map(|record| (record.name.clone(), self.intents.status(&record.name).time)).collect(),
            event_time: self.event_clock.time(),
            events: self.events.iter().collect(),
            query_time: self.query_clock.time(),
            ours,
        };
        state.encode()
    }

    /// What our nodes tell each other, in another node's state.
    ///
    /// # Errors
    ///
    /// It is no state of serf's.
    pub(crate) fn ours_in(state: &Bytes) -> Result<Option<Bytes>, Unusable> {
        PushPull::decode(state).map(|state| state.ours)
    }

    /// Takes another node's state, in an exchange by which one joins the other or in an ordinary one.
    ///
    /// A node that has never heard of an event, of another one that knows some, is new to them, and begins
    /// with what comes after. (Were it an ordinary exchange, it may have missed the very first one.)
    ///
    /// Where the other was `asked`, its clocks may be far ahead: this node was away, or is new.
    ///
    /// # Errors
    ///
    /// It is none, or some of its events cannot be used.
    pub(crate) fn merge(
        &mut self,
        now: Instant,
        state: &Bytes,
        (joins, asked): (bool, bool),
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let state = PushPull::decode(state)?;
        let leap = if asked { LEAP_WHEN_ASKED } else { LEAP };
        let is_new = self.event_clock == Clock::default() && (joins || state.event_time > 2);
        // Nothing has been said at the time that the other's clocks show.
        self.event_clock.witness(state.event_time.saturating_sub(1), leap)?;
        self.member_clock.witness(state.time.saturating_sub(1), leap)?;
        self.query_clock.witness(state.query_time.saturating_sub(1), leap)?;
        if is_new && !self.replay {
            self.events.begin_at(state.event_time);
        }
        let left: std::collections::BTreeSet<_> = state.left.into_iter().collect();
        let mut result = Ok(());
        for (node, time) in state.statuses {
            let leaving = left.contains(&node);
            // No time in a state is beyond its clocks.
            let heard = self.hear_intent(now, &Intent { time, node }, leaving, 0, membership);
            result = heard.map(|_| ()).and(result);
        }
        for event in state.events {
            // Told by the exchanges of others as well, so there is no need to pass it on.
            let heard = self.event_clock.witness(event.time, 0).and_then(|()| self.hear_event(&event));
            result = heard.map(|_| ()).and(result);
        }
        result
    }

    /// How much is kept: what, how much of it, and its bound.
    pub(crate) fn sizes(&self) -> [(&'static str, usize, usize); 3] {
        let (bytes, max) = self.events.bytes();
        let queued = self.queues.iter().map(TransmitLimitedQueue::len).sum();
        [
            ("bytes of events of late", bytes, max),
            ("messages of serf's to tell", queued, 3 * QUEUE),
            ("intents", self.intents.len(), 3 * MAX_ENTRIES),
        ]
    }

    /// Queries are for who has these tags from now on.
    pub(crate) fn set_tags(&mut self, tags: Tags) {
        self.tags = tags;
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

/// What this node believes of a member, as an answer to who asks which of two of a name is the right one.
fn describe(record: Option<&Record>, serf: &Serf) -> Bytes {
    let mut out = vec![message::kind::CONFLICT];
    let Some(record) = record else {
        msgpack::put_bytes(&mut out, &[]);
        return out.into();
    };
    let status = match serf.state_of(record) {
        _ if serf.intents.status(&record.name).leaving && record.is_live() => 2,
        MemberState::Alive | MemberState::Suspect => 1,
        MemberState::Left => 3,
        MemberState::Dead => 4,
    };
    let number = |out: &mut Vec<u8>, name: &str, value: u8| {
        msgpack::put_str(out, name.as_bytes());
        msgpack::put_uint(out, value.into());
    };
    let [protocol_min, protocol_max, protocol, delegate_min, delegate_max, delegate] = record.versions;
    msgpack::put_map(&mut out, 11);
    msgpack::put_str(&mut out, b"Addr");
    match record.address().ip {
        std::net::IpAddr::V4(ip) => msgpack::put_str(&mut out, &ip.octets()),
        std::net::IpAddr::V6(ip) => msgpack::put_str(&mut out, &ip.octets()),
    }
    number(&mut out, "DelegateCur", delegate);
    number(&mut out, "DelegateMax", delegate_max);
    number(&mut out, "DelegateMin", delegate_min);
    msgpack::put_str(&mut out, b"Name");
    msgpack::put_str(&mut out, record.name.as_bytes());
    msgpack::put_str(&mut out, b"Port");
    msgpack::put_uint(&mut out, record.address().port.into());
    number(&mut out, "ProtocolCur", protocol);
    number(&mut out, "ProtocolMax", protocol_max);
    number(&mut out, "ProtocolMin", protocol_min);
    number(&mut out, "Status", status);
    msgpack::put_str(&mut out, b"Tags");
    match record.meta().split_first() {
        Some((&wire::TAGS, tags)) => out.extend_from_slice(tags),
        _ => msgpack::put_large_map(&mut out, 0),
    }
    out.into()
}
