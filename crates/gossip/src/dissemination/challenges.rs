//! Authentication of senders: what proves that a member is reached where it says, and in which epoch it is.
//!
//! Packets may leave from another address than a member announces: a second address of its host, the address of a gateway,
//! a temporary IPv6 address. So nodes of later [revisions](super::revision) put their name in front of what they send each
//! other ([`SenderHeader`](super::control::SenderHeader)), and are answered at the address that the membership has for that
//! name. Two numbers take the place of a packet's source address:
//!
//! - A *cookie*: an origin draws one for each peer and sends it to the peer's address, with where the peer starts. The peer's
//!   acknowledgements carry it back, and count only with it.
//! - A *challenge*: a node that asks an origin where to start, or in which epoch it is, draws a nonce, and the response echoes
//!   it. An origin that responds is believed whatever its clock says: the epoch that it names is its present one, even if
//!   that is in the future or lower than an earlier one.
//!
//! Nobody knows either without reading what is sent to that address. What has only a name in front is believed no more than
//! what any member may say of an origin.
//!
//! # Which epoch an origin is in
//!
//! An epoch is a number from the origin's clock, which is a good first guess. A node believes the first epoch that it hears
//! of, and any later one, at once, unless they lie in the future. If something contradicts that, it challenges the origin.
//! Whatever others make up about an epoch, the origin's response settles it. The response tells the origin's age, too. A
//! node that met the origin before that epoch began was there in an earlier one. It is owed what others tell of that
//! earlier epoch, even if it never received any of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{
    context::Context,
    control::{Challenge, Control},
    member_history::FIRST_MEETING,
    revision::is_named,
};
use crate::{
    membership::{Membership, NodeName, Record},
    rate::RateLimiter,
};

/// For how long a challenge is sent with the same nonce; responses count for twice as long.
const CHALLENGE_LIFETIME: Duration = Duration::from_secs(10);

/// To whom a control message is attributed, and how surely.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribution {
    /// Where that peer is reached, as the membership has it.
    pub(super) addr: SocketAddr,
    /// Whether it came from the IP address that the peer announces, or echoes this node's challenge. Whoever forges source
    /// addresses passes, so what is done for a verified one has to be bounded all the same.
    pub(super) is_verified: bool,
    /// If it responds to a challenge: for how long the peer has been running, in microseconds.
    pub(super) response_age: Option<u64>,
}

/// The challenge of one member.
#[derive(Debug)]
struct PendingChallenge {
    nonce: u64,
    since: Instant,
    /// The epoch that gave rise to the challenge.
    epoch: u64,
    /// Limits how often the member is sent it.
    limit: RateLimiter,
    /// A past epoch that gave rise to it, and who told of that.
    past_epoch: Option<(u64, SocketAddr)>,
}

/// The challenges of live members. See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Challenges {
    pending: BTreeMap<NodeName, PendingChallenge>,
}

impl Challenges {
    /// Whether this echoes a member's challenge.
    pub(super) fn is_response(&self, now: Instant, name: &NodeName, echo: Challenge) -> bool {
        let pending = self.pending.get(name).filter(|pending| pending.nonce == echo.nonce);
        pending.is_some_and(|pending| now.saturating_duration_since(pending.since) < 2 * CHALLENGE_LIFETIME)
    }

    /// When a member was first sent the present nonce.
    pub(super) fn since(&self, name: &[u8]) -> Option<Instant> {
        self.pending.get(name).map(|pending| pending.since)
    }

    /// The challenge of a member with which it is asked where to start in an epoch, or in which it is. For a later epoch there is
    /// a new nonce, so that no response in that epoch is older.
    pub(super) fn challenge(&mut self, cx: &mut Context, now: Instant, name: &NodeName, epoch: u64) -> Challenge {
        Challenge { nonce: self.renew(cx, now, name, epoch).nonce, age: cx.local.age(now) }
    }

    fn renew(&mut self, cx: &mut Context, now: Instant, name: &NodeName, epoch: u64) -> &mut PendingChallenge {
        let nonce = cx.rng.random();
        let new = PendingChallenge { nonce, since: now, epoch, limit: RateLimiter::default(), past_epoch: None };
        let pending = self.pending.entry(name.clone()).or_insert(new);
        let age = now.saturating_duration_since(pending.since);
        // The epochs of the two lanes differ in their lowest bit only.
        let is_later = epoch / 2 > pending.epoch / 2;
        if age >= CHALLENGE_LIFETIME || (is_later && age >= FIRST_MEETING) {
            (pending.nonce, pending.since, pending.epoch) = (nonce, now, epoch);
        }
        pending
    }

    /// Challenges a member to say in which epoch it is, as somebody says that it is in this one; unless it was challenged
    /// just now. Gives whether it can be challenged.
    pub(super) fn send(
        &mut self,
        cx: &mut Context,
        now: Instant,
        record: &Record,
        epoch: u64,
        membership: &Membership,
    ) -> bool {
        if !is_named(record.versions) {
            return false;
        }
        let pause = 8 * cx.response_timeout();
        let pending = self.renew(cx, now, &record.name, epoch);
        if pending.limit.take(now, pause, Duration::ZERO) {
            let challenge = Some(Challenge { nonce: pending.nonce, age: cx.local.age(now) });
            let ack = Control::CookieAck { epoch, receiver_epoch: cx.local.epoch, next: None, cookie: None, challenge };
            let ack = ack.encode_from(cx.local.header(None));
            cx.send(record.addr(), membership.introduction().into_iter().chain([ack]).collect());
        }
        true
    }

    /// Notes that somebody has told of a past epoch of a member, which has been challenged about it.
    pub(super) fn note_past_epoch(&mut self, origin: &[u8], epoch: u64, sender: SocketAddr) {
        if let Some(pending) = self.pending.get_mut(origin) {
            pending.past_epoch = Some((epoch, sender));
        }
    }

    /// The past epoch of a member that was told of last, and who told of it.
    pub(super) fn take_past_epoch(&mut self, origin: &[u8]) -> Option<(u64, SocketAddr)> {
        self.pending.get_mut(origin)?.past_epoch.take()
    }

    /// Forgets a member that is gone.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.pending.remove(name);
    }
}
