//! What a node says: its log, who has acknowledged what of it, and how fast it may go on.
//!
//! # The log
//!
//! ```text
//!        base            stable             sent              next
//!   freed │ kept for those │ not everybody    │ not yet sent     │
//!         │ that failed    │ has it           │                  │
//! ```
//!
//! A message is freed when every live member has it, and every one that failed less than
//! [`FAILED_GRACE`](super::limits::FAILED_GRACE) ago, since that may only have been cut off. Publishing is held back while the log
//! is full of messages that live members still need.
//!
//! # A peer
//!
//! | it is | counts for | becomes |
//! |---|---|---|
//! | `Unproven` (it has not answered yet, and there are many like it, or it lags) | the log, as long as there is room | `Lagging` when it answers or acknowledges; `Away` |
//! | `Current` | the window, publishers, receipts, the log | `Lagging` when it acknowledges nothing for [`LAGGING_AFTER`] |
//! | `Lagging` | publishers, receipts, the log | `Current` when it has caught up; `Loose` after the lag limit |
//! | `Loose` | receipts; the log, as long as there is room | `Current` when it has caught up |
//! | `Away` (failed, or left) | the log, as long as there is room | `Lagging` when it is back; forgotten after [`FAILED_GRACE`](super::limits::FAILED_GRACE), or [`LEFT_GRACE`](super::limits::LEFT_GRACE) |
//!
//! A peer is its name: wherever it is reached, and whatever it was thought to be meanwhile, it goes on where
//! it was. One that was forgotten begins with what is sent from now on as far as this node knows; but what it
//! has delivered itself is what it continues from, and its first acknowledgement says so.

mod departures;
mod forgotten;
mod log;
mod peer;
mod peers;
mod receipts;
mod window;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

pub(super) use self::peer::Began;
use self::{
    departures::Departures,
    forgotten::ForgottenPeers,
    log::Log,
    peer::{Peer, Positions, Standing},
    window::Window,
};
use super::{control::Start, limits::NEWCOMERS};
use crate::{config::Retention, membership::NodeName};

/// A peer that acknowledges nothing for so long no longer slows down the others.
const LAGGING_AFTER: Duration = Duration::from_millis(250);
/// A peer that has been reminded so often without acknowledging more is silent.
const SILENT_AFTER: u32 = 3;
/// A peer that does not answer is reminded ever more rarely, down to once in `2^MAX_BACKOFF` periods.
const MAX_BACKOFF: u32 = 5;

/// Why an acknowledgement does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AckError {
    #[error("an acknowledgement came from a stranger")]
    Stranger,
    #[error("an acknowledgement of messages that were never sent")]
    Unsent,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Outbound {
    pub(super) epoch: u64,
    began: Instant,
    /// The life before this one, if it was renewed: the numbers are the same.
    former: Option<u64>,
    /// Something was said before the life was renewed.
    goes_on: bool,
    limits: Retention,
    log: Log,
    sent: u64,
    peers: BTreeMap<NodeName, Peer>,
    /// How many of them are not proven.
    unproven: usize,
    /// Who is reached where.
    names: BTreeMap<SocketAddr, NodeName>,
    /// What they have acknowledged.
    positions: Positions,
    departures: Departures,
    forgotten: ForgottenPeers,
    window: Window,
    /// The number up to which peers that have not acknowledged are due a reminder.
    reminder_mark: u64,
}

impl Outbound {
    pub(super) fn new(now: Instant, epoch: u64, limits: Retention) -> Self {
        Self {
            epoch,
            began: now,
            former: None,
            goes_on: false,
            limits,
            log: Log::default(),
            sent: 0,
            peers: BTreeMap::new(),
            unproven: 0,
            names: BTreeMap::new(),
            positions: Positions::default(),
            departures: Departures::default(),
            forgotten: ForgottenPeers::default(),
            window: Window::default(),
            reminder_mark: 0,
        }
    }

    /// The number of the next message.
    pub(super) fn next(&self) -> u64 {
        self.log.next()
    }

    /// The first number that is kept.
    pub(super) fn base(&self) -> u64 {
        self.log.base()
    }

    /// The number after the last message that was sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Every live member, the loose ones apart, has everything below.
    pub(super) fn stable(&self) -> u64 {
        self.positions.held.first().map_or(self.sent, |at| at.min(self.sent))
    }

    /// Every live member, the loose ones included, has everything below.
    pub(super) fn everywhere(&self) -> u64 {
        self.positions.loose.first().unwrap_or(u64::MAX).min(self.stable())
    }

    /// Nobody needs what is below any more.
    pub(super) fn floor(&self) -> u64 {
        let Positions { kept, newcomers, .. } = &self.positions;
        kept.first().into_iter().chain(newcomers.first()).fold(self.everywhere(), u64::min)
    }

    /// Whether the log takes one more message.
    pub(super) fn has_room(&self) -> bool {
        self.next() - self.stable() < self.limits.retain_messages as u64
            && self.log.bytes_from(self.stable()) < self.limits.retain_bytes as u64 / 2
    }

    pub(super) fn bytes(&self) -> usize {
        self.log.bytes()
    }

    pub(super) fn len(&self) -> usize {
        self.log.len()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.sent < self.next()
    }

    /// Whether an acknowledgement in this life says that something has come: what is asked in a former one
    /// is answered in this one, when it is heard of.
    pub(super) fn is_acknowledged_in(&self, epoch: u64, next: Option<u64>) -> bool {
        epoch == self.epoch || (self.former == Some(epoch) && next.is_some())
    }

    /// Whether its numbers go on from those of a former life, which have been heard.
    pub(super) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Begins a later life: what is not acknowledged is said again, in it.
    pub(super) fn renew(&mut self, epoch: u64, me: &NodeName) {
        self.former = Some(std::mem::replace(&mut self.epoch, epoch));
        self.goes_on |= self.sent > 0;
        self.sent = self.stable().max(self.base());
        self.log.renumber(&me.to_string(), epoch);
    }

    /// Adds a message, as it travels.
    pub(super) fn push(&mut self, message: Bytes) {
        self.log.push(message);
        self.free();
    }

    /// Frees what nobody needs, and what there is no room for any more.
    fn free(&mut self) {
        let (floor, stable) = (self.floor(), self.stable());
        let Retention { retain_messages, retain_bytes, .. } = self.limits;
        let is_over = |log: &Log| log.len() > retain_messages || log.bytes() > retain_bytes / 2;
        self.log.free_while(|log| log.base() < floor || (log.base() < stable && is_over(log)));
    }

    /// A message that is kept, and was sent.
    pub(super) fn get(&self, seq: u64) -> Option<&Bytes> {
        (seq < self.sent).then(|| self.log.get(seq))?
    }

    /// Takes the messages that may be sent now.
    pub(super) fn take_unsent(&mut self) -> Vec<Bytes> {
        // Where nobody is current, the one that is least behind sets the pace.
        let slowest = self.positions.current.first().or(self.positions.held.last());
        let slowest = slowest.map_or(self.sent, |at| at.min(self.sent));
        let budget = (self.log.offset(slowest) + self.window.bytes()).saturating_sub(self.log.offset(self.sent));
        // A message that is larger than the window goes alone.
        let messages = self.log.batch(self.sent, budget, usize::from(self.sent == slowest));
        self.sent += messages.len() as u64;
        // Where there is nobody to acknowledge, what is sent is done with.
        self.free();
        messages
    }

    fn set_standing(&mut self, name: &[u8], standing: Standing) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        let (old, acked) = (std::mem::replace(&mut peer.standing, standing), peer.acked);
        self.positions.remove(old, acked);
        self.positions.add(standing, acked);
    }

    /// A peer that has what the slowest current one has, or all that was sent, is current again.
    fn catch_up(&mut self, name: &[u8]) {
        let slowest = self.positions.current.first().unwrap_or(u64::MAX);
        let Some(peer) = self.peers.get(name) else { return };
        if peer.acked >= slowest.min(self.sent) && matches!(peer.standing, Standing::Lagging | Standing::Loose) {
            self.set_standing(name, Standing::Current);
        }
    }

    /// Whether the first acknowledgement of who is reached there is still to come.
    pub(super) fn is_new(&self, addr: SocketAddr) -> bool {
        self.names.get(&addr).and_then(|name| self.peers.get(name)).is_some_and(|peer| peer.life == 0)
    }

    /// Where a peer is reached, and where it begins, as far as that is known.
    pub(super) fn start_of(&self, name: &[u8]) -> Option<(SocketAddr, Option<Start>)> {
        let peer = self.peers.get(name)?;
        // Where one begins that was forgotten, takes to know in which life it is.
        let known = peer.life != 0 || !self.forgotten.contains(name);
        let at = self.forgotten.start_of(name, peer.began).unwrap_or(peer.acked);
        Some((peer.addr, known.then_some(Start { at, life: peer.life, cookie: peer.cookie })))
    }

    /// When somebody began that has been running for so many microseconds.
    pub(super) fn began(&self, now: Instant, age: u64) -> Began {
        let elapsed = now.saturating_duration_since(self.began).as_micros();
        Began::try_from(elapsed).unwrap_or(Began::MAX).saturating_sub_unsigned(age)
    }

    /// The same, by the clocks of both.
    pub(super) fn began_by_clock(&self, life: u64) -> Began {
        (life / 2).cast_signed().saturating_sub((self.epoch / 2).cast_signed())
    }

    /// Where a life of a peer begins that asks for it, and began then. What is offered to it is kept for it from now
    /// on; of what is not kept any more it is told that it has missed it.
    pub(super) fn offer(&mut self, name: &[u8], life: u64, began: Began) -> Option<Start> {
        let peer = self.peers.get(name)?;
        let at = match (peer.life, self.forgotten.start_of(name, began)) {
            (_, Some(at)) => at,
            // It was there before this node: only cut off, and no newcomer. It gets what is left.
            (0, None) if began < 0 => peer.acked.min(self.base()),
            (known, None) if known == 0 || known == life => peer.acked,
            _ => self.start_of_new_life(peer),
        };
        let start = Start { at, life, cookie: peer.cookie };
        let kept = at.max(self.base().min(peer.acked));
        if kept < peer.acked {
            self.set_position(name, kept);
        }
        Some(start)
    }

    /// A new life begins where it joined; what the former one lacked it has no claim to.
    fn start_of_new_life(&self, peer: &Peer) -> u64 {
        peer.acked.max(peer.rejoined_at.min(self.sent))
    }

    /// A peer asks where to begin, in a life that began then.
    pub(super) fn ask(&mut self, name: &[u8], life: u64, began: Began) -> Result<(), AckError> {
        let start = self.offer(name, life, began).ok_or(AckError::Stranger)?;
        let peer = self.peers.get_mut(name).ok_or(AckError::Stranger)?;
        peer.begin_life(life);
        peer.began = began;
        let acked = start.at.max(peer.acked);
        self.set_position(name, acked);
        Ok(())
    }

    /// A peer has everything below this number.
    pub(super) fn acked(&self, name: &[u8]) -> Option<u64> {
        Some(self.peers.get(name)?.acked)
    }

    /// A peer turns out to be of a revision that knows nothing of cookies.
    pub(super) fn forget_cookie(&mut self, name: &[u8]) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.cookie = None;
        }
    }

    /// What a peer's acknowledgements are to carry.
    pub(super) fn cookie_of(&self, name: &[u8]) -> Option<u64> {
        self.peers.get(name)?.cookie
    }

    /// A peer has everything below `next`.
    pub(super) fn ack(&mut self, name: &[u8], life: u64, next: u64) -> Result<(), AckError> {
        if next > self.sent {
            return Err(AckError::Unsent);
        }
        let peer = self.peers.get(name).ok_or(AckError::Stranger)?;
        let acked = match peer.life {
            // What it has delivered is what it continues from, whatever this node knew of it.
            0 => next.max(self.base()),
            known if known == life => next.max(peer.acked),
            _ => next.max(self.start_of_new_life(peer)),
        };
        let peer = self.peers.get_mut(name).ok_or(AckError::Stranger)?;
        peer.begin_life(life);
        peer.acknowledged = true;
        if !peer.proven {
            self.prove_peer(name);
        }
        self.forgotten.remove(name);
        self.set_position(name, acked);
        Ok(())
    }

    /// A peer is known to have all below that number, or to lack what was thought to be there.
    fn set_position(&mut self, name: &[u8], acked: u64) {
        let sent = self.sent;
        let Some(peer) = self.peers.get_mut(name) else { return };
        let (before, standing) = (std::mem::replace(&mut peer.acked, acked), peer.standing);
        if acked == before {
            return;
        }
        peer.joined_at = if acked < before { peer.joined_at.min(acked) } else { peer.joined_at };
        if acked > before {
            peer.behind_since = None;
            (peer.backoff, peer.periods_left) = (0, 0);
        }
        if acked == sent || acked < before {
            peer.seen = acked;
        }
        let slowest = self.positions.current.first();
        self.positions.remove(standing, before);
        self.positions.add(standing, acked);
        if acked < before {
            // It catches up, and need not hold back those who have.
            if standing == Standing::Current && slowest.is_some_and(|slowest| acked < slowest) {
                self.set_standing(name, Standing::Lagging);
            }
            return;
        }
        let now_slowest = self.positions.current.first();
        if let (Some(before), Some(after)) = (slowest, now_slowest) {
            self.window.widen(self.log.offset(after).saturating_sub(self.log.offset(before)), after);
        }
        self.catch_up(name);
        self.free();
    }

    /// Something up to this number that was sent has not arrived. It says nothing of the network if
    /// all current peers have that.
    pub(super) fn lost(&mut self, end: Option<u64>) {
        let slowest = self.positions.current.first().unwrap_or(u64::MAX);
        if end.is_some_and(|end| end > slowest) {
            self.window.halve(slowest, self.sent);
        }
    }

    /// Whether somebody is to be reminded who does not acknowledge: newcomers only where there are few.
    pub(super) fn waits_for_acks(&self) -> bool {
        let newcomers = self.positions.newcomers.first().filter(|_| self.unproven <= NEWCOMERS);
        self.stable() < self.sent
            || self.positions.loose.first().is_some()
            || newcomers.is_some_and(|at| at < self.sent)
    }

    /// Whether messages are kept for somebody who may come back.
    pub(super) fn keeps(&self) -> bool {
        self.positions.kept.first().is_some()
    }

    /// The first period begins: who has not acknowledged what has been sent by now is reminded at its end.
    pub(super) fn begin_period(&mut self) {
        self.reminder_mark = self.sent;
    }

    /// To be called once a period while somebody is behind: whom to remind, and who has been cut loose.
    pub(super) fn remind(&mut self, now: Instant) -> (Vec<NodeName>, Vec<NodeName>) {
        let (mut reminded, mut loose, mut changed, mut forgotten) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mark = std::mem::replace(&mut self.reminder_mark, self.sent);
        let lag_limit = self.limits.lag_limit;
        for (name, peer) in &mut self.peers {
            if let Standing::Away { since, until } = peer.standing {
                if now >= until {
                    forgotten.push((name.clone(), since));
                }
                continue;
            }
            if peer.acked >= mark || (peer.standing == Standing::Unproven && self.unproven > NEWCOMERS) {
                continue;
            }
            let progress = peer.acked > std::mem::replace(&mut peer.seen, peer.acked);
            if progress {
                continue;
            }
            let behind = now.saturating_duration_since(*peer.behind_since.get_or_insert(now));
            match peer.standing {
                Standing::Current | Standing::Lagging if !peer.proven && behind >= LAGGING_AFTER => {
                    changed.push((name.clone(), Standing::Unproven));
                }
                Standing::Current if behind >= LAGGING_AFTER => changed.push((name.clone(), Standing::Lagging)),
                Standing::Lagging if behind >= lag_limit => {
                    changed.push((name.clone(), Standing::Loose));
                    loose.push(name.clone());
                }
                _ => {}
            }
            if peer.periods_left > 0 {
                peer.periods_left -= 1;
                continue;
            }
            peer.periods_left = (1 << peer.backoff) - 1;
            peer.backoff = (peer.backoff + 1).min(MAX_BACKOFF);
            reminded.push(name.clone());
        }
        for (name, standing) in changed {
            self.set_standing(name.as_bytes(), standing);
        }
        for (name, since) in forgotten {
            self.forget_peer(&name, since);
        }
        self.free();
        (reminded, loose)
    }

    /// Where a peer is that has been reminded again and again, and has not acknowledged more.
    pub(super) fn silent(&self, name: &NodeName) -> Option<SocketAddr> {
        self.peers.get(name).filter(|peer| peer.backoff >= SILENT_AFTER).map(|peer| peer.addr)
    }
}
