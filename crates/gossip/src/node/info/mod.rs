//! What nodes of ours know of each other beyond memberlist's records: identity, roles and endpoints ([`NodeInfo`]).
//!
//! Each node is asked for its own, by each other one. Only what comes from a node itself, in answer to a question, is
//! believed: what others pass on of it could not be told from what is made up, and there would have to be an order of
//! what it said in which life, by whatever clock. Asking costs two small packets for each pair of nodes, once, which is
//! less than passing it on by gossip until everybody has it for certain. At rest nothing is sent.
//!
//! # On the wire
//!
//! These are control messages, and go only to nodes that [understand them](tells_info); nodes of earlier releases and
//! plain memberlist nodes never see one.
//!
//! | message | says |
//! |---|---|
//! | `Ask` | a number, the tag of the asker's own info, the tag of the info that it has of who is asked, who asks |
//! | `Answer` | the number, who answers, its info and the tag of it; or that it is as the asker has it; or that it tells none |
//!
//! A *tag* is a random number that a node draws for its info when it starts, and whenever its info changes. Tags are
//! only compared for equality, never for order.
//!
//! # Who asks whom, and when
//!
//! - A member is asked as soon as it has answered a ping ([proven](crate::membership)), when it comes back, and when it
//!   answers at another address. A cluster that forms asks at the pace of its greetings.
//! - Who hears by an `Ask` that the asker's info is another one than is known asks back; or once more, if it gets an answer
//!   that may have been on its way by then. So a node that starts anew, by
//!   asking all others, tells them that it has changed.
//! - A node whose info changes asks everybody once more, for the same reason.
//! - What is not answered is asked again, after a pause that doubles up to [`LONGEST_PAUSE`], while the member is live.
//!
//! So once two nodes of ours know each other as members, and packets or streams pass between them, each knows the info
//! that the other has now: at the latest [`LONGEST_PAUSE`] and a lost packet's pause later, whatever was lost before.
//!
//! A member that has failed or left is forgotten with its info. What nodes of ours are called and where they are is for
//! the membership to say; an info never changes that.
//!
//! # Bounds
//!
//! An info has [`MAX_LEN`](crate::config::info::MAX_LEN) bytes at most, and is kept for live members only. To a question
//! there is at most one answer, to each member one in so long a time as a ping may take, [`ANSWERS_PER_SECOND`] to all, and
//! [`UNPROVEN_ANSWERS_PER_SECOND`] to those that have not answered a ping yet.
//!
//! # What can go wrong
//!
//! - *A forged `Ask`* has a member answered, at the address that this member announces, and asked back. Both are within
//!   the bounds above, and change nothing.
//! - *A forged `Answer`* has to know the number, which is drawn at random for each member.
//! - *A member that lies about itself* can claim any role, and the identity of another. Nothing here decides by it.
//! - *Two nodes with one identity*, as where a data directory was copied: whoever hears of both tells its application,
//!   with the names of both, once the one that it knew before has answered again. A node that was killed and is back under
//!   another name is no such case.
//! - *Something later releases tell* is skipped, field by field.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod message;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{Rng as _, RngExt as _};

pub(super) use self::message::is_one;
use self::message::{InfoMessage, Told};
use super::{Cause, Event, Node};
use crate::{
    config::{NodeId, NodeInfo},
    dissemination::tells_info,
    membership::{NodeName, Record, Target},
    rate::RateLimiter,
    timers::Timers,
};

/// How long an answer is waited for at most before the question is repeated.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);
/// In a large cluster, not all are asked at the same time.
const ASKS_PER_SECOND: f64 = 2000.0;
/// How many answers are given in a second at most; and to members that have not answered a ping yet, as these may be made
/// up, and their addresses somebody else's.
const ANSWERS_PER_SECOND: u32 = 2000;
const UNPROVEN_ANSWERS_PER_SECOND: u32 = 20;

/// Stands for an info in comparisons; 0 where there is none.
type Tag = u64;

/// What one node knows of the others, and of whom it waits to know.
#[derive(Debug)]
pub(super) struct Infos {
    own: Option<Own>,
    known: BTreeMap<NodeName, Known>,
    /// Who has told each identity.
    by_id: BTreeMap<NodeId, BTreeSet<NodeName>>,
    /// Who is asked once more whether it is there, and who has told the same identity.
    twins: BTreeMap<NodeName, NodeName>,
    asked: BTreeMap<NodeName, Question>,
    /// When those that are asked are asked again.
    due: Timers<NodeName>,
    /// Until when each is not answered again.
    answered: Timers<NodeName>,
    answers: RateLimiter,
    unproven_answers: RateLimiter,
}

#[derive(Debug)]
struct Own {
    info: NodeInfo,
    told: Bytes,
    tag: Tag,
}

/// As it was told: a node may know a hundred thousand of these.
#[derive(Debug)]
struct Known {
    id: NodeId,
    tag: Tag,
    told: Box<[u8]>,
}

#[derive(Debug)]
struct Question {
    number: u64,
    /// How often it was asked.
    tries: u32,
    /// What the member has said meanwhile that the tag of its info is, or 0. Another answer than that may have been on its
    /// way while the info changed.
    expected: Tag,
}

impl Default for Infos {
    fn default() -> Self {
        Self {
            own: None,
            known: BTreeMap::new(),
            by_id: BTreeMap::new(),
            twins: BTreeMap::new(),
            asked: BTreeMap::new(),
            due: Timers::new(),
            answered: Timers::new(),
            answers: RateLimiter::default(),
            unproven_answers: RateLimiter::default(),
        }
    }
}

impl Infos {
    /// A node that tells this of itself.
    pub(super) fn set_own(&mut self, info: NodeInfo, number: u64) {
        let told = message::encode_info(&info).into();
        self.own = Some(Own { info, told, tag: number.max(1) });
    }

    /// What a member has told of itself.
    pub(super) fn get(&self, name: &NodeName) -> Option<NodeInfo> {
        self.known.get(name).and_then(|known| message::decode_info(&known.told).ok())
    }

    /// When there is somebody to ask.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.due.next()
    }

    /// Infos that are known, members that are asked, and those that were just answered.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn held(&self) -> (usize, usize, usize) {
        (self.known.len(), self.asked.len(), self.answered.len())
    }

    fn own_tag(&self) -> Tag {
        self.own.as_ref().map_or(0, |own| own.tag)
    }

    fn tag_of(&self, name: &NodeName) -> Tag {
        self.known.get(name).map_or(0, |known| known.tag)
    }

    /// A member is to be asked at that time.
    fn ask_at(&mut self, at: Instant, name: &NodeName, number: u64) {
        self.asked.insert(name.clone(), Question { number, tries: 0, expected: 0 });
        self.due.set(name.clone(), at);
    }

    fn forget(&mut self, name: &NodeName) {
        self.unlearn(name);
        self.twins.retain(|one, other| one != name && other != name);
        self.stop_asking(name);
    }

    fn unlearn(&mut self, name: &NodeName) -> Option<Known> {
        let known = self.known.remove(name)?;
        if let Some(names) = self.by_id.get_mut(&known.id) {
            names.remove(name);
            if names.is_empty() {
                self.by_id.remove(&known.id);
            }
        }
        Some(known)
    }

    fn stop_asking(&mut self, name: &NodeName) {
        self.asked.remove(name);
        self.due.cancel(name);
    }

    /// Forgets who was answered too long ago for that to matter.
    fn forget_answers(&mut self, now: Instant) {
        while self.answered.pop(now).is_some() {}
    }

    /// Whether a member may be answered now; it is, then, and not again within `pause`.
    fn may_answer(&mut self, now: Instant, name: &NodeName, is_proven: bool, pause: Duration) -> bool {
        self.forget_answers(now);
        let second = Duration::from_secs(1);
        let may = self.answered.get(name).is_none()
            && (is_proven || self.unproven_answers.take(now, second / UNPROVEN_ANSWERS_PER_SECOND, second))
            && self.answers.take(now, second / ANSWERS_PER_SECOND, second / 4);
        if may {
            self.answered.set(name.clone(), now + pause);
        }
        may
    }

    /// Takes what a member has told; gives whether that is news.
    fn learn(&mut self, name: &NodeName, id: NodeId, (tag, told): (Tag, &[u8])) -> bool {
        let before = self.unlearn(name);
        self.by_id.entry(id).or_default().insert(name.clone());
        self.known.insert(name.clone(), Known { id, tag, told: told.into() });
        before.is_none_or(|before| *before.told != *told)
    }

    /// Who else has this identity.
    fn twin(&self, name: &NodeName, id: NodeId) -> Option<&NodeName> {
        self.by_id.get(&id)?.iter().find(|other| *other != name)
    }

    /// A member has just answered: the identity that it has in common with another one, if it was asked because of that.
    fn twin_that_is_there(&mut self, name: &NodeName) -> Option<(NodeId, NodeName)> {
        let other = self.twins.remove(name)?;
        let id = self.known.get(name)?.id;
        (self.known.get(&other)?.id == id).then_some((id, other))
    }
}

impl Node {
    /// What this node tells the other nodes of this crate about itself, if it tells anything.
    pub fn info(&self) -> Option<&NodeInfo> {
        self.infos.own.as_ref().map(|own| &own.info)
    }

    /// What a live member, or this node, has told of itself; nothing of plain memberlist nodes, and of those that have not
    /// told it yet.
    pub fn info_of(&self, name: &NodeName) -> Option<NodeInfo> {
        if *name == self.me().name { self.info().cloned() } else { self.infos.get(name) }
    }

    /// Tells something else about this node from now on; gives whether it still tells anything.
    pub fn update_info(&mut self, now: Instant, info: NodeInfo) -> bool {
        if self.refusal() == Some(crate::PublishError::Stopped) {
            return false;
        }
        self.infos.set_own(info, self.rng.next_u64());
        // All of them, as each hears by the question that there is something new. Those of a large cluster answer, and ask
        // back, one after the other.
        let time = Duration::from_secs_f64(self.membership.live() as f64 / ASKS_PER_SECOND);
        let all: Vec<_> = self.membership.others().filter(|record| is_asked(record)).map(|r| r.name.clone()).collect();
        for name in all {
            let (at, number) = (now + time.mul_f64(self.rng.random()), self.rng.next_u64());
            self.infos.ask_at(at, &name, number);
        }
        self.settle(now);
        true
    }

    /// A member has answered, has come back, or has moved: it is asked, if it can be.
    pub(super) fn meet_for_info(&mut self, now: Instant, name: &NodeName) {
        if self.infos.own.is_some() && self.membership.get(name.as_bytes()).is_some_and(is_asked) {
            let number = self.rng.next_u64();
            self.infos.ask_at(now, name, number);
        }
    }

    /// A member is gone.
    pub(super) fn forget_info(&mut self, name: &NodeName) {
        self.infos.forget(name);
    }

    /// Asks those whose turn it is.
    pub(super) fn ask_for_infos(&mut self, now: Instant) {
        self.infos.forget_answers(now);
        while let Some(name) = self.infos.due.pop(now) {
            let record = self.membership.get(name.as_bytes()).filter(|record| is_asked(record));
            let Some(record) = record.filter(|_| !self.membership.has_left()) else {
                self.infos.stop_asking(&name);
                continue;
            };
            let (mine, yours) = (self.infos.own_tag(), self.infos.tag_of(&name));
            let Some(question) = self.infos.asked.get_mut(&name) else { continue };
            let pause = 2 * self.tuning.probe_timeout;
            let pause = pause.saturating_mul(1 << question.tries.min(16)).min(LONGEST_PAUSE);
            question.tries += 1;
            let from = self.membership.me().name.as_bytes();
            let message = InfoMessage::Ask { number: question.number, mine, yours, from }.encode();
            let to = Target::from(record);
            self.infos.due.set(name, now + pause);
            // In a name that is another's it says nothing.
            if !self.seeds.name_taken() {
                self.broadcast(&[to], None, vec![message]);
            }
        }
    }

    /// Takes a question or an answer.
    pub(super) fn hear_of_info(&mut self, now: Instant, from: SocketAddr, payload: &Bytes) {
        match InfoMessage::decode(payload) {
            Some(InfoMessage::Ask { number, mine, yours, from: name }) => {
                self.answer_info(now, name, number, (mine, yours))
            }
            Some(InfoMessage::Answer { number, from: name, told }) => {
                let name = NodeName::from(name);
                // Who has not been asked that, or is gone, is not believed.
                let question = self.infos.asked.get(&name).filter(|question| question.number == number);
                let Some(expected) = question.map(|question| question.expected) else { return };
                self.infos.stop_asking(&name);
                self.learn_info(now, from, &name, told);
                if let Some((id, other)) = self.infos.twin_that_is_there(&name) {
                    self.events.push_back(Event::IdConflict { id, names: [name.clone(), other] });
                }
                if expected != 0 && expected != self.infos.tag_of(&name) {
                    let (at, number) = (now + self.tuning.probe_timeout, self.rng.next_u64());
                    self.infos.ask_at(at, &name, number);
                }
            }
            None => {
                let reason = format_args!("a message of {} bytes about a node cannot be read", payload.len());
                self.reject(now, from, Cause::Message, &reason);
            }
        }
    }

    /// Who is not known yet as a member asks again.
    fn answer_info(&mut self, now: Instant, name: &[u8], number: u64, (theirs, mine): (Tag, Tag)) {
        let me = &self.membership.me().name;
        let Some(record) = self.membership.get(name).filter(|record| is_live_of_ours(record) && record.name != *me)
        else {
            return;
        };
        let (name, is_proven, to) = (record.name.clone(), record.is_proven(), Target::from(record));
        if self.membership.has_left()
            || self.seeds.name_taken()
            || !self.infos.may_answer(now, &name, is_proven, self.tuning.probe_timeout)
        {
            return;
        }
        let told = match &self.infos.own {
            None => Told::Nothing,
            Some(own) if own.tag == mine => Told::AsKnown,
            Some(own) => Told::Info { tag: own.tag, told: &own.told },
        };
        let answer = InfoMessage::Answer { number, from: me.as_bytes(), told }.encode();
        self.broadcast(&[to], None, vec![answer]);
        if theirs != self.infos.tag_of(&name) {
            match self.infos.asked.get_mut(&name) {
                Some(question) => question.expected = theirs,
                None => self.meet_for_info(now, &name),
            }
        }
    }

    fn learn_info(&mut self, now: Instant, from: SocketAddr, name: &NodeName, told: Told<'_>) {
        let (tag, told) = match told {
            Told::AsKnown => return,
            Told::Nothing => {
                self.infos.unlearn(name);
                return;
            }
            Told::Info { tag, told } => (tag, told),
        };
        let info = match message::decode_info(told) {
            Ok(info) => info,
            Err(problem) => {
                let reason =
                    format_args!("what {name} tells of itself, in {} bytes, cannot be used: {problem}", told.len());
                return self.reject(now, from, Cause::Message, &reason);
            }
        };
        if !self.infos.learn(name, info.id, (tag, told)) {
            return;
        }
        if self.info().is_some_and(|own| own.id == info.id) {
            let names = [self.me().name.clone(), name.clone()];
            self.events.push_back(Event::IdConflict { id: info.id, names });
        } else if let Some(twin) = self.infos.twin(name, info.id).cloned() {
            // It may be this one's former life, under another name, and not be found to have failed yet.
            self.infos.twins.insert(twin.clone(), name.clone());
            self.meet_for_info(now, &twin);
        }
        self.events.push_back(Event::InfoReceived { name: name.clone(), info: Arc::new(info) });
    }
}

/// Whether a member is one to ask: what it announces alone would have anybody asked.
fn is_asked(record: &Record) -> bool {
    is_live_of_ours(record) && record.is_proven()
}

fn is_live_of_ours(record: &Record) -> bool {
    record.is_live() && tells_info(record.versions)
}

#[cfg(test)]
pub(super) use self::message::{test_answer, test_ask};
