//! The send side of one stream: its log, who has acknowledged what, and how fast it may go on.
//!
//! # The log
//!
//! ```text
//!        base            stable             sent              next
//!   freed │ kept for peers │ not acknowledged │ not sent yet     │
//!         │ that are away  │ by all           │                  │
//! ```
//!
//! A message is freed when every live peer has it, and every peer that failed less than
//! [`FAILED_GRACE`](super::limits::FAILED_GRACE) ago, since such a peer may only be cut off. Publishers have to wait while
//! the log is full of messages that live peers still need.
//!
//! # States of a peer
//!
//! | state | who waits for it | next state |
//! |---|---|---|
//! | `Unproven`: it has not answered yet, and there are many like it, or it lags | the log, while there is room | `Lagging` when it answers or acknowledges; `Away` |
//! | `Current` | the window, publishers, receipts, the log | `Lagging` when it acknowledges nothing for [`LAGGING_AFTER`] |
//! | `Lagging` | publishers, receipts, the log | `Current` when it has caught up; `Loose` after the lag limit |
//! | `Loose`: cut loose | receipts; the log, while there is room | `Current` when it has caught up |
//! | `Away`: failed or left | the log, while there is room | `Lagging` when it is back; dropped after [`FAILED_GRACE`](super::limits::FAILED_GRACE) or [`LEFT_GRACE`](super::limits::LEFT_GRACE) |
//!
//! A Raft leader keeps much the same about each follower. A peer is identified by its name. It keeps its
//! position when it moves to another address or is taken for failed for a while. A peer that was dropped starts with
//! what is sent next, as far as this node knows. But the peer continues from what it has delivered itself, and its first
//! acknowledgement says how far that is.

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

pub(super) use self::peer::StartTime;
use self::{
    departures::Departures,
    forgotten::ForgottenPeers,
    log::Log,
    peer::{Peer, PeerPositions, PeerState},
    window::CongestionWindow,
};
use super::{control::StreamStart, limits::MAX_UNPROVEN};
use crate::{config::Retention, membership::NodeName};

/// A peer that acknowledges nothing for so long no longer holds back the window.
const LAGGING_AFTER: Duration = Duration::from_millis(250);
/// A peer that acknowledges nothing more after so many reminders is unresponsive.
const UNRESPONSIVE_AFTER: u32 = 3;
/// Reminders to a peer that does not answer become ever rarer, down to one in `2^MAX_BACKOFF` periods.
const MAX_BACKOFF: u32 = 5;

/// Why an acknowledgement is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AckError {
    #[error("an acknowledgement came from a stranger")]
    Stranger,
    #[error("an acknowledgement of messages that were never sent")]
    Unsent,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct OutboundLog {
    pub(super) epoch: u64,
    started_at: Instant,
    /// The epoch before this one, if this one was begun while the node runs. The numbers continue.
    previous_epoch: Option<u64>,
    /// Whether messages were sent in the previous epoch.
    continues_previous: bool,
    limits: Retention,
    log: Log,
    sent: u64,
    peers: BTreeMap<NodeName, Peer>,
    /// How many peers are not proven.
    unproven: usize,
    /// Which peer is reached at an address.
    names: BTreeMap<SocketAddr, NodeName>,
    /// The positions of all peers, by state.
    positions: PeerPositions,
    departures: Departures,
    forgotten: ForgottenPeers,
    window: CongestionWindow,
    /// Peers that have not acknowledged everything below this are due a reminder.
    reminder_mark: u64,
}

impl OutboundLog {
    pub(super) fn new(now: Instant, epoch: u64, limits: Retention) -> Self {
        Self {
            epoch,
            started_at: now,
            previous_epoch: None,
            continues_previous: false,
            limits,
            log: Log::default(),
            sent: 0,
            peers: BTreeMap::new(),
            unproven: 0,
            names: BTreeMap::new(),
            positions: PeerPositions::default(),
            departures: Departures::default(),
            forgotten: ForgottenPeers::default(),
            window: CongestionWindow::default(),
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

    /// Every live peer has everything below this number, except for those that were cut loose.
    pub(super) fn stable(&self) -> u64 {
        self.positions.waited_for.first().map_or(self.sent, |at| at.min(self.sent))
    }

    /// Every live peer has everything below this number, including those that were cut loose.
    pub(super) fn everywhere(&self) -> u64 {
        self.positions.loose.first().unwrap_or(u64::MAX).min(self.stable())
    }

    /// The floor: nobody needs anything below this number any more.
    pub(super) fn floor(&self) -> u64 {
        let PeerPositions { away, unproven, .. } = &self.positions;
        away.first().into_iter().chain(unproven.first()).fold(self.everywhere(), u64::min)
    }

    /// Whether the log has room for one more message.
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

    /// Whether an acknowledgement in `epoch` counts. A request where to start in the previous epoch does not: it is answered
    /// when it is made in this one.
    pub(super) fn is_acknowledged_in(&self, epoch: u64, next: Option<u64>) -> bool {
        epoch == self.epoch || (self.previous_epoch == Some(epoch) && next.is_some())
    }

    /// Whether its numbers continue a previous epoch of which messages were sent.
    pub(super) fn continues_previous(&self) -> bool {
        self.continues_previous
    }

    /// Begins a later epoch, and sends again in it what is not acknowledged.
    pub(super) fn renew(&mut self, epoch: u64, me: &NodeName) {
        self.previous_epoch = Some(std::mem::replace(&mut self.epoch, epoch));
        self.continues_previous |= self.sent > 0;
        self.sent = self.stable().max(self.base());
        self.log.renumber(&me.to_string(), epoch);
    }

    /// Appends a message in its wire form.
    pub(super) fn push(&mut self, message: Bytes) {
        self.log.push(message);
        self.free();
    }

    /// Frees what nobody needs, and what exceeds the retention limits and every live peer has.
    fn free(&mut self) {
        let (floor, stable) = (self.floor(), self.stable());
        let Retention { retain_messages, retain_bytes, .. } = self.limits;
        let is_over = |log: &Log| log.len() > retain_messages || log.bytes() > retain_bytes / 2;
        self.log.free_while(|log| log.base() < floor || (log.base() < stable && is_over(log)));
    }

    /// A message that is kept and was sent.
    pub(super) fn get(&self, seq: u64) -> Option<&Bytes> {
        (seq < self.sent).then(|| self.log.get(seq))?
    }

    /// Takes the messages that the window allows to be sent now.
    pub(super) fn take_unsent(&mut self) -> Vec<Bytes> {
        // If nobody is current, the peer that is least behind sets the pace.
        let slowest = self.positions.current.first().or(self.positions.waited_for.last());
        let slowest = slowest.map_or(self.sent, |at| at.min(self.sent));
        let budget = (self.log.offset(slowest) + self.window.bytes()).saturating_sub(self.log.offset(self.sent));
        // A message that is larger than the window goes alone.
        let messages = self.log.batch(self.sent, budget, usize::from(self.sent == slowest));
        self.sent += messages.len() as u64;
        // With no peers, what is sent is done with.
        self.free();
        messages
    }

    fn set_state(&mut self, name: &[u8], state: PeerState) {
        let Some(peer) = self.peers.get_mut(name) else { return };
        let (old, acked) = (std::mem::replace(&mut peer.state, state), peer.acked);
        self.positions.remove(old, acked);
        self.positions.add(state, acked);
    }

    /// Makes a peer current again that has what the slowest current peer has, or everything that was sent.
    fn catch_up(&mut self, name: &[u8]) {
        let slowest = self.positions.current.first().unwrap_or(u64::MAX);
        let Some(peer) = self.peers.get(name) else { return };
        if peer.acked >= slowest.min(self.sent) && matches!(peer.state, PeerState::Lagging | PeerState::Loose) {
            self.set_state(name, PeerState::Current);
        }
    }

    /// Whether the first acknowledgement of the peer at this address is still to come.
    pub(super) fn is_new(&self, addr: SocketAddr) -> bool {
        self.names.get(&addr).and_then(|name| self.peers.get(name)).is_some_and(|peer| peer.epoch == 0)
    }

    /// The address of a peer, and where it starts, if that is known.
    pub(super) fn start_of(&self, name: &[u8]) -> Option<(SocketAddr, Option<StreamStart>)> {
        let peer = self.peers.get(name)?;
        // A dropped peer's start depends on its epoch, which is not known yet.
        let known = peer.epoch != 0 || !self.forgotten.contains(name);
        let at = self.forgotten.start_of(name, peer.started_at).unwrap_or(peer.acked);
        Some((peer.addr, known.then_some(StreamStart { seq: at, receiver_epoch: peer.epoch, cookie: peer.cookie })))
    }

    /// When a peer started that has been running for `age` microseconds.
    pub(super) fn start_time_by_age(&self, now: Instant, age: u64) -> StartTime {
        let elapsed = now.saturating_duration_since(self.started_at).as_micros();
        StartTime::try_from(elapsed).unwrap_or(StartTime::MAX).saturating_sub_unsigned(age)
    }

    /// When a peer started in whose epoch it is, by the clocks of both nodes.
    pub(super) fn start_time_by_clock(&self, peer_epoch: u64) -> StartTime {
        (peer_epoch / 2).cast_signed().saturating_sub((self.epoch / 2).cast_signed())
    }

    /// Where a peer starts that asks for it in `peer_epoch`, which began at `started_at`. Messages from there on are kept for
    /// it from now on; it is told that it has missed those that are gone.
    pub(super) fn start_for(&mut self, name: &[u8], peer_epoch: u64, started_at: StartTime) -> Option<StreamStart> {
        let peer = self.peers.get(name)?;
        let at = match (peer.epoch, self.forgotten.start_of(name, started_at)) {
            (_, Some(at)) => at,
            // It ran before this node did: it was only cut off, and is no newcomer. It gets what is left.
            (0, None) if started_at < 0 => peer.acked.min(self.base()),
            (known, None) if known == 0 || known == peer_epoch => peer.acked,
            _ => self.start_of_new_epoch(peer),
        };
        let start = StreamStart { seq: at, receiver_epoch: peer_epoch, cookie: peer.cookie };
        let kept = at.max(self.base().min(peer.acked));
        if kept < peer.acked {
            self.set_position(name, kept);
        }
        Some(start)
    }

    /// A new epoch of a peer starts where it rejoined. It has no claim to what the previous epoch lacked.
    fn start_of_new_epoch(&self, peer: &Peer) -> u64 {
        peer.acked.max(peer.rejoined_at.min(self.sent))
    }

    /// Handles a peer's request where to start.
    pub(super) fn handle_start_request(
        &mut self,
        name: &[u8],
        peer_epoch: u64,
        started_at: StartTime,
    ) -> Result<(), AckError> {
        let start = self.start_for(name, peer_epoch, started_at).ok_or(AckError::Stranger)?;
        let peer = self.peers.get_mut(name).ok_or(AckError::Stranger)?;
        peer.begin_epoch(peer_epoch);
        peer.started_at = started_at;
        let acked = start.seq.max(peer.acked);
        self.set_position(name, acked);
        Ok(())
    }

    /// The peer has everything below this number.
    pub(super) fn acked(&self, name: &[u8]) -> Option<u64> {
        Some(self.peers.get(name)?.acked)
    }

    /// Drops the cookie of a peer whose release does not know cookies.
    pub(super) fn forget_cookie(&mut self, name: &[u8]) {
        if let Some(peer) = self.peers.get_mut(name) {
            peer.cookie = None;
        }
    }

    /// The cookie that a peer's acknowledgements have to carry.
    pub(super) fn cookie_of(&self, name: &[u8]) -> Option<u64> {
        self.peers.get(name)?.cookie
    }

    /// Counts an acknowledgement: a peer has everything below `next`.
    pub(super) fn ack(&mut self, name: &[u8], peer_epoch: u64, next: u64) -> Result<(), AckError> {
        if next > self.sent {
            return Err(AckError::Unsent);
        }
        let peer = self.peers.get(name).ok_or(AckError::Stranger)?;
        let acked = match peer.epoch {
            // It continues from what it has delivered, whatever this node knew of it.
            0 => next.max(self.base()),
            known if known == peer_epoch => next.max(peer.acked),
            _ => next.max(self.start_of_new_epoch(peer)),
        };
        let peer = self.peers.get_mut(name).ok_or(AckError::Stranger)?;
        peer.begin_epoch(peer_epoch);
        peer.acknowledged = true;
        if !peer.proven {
            self.prove_peer(name);
        }
        self.forgotten.remove(name);
        self.set_position(name, acked);
        Ok(())
    }

    /// Sets a peer's position, which can go back when the peer turns out to lack something.
    fn set_position(&mut self, name: &[u8], acked: u64) {
        let sent = self.sent;
        let Some(peer) = self.peers.get_mut(name) else { return };
        let (before, state) = (std::mem::replace(&mut peer.acked, acked), peer.state);
        if acked == before {
            return;
        }
        peer.joined_at = if acked < before { peer.joined_at.min(acked) } else { peer.joined_at };
        if acked > before {
            peer.behind_since = None;
            (peer.backoff, peer.backoff_left) = (0, 0);
        }
        if acked == sent || acked < before {
            peer.acked_at_last_check = acked;
        }
        let slowest = self.positions.current.first();
        self.positions.remove(state, before);
        self.positions.add(state, acked);
        if acked < before {
            // While it catches up, it does not hold back peers that have.
            if state == PeerState::Current && slowest.is_some_and(|slowest| acked < slowest) {
                self.set_state(name, PeerState::Lagging);
            }
            return;
        }
        let now_slowest = self.positions.current.first();
        if let (Some(before), Some(after)) = (slowest, now_slowest) {
            self.window.grow(self.log.offset(after).saturating_sub(self.log.offset(before)), after);
        }
        self.catch_up(name);
        self.free();
    }

    /// A peer asks for messages below `end` again. That is no sign of congestion if all current peers have them.
    pub(super) fn on_loss(&mut self, end: Option<u64>) {
        let slowest = self.positions.current.first().unwrap_or(u64::MAX);
        if end.is_some_and(|end| end > slowest) {
            self.window.halve(slowest, self.sent);
        }
    }

    /// Whether peers are to be reminded that do not acknowledge: unproven ones only where they are few.
    pub(super) fn waits_for_acks(&self) -> bool {
        let newcomers = self.positions.unproven.first().filter(|_| self.unproven <= MAX_UNPROVEN);
        self.stable() < self.sent
            || self.positions.loose.first().is_some()
            || newcomers.is_some_and(|at| at < self.sent)
    }

    /// Whether messages are kept for peers that may come back.
    pub(super) fn has_away_peers(&self) -> bool {
        self.positions.away.first().is_some()
    }

    /// Begins the first period: who has not acknowledged by its end what is sent by now is reminded.
    pub(super) fn begin_period(&mut self) {
        self.reminder_mark = self.sent;
    }

    /// Ends a period: gives whom to remind, and who has been cut loose. To be called while a peer is behind.
    pub(super) fn remind(&mut self, now: Instant) -> (Vec<NodeName>, Vec<NodeName>) {
        let (mut reminded, mut loose, mut changed, mut forgotten) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mark = std::mem::replace(&mut self.reminder_mark, self.sent);
        let lag_limit = self.limits.lag_limit;
        for (name, peer) in &mut self.peers {
            if let PeerState::Away { since, until } = peer.state {
                if now >= until {
                    forgotten.push((name.clone(), since));
                }
                continue;
            }
            if peer.acked >= mark || (peer.state == PeerState::Unproven && self.unproven > MAX_UNPROVEN) {
                continue;
            }
            let progress = peer.acked > std::mem::replace(&mut peer.acked_at_last_check, peer.acked);
            if progress {
                continue;
            }
            let behind = now.saturating_duration_since(*peer.behind_since.get_or_insert(now));
            match peer.state {
                PeerState::Current | PeerState::Lagging if !peer.proven && behind >= LAGGING_AFTER => {
                    changed.push((name.clone(), PeerState::Unproven));
                }
                PeerState::Current if behind >= LAGGING_AFTER => changed.push((name.clone(), PeerState::Lagging)),
                PeerState::Lagging if behind >= lag_limit => {
                    changed.push((name.clone(), PeerState::Loose));
                    loose.push(name.clone());
                }
                _ => {}
            }
            if peer.backoff_left > 0 {
                peer.backoff_left -= 1;
                continue;
            }
            peer.backoff_left = (1 << peer.backoff) - 1;
            peer.backoff = (peer.backoff + 1).min(MAX_BACKOFF);
            reminded.push(name.clone());
        }
        for (name, state) in changed {
            self.set_state(name.as_bytes(), state);
        }
        for (name, since) in forgotten {
            self.forget_peer(&name, since);
        }
        self.free();
        (reminded, loose)
    }

    /// The address of a peer that acknowledges nothing more, though it was reminded several times.
    pub(super) fn unresponsive(&self, name: &NodeName) -> Option<SocketAddr> {
        self.peers.get(name).filter(|peer| peer.backoff >= UNRESPONSIVE_AFTER).map(|peer| peer.addr)
    }
}
