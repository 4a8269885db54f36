//! One life of an origin, as a stream of numbered messages: where it began for this node, how far it is, and what
//! it lacks.
//!
//! It is changed by a few transitions: a message is [received](Stream::receive), something of it is
//! [learned](Stream::learn), or it is time for the [next step](Stream::next_step) to what is missing. Each says what is to
//! be done, and leaves that to who owns the streams and knows the members.

mod learn;
mod step;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

pub(super) use self::{
    learn::Source,
    step::{MAX_WANTED, Peers, Request, Step},
};
use super::{control::Have, limits::MAX_ORIGINS, message::Message};
use crate::membership::NodeName;

/// How far ahead of its turn a message is kept, in numbers.
const MAX_AHEAD: u64 = 1 << 16;

/// How a stream began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// Not yet.
    No,
    /// With this number: the origin could not say it.
    Guessed(u64),
    /// As the origin says, or with all there is.
    Told,
}

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is here for the first time.
    New,
    /// It was here before.
    Known,
    /// It is new, but there is no room to keep it until its turn comes; it is asked for again.
    NoRoom,
}

/// Why a message or what is said of a stream is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("it is from an earlier epoch of its origin, which began at {0}")]
    FormerLife(u64),
    #[error("its origin's epoch begins at {0}, in the future")]
    FutureLife(u64),
    #[error("its number {0} is too far ahead")]
    FarAhead(u64),
    #[error("this node already remembers {MAX_ORIGINS} origins, the limit")]
    Full,
}

/// A life has ended, or its origin seems to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) since: Instant,
    /// Whether the origin said good-bye.
    pub(super) left: bool,
}

/// How fast a node goes about it, in a cluster of this size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// How long an answer is waited for.
    pub(super) patience: Duration,
    /// For how many rounds of gossip news is told.
    pub(super) rounds: u32,
}

/// One life of an origin.
#[derive(Debug)]
pub(super) struct Stream {
    /// Its name, as it is remembered.
    pub(super) origin: NodeName,
    pub(super) epoch: u64,
    /// The number after the last one delivered; `None` while it is not known where to begin.
    pub(super) next: Option<u64>,
    pub(super) begun: Begun,
    /// A former life is known here, or the origin was met in one: unless it says otherwise, all of this one is for
    /// this node.
    pub(super) follows: bool,
    /// The latest of the origin's lives that is forgotten, for want of room.
    pub(super) forgotten: Option<u64>,
    pub(super) retained: VecDeque<Message>,
    pub(super) bytes: usize,
    pub(super) ahead: BTreeMap<u64, Message>,
    /// Where to begin should the origin not say it: what others retain.
    fallback: Option<u64>,
    /// The number after the last one there is, as far as was heard.
    pub(super) head: u64,
    /// Who said so last.
    told_by: Option<SocketAddr>,
    /// Who said so has less when asked: it was made up in its name.
    doubted: bool,
    /// Below this nobody needs anything any more.
    pub(super) floor: u64,
    /// The origin itself has nothing below this any more.
    gone_below: u64,
    /// Who was the last to say that there is more.
    pub(super) hint: Option<SocketAddr>,
    /// How often it was asked for what is next, or for where to begin, each time waiting longer for an answer. What
    /// is asked meanwhile, because there is more news, does not count: it is no reason to hope longer.
    pub(super) attempts: u32,
    /// When it counts again.
    counts_from: Option<Instant>,
    /// For how many rounds of gossip to tell what is here.
    pub(super) rounds: u32,
    /// The origin is gone, or has a newer life.
    pub(super) over: Option<Over>,
    /// What came has not been acknowledged yet.
    pub(super) ack_due: bool,
    /// What acknowledgements are to carry, as the origin says.
    pub(super) cookie: Option<u64>,
}

/// What all streams share: how much they keep, and what came of them.
#[derive(Debug)]
pub(super) struct Store {
    /// Bytes that may wait for their turn.
    pub(super) max_ahead: usize,
    /// Begin with what others retain.
    pub(super) replay: bool,
    /// Bytes and messages kept after their delivery.
    pub(super) retained: (usize, usize),
    /// Bytes that wait for their turn.
    pub(super) ahead: usize,
    /// What is delivered, in order.
    pub(super) delivered: VecDeque<Message>,
    /// What will not be delivered: of whose which life, and which numbers.
    pub(super) lost: Vec<(NodeName, u64, Range<u64>)>,
}

impl Store {
    pub(super) fn new(max_ahead: usize, replay: bool) -> Self {
        Self { max_ahead, replay, retained: (0, 0), ahead: 0, delivered: VecDeque::new(), lost: Vec::new() }
    }
}

impl Stream {
    pub(super) fn new(origin: NodeName, epoch: u64, next: Option<u64>) -> Self {
        Self {
            origin,
            epoch,
            next,
            begun: if next.is_some() { Begun::Told } else { Begun::No },
            follows: false,
            forgotten: None,
            retained: VecDeque::new(),
            bytes: 0,
            ahead: BTreeMap::new(),
            fallback: None,
            head: next.unwrap_or_default(),
            told_by: None,
            doubted: false,
            floor: 0,
            gone_below: 0,
            hint: None,
            attempts: 0,
            counts_from: None,
            rounds: 0,
            over: None,
            ack_due: false,
            cookie: None,
        }
    }

    /// The first number that can be given to others.
    pub(super) fn base(&self) -> u64 {
        self.next.unwrap_or_default() - self.retained.len() as u64
    }

    /// What there is of it here.
    pub(super) fn have(&self) -> Have<'_> {
        let (base, next) = (self.base(), self.next.unwrap_or_default());
        Have { origin: self.origin.as_bytes(), epoch: self.epoch, base, next, floor: self.floor, start: None }
    }

    /// Whether it keeps something that was delivered.
    pub(super) fn retains(&self) -> bool {
        !self.retained.is_empty()
    }

    /// Whether something is missing, or it is not known what.
    pub(super) fn lacks(&self) -> bool {
        match self.next {
            Some(next) => next < self.end(),
            None => !self.ahead.is_empty() || self.fallback.is_some(),
        }
    }

    /// The number after the last one there is, as far as is known.
    pub(super) fn end(&self) -> u64 {
        self.ahead.last_key_value().map_or(self.head, |(last, _)| self.head.max(last + 1))
    }

    /// The origin has gone, or has begun another life.
    pub(super) fn end_life(&mut self, now: Instant, left: bool) {
        self.over.get_or_insert(Over { since: now, left });
    }

    /// Where this node begins is not known, or only guessed.
    pub(super) fn asks_for_start(&self) -> bool {
        self.begun != Begun::Told
    }

    /// What it can acknowledge: nothing, as long as it does not know where it begins.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        self.next.filter(|_| self.begun == Begun::Told)
    }

    /// What it lacks as far as is known, all at once, should it be forgotten.
    pub(super) fn lacking(&self) -> Option<Range<u64>> {
        let next = self.next.or(self.follows.then_some(0))?;
        (next < self.end() && !self.doubted).then(|| next..self.end())
    }

    /// Where to begin, when the origin cannot say it.
    pub(super) fn guessed_start(&self) -> u64 {
        if self.follows {
            return 0;
        }
        self.first_ahead().into_iter().chain(self.fallback).min().unwrap_or_default()
    }

    /// The first number that is here ahead of its turn.
    pub(super) fn first_ahead(&self) -> Option<u64> {
        self.ahead.first_key_value().map(|(first, _)| *first)
    }

    /// Something came of what was asked for, or somebody may have it who was not asked yet.
    pub(super) fn ask_afresh(&mut self) {
        (self.attempts, self.counts_from) = (0, None);
    }

    /// A message that is kept, or waits for its turn.
    pub(super) fn get(&self, seq: u64) -> Option<&Message> {
        match seq.checked_sub(self.base()) {
            Some(i) if seq < self.next.unwrap_or_default() => self.retained.get(i as usize),
            _ => self.ahead.get(&seq),
        }
    }

    /// Who is back there may have been restarted: that it has less now does not mean that it never had more.
    pub(super) fn forget_teller(&mut self, addr: SocketAddr) {
        self.told_by = self.told_by.filter(|told_by| *told_by != addr);
    }

    /// Takes in a message, which `build` makes, with its origin's name, if it is new. `begins` says that this node begins
    /// with it, unless it is known to begin elsewhere.
    pub(super) fn receive(
        &mut self,
        seq: u64,
        begins: bool,
        store: &mut Store,
        build: impl FnOnce(NodeName) -> Message,
    ) -> Result<Taken, StreamError> {
        if begins && self.next.is_none() {
            (self.next, self.begun) = (Some(seq), Begun::Told);
        }
        let expected = self.next.or_else(|| self.first_ahead()).unwrap_or(seq);
        if seq == u64::MAX || seq > expected.saturating_add(MAX_AHEAD) {
            return Err(StreamError::FarAhead(seq));
        }
        if self.next.is_some_and(|next| seq < next) || self.ahead.contains_key(&seq) {
            return Ok(Taken::Known);
        }
        self.head = self.head.max(seq + 1);
        let message = build(self.origin.clone());
        if self.next == Some(seq) {
            self.ask_afresh();
            self.deliver(message, store);
        } else if store.ahead + message.len() > store.max_ahead {
            return Ok(Taken::NoRoom);
        } else {
            store.ahead += message.len();
            self.ahead.insert(seq, message);
        }
        Ok(Taken::New)
    }

    /// Something came, from there: if it is `news`, others are to hear of it. Gives whether an acknowledgement is due that
    /// was not before, and whether something is missing.
    pub(super) fn note_arrival(&mut self, from: SocketAddr, news: bool, rounds: u32) -> (bool, bool) {
        if news {
            self.rounds = rounds;
        }
        let lacks = self.lacks();
        if lacks {
            self.hint.get_or_insert(from);
        }
        (!std::mem::replace(&mut self.ack_due, true), lacks)
    }

    /// Delivers a message whose turn it is, and those that waited for it.
    fn deliver(&mut self, message: Message, store: &mut Store) {
        let mut due = Some(message);
        let mut next = self.next.unwrap_or_default();
        while let Some(message) = due {
            if next >= self.floor {
                self.bytes += message.len();
                store.retained.0 += message.len();
                store.retained.1 += 1;
                self.retained.push_back(message.clone());
            }
            store.delivered.push_back(message);
            next += 1;
            due = if self.ahead.is_empty() { None } else { self.ahead.remove(&next) };
            store.ahead -= due.as_ref().map_or(0, Message::len);
        }
        self.next = Some(next);
    }

    /// Goes on from `next`, since what comes before is not for this node, or cannot be had.
    fn skip_to(&mut self, next: u64, store: &mut Store) {
        let later = self.ahead.split_off(&next);
        let dropped = std::mem::replace(&mut self.ahead, later);
        store.ahead -= dropped.values().map(Message::len).sum::<usize>();
        // What is kept would no longer reach up to `next`.
        self.evict(self.retained.len(), store);
        self.next = Some(next);
        self.head = self.head.max(next);
        self.ask_afresh();
        if let Some(message) = self.ahead.remove(&next) {
            store.ahead -= message.len();
            self.deliver(message, store);
        }
    }

    /// Begins, though the origin does not say where.
    pub(super) fn guess(&mut self, next: u64, store: &mut Store) {
        self.begun = Begun::Guessed(next);
        self.skip_to(next, store);
    }

    /// Frees the oldest that were delivered.
    pub(super) fn evict(&mut self, n: usize, store: &mut Store) {
        let bytes: usize = self.retained.drain(..n).map(|message| message.len()).sum();
        self.bytes -= bytes;
        if self.retained.is_empty() {
            self.retained.shrink_to(16);
        }
        store.retained.0 -= bytes;
        store.retained.1 -= n;
    }

    /// It is forgotten, with all that is kept of it.
    pub(super) fn forget(self, store: &mut Store) {
        store.retained.0 -= self.bytes;
        store.retained.1 -= self.retained.len();
        store.ahead -= self.ahead.values().map(Message::len).sum::<usize>();
    }
}
