//! What a digest tells about a stream: where it starts, how far it goes, and what nobody needs any more.

use std::{net::SocketAddr, time::Duration};

use super::{MAX_AHEAD, OriginStream, ReceiveBuffers, RepairTiming, StartState, step::MIN_PEERS_ASKED};
use crate::dissemination::{
    control::{StreamDigest, StreamStart},
    message::Message,
};

/// Who sent a digest.
#[derive(Clone, Copy, Debug)]
pub(in crate::dissemination) struct DigestSource {
    /// Where the sender is reached.
    pub(in crate::dissemination) addr: Option<SocketAddr>,
    /// Whether that is the origin's address.
    pub(in crate::dissemination) is_origin_addr: bool,
    /// Whether the sender is certainly the origin.
    pub(in crate::dissemination) is_origin: bool,
}

/// What is to be done after a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dissemination) struct DigestOutcome {
    /// In how long missing messages are to be requested at the latest.
    pub(in crate::dissemination) request_in: Option<Duration>,
    /// Whether the origin is to be sent an acknowledgement, or a request where to start.
    pub(in crate::dissemination) acknowledge: bool,
}

impl OriginStream {
    /// Takes a digest. `start` is where this node starts, if the digest comes from the origin and says so.
    pub(in crate::dissemination) fn learn(
        &mut self,
        digest: &StreamDigest<'_>,
        start: Option<StreamStart>,
        source: DigestSource,
        timing: RepairTiming,
        buffers: &mut ReceiveBuffers,
    ) -> DigestOutcome {
        let DigestSource { is_origin_addr, is_origin, .. } = source;
        // No origin gets so far ahead; a higher number is made up.
        let head = digest.next.min(self.next.unwrap_or(digest.next).saturating_add(MAX_AHEAD));
        self.learn_head(digest.base, head, source);
        if self.next.is_none() && !is_origin && head > 0 {
            self.fallback = Some(self.fallback.map_or(digest.base, |known| known.min(digest.base)).min(head));
        }
        if let Some(cookie) = digest.start.and_then(|start| start.cookie).filter(|_| is_origin_addr)
            && (is_origin || self.cookie.is_none())
        {
            self.cookie = Some(cookie);
        }
        if is_origin {
            self.gone_below = self.gone_below.max(digest.base.min(head));
            if self.attempts >= MIN_PEERS_ASKED as u32 {
                self.forget_ahead(head, buffers);
            }
        }
        if let Some(start) = start {
            self.start(start, (digest.base, digest.next), buffers);
        }
        if self.free(digest.floor.min(head), buffers) {
            self.rounds = timing.gossip_rounds;
        }
        // A peer that has nothing to give is no reason to ask sooner. It may say so when it is asked.
        let gives = self.next.is_none_or(|here| here < digest.next && (is_origin || digest.base <= here));
        let response_timeout = match digest.start {
            _ if !gives => self.backed_off(timing.response_timeout),
            Some(_) => Duration::ZERO,
            None => timing.response_timeout / 5,
        };
        DigestOutcome {
            request_in: self.lacks().then_some(response_timeout),
            acknowledge: is_origin_addr && (digest.start.is_some() || self.needs_start()),
        }
    }

    /// A peer says that there are messages up to `head`, and that it keeps those from `base` on. The origin itself is believed
    /// even if it says less than others did.
    fn learn_head(&mut self, base: u64, head: u64, source: DigestSource) {
        let teller = source.addr;
        if source.is_origin {
            self.head = head;
        }
        if head > self.end() {
            (self.head, self.head_source, self.head_disputed) = (head, teller, false);
            self.preferred_peer = teller;
            if self.next.is_some_and(|next| base <= next) {
                self.reset_attempts();
            }
        } else if self.preferred_peer.is_none()
            && (head == self.end() || self.next.is_some_and(|next| base <= next && next < head))
        {
            self.preferred_peer = teller;
            self.head_disputed = false;
        } else if head < self.head && teller.is_some() && teller == self.head_source && self.attempts > 0 {
            self.head_disputed = true;
        }
    }

    /// Takes the origin's word for where this node starts. The origin still has the messages from `base` to `head`.
    ///
    /// What comes before the start is not owed, even if this node had guessed an earlier one. If it had guessed a later
    /// one, it has missed something. A node that has begun stays where it is, unless its guess was far beyond all that
    /// the origin has published, and so was based on a forgery.
    pub(in crate::dissemination) fn start(
        &mut self,
        start: StreamStart,
        (base, head): (u64, u64),
        buffers: &mut ReceiveBuffers,
    ) {
        let start_state = std::mem::replace(&mut self.start_state, StartState::Confirmed);
        let at = if buffers.replay { base.min(start.seq) } else { start.seq };
        match (start_state, self.next) {
            (StartState::Confirmed, Some(_)) => {}
            (StartState::Guessed(guess), Some(next)) if next > guess && guess < head.saturating_add(MAX_AHEAD) => {
                let missed = (start.seq < guess).then(|| (self.origin.clone(), self.epoch, start.seq..guess));
                buffers.missed.extend(missed);
            }
            _ => self.skip_to(at, buffers),
        }
    }

    /// Drops the messages ahead of their turn from `end` on: the origin knows of no such numbers.
    fn forget_ahead(&mut self, end: u64, buffers: &mut ReceiveBuffers) {
        let made_up = self.ahead.split_off(&end);
        buffers.ahead -= made_up.values().map(Message::len).sum::<usize>();
    }

    /// The origin says that nobody needs anything below `floor`. Gives whether that is news.
    fn free(&mut self, floor: u64, buffers: &mut ReceiveBuffers) -> bool {
        // This node still needs what it has not delivered.
        let floor = floor.min(self.next.unwrap_or_default());
        if floor <= self.floor {
            return false;
        }
        self.floor = floor;
        let n = floor.saturating_sub(self.base()).min(self.retained.len() as u64) as usize;
        self.evict(n, buffers);
        true
    }
}
