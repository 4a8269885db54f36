//! How a stream gets on to what it lacks: whom to ask for it, how long to wait, and when to give up.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Over, Store, Stream};
use crate::dissemination::{control::MAX_RANGES, limits::FAILED_GRACE};

/// Messages asked for at once at most.
pub(in crate::dissemination) const MAX_WANTED: u64 = 256;
/// How long an origin that is gone may take to turn up and say where this node begins; and how long others
/// are asked for what one that has left can give no more.
const DEPARTED_GRACE: Duration = Duration::from_secs(10);
/// The first answer to a request is waited for as long as the pace says, each further one twice as long, up to this.
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);
/// How many others are asked for what the origin has no more.
pub(super) const OTHERS_ASKED: usize = 4;
/// … in a cluster that has so many; they are asked by turns, so that each of up to so many is.
const MOST_ASKED: usize = 8;
/// How often an origin is asked where to begin, before this node begins with the very first message, if
/// others retain that.
const STARTS_ASKED: u32 = 6;
/// … and before it takes what others retain: often enough for an answer to come where every other datagram
/// is lost. That guess may leave out, in silence, what the origin owes this node.
const STARTS_ASKED_IN_VAIN: u32 = 20;

/// What can be had of members.
#[derive(Clone, Copy, Debug)]
pub(in crate::dissemination) struct Peers {
    /// Whether the origin is a live member.
    pub(in crate::dissemination) has_origin: bool,
    /// Whether the origin was ever met.
    pub(in crate::dissemination) met_origin: bool,
    /// How many are live and have answered this node, itself included.
    pub(in crate::dissemination) live: usize,
}

/// How to go on to what is missing.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dissemination) enum Step {
    /// Not at all: nothing is missing, or nobody can give it.
    Rest,
    /// Ask the origin where to begin; look again after that time.
    AskStart(Duration),
    /// Wait for that time: the origin may turn up.
    Wait(Duration),
    /// The stream has begun, though its origin did not say where.
    Begun,
    /// Something was given up.
    GaveUp,
    /// Ask for messages.
    Ask(Request),
}

/// What is to be asked for, and of whom.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dissemination) struct Request {
    /// First numbers and counts.
    pub(in crate::dissemination) ranges: Vec<(u64, u64)>,
    /// How often what is next was asked for before.
    pub(in crate::dissemination) attempt: u32,
    /// Who said that there is more.
    pub(in crate::dissemination) hint: Option<SocketAddr>,
    /// Whether the origin is there, in this life as far as is known.
    pub(in crate::dissemination) has_origin: bool,
    /// The origin may have it, if it is there.
    pub(in crate::dissemination) origin_may_have: bool,
    /// It was asked for so often that the origin, if it is there, may be in another life.
    pub(in crate::dissemination) asked_enough: bool,
    /// How long the answer is waited for.
    pub(in crate::dissemination) patience: Duration,
}

impl Over {
    /// For how long what is missing of it is asked for. Who failed may come back, or has, in a new life; others have
    /// the last words of the former one, whether they remember the member or not.
    fn grace(self) -> Duration {
        if self.left { DEPARTED_GRACE } else { FAILED_GRACE }
    }
}

impl Stream {
    /// It is time to go on to what is missing.
    pub(in crate::dissemination) fn next_step(
        &mut self,
        now: Instant,
        peers: Peers,
        patience: Duration,
        store: &mut Store,
    ) -> Step {
        if !self.lacks() {
            return Step::Rest;
        }
        let has_origin = peers.has_origin && self.over.is_none();
        let Some(next) = self.next else { return self.next_step_to_start(now, has_origin, peers, patience, store) };
        let asked_enough = self.attempts >= peers.live.clamp(OTHERS_ASKED, MOST_ASKED) as u32;
        let gone = has_origin && self.gone_below > next;
        let over = self.over.is_some_and(|over| now.saturating_duration_since(over.since) >= over.grace());
        if asked_enough && (gone || over) {
            return self.give_up(next, gone, store);
        }
        let (ranges, attempt) = (self.missing(), self.attempts);
        if self.count_attempt(now, patience) && attempt > 0 {
            self.hint = None;
        }
        Step::Ask(Request {
            ranges,
            attempt,
            hint: self.hint,
            has_origin,
            origin_may_have: self.gone_below <= next,
            asked_enough,
            patience: self.backed_off(patience),
        })
    }

    /// The same, while it is not known where to begin.
    fn next_step_to_start(
        &mut self,
        now: Instant,
        has_origin: bool,
        peers: Peers,
        patience: Duration,
        store: &mut Store,
    ) -> Step {
        let asked = if self.guessed_start() == 0 { STARTS_ASKED } else { STARTS_ASKED_IN_VAIN };
        if has_origin && self.attempts < asked {
            self.count_attempt(now, patience);
            return Step::AskStart(self.backed_off(patience));
        }
        if self.over.is_some_and(|over| over.since + DEPARTED_GRACE > now) {
            return Step::Wait(LONGEST_PATIENCE);
        }
        // Nobody says where this node begins. What was said by one that has left is not for it, unless the two have
        // met, it came here, or is wanted all the same.
        let failed = self.over.is_some_and(|over| !over.left);
        let came = self.follows || self.first_ahead().is_some();
        let wanted = has_origin || failed || store.replay || came || peers.met_origin;
        let begin = if wanted { self.guessed_start() } else { self.end() };
        self.guess(begin, store);
        Step::Begun
    }

    /// Goes on behind what nobody could give: what is `gone` at the origin, or else all up to what is here ahead of its
    /// turn.
    fn give_up(&mut self, next: u64, gone: bool, store: &mut Store) -> Step {
        let ahead = self.first_ahead();
        let end = if gone { Some(self.gone_below) } else { ahead.or_else(|| self.give_up_head()) };
        let Some(end) = end.map(|end| ahead.map_or(end, |first| first.min(end))) else { return Step::Rest };
        store.lost.push((self.origin.clone(), self.epoch, next..end));
        self.skip_to(end, store);
        Step::GaveUp
    }

    /// Nobody could give what is missing, and nothing is here ahead of it: up to where it is given up, if
    /// there is reason to believe that there was something.
    fn give_up_head(&mut self) -> Option<u64> {
        let next = self.next.unwrap_or_default();
        let head = std::mem::replace(&mut self.head, next);
        (head > next && !self.doubted).then_some(head)
    }

    /// Counts an attempt, unless the answer to the last one is still waited for.
    fn count_attempt(&mut self, now: Instant, patience: Duration) -> bool {
        let counts = self.counts_from.is_none_or(|from| from <= now);
        if counts {
            self.attempts += 1;
            self.counts_from = Some(now + self.backed_off(patience));
        }
        counts
    }

    /// How long an answer is waited for after so many attempts.
    pub(super) fn backed_off(&self, patience: Duration) -> Duration {
        (patience * (1 << self.attempts.saturating_sub(1).min(8))).min(LONGEST_PATIENCE)
    }

    /// The messages to ask for: first numbers and counts.
    fn missing(&self) -> Vec<(u64, u64)> {
        let Some(mut at) = self.next else { return Vec::new() };
        let (mut ranges, mut left) = (Vec::new(), MAX_WANTED);
        let ends = self.ahead.keys().map(|seq| (*seq, seq + 1)).chain([(self.end(), self.end())]);
        for (end, after) in ends {
            if end > at {
                let count = (end - at).min(left);
                ranges.push((at, count));
                left -= count;
                if left == 0 || ranges.len() == MAX_RANGES {
                    break;
                }
            }
            at = after;
        }
        ranges
    }
}
