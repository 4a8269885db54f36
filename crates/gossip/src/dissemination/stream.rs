//! One life of an origin, as a stream of numbered messages: where it began for this node, how far it is, and what
//! it lacks.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use super::Message;
use crate::membership::NodeName;

/// Messages asked for at once at most.
pub(super) const MAX_WANTED: u64 = 256;

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

/// A life has ended, or its origin seems to be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) since: Instant,
    /// Whether the origin said good-bye.
    pub(super) left: bool,
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
    pub(super) fallback: Option<u64>,
    /// The number after the last one there is, as far as was heard.
    pub(super) head: u64,
    /// Who said so last.
    told_by: Option<SocketAddr>,
    /// Who said so has less when asked: it was made up in its name.
    doubted: bool,
    /// Below this nobody needs anything any more.
    pub(super) floor: u64,
    /// The origin itself has nothing below this any more.
    pub(super) gone_below: u64,
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

/// What all streams together keep.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Bytes and messages kept after their delivery.
    pub(super) retained: (usize, usize),
    /// Bytes that wait for their turn.
    pub(super) ahead: usize,
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

    /// Counts an attempt, unless the answer to the last one is still waited for. `pause` is how long an answer is
    /// waited for after so many attempts.
    pub(super) fn count_attempt(&mut self, now: Instant, pause: impl Fn(u32) -> Duration) -> bool {
        let counts = self.counts_from.is_none_or(|from| from <= now);
        if counts {
            self.attempts += 1;
            self.counts_from = Some(now + pause(self.attempts));
        }
        counts
    }

    /// The messages to ask for: first numbers and counts.
    pub(super) fn missing(&self, max_ranges: usize) -> Vec<(u64, u64)> {
        let Some(mut at) = self.next else { return Vec::new() };
        let (mut ranges, mut left) = (Vec::new(), MAX_WANTED);
        let ends = self.ahead.keys().map(|seq| (*seq, seq + 1)).chain([(self.end(), self.end())]);
        for (end, after) in ends {
            if end > at {
                let count = (end - at).min(left);
                ranges.push((at, count));
                left -= count;
                if left == 0 || ranges.len() == max_ranges {
                    break;
                }
            }
            at = after;
        }
        ranges
    }

    /// A message that is kept, or waits for its turn.
    pub(super) fn get(&self, seq: u64) -> Option<&Message> {
        match seq.checked_sub(self.base()) {
            Some(i) if seq < self.next.unwrap_or_default() => self.retained.get(i as usize),
            _ => self.ahead.get(&seq),
        }
    }

    /// Somebody says that there are messages up to `head`, and can give those from `base` on. The origin itself
    /// is believed also when that is less than was heard from others.
    pub(super) fn learn_head(&mut self, base: u64, head: u64, by_origin: bool, hint: Option<SocketAddr>) {
        if by_origin {
            self.head = head;
        }
        if head > self.end() {
            (self.head, self.told_by, self.doubted) = (head, hint, false);
            self.hint = hint;
            if self.next.is_some_and(|next| base <= next) {
                self.ask_afresh();
            }
        } else if self.hint.is_none()
            && (head == self.end() || self.next.is_some_and(|next| base <= next && next < head))
        {
            self.hint = hint;
            self.doubted = false;
        } else if head < self.head && hint.is_some() && hint == self.told_by && self.attempts > 0 {
            self.doubted = true;
        }
    }

    /// Who is back there may have been restarted: that it has less now does not mean that it never had more.
    pub(super) fn forget_teller(&mut self, addr: SocketAddr) {
        self.told_by = self.told_by.filter(|told_by| *told_by != addr);
    }

    /// Delivers a message whose turn it is, and those that waited for it.
    pub(super) fn deliver(&mut self, message: Message, kept: &mut Kept, delivered: &mut VecDeque<Message>) {
        let mut due = Some(message);
        let mut next = self.next.unwrap_or_default();
        while let Some(message) = due {
            if next >= self.floor {
                self.bytes += message.len();
                kept.retained.0 += message.len();
                kept.retained.1 += 1;
                self.retained.push_back(message.clone());
            }
            delivered.push_back(message);
            next += 1;
            due = if self.ahead.is_empty() { None } else { self.ahead.remove(&next) };
            kept.ahead -= due.as_ref().map_or(0, Message::len);
        }
        self.next = Some(next);
    }

    /// Nobody could give what is missing, and nothing is here ahead of it: up to where it is given up, if
    /// there is reason to believe that there was something.
    pub(super) fn give_up_head(&mut self) -> Option<u64> {
        let next = self.next.unwrap_or_default();
        let head = std::mem::replace(&mut self.head, next);
        (head > next && !self.doubted).then_some(head)
    }
}
