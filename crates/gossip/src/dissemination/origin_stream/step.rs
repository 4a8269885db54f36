//! The repair of one stream: whom to ask for what is missing, how long to wait, and when to give up.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{OriginStream, ReceiveBuffers, StreamEnd};
use crate::dissemination::{control::MAX_RANGES, limits::FAILED_GRACE};

/// How many messages are requested at once. More repairs faster, and in larger bursts.
pub(in crate::dissemination) const MAX_REQUESTED: u64 = 256;
/// How long this node waits for an origin that is gone to come back and say where the stream starts; and how long others
/// are asked for what an origin that left cannot give any more. Longer loses less where news of members is wrong; shorter
/// tells the application sooner what is missing.
const LEFT_ORIGIN_GRACE: Duration = Duration::from_secs(10);
/// The wait for the answer doubles with each request, up to this.
const MAX_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// After how many attempts missing messages may be given up, at least. Those that went to the origin count.
pub(super) const MIN_PEERS_ASKED: usize = 4;
/// The same, at most.
const MAX_PEERS_ASKED: usize = 8;
/// How often an origin is asked where to start, before this node starts with the very first message, if others retain
/// that.
const MIN_START_REQUESTS: u32 = 6;
/// The same, before it starts with what others retain. It is often enough for an answer to come where half of all
/// datagrams are lost: this guess can skip, in silence, what the origin owes this node.
const MAX_START_REQUESTS: u32 = 20;

/// Where missing messages can be had.
#[derive(Clone, Copy, Debug)]
pub(in crate::dissemination) struct RepairSources {
    /// Whether the origin is a live member.
    pub(in crate::dissemination) origin_is_live: bool,
    /// Whether this node has ever met the origin.
    pub(in crate::dissemination) met_origin: bool,
    /// How many members are live and proven, this node included.
    pub(in crate::dissemination) live: usize,
}

/// What repair does next.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dissemination) enum RepairStep {
    /// Nothing: nothing is missing, or nobody can give it.
    Idle,
    /// Ask the origin where to start, and look again after that time.
    RequestStart(Duration),
    /// Wait so long: the origin may come back.
    Wait(Duration),
    /// The stream has started at a guessed number.
    Started,
    /// Missing messages were given up.
    GaveUp,
    /// Request messages.
    Request(RepairRequest),
}

/// Which messages to request, and from whom.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dissemination) struct RepairRequest {
    /// First numbers and counts.
    pub(in crate::dissemination) ranges: Vec<(u64, u64)>,
    /// How often the first of them was requested before.
    pub(in crate::dissemination) attempt: u32,
    /// The peer that said that there is more.
    pub(in crate::dissemination) preferred_peer: Option<SocketAddr>,
    /// Whether the origin is live and, as far as is known, still in this epoch.
    pub(in crate::dissemination) origin_is_live: bool,
    /// Whether the origin, if it is live, may still keep them.
    pub(in crate::dissemination) origin_may_have: bool,
    /// They were requested so often that the origin, if it is live, may be in another epoch.
    pub(in crate::dissemination) attempts_exhausted: bool,
    /// How long the answer is awaited.
    pub(in crate::dissemination) response_timeout: Duration,
}

impl StreamEnd {
    /// For how long what is missing of the epoch is requested. An origin that failed may come back, perhaps in a new epoch;
    /// others keep the end of the previous one, whether they remember the member or not.
    fn grace(self) -> Duration {
        if self.left { LEFT_ORIGIN_GRACE } else { FAILED_GRACE }
    }
}

impl OriginStream {
    /// Takes the next step of repair, which is due.
    pub(in crate::dissemination) fn next_step(
        &mut self,
        now: Instant,
        sources: RepairSources,
        response_timeout: Duration,
        buffers: &mut ReceiveBuffers,
    ) -> RepairStep {
        if !self.lacks() {
            return RepairStep::Idle;
        }
        let origin_is_live = sources.origin_is_live && self.ended.is_none();
        let Some(next) = self.next else {
            return self.next_step_to_start(now, origin_is_live, sources, response_timeout, buffers);
        };
        let attempts_exhausted = self.attempts >= sources.live.clamp(MIN_PEERS_ASKED, MAX_PEERS_ASKED) as u32;
        let gone = origin_is_live && self.gone_below > next;
        let over = self.ended.is_some_and(|over| now.saturating_duration_since(over.since) >= over.grace());
        if attempts_exhausted && (gone || over) {
            return self.give_up(next, gone, buffers);
        }
        let (ranges, attempt) = (self.missing(), self.attempts);
        if self.count_attempt(now, response_timeout) && attempt > 0 {
            self.preferred_peer = None;
        }
        RepairStep::Request(RepairRequest {
            ranges,
            attempt,
            preferred_peer: self.preferred_peer,
            origin_is_live,
            origin_may_have: self.gone_below <= next,
            attempts_exhausted,
            response_timeout: self.backed_off(response_timeout),
        })
    }

    /// The same, while the start is not known.
    fn next_step_to_start(
        &mut self,
        now: Instant,
        origin_is_live: bool,
        sources: RepairSources,
        response_timeout: Duration,
        buffers: &mut ReceiveBuffers,
    ) -> RepairStep {
        let asked = if self.guessed_start() == 0 { MIN_START_REQUESTS } else { MAX_START_REQUESTS };
        if origin_is_live && self.attempts < asked {
            self.count_attempt(now, response_timeout);
            return RepairStep::RequestStart(self.backed_off(response_timeout));
        }
        if self.ended.is_some_and(|over| over.since + LEFT_ORIGIN_GRACE > now) {
            return RepairStep::Wait(MAX_RESPONSE_TIMEOUT);
        }
        // Nobody says where the stream starts. What an origin published that has left is not owed, unless this node has met it,
        // got some of it, or replays what is retained.
        let failed = self.ended.is_some_and(|over| !over.left);
        let came = self.follows || self.first_ahead().is_some();
        let wanted = origin_is_live || failed || buffers.replay || came || sources.met_origin;
        let begin = if wanted { self.guessed_start() } else { self.end() };
        self.guess(begin, buffers);
        RepairStep::Started
    }

    /// Gives up what nobody could give and continues behind it: up to where the origin still has messages if they are `gone`
    /// there, else up to the first one in the reorder buffer.
    fn give_up(&mut self, next: u64, gone: bool, buffers: &mut ReceiveBuffers) -> RepairStep {
        let ahead = self.first_ahead();
        let end = if gone { Some(self.gone_below) } else { ahead.or_else(|| self.give_up_head()) };
        let Some(end) = end.map(|end| ahead.map_or(end, |first| first.min(end))) else { return RepairStep::Idle };
        buffers.missed.push((self.origin.clone(), self.epoch, next..end));
        self.skip_to(end, buffers);
        RepairStep::GaveUp
    }

    /// The end of what to give up when the reorder buffer is empty, if there is reason to believe that there ever were
    /// messages.
    fn give_up_head(&mut self) -> Option<u64> {
        let next = self.next.unwrap_or_default();
        let head = std::mem::replace(&mut self.head, next);
        (head > next && !self.head_disputed).then_some(head)
    }

    /// Counts an attempt, unless the answer to the last one is still awaited.
    fn count_attempt(&mut self, now: Instant, response_timeout: Duration) -> bool {
        let counts = self.next_attempt_at.is_none_or(|from| from <= now);
        if counts {
            self.attempts += 1;
            self.next_attempt_at = Some(now + self.backed_off(response_timeout));
        }
        counts
    }

    /// How long an answer is awaited after all attempts so far.
    pub(super) fn backed_off(&self, response_timeout: Duration) -> Duration {
        (response_timeout * (1 << self.attempts.saturating_sub(1).min(8))).min(MAX_RESPONSE_TIMEOUT)
    }

    /// The messages to request: first numbers and counts.
    fn missing(&self) -> Vec<(u64, u64)> {
        let Some(mut at) = self.next else { return Vec::new() };
        let (mut ranges, mut left) = (Vec::new(), MAX_REQUESTED);
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
