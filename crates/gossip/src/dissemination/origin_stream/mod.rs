//! The receive side of one stream: one epoch of an origin, its next number, and what is missing.
//!
//! A stream changes by a few transitions: it [receives](OriginStream::receive) a message, it [learns](OriginStream::learn)
//! from a digest, or its [next step](OriginStream::next_step) of repair is due. Each gives what is to be done; the owner of
//! the streams, which knows the members, does it.

mod digest;
mod step;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

pub(super) use self::{
    digest::DigestSource,
    step::{MAX_REQUESTED, RepairRequest, RepairSources, RepairStep},
};
use super::{control::StreamDigest, limits::MAX_ORIGINS, message::Message};
use crate::membership::NodeName;

/// How far ahead of its turn a message is kept, in numbers. More tolerates a wilder order and costs memory.
const MAX_AHEAD: u64 = 1 << 16;

/// What is known about where a stream starts for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartState {
    /// Nothing yet.
    Unknown,
    /// This number was guessed, since the origin could not say it.
    Guessed(u64),
    /// The origin has said it, or the stream is owed in whole.
    Confirmed,
}

/// What became of a message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiveOutcome {
    /// It is here for the first time.
    New,
    /// It was here before.
    Duplicate,
    /// It is new, but the reorder buffer is full. It will be requested again.
    NoRoom,
}

/// Why a message or a digest of a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OriginStreamError {
    #[error("it is from an earlier epoch of its origin, which began at {0}")]
    PastEpoch(u64),
    #[error("its origin's epoch begins at {0}, in the future")]
    FutureEpoch(u64),
    #[error("its number {0} is too far ahead")]
    FarAhead(u64),
    #[error("this node already remembers {MAX_ORIGINS} origins, the limit")]
    Full,
}

/// The epoch has ended, or the origin seems to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamEnd {
    pub(super) since: Instant,
    /// Whether the origin said that it leaves.
    pub(super) left: bool,
}

/// How fast repair and gossip go in a cluster of this size.
#[derive(Clone, Copy, Debug)]
pub(super) struct RepairTiming {
    /// How long an answer is awaited.
    pub(super) response_timeout: Duration,
    /// For how many rounds of gossip news is told.
    pub(super) gossip_rounds: u32,
}

/// One epoch of an origin.
#[derive(Debug)]
pub(super) struct OriginStream {
    /// The origin's name. All its streams share its memory.
    pub(super) origin: NodeName,
    pub(super) epoch: u64,
    /// The number after the last one that was delivered; `None` while it is not known where to start.
    pub(super) next: Option<u64>,
    pub(super) start_state: StartState,
    /// Whether this node knew an earlier epoch of the origin, or met the origin in one. Then it is owed all of this epoch,
    /// unless the origin says otherwise.
    pub(super) follows: bool,
    /// The latest epoch of the origin that was dropped for want of room.
    pub(super) forgotten: Option<u64>,
    /// Delivered messages that are kept for others, up to `next`.
    pub(super) retained: VecDeque<Message>,
    /// The bytes of the retained messages.
    pub(super) bytes: usize,
    /// The reorder buffer: messages that came ahead of their turn.
    pub(super) ahead: BTreeMap<u64, Message>,
    /// Where to start if the origin does not say it: what others retain.
    fallback: Option<u64>,
    /// The number after the last message that exists, as far as is known.
    pub(super) head: u64,
    /// Who told the head last.
    head_source: Option<SocketAddr>,
    /// The teller of the head has less when it is asked: the head may be a forgery in its name.
    head_disputed: bool,
    /// Nobody needs anything below this number.
    pub(super) floor: u64,
    /// The origin itself keeps nothing below this number any more.
    gone_below: u64,
    /// The peer that said last that there is more. It is asked first.
    pub(super) preferred_peer: Option<SocketAddr>,
    /// How often the next message, or the start, was requested, with a longer wait after each. Requests that news causes in
    /// between do not count: they are no reason to wait longer.
    pub(super) attempts: u32,
    /// The next request counts from then on.
    next_attempt_at: Option<Instant>,
    /// For how many more rounds of gossip this stream's position is told.
    pub(super) rounds: u32,
    /// Whether it was told in this round.
    pub(super) told: bool,
    /// Set when the origin is gone or is in a newer epoch.
    pub(super) ended: Option<StreamEnd>,
    /// Whether an acknowledgement is due.
    pub(super) ack_due: bool,
    /// What acknowledgements have to carry, as the origin says.
    pub(super) cookie: Option<u64>,
}

/// What all streams share: their memory, and their results.
#[derive(Debug)]
pub(super) struct ReceiveBuffers {
    /// The bytes that may be ahead of their turn.
    pub(super) max_ahead: usize,
    /// Whether streams start with what others retain.
    pub(super) replay: bool,
    /// The bytes and the number of the messages that are kept after their delivery.
    pub(super) retained: (usize, usize),
    /// The bytes that are ahead of their turn.
    pub(super) ahead: usize,
    /// The messages to deliver, in order.
    pub(super) delivered: VecDeque<Message>,
    /// What will not be delivered: origin, epoch and numbers.
    pub(super) missed: Vec<(NodeName, u64, Range<u64>)>,
}

impl ReceiveBuffers {
    pub(super) fn new(max_ahead: usize, replay: bool) -> Self {
        Self { max_ahead, replay, retained: (0, 0), ahead: 0, delivered: VecDeque::new(), missed: Vec::new() }
    }
}

impl OriginStream {
    pub(super) fn new(origin: NodeName, epoch: u64, next: Option<u64>) -> Self {
        Self {
            origin,
            epoch,
            next,
            start_state: if next.is_some() { StartState::Confirmed } else { StartState::Unknown },
            follows: false,
            forgotten: None,
            retained: VecDeque::new(),
            bytes: 0,
            ahead: BTreeMap::new(),
            fallback: None,
            head: next.unwrap_or_default(),
            head_source: None,
            head_disputed: false,
            floor: 0,
            gone_below: 0,
            preferred_peer: None,
            attempts: 0,
            next_attempt_at: None,
            rounds: 0,
            told: false,
            ended: None,
            ack_due: false,
            cookie: None,
        }
    }

    /// Whether gossip is to tell how far it is.
    pub(super) fn is_news(&self) -> bool {
        self.rounds > 0 && self.next.is_some()
    }

    /// The first number that can be retransmitted to others.
    pub(super) fn base(&self) -> u64 {
        self.next.unwrap_or_default() - self.retained.len() as u64
    }

    /// The digest of this stream.
    pub(super) fn digest(&self) -> StreamDigest<'_> {
        let (base, next) = (self.base(), self.next.unwrap_or_default());
        StreamDigest { origin: self.origin.as_bytes(), epoch: self.epoch, base, next, floor: self.floor, start: None }
    }

    /// Whether it keeps messages that were delivered.
    pub(super) fn retains(&self) -> bool {
        !self.retained.is_empty()
    }

    /// Whether messages are missing, or may be.
    pub(super) fn lacks(&self) -> bool {
        match self.next {
            Some(next) => next < self.end(),
            None => !self.ahead.is_empty() || self.fallback.is_some(),
        }
    }

    /// The number after the last message that exists, as far as is known.
    pub(super) fn end(&self) -> u64 {
        self.ahead.last_key_value().map_or(self.head, |(last, _)| self.head.max(last + 1))
    }

    /// The origin is gone, or has begun another epoch.
    pub(super) fn end_epoch(&mut self, now: Instant, left: bool) {
        self.ended.get_or_insert(StreamEnd { since: now, left });
    }

    /// Whether the start is unknown or guessed.
    pub(super) fn needs_start(&self) -> bool {
        self.start_state != StartState::Confirmed
    }

    /// The position that can be acknowledged; none until the start is confirmed.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        self.next.filter(|_| self.start_state == StartState::Confirmed)
    }

    /// What is missing, as far as is known, in case the stream is dropped.
    pub(super) fn lacking(&self) -> Option<Range<u64>> {
        let next = self.next.or(self.follows.then_some(0))?;
        (next < self.end() && !self.head_disputed).then(|| next..self.end())
    }

    /// Where to start if the origin cannot say it.
    pub(super) fn guessed_start(&self) -> u64 {
        if self.follows {
            return 0;
        }
        self.first_ahead().into_iter().chain(self.fallback).min().unwrap_or_default()
    }

    /// The first number in the reorder buffer.
    pub(super) fn first_ahead(&self) -> Option<u64> {
        self.ahead.first_key_value().map(|(first, _)| *first)
    }

    /// Something came of the requests, or there is a peer that was not asked yet.
    pub(super) fn reset_attempts(&mut self) {
        (self.attempts, self.next_attempt_at) = (0, None);
    }

    /// A message that is retained or ahead of its turn.
    pub(super) fn get(&self, seq: u64) -> Option<&Message> {
        match seq.checked_sub(self.base()) {
            Some(i) if seq < self.next.unwrap_or_default() => self.retained.get(i as usize),
            _ => self.ahead.get(&seq),
        }
    }

    /// The peer at this address may have restarted. That it has less now does not mean that it never had more.
    pub(super) fn forget_head_source(&mut self, addr: SocketAddr) {
        self.head_source = self.head_source.filter(|head_source| *head_source != addr);
    }

    /// Receives a message, which `build` makes of its origin's name if it is new. With `start`, the stream starts with it if
    /// its start is not known.
    pub(super) fn receive(
        &mut self,
        seq: u64,
        start: bool,
        buffers: &mut ReceiveBuffers,
        build: impl FnOnce(NodeName) -> Message,
    ) -> Result<ReceiveOutcome, OriginStreamError> {
        if start && self.next.is_none() {
            (self.next, self.start_state) = (Some(seq), StartState::Confirmed);
        }
        let expected = self.next.or_else(|| self.first_ahead()).unwrap_or(seq);
        if seq == u64::MAX || seq > expected.saturating_add(MAX_AHEAD) {
            return Err(OriginStreamError::FarAhead(seq));
        }
        if self.next.is_some_and(|next| seq < next) || self.ahead.contains_key(&seq) {
            return Ok(ReceiveOutcome::Duplicate);
        }
        self.head = self.head.max(seq + 1);
        let message = build(self.origin.clone());
        if self.next == Some(seq) {
            self.reset_attempts();
            self.deliver(message, buffers);
        } else if buffers.ahead + message.len() > buffers.max_ahead {
            return Ok(ReceiveOutcome::NoRoom);
        } else {
            buffers.ahead += message.len();
            self.ahead.insert(seq, message);
        }
        Ok(ReceiveOutcome::New)
    }

    /// Notes a message that came from `from`; others are to hear of it for so many `rounds` if it is `news`. Gives whether an
    /// acknowledgement has become due, and whether messages are missing.
    pub(super) fn note_arrival(&mut self, from: SocketAddr, news: bool, rounds: u32) -> (bool, bool) {
        if news {
            self.rounds = rounds;
        }
        let lacks = self.lacks();
        if lacks {
            self.preferred_peer.get_or_insert(from);
        }
        (!std::mem::replace(&mut self.ack_due, true), lacks)
    }

    /// Delivers the next message and those that waited for it.
    fn deliver(&mut self, message: Message, buffers: &mut ReceiveBuffers) {
        let mut due = Some(message);
        let mut next = self.next.unwrap_or_default();
        while let Some(message) = due {
            if next >= self.floor {
                self.bytes += message.len();
                buffers.retained.0 += message.len();
                buffers.retained.1 += 1;
                self.retained.push_back(message.clone());
            }
            buffers.delivered.push_back(message);
            next += 1;
            due = if self.ahead.is_empty() { None } else { self.ahead.remove(&next) };
            buffers.ahead -= due.as_ref().map_or(0, Message::len);
        }
        self.next = Some(next);
    }

    /// Continues with `next`: what comes before is not owed, or cannot be had.
    fn skip_to(&mut self, next: u64, buffers: &mut ReceiveBuffers) {
        let later = self.ahead.split_off(&next);
        let dropped = std::mem::replace(&mut self.ahead, later);
        buffers.ahead -= dropped.values().map(Message::len).sum::<usize>();
        // The retained messages must reach up to `next`.
        self.evict(self.retained.len(), buffers);
        self.next = Some(next);
        self.head = self.head.max(next);
        self.reset_attempts();
        if let Some(message) = self.ahead.remove(&next) {
            buffers.ahead -= message.len();
            self.deliver(message, buffers);
        }
    }

    /// Starts at a guessed number.
    pub(super) fn guess(&mut self, next: u64, buffers: &mut ReceiveBuffers) {
        self.start_state = StartState::Guessed(next);
        self.skip_to(next, buffers);
    }

    /// Frees the `n` oldest retained messages.
    pub(super) fn evict(&mut self, n: usize, buffers: &mut ReceiveBuffers) {
        let bytes: usize = self.retained.drain(..n).map(|message| message.len()).sum();
        self.bytes -= bytes;
        if self.retained.is_empty() {
            self.retained.shrink_to(16);
        }
        buffers.retained.0 -= bytes;
        buffers.retained.1 -= n;
    }

    /// Frees all that it keeps, when the stream is dropped.
    pub(super) fn forget(self, buffers: &mut ReceiveBuffers) {
        buffers.retained.0 -= self.bytes;
        buffers.retained.1 -= self.retained.len();
        buffers.ahead -= self.ahead.values().map(Message::len).sum::<usize>();
    }
}
