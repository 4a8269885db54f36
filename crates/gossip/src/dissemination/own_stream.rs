//! One of this node's own streams: its log and its peers, and what others are told of it.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    control::{Challenge, Control, StreamDigest, StreamStart},
    draft::{Draft, PublishedMessage},
    id::MessageId,
    limits::{FAILED_GRACE, LEFT_GRACE},
    local_node::LocalNode,
    outbound::{AckError, OutboundLog, StartTime},
    revision::{is_named, is_ours},
};
use crate::{
    config::Retention,
    membership::{MemberState, Membership, NodeName, Record},
};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct OwnStream {
    pub(super) outbound: OutboundLog,
    /// Whether it tracks its peers: from its first message on.
    active: bool,
    /// For how many more rounds of gossip its position is told.
    pub(super) rounds: u32,
    /// The floor that was last sent along with messages.
    announced_floor: u64,
}

impl OwnStream {
    pub(super) fn new(now: Instant, epoch: u64, limits: Retention) -> Self {
        Self { outbound: OutboundLog::new(now, epoch, limits), active: false, rounds: 0, announced_floor: 0 }
    }

    /// Whether anything was ever published in it.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Its digest; `start` is where the receiver starts, if it is told.
    pub(super) fn digest<'a>(&self, local: &'a LocalNode, start: Option<StreamStart>) -> StreamDigest<'a> {
        let outbound = &self.outbound;
        StreamDigest {
            origin: local.name.as_bytes(),
            epoch: outbound.epoch,
            base: outbound.base(),
            next: outbound.sent(),
            floor: outbound.floor(),
            start,
        }
    }

    /// The identity of the next message.
    pub(super) fn next_id(&self) -> MessageId {
        MessageId { epoch: self.outbound.epoch, seq: self.outbound.next() }
    }

    /// Appends a message to the log, which has room.
    pub(super) fn append(
        &mut self,
        now: Instant,
        draft: Draft,
        local: &LocalNode,
        rng: &mut Xoshiro256PlusPlus,
        membership: &Membership,
    ) -> PublishedMessage {
        if !std::mem::replace(&mut self.active, true) {
            for record in membership.others().filter(|record| is_ours(record.versions)) {
                self.add_peer(record, rng);
                // A member that failed may only be cut off; one that is said to have left may be about to refute it.
                match record.state() {
                    MemberState::Alive | MemberState::Suspect => {}
                    MemberState::Dead => self.outbound.peer_down(now, &record.name, FAILED_GRACE),
                    MemberState::Left => self.outbound.peer_down(now, &record.name, LEFT_GRACE),
                }
            }
        }
        let published = draft.publish(local.name.clone(), self.next_id());
        self.outbound.push(published.message.clone());
        published
    }

    /// A member is up: it becomes a peer if it is one of ours and the stream is active. Gives whether it does.
    pub(super) fn add_peer(&mut self, record: &Record, rng: &mut Xoshiro256PlusPlus) -> bool {
        let follows = self.active && is_ours(record.versions);
        if follows {
            let cookie = is_named(record.versions).then(|| rng.random());
            self.outbound.add_peer(record.addr(), &record.name, cookie, record.is_proven());
        }
        follows
    }

    /// A member has failed or left.
    pub(super) fn peer_down(&mut self, now: Instant, name: &NodeName, left: bool, rounds: u32) {
        self.announcing_floor(rounds, |outbound| {
            outbound.note_gone(name, left);
            outbound.peer_down(now, name, if left { LEFT_GRACE } else { FAILED_GRACE });
        });
    }

    /// Counts an acknowledgement, or without `next` a request where to start, of a peer whose epoch began at `started_at`.
    pub(super) fn record_ack(
        &mut self,
        name: &NodeName,
        (peer_epoch, next, started_at): (u64, Option<u64>, StartTime),
        rounds: u32,
    ) -> Result<(), AckError> {
        self.announcing_floor(rounds, |outbound| match next {
            Some(next) => outbound.ack(name.as_bytes(), peer_epoch, next),
            None => outbound.handle_start_request(name.as_bytes(), peer_epoch, started_at),
        })
    }

    /// Ends a period: gives whom to remind, and who has been cut loose. To be called while a peer is behind.
    pub(super) fn remind(&mut self, now: Instant, rounds: u32) -> (Vec<NodeName>, Vec<NodeName>) {
        self.announcing_floor(rounds, |outbound| outbound.remind(now))
    }

    /// Makes a change, and gossips the floor for so many rounds if the change has raised it.
    fn announcing_floor<T>(&mut self, rounds: u32, change: impl FnOnce(&mut OutboundLog) -> T) -> T {
        let before = self.outbound.floor();
        let result = change(&mut self.outbound);
        if self.outbound.floor() > before {
            self.rounds = rounds;
        }
        result
    }

    /// The digest that tells a peer where it starts, and the peer's address.
    pub(super) fn start_message(
        &self,
        local: &LocalNode,
        peer: &[u8],
        echo: Option<Challenge>,
    ) -> Option<(SocketAddr, Bytes)> {
        let (to, start) = self.outbound.start_of(peer)?;
        let digest = Control::Digest(vec![self.digest(local, start)]);
        let named = self.outbound.cookie_of(peer).is_some();
        Some((to, if named { digest.encode_from(local.header(echo)) } else { digest.encode() }))
    }

    /// A digest of what comes before `next`, to go in front of new messages, if the floor has risen since it was last sent.
    pub(super) fn floor_message(&mut self, local: &LocalNode, named: bool, next: u64) -> Option<Bytes> {
        let floor = self.outbound.floor();
        let risen = floor > std::mem::replace(&mut self.announced_floor, floor);
        risen.then(|| {
            let digest = Control::Digest(vec![StreamDigest { next, ..self.digest(local, None) }]);
            if named { digest.encode_from(local.header(None)) } else { digest.encode() }
        })
    }
}
