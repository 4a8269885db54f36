//! Who is who: what proves that a member is reached where it says, and in which life it is.
//!
//! Packets may leave from another address than a member announces: a second address of its host, one that a
//! gateway puts on it, a temporary one of IPv6. So nodes of later [revisions](super::revision) say by name what they say to
//! each other, and are answered at the address that the name stands for ([`By`](super::control::By)). Two numbers take the place of
//! the address that a packet comes from:
//!
//! - A *cookie*: an origin draws one for each peer, and sends it there along with where that peer begins. The
//!   peer's acknowledgements carry it back, and count only then.
//! - A *question*: who asks an origin where to begin, or in which life it is, draws a number, and the answer
//!   echoes it. So answered, an origin is believed whatever its clock says: the life that it names is its
//!   present one, be its number in the future or lower than that of a former one.
//!
//! Neither can be known without reading what is sent to that address. What is said by name alone is taken for
//! what any member may say of an origin.
//!
//! # The life of a member
//!
//! A life is a number from the clock of its origin, which is a good first guess: the first life that is heard of,
//! and a later one than that, are believed at once, unless they lie in the future. What contradicts that is a
//! reason to ask. Whatever is made up about a life, the origin's own answer ends it. The answer tells its age as
//! well: who met the origin before that life began, was there in a former one, too, and is owed what others tell of
//! it, even if it has never heard a word of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{
    acquaintances::FIRST_MEETING,
    context::Context,
    control::{Control, Question},
    revision::is_named,
};
use crate::{
    membership::{Membership, NodeName, Record},
    rate::RateLimiter,
};

/// For how long a question is asked, and answers to it count.
const QUESTION: Duration = Duration::from_secs(10);

/// Who says what there is of a stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teller {
    /// Where it is reached.
    pub(super) addr: SocketAddr,
    /// Whether it is who it says.
    pub(super) certain: bool,
    /// If it answers what it was asked, for how long it has been running, in microseconds.
    pub(super) answers: Option<u64>,
}

/// What a member was asked.
#[derive(Debug)]
struct Asked {
    number: u64,
    since: Instant,
    /// The life that it was asked about.
    epoch: u64,
    /// How often it was asked in which life it is.
    asked: RateLimiter,
    /// A former life that was the reason to ask, and who told of it.
    former: Option<(u64, SocketAddr)>,
}

/// What live members were asked. See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Questions {
    asked: BTreeMap<NodeName, Asked>,
}

impl Questions {
    /// Whether this echoes what a member was asked with.
    pub(super) fn is_answer(&self, now: Instant, name: &NodeName, echo: Question) -> bool {
        let asked = self.asked.get(name).filter(|asked| asked.number == echo.number);
        asked.is_some_and(|question| now.saturating_duration_since(question.since) < 2 * QUESTION)
    }

    /// When a member was first asked with the number that counts.
    pub(super) fn since(&self, name: &[u8]) -> Option<Instant> {
        self.asked.get(name).map(|asked| asked.since)
    }

    /// What a member is asked with where it begins in a life of it, or in which it is. Of a later life it is asked anew,
    /// as an answer in it is no older than that.
    pub(super) fn question(&mut self, cx: &mut Context, now: Instant, name: &NodeName, epoch: u64) -> Question {
        Question { number: self.asked(cx, now, name, epoch).number, age: cx.me.age(now) }
    }

    fn asked(&mut self, cx: &mut Context, now: Instant, name: &NodeName, epoch: u64) -> &mut Asked {
        let number = cx.rng.random();
        let new = Asked { number, since: now, epoch, asked: RateLimiter::default(), former: None };
        let asked = self.asked.entry(name.clone()).or_insert(new);
        let age = now.saturating_duration_since(asked.since);
        // Both lanes of a life have the same number, but for its last bit.
        let is_later = epoch / 2 > asked.epoch / 2;
        if age >= QUESTION || (is_later && age >= FIRST_MEETING) {
            (asked.number, asked.since, asked.epoch) = (number, now, epoch);
        }
        asked
    }

    /// Asks a member in which life it is, of which somebody says that it is in this one; unless it was just
    /// asked. Gives whether it can be asked that.
    pub(super) fn ask(
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
        let pause = 8 * cx.patience();
        let asked = self.asked(cx, now, &record.name, epoch);
        if asked.asked.take(now, pause, Duration::ZERO) {
            let question = Some(Question { number: asked.number, age: cx.me.age(now) });
            let receipt = Control::Receipt { epoch, life: cx.me.life, next: None, cookie: None, question };
            let receipt = receipt.encode_by(cx.me.by(None));
            cx.send(record.addr(), membership.introduction().into_iter().chain([receipt]).collect());
        }
        true
    }

    /// Somebody has told of a former life of a member, which has been asked about it.
    pub(super) fn note_former(&mut self, origin: &[u8], epoch: u64, teller: SocketAddr) {
        if let Some(asked) = self.asked.get_mut(origin) {
            asked.former = Some((epoch, teller));
        }
    }

    /// The former life of a member that was told of last, and who told of it.
    pub(super) fn take_former(&mut self, origin: &[u8]) -> Option<(u64, SocketAddr)> {
        self.asked.get_mut(origin)?.former.take()
    }

    /// A member is gone.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.asked.remove(name);
    }
}
