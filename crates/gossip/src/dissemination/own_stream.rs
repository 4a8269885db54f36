//! A stream in which this node publishes: its log and its peers, and what others are told of it.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    control::{Control, Have, Question, Start},
    draft::{Draft, Published},
    id::MessageId,
    limits::{FAILED_GRACE, LEFT_GRACE},
    me::Me,
    outbound::{AckError, Began, Outbound},
    revision::{is_named, is_ours},
};
use crate::{
    config::Retention,
    membership::{MemberState, Membership, NodeName, Record},
};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct OwnStream {
    pub(super) outbound: Outbound,
    /// Whether it follows its peers: from its first message on.
    active: bool,
    /// For how many rounds of gossip to tell what there is of it.
    pub(super) rounds: u32,
    /// The floor that was told last along with messages.
    told_floor: u64,
}

impl OwnStream {
    pub(super) fn new(now: Instant, epoch: u64, limits: Retention) -> Self {
        Self { outbound: Outbound::new(now, epoch, limits), active: false, rounds: 0, told_floor: 0 }
    }

    /// Whether something was ever published in it.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// What there is of it; to whom it is told where that one begins, if that is `start`.
    pub(super) fn have<'a>(&self, me: &'a Me, start: Option<Start>) -> Have<'a> {
        let outbound = &self.outbound;
        Have {
            origin: me.name.as_bytes(),
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

    /// Takes a message into the log, which has room.
    pub(super) fn append(
        &mut self,
        now: Instant,
        draft: Draft,
        me: &Me,
        rng: &mut Xoshiro256PlusPlus,
        membership: &Membership,
    ) -> Published {
        if !std::mem::replace(&mut self.active, true) {
            for record in membership.others().filter(|record| is_ours(record.versions)) {
                self.add_peer(record, rng);
                // One that failed may only be cut off, one that is said to have left may be about to refute it.
                match record.state() {
                    MemberState::Alive | MemberState::Suspect => {}
                    MemberState::Dead => self.outbound.lose_peer(now, &record.name, FAILED_GRACE),
                    MemberState::Left => self.outbound.lose_peer(now, &record.name, LEFT_GRACE),
                }
            }
        }
        let published = draft.publish(me.name.clone(), self.next_id());
        self.outbound.push(published.message.clone());
        published
    }

    /// A member is there: it is followed, if it is one of ours and the stream is active. Gives whether it is.
    pub(super) fn add_peer(&mut self, record: &Record, rng: &mut Xoshiro256PlusPlus) -> bool {
        let follows = self.active && is_ours(record.versions);
        if follows {
            let cookie = is_named(record.versions).then(|| rng.random());
            self.outbound.add_peer(record.addr(), &record.name, cookie, record.is_proven());
        }
        follows
    }

    /// A member has failed, or has left.
    pub(super) fn lose_peer(&mut self, now: Instant, name: &NodeName, left: bool, rounds: u32) {
        self.telling_floor(rounds, |outbound| {
            outbound.note_gone(name, left);
            outbound.lose_peer(now, name, if left { LEFT_GRACE } else { FAILED_GRACE });
        });
    }

    /// A peer in that life, which began then, has everything below `next`; without it, it asks where to begin.
    pub(super) fn count_ack(
        &mut self,
        name: &NodeName,
        (life, next, began): (u64, Option<u64>, Began),
        rounds: u32,
    ) -> Result<(), AckError> {
        self.telling_floor(rounds, |outbound| match next {
            Some(next) => outbound.ack(name.as_bytes(), life, next),
            None => outbound.ask(name.as_bytes(), life, began),
        })
    }

    /// To be called once a period while somebody is behind: whom to remind, and who has been cut loose.
    pub(super) fn remind(&mut self, now: Instant, rounds: u32) -> (Vec<NodeName>, Vec<NodeName>) {
        self.telling_floor(rounds, |outbound| outbound.remind(now))
    }

    /// Changes something after which nobody may need some messages any more, which others are told for so many rounds.
    fn telling_floor<T>(&mut self, rounds: u32, change: impl FnOnce(&mut Outbound) -> T) -> T {
        let before = self.outbound.floor();
        let result = change(&mut self.outbound);
        if self.outbound.floor() > before {
            self.rounds = rounds;
        }
        result
    }

    /// What tells a peer where it begins, and how far the stream goes by now; and where that peer is reached.
    pub(super) fn start_message(&self, me: &Me, peer: &[u8], echo: Option<Question>) -> Option<(SocketAddr, Bytes)> {
        let (to, start) = self.outbound.start_of(peer)?;
        let have = Control::Have(vec![self.have(me, start)]);
        let named = self.outbound.cookie_of(peer).is_some();
        Some((to, if named { have.encode_by(me.by(echo)) } else { have.encode() }))
    }

    /// What goes in front of new messages, if nobody needs messages any more that somebody needed when it went last. It
    /// tells of what comes before `next`.
    pub(super) fn floor_message(&mut self, me: &Me, named: bool, next: u64) -> Option<Bytes> {
        let floor = self.outbound.floor();
        let risen = floor > std::mem::replace(&mut self.told_floor, floor);
        risen.then(|| {
            let have = Control::Have(vec![Have { next, ..self.have(me, None) }]);
            if named { have.encode_by(me.by(None)) } else { have.encode() }
        })
    }
}
