//! Serf on top of memberlist: what members of a cluster of [hashicorp/serf](https://github.com/hashicorp/serf) agents say
//! beside memberlist's messages.
//!
//! Serf's messages are memberlist user messages. This is a state machine like the others: it takes what arrives, and gives
//! out what is to be sent. In serf's own code this is `serf.go`, `delegate.go` and `event_delegate.go`.
//!
//! # Messages
//!
//! | message | says | here |
//! |---|---|---|
//! | join, leave | a node joins, or is about to leave, at a Lamport time | remembered ([`intents`]): a member that failed after a leave has left; a leave of this node that others say while it stays is answered with a join |
//! | user event | something happened | delivered as a message, once ([`events`]) |
//! | query | a question, and a filter of who is to answer | acknowledged; answered where serf itself would answer ([`queries`]), as the application has no queries |
//! | response | an answer | not for this node, which asks nothing |
//! | relay | pass this on to another node | done for members, within limits |
//! | push/pull | all of it at once | merged |
//!
//! There are three Lamport clocks ([`clock`]): of intents, of events, of queries. Whatever arrives for the first time is
//! passed on, through a transmit-limited queue for each of the three: that is how serf floods a cluster.
//!
//! # An event and a message are one thing, delivered once
//!
//! *An agent's event* reaches each node of this crate by the flood, or by an exchange of views, as it reaches every agent.
//! Time, name and payload tell it from all others, so each node can deliver it for itself, once. (Messages of plain
//! memberlist nodes have no identity, and nobody passes them on; they take a voice, see `dissemination`.)
//!
//! *A message of a node of this crate* reaches the others by the dissemination, in order. Its origin also floods it as an
//! event. Two things keep that from becoming a second message:
//!
//! 1. The event is marked, and in the flood serf passes the mark on. Nodes of this crate pass on a marked event, and deliver
//!    nothing.
//! 2. In an agent's push/pull the mark is lost. So the message carries the event's time, by which the event is recognised:
//!    whichever of the two comes first is delivered, the other is not.
//!
//! # What can go wrong
//!
//! - *A message is longer than an event may be, or there are more than the flood takes*: nodes of this crate get it all the
//!   same; that the agents do not is counted and told.
//! - *Messages that cannot be read*: refused with a reason, without any change.
//! - *A time far in the future*: anybody can push serf's clocks ahead, 2^20 at a time ([`clock`]). A time further ahead is
//!   refused, and not passed on. An event more than 512 times old is ignored, as nobody can tell whether it is new: so a
//!   clock that was pushed ahead costs the agents' events that are on their way.
//! - *A flood of intents, events, queries*: each table and queue has its limit.
//! - *This node as an amplifier*: replies go to members only, so many a second.

mod clock;
mod error;
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

use self::{
    clock::{LamportClock, MAX_LEAP, MAX_LEAP_IN_REPLY},
    events::{EventBuffer, EventOutcome},
    intents::{IntentStatus, Intents},
    message::{Intent, Query, SerfMessage, SerfPushPull, UserEvent},
    queries::QueryBuffer,
};
pub(crate) use self::{
    error::SerfError,
    payload::{from_json, to_json},
};
use crate::{
    config::Tags,
    membership::{MemberState, Membership, NodeName, Record, Target, TransmitLimitedQueue},
    rate::RateLimiter,
    wire::{self, kind, msgpack, packet},
};

/// The delegate versions of serf that this node understands: the smallest, and the one it speaks.
pub(crate) const DELEGATE_MIN: u8 = 2;
pub(crate) const DELEGATE: u8 = 4;
/// The largest name and payload of an event together, in bytes: serf's default.
pub(crate) const MAX_EVENT: usize = 512;
/// The origin that is given for agents' events, which do not say which agent it was.
pub(crate) const SOURCE: &str = "serf";
/// How many messages can wait to be sent in each queue.
const QUEUE_CAPACITY: usize = 1024;
/// How many members a state can name, and how many intents are kept: as many as a node remembers members by default
/// ([`ResourceLimits`](crate::ResourceLimits)).
const MAX_ENTRIES: usize = 100_000;
/// How many replies (answers to queries, and relays) a node sends in a second.
const REPLIES_PER_SECOND: u32 = 256;

/// What this state machine asks the node to do.
#[derive(Debug)]
pub(crate) enum SerfOutput {
    /// Deliver an agent's event to the application, as a message.
    Deliver { name: String, payload: Bytes },
    /// Tell the application that a member that failed has left, as somebody says now.
    Left(NodeName),
    /// Send a message.
    Send { to: Target, message: Bytes },
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Serf {
    me: NodeName,
    tags: Tags,
    member_clock: LamportClock,
    event_clock: LamportClock,
    query_clock: LamportClock,
    intents: Intents,
    events: EventBuffer,
    queries: QueryBuffer,
    /// What is to be sent, in the order in which serf sends it: intents, queries, events.
    queues: [TransmitLimitedQueue; 3],
    /// The largest message that fits in a packet. Larger ones are not passed on.
    max_in_packet: usize,
    /// The length of the longest message since the queues were last empty.
    longest: usize,
    /// Whether events from before this node joined are delivered.
    replay: bool,
    leaving: bool,
    replies: RateLimiter,
    outputs: VecDeque<SerfOutput>,
}

const INTENT_QUEUE: usize = 0;
const QUERY_QUEUE: usize = 1;
const EVENT_QUEUE: usize = 2;

impl Serf {
    pub(crate) fn new(me: NodeName, tags: Tags, replay: bool, retransmit_mult: u32, udp_buffer_size: usize) -> Self {
        Self {
            me,
            tags,
            member_clock: LamportClock::default(),
            event_clock: LamportClock::default(),
            query_clock: LamportClock::default(),
            intents: Intents::default(),
            events: EventBuffer::default(),
            queries: QueryBuffer::default(),
            queues: [(); 3].map(|()| TransmitLimitedQueue::new(retransmit_mult, QUEUE_CAPACITY)),
            max_in_packet: udp_buffer_size - packet::COMPOUND_OVERHEAD - packet::PART_OVERHEAD,
            longest: 0,
            replay,
            leaving: false,
            replies: RateLimiter::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Whether a user message is one of serf's. Those of this crate begin with another byte.
    pub(crate) fn is_serf_message(payload: &[u8]) -> bool {
        payload.first().is_none_or(|kind| *kind <= message::kind::RELAY)
    }

    /// Handles a message of serf's.
    ///
    /// # Errors
    ///
    /// See [`SerfError`].
    pub(crate) fn handle(&mut self, now: Instant, data: &Bytes, membership: &Membership) -> Result<(), SerfError> {
        match SerfMessage::decode(data)? {
            SerfMessage::Join(intent) => {
                if self.receive_intent(now, &intent, false, MAX_LEAP, membership)? {
                    self.pass_on(INTENT_QUEUE, data);
                }
            }
            SerfMessage::Leave(intent) => {
                if self.receive_intent(now, &intent, true, MAX_LEAP, membership)? {
                    self.pass_on(INTENT_QUEUE, data);
                }
            }
            SerfMessage::Event(event) => {
                self.event_clock.witness(event.time, MAX_LEAP)?;
                if self.receive_event(&event)? {
                    self.pass_on(EVENT_QUEUE, data);
                }
            }
            SerfMessage::Query(query) => {
                self.query_clock.witness(query.time, MAX_LEAP)?;
                if self.queries.is_new(self.query_clock.time(), query.time, query.id) {
                    if query.flags & Query::NO_BROADCAST == 0 {
                        self.pass_on(QUERY_QUEUE, data);
                    }
                    if queries::is_for(&query.filters, &self.me, &self.tags) {
                        self.answer(now, &query, membership)?;
                    }
                }
            }
            SerfMessage::Response => {}
            SerfMessage::Relay { to, message } => self.send(now, to, &message, membership)?,
        }
        Ok(())
    }

    /// Handles an intent whose time is at most `leap` ahead. Gives whether it is to be passed on.
    fn receive_intent(
        &mut self,
        now: Instant,
        intent: &Intent,
        leaving: bool,
        leap: u64,
        membership: &Membership,
    ) -> Result<bool, SerfError> {
        let Intent { time, node } = intent;
        self.member_clock.witness(*time, leap)?;
        if leaving && *node == self.me && !self.leaving {
            // It is about a former run of this node, or somebody wants it to leave.
            if *time > self.intents.status(node).time {
                self.join(now);
            }
            return Ok(false);
        }
        let record = membership.get(node.as_bytes());
        let before = record.map(|record| self.state_of(record));
        let news = self.intents.receive(now, node, IntentStatus { time: *time, leaving }, record.is_some());
        if news && leaving && before == Some(MemberState::Dead) {
            self.outputs.push_back(SerfOutput::Left(node.clone()));
        }
        Ok(news)
    }

    /// The state of a member. One that failed has left if it had said that it would, or if somebody said so for it:
    /// memberlist's part of a goodbye reaches only a few, who may fail to pass it on.
    pub(crate) fn state_of(&self, record: &Record) -> MemberState {
        match record.state() {
            MemberState::Dead if self.intents.status(&record.name).leaving => MemberState::Left,
            state => state,
        }
    }

    /// Handles an event. Gives whether it is to be passed on.
    fn receive_event(&mut self, event: &UserEvent) -> Result<bool, SerfError> {
        let len = event.name.len();
        let name = std::str::from_utf8(&event.name).map_err(|_| SerfError::NameNotText(len))?;
        match self.events.receive(self.event_clock.time(), event) {
            EventOutcome::Duplicate => return Ok(false),
            EventOutcome::NoRoom => return Err(SerfError::TooManyEvents),
            EventOutcome::New => {}
        }
        if !event.is_broadcast {
            self.outputs.push_back(SerfOutput::Deliver { name: name.into(), payload: event.payload.clone() });
        }
        Ok(true)
    }

    /// Queues a message of another node, unless it fits in no packet.
    fn pass_on(&mut self, queue: usize, data: &Bytes) {
        if data.len() < self.max_in_packet {
            // A message that gives way has been sent by others, or will be.
            self.push(queue, data);
        }
    }

    /// Queues a message. Gives how many gave way for it.
    fn push(&mut self, queue: usize, data: &[u8]) -> usize {
        self.longest = self.longest.max(data.len() + 1);
        self.queues[queue].push([&[kind::USER], data].concat().into())
    }

    /// Says that this node has joined.
    pub(crate) fn join(&mut self, now: Instant) {
        let time = self.member_clock.tick();
        self.intents.receive(now, &self.me, IntentStatus { time, leaving: false }, true);
        let message = message::encode_join(time, &self.me);
        self.push(INTENT_QUEUE, &message);
    }

    /// Says that this node is about to leave: by gossip, and directly to `recipients`.
    pub(crate) fn leave<'a>(&mut self, now: Instant, recipients: impl Iterator<Item = &'a Record>) {
        self.leaving = true;
        let time = self.member_clock.tick();
        self.intents.receive(now, &self.me, IntentStatus { time, leaving: true }, true);
        let message = message::encode_leave(time, &self.me);
        self.push(INTENT_QUEUE, &message);
        let message = Bytes::from([&[kind::USER], &*message].concat());
        self.outputs.extend(recipients.map(|record| SerfOutput::Send { to: record.into(), message: message.clone() }));
    }

    /// To be called when a node has become a member, for the first time or again.
    pub(crate) fn member_up(&mut self, node: &NodeName, membership: &Membership) {
        self.intents.node_joined(node);
        let members = membership.records().len();
        self.intents.prune(members, |node| membership.get(node.as_bytes()).is_some());
    }

    /// The time of the next event of this node.
    pub(crate) fn next_event(&self) -> u64 {
        self.event_clock.time()
    }

    /// Floods a message of this node as an event, at the time of [`next_event`](Self::next_event). Gives how many waiting
    /// events gave way for it.
    pub(crate) fn emit_event(&mut self, name: &str, payload: &[u8]) -> usize {
        let time = self.event_clock.tick();
        self.events.claim(self.event_clock.time(), time, name.as_bytes(), payload);
        let message = message::encode_user_event(time, name.as_bytes(), payload);
        if message.len() < self.max_in_packet { self.push(EVENT_QUEUE, &message) } else { 1 }
    }

    /// Takes note of a message of another node of this crate, whose event has this time. Gives whether it is to be
    /// delivered: not if the event was.
    pub(crate) fn claim_event(&mut self, time: u64, name: &str, payload: &[u8]) -> bool {
        // If it is far ahead, agents have refused it as an event.
        if self.event_clock.witness(time, MAX_LEAP).is_err() {
            return true;
        }
        self.events.claim(self.event_clock.time(), time, name.as_bytes(), payload)
    }

    /// Answers a query, where serf itself does.
    fn answer(&mut self, now: Instant, query: &Query, membership: &Membership) -> Result<(), SerfError> {
        let Some(to) = query.asker() else { return Ok(()) };
        if query.flags & Query::ACK != 0 {
            let ack = message::encode_response(query, &self.me, Query::ACK, &[]);
            self.send(now, to, &ack, membership)?;
        }
        let answer = match &*query.name {
            b"_serf_conflict" if query.payload != self.me.as_bytes() => describe(membership.get(&query.payload), self),
            b"_serf_install-key" | b"_serf_use-key" | b"_serf_remove-key" | b"_serf_list-keys" => {
                message::encode_no_keys("this node's keys cannot be seen or changed through serf")
            }
            _ => return Ok(()),
        };
        let response = message::encode_response(query, &self.me, 0, &answer);
        self.send(now, to, &response, membership)
    }

    /// Sends a message to a member.
    fn send(
        &mut self,
        now: Instant,
        to: std::net::SocketAddr,
        message: &[u8],
        membership: &Membership,
    ) -> Result<(), SerfError> {
        let record = membership.find_addr(to).filter(|record| record.is_live()).ok_or(SerfError::NotAMember(to))?;
        let second = Duration::from_secs(1);
        if !self.replies.take(now, second / REPLIES_PER_SECOND, second) {
            return Err(SerfError::TooManyReplies);
        }
        let message = [&[kind::USER], message].concat().into();
        self.outputs.push_back(SerfOutput::Send { to: record.into(), message });
        Ok(())
    }

    /// How many of the `budget` bytes left in a packet are for serf: half of them or, if that is to be `enough`, as many as
    /// the longest message takes. None if nothing waits to be sent.
    pub(crate) fn share(&self, budget: usize, enough: bool) -> usize {
        if self.queues.iter().all(TransmitLimitedQueue::is_empty) {
            return 0;
        }
        let longest = Some(self.longest + packet::PART_OVERHEAD).filter(|longest| enough && *longest <= budget);
        longest.unwrap_or_default().max(budget / 2)
    }

    /// Takes messages for one packet with `budget` bytes left, in a cluster of `live` members.
    pub(crate) fn take_broadcasts(&mut self, live: usize, mut budget: usize, out: &mut Vec<Bytes>) {
        for queue in &mut self.queues {
            budget -= queue.take_broadcasts(live, packet::PART_OVERHEAD, budget, out);
        }
        if self.queues.iter().all(TransmitLimitedQueue::is_empty) {
            self.longest = 0;
        }
    }

    /// This node's state for a push/pull, with the state that only nodes of this crate exchange.
    pub(crate) fn state(&self, membership: &Membership, broadcast_state: Option<Bytes>) -> Bytes {
        let records = membership.records();
        let left = membership.records().filter(|record| self.state_of(record) == MemberState::Left);
        let state = SerfPushPull {
            time: self.member_clock.time(),
            left: left.map(|record| record.name.clone()).collect(),
            statuses: records.map(|record| (record.name.clone(), self.intents.status(&record.name).time)).collect(),
            event_time: self.event_clock.time(),
            events: self.events.iter().collect(),
            query_time: self.query_clock.time(),
            broadcast_state,
        };
        state.encode()
    }

    /// The part of another node's state that only nodes of this crate exchange.
    ///
    /// # Errors
    ///
    /// It is no state of serf's.
    pub(crate) fn broadcast_state_in(state: &Bytes) -> Result<Option<Bytes>, SerfError> {
        SerfPushPull::decode(state).map(|state| state.broadcast_state)
    }

    /// Merges another node's state, from an exchange by which one node joins the other (`joins`) or an ordinary one.
    ///
    /// If this node has had no event yet, and the other knows some, this node is new to the cluster, and begins with what
    /// comes after. (In an ordinary exchange, it may have missed the very first event.)
    ///
    /// In a reply to this node's own state (`asked`), clocks may be far ahead: this node was away, or is new.
    ///
    /// # Errors
    ///
    /// It is no state, or some of its events cannot be used.
    pub(crate) fn merge(
        &mut self,
        now: Instant,
        state: &Bytes,
        (joins, asked): (bool, bool),
        membership: &Membership,
    ) -> Result<(), SerfError> {
        let state = SerfPushPull::decode(state)?;
        let leap = if asked { MAX_LEAP_IN_REPLY } else { MAX_LEAP };
        let is_new = self.event_clock == LamportClock::default() && (joins || state.event_time > 2);
        // The other's clocks show the times of its next messages.
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
            // No time in a state is later than its clocks.
            let received = self.receive_intent(now, &Intent { time, node }, leaving, 0, membership);
            result = received.map(|_| ()).and(result);
        }
        for event in state.events {
            // Others get it by their own exchanges, so it is not passed on.
            let received = self.event_clock.witness(event.time, 0).and_then(|()| self.receive_event(&event));
            result = received.map(|_| ()).and(result);
        }
        result
    }

    /// How much is kept: what, how much of it, and its limit.
    pub(crate) fn sizes(&self) -> [(&'static str, usize, usize); 3] {
        let (bytes, max) = self.events.bytes();
        let queued = self.queues.iter().map(TransmitLimitedQueue::len).sum();
        [
            ("bytes of events of late", bytes, max),
            ("messages of serf's to tell", queued, 3 * QUEUE_CAPACITY),
            ("intents", self.intents.len(), 3 * MAX_ENTRIES),
        ]
    }

    /// Changes the tags by which queries are filtered.
    pub(crate) fn set_tags(&mut self, tags: Tags) {
        self.tags = tags;
    }

    /// The next thing to do.
    pub(crate) fn poll_output(&mut self) -> Option<SerfOutput> {
        self.outputs.pop_front()
    }
}

/// What this node knows about a member: the answer to the query by which serf finds out which of two nodes owns a name.
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
    number(&mut out, "IntentStatus", status);
    msgpack::put_str(&mut out, b"Tags");
    match record.meta().split_first() {
        Some((&wire::TAG_MAGIC_BYTE, tags)) => out.extend_from_slice(tags),
        _ => msgpack::put_large_map(&mut out, 0),
    }
    out.into()
}
