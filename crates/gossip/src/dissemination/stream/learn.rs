//! What somebody tells of a stream: where it begins, how far it goes, and what nobody needs any more.

use std::{net::SocketAddr, time::Duration};

use super::{Begun, MAX_AHEAD, Pace, Store, Stream, step::OTHERS_ASKED};
use crate::dissemination::{
    control::{Have, Start},
    message::Message,
};

/// Who tells what there is of a stream.
#[derive(Clone, Copy, Debug)]
pub(in crate::dissemination) struct Source {
    /// Where it is reached.
    pub(in crate::dissemination) addr: Option<SocketAddr>,
    /// It is reached where the origin is.
    pub(in crate::dissemination) named: bool,
    /// It is the origin.
    pub(in crate::dissemination) by_origin: bool,
}

/// What is to be done, now that more is known of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dissemination) struct Learned {
    /// In how long what is missing is to be asked for at the latest.
    pub(in crate::dissemination) ask_in: Option<Duration>,
    /// Whether the origin is to be told how far this node is, or asked where to begin.
    pub(in crate::dissemination) acknowledge: bool,
}

impl Stream {
    /// Takes in what somebody has of it. `begins` is where this node begins, if the origin says it to this node.
    pub(in crate::dissemination) fn learn(
        &mut self,
        have: &Have<'_>,
        begins: Option<Start>,
        source: Source,
        pace: Pace,
        store: &mut Store,
    ) -> Learned {
        let Source { named, by_origin, .. } = source;
        // Nobody has so much to say; a number like that is made up.
        let head = have.next.min(self.next.unwrap_or(have.next).saturating_add(MAX_AHEAD));
        self.learn_head(have.base, head, source);
        if self.next.is_none() && !by_origin && head > 0 {
            self.fallback = Some(self.fallback.map_or(have.base, |known| known.min(have.base)).min(head));
        }
        if let Some(cookie) = have.start.and_then(|start| start.cookie).filter(|_| named)
            && (by_origin || self.cookie.is_none())
        {
            self.cookie = Some(cookie);
        }
        if by_origin {
            self.gone_below = self.gone_below.max(have.base.min(head));
            if self.attempts >= OTHERS_ASKED as u32 {
                self.forget_ahead(head, store);
            }
        }
        if let Some(start) = begins {
            self.start(start, (have.base, have.next), store);
        }
        if self.free(have.floor.min(head), store) {
            self.rounds = pace.rounds;
        }
        // Who has nothing to give, as it may say when it is asked, is no reason to ask sooner.
        let gives = self.next.is_none_or(|here| here < have.next && (by_origin || have.base <= here));
        let patience = match have.start {
            _ if !gives => self.backed_off(pace.patience),
            Some(_) => Duration::ZERO,
            None => pace.patience / 5,
        };
        Learned {
            ask_in: self.lacks().then_some(patience),
            acknowledge: named && (have.start.is_some() || self.asks_for_start()),
        }
    }

    /// Somebody says that there are messages up to `head`, and can give those from `base` on. The origin itself
    /// is believed also when that is less than was heard from others.
    fn learn_head(&mut self, base: u64, head: u64, source: Source) {
        let hint = source.addr;
        if source.by_origin {
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

    /// Where this node begins, as the origin says, which still has what is from `base` on, up to `head`.
    /// What comes before it is not owed, also where this node had guessed that it would begin earlier; where it
    /// began later, it has missed something. Who has begun goes on from where it is, unless that was made up: a
    /// number far beyond all that the origin has said.
    pub(in crate::dissemination) fn start(&mut self, start: Start, (base, head): (u64, u64), store: &mut Store) {
        let begun = std::mem::replace(&mut self.begun, Begun::Told);
        let at = if store.replay { base.min(start.at) } else { start.at };
        match (begun, self.next) {
            (Begun::Told, Some(_)) => {}
            (Begun::Guessed(guess), Some(next)) if next > guess && guess < head.saturating_add(MAX_AHEAD) => {
                let lost = (start.at < guess).then(|| (self.origin.clone(), self.epoch, start.at..guess));
                store.lost.extend(lost);
            }
            _ => self.skip_to(at, store),
        }
    }

    /// Forgets what is here ahead of its turn from `end` on: its origin knows of no such numbers.
    fn forget_ahead(&mut self, end: u64, store: &mut Store) {
        let made_up = self.ahead.split_off(&end);
        store.ahead -= made_up.values().map(Message::len).sum::<usize>();
    }

    /// Nobody needs anything below `floor` any more. Gives whether that is news.
    fn free(&mut self, floor: u64, store: &mut Store) -> bool {
        // Nobody can do without what this node has not had itself.
        let floor = floor.min(self.next.unwrap_or_default());
        if floor <= self.floor {
            return false;
        }
        self.floor = floor;
        let n = floor.saturating_sub(self.base()).min(self.retained.len() as u64) as usize;
        self.evict(n, store);
        true
    }
}
