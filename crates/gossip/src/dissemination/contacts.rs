//! Who is who: what proves that a member is reached where it says, and in which life it is.
//!
//! Packets may leave from another address than a member announces: a second address of its host, one that a
//! gateway puts on it, a temporary one of IPv6. So nodes of [`NAMED`] revisions say by name what they say to
//! each other, and are answered at the address that the name stands for ([`By`]). Two numbers take the place of
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
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::RngExt;

use super::{
    Dissemination, Lane,
    control::{By, Control, Question, Start},
    error::Unusable,
    limits::MAX_ORIGINS,
    outbound::Began,
    output::Output,
    repair::Teller,
    revision::is_named,
    same_lane,
};
use crate::{
    membership::{Membership, NodeName, Record},
    rate::RateLimit,
    wire::Versions,
};

/// For how long a question is asked, and answers to it count.
const QUESTION: Duration = Duration::from_secs(10);

/// How long a first meeting takes: until then, where an origin says that this node begins is believed at once.
const FIRST_MEETING: Duration = Duration::from_secs(1);

/// How much is given to a member in a second of what it is not known to lack, in bytes; and at once.
const REPEATED_IN_A_SECOND: f64 = (1 << 20) as f64;

/// What a member was asked.
#[derive(Debug)]
struct Asked {
    number: u64,
    since: Instant,
    /// The life that it was asked about.
    epoch: u64,
    /// How often it was asked in which life it is.
    asked: RateLimit,
    /// A former life that was the reason to ask, and who told of it.
    former: Option<(u64, SocketAddr)>,
}

/// What is known of members beyond what they announce; but for when they were met only of live ones.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    questions: BTreeMap<NodeName, Asked>,
    /// How often each was answered that has not proved who it is.
    answered: BTreeMap<NodeName, RateLimit>,
    /// Those that were heard from elsewhere than they say.
    elsewhere: BTreeSet<NodeName>,
    /// How much each was given that it may have had.
    repeated: BTreeMap<NodeName, RateLimit>,
    /// When each was met first, in whichever life, whether it is live or not.
    met: BTreeMap<NodeName, Instant>,
}

impl Contacts {
    /// A member is there, maybe for the first time. Of those that have not answered yet no more are remembered than
    /// leave room for those that have.
    pub(super) fn meet(&mut self, now: Instant, record: &Record) {
        let max = if record.is_proven() { MAX_ORIGINS } else { MAX_ORIGINS / 2 };
        if self.met.len() < max && !self.met.contains_key(&record.name) {
            self.met.insert(record.name.clone(), now);
        }
    }

    /// Whether a member has ever been met.
    pub(super) fn has_met(&self, name: &NodeName) -> bool {
        self.met.contains_key(name)
    }

    /// Whether a member was met before its present life began, which is so many microseconds old by its answer. The answer
    /// may have been on its way, or unread, for long, and is no older than the question.
    pub(super) fn met_before(&self, name: &[u8], age: u64) -> bool {
        let times = self.met.get(name).zip(self.questions.get(name));
        times.is_some_and(|(met, asked)| asked.since.saturating_duration_since(*met) > Duration::from_micros(age))
    }

    /// Whether a member was met longer ago than that, in whichever life.
    pub(super) fn has_met_for(&self, now: Instant, name: &[u8], time: Duration) -> bool {
        self.met.get(name).is_some_and(|met| now.saturating_duration_since(*met) > time)
    }

    /// Where this node begins in a life of an origin that says it. Who met the origin before this life of it was there all
    /// along, but held for gone by those that the origin joined through: it begins with the first message, to be told of
    /// what nobody has any more. Only an answer, with the `age` of the origin, tells it from one that came later.
    pub(super) fn begins(&self, now: Instant, origin: &[u8], start: Start, age: Option<u64>) -> Option<Start> {
        match age {
            Some(age) if self.met_before(origin, age) => Some(Start { at: 0, ..start }),
            None if self.has_met_for(now, origin, FIRST_MEETING) => None,
            _ => Some(start),
        }
    }

    /// A member is gone.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.questions.remove(name);
        self.answered.remove(name);
        self.elsewhere.remove(name);
        self.repeated.remove(name);
    }

    /// Whether a member may be given so many bytes that it is not known to lack, as it asks for them; it has them then.
    pub(super) fn may_repeat(&mut self, now: Instant, name: &NodeName, bytes: usize) -> bool {
        let cost = Duration::from_secs_f64(bytes as f64 / REPEATED_IN_A_SECOND);
        self.repeated.entry(name.clone()).or_default().take(now, cost, Duration::from_secs(1))
    }

    fn is_answer(&self, now: Instant, name: &NodeName, echo: Question) -> bool {
        let asked = self.questions.get(name).filter(|asked| asked.number == echo.number);
        asked.is_some_and(|question| now.saturating_duration_since(question.since) < 2 * QUESTION)
    }
}

impl Dissemination {
    /// What is said with this in front is said by this node.
    pub(super) fn by(&self, echo: Option<Question>) -> By<'_> {
        By { sender: self.me.as_bytes(), echo }
    }

    /// A control message for a node with these versions: by name, if it understands that.
    pub(super) fn words(&self, versions: Versions, control: &Control<'_>) -> Bytes {
        if is_named(versions) { control.encode_by(self.by(None)) } else { control.encode() }
    }

    /// Who says this by name, if it is a live member, and whether that is certain.
    pub(super) fn teller(&mut self, now: Instant, from: SocketAddr, by: By<'_>, record: &Record) -> Teller {
        let addr = record.addr();
        let answers = by.echo.filter(|echo| self.contacts.is_answer(now, &record.name, *echo));
        // Over a stream it comes from a port of the system's choice.
        let at_home = from.ip() == addr.ip();
        if !at_home && self.contacts.elsewhere.insert(record.name.clone()) {
            self.counters.elsewhere += 1;
            self.outputs.push_back(Output::Elsewhere { name: record.name.clone(), announced: addr, from });
        }
        Teller { addr, certain: at_home || answers.is_some(), answers: answers.map(|echo| echo.age) }
    }

    /// For how long this node has been running, in microseconds.
    pub(super) fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }

    /// The number that a member is asked with. Of a later life it is asked anew, as an answer in it is no older than that.
    fn question_for(&mut self, now: Instant, name: &NodeName, epoch: u64) -> &mut Asked {
        let number = self.rng.random();
        let new = Asked { number, since: now, epoch, asked: RateLimit::default(), former: None };
        let question = self.contacts.questions.entry(name.clone()).or_insert(new);
        let age = now.saturating_duration_since(question.since);
        // Both lanes of a life have the same number, but for its last bit.
        let is_later = epoch / 2 > question.epoch / 2;
        if age >= QUESTION || (is_later && age >= FIRST_MEETING) {
            (question.number, question.since, question.epoch) = (number, now, epoch);
        }
        question
    }

    /// Asks a member in which life it is, of which somebody says that it is in this one; unless it was just
    /// asked. Gives whether it can be asked that.
    pub(super) fn question(&mut self, now: Instant, record: &Record, epoch: u64, membership: &Membership) -> bool {
        if !is_named(record.versions) {
            return false;
        }
        let (pause, age) = (8 * self.patience(), self.age(now));
        let question = self.question_for(now, &record.name, epoch);
        if question.asked.take(now, pause, Duration::ZERO) {
            let question = Some(Question { number: question.number, age });
            let receipt = Control::Receipt { epoch, life: self.life, next: None, cookie: None, question };
            let receipt = receipt.encode_by(self.by(None));
            self.send(record.addr(), membership.introduction().into_iter().chain([receipt]).collect());
        }
        true
    }

    /// Somebody has told of a former life of a member, which has been asked about it.
    pub(super) fn note_former(&mut self, origin: &[u8], epoch: u64, teller: SocketAddr) {
        if let Some(asked) = self.contacts.questions.get_mut(origin) {
            asked.former = Some((epoch, teller));
        }
    }

    /// A member has answered that it is in this life, which is so old. If it was met in a former one, who told of that
    /// is asked for it.
    pub(super) fn hear_age(&mut self, origin: &[u8], (epoch, age): (u64, u64), membership: &Membership) {
        if !self.contacts.met_before(origin, age) {
            return;
        }
        self.inbound.note_met_before(origin, epoch);
        let former = self.contacts.questions.get_mut(origin).and_then(|asked| asked.former.take());
        let known = former.and_then(|(epoch, teller)| Some((epoch, membership.find_addr(teller)?)));
        if let Some((epoch, teller)) = known.filter(|(epoch, _)| self.inbound.get(origin, *epoch).is_none()) {
            // Who is asked for what it cannot have answers what there is.
            let want = Control::Want { origin, epoch, ranges: vec![(u64::MAX - 1, 1)] };
            self.send(teller.addr(), vec![self.words(teller.versions, &want)]);
        }
    }

    /// What this node acknowledges of a stream, or that it asks where to begin in it.
    pub(super) fn acknowledgement(&mut self, now: Instant, record: &Record, epoch: u64) -> Option<Bytes> {
        let stream = self.inbound.get(record.name.as_bytes(), epoch)?;
        let (next, cookie, life) = (stream.acknowledged(), stream.cookie, self.life);
        if !is_named(record.versions) && cookie.is_none() {
            return Some(Control::Ack { epoch, life, next }.encode());
        }
        let age = self.age(now);
        let question =
            next.is_none().then(|| Question { number: self.question_for(now, &record.name, epoch).number, age });
        Some(Control::Receipt { epoch, life, next, cookie, question }.encode_by(self.by(None)))
    }

    /// Takes what a member acknowledges by name, or asks.
    pub(super) fn take_receipt(
        &mut self,
        now: Instant,
        (record, teller): (&Record, Teller),
        (epoch, life, next): (u64, u64, Option<u64>),
        cookie: Option<u64>,
        question: Option<Question>,
    ) -> Result<(), Unusable> {
        let name = &record.name;
        let lane = if same_lane(self.outbound[Lane::Own as usize].epoch, epoch) { Lane::Own } else { Lane::Voice };
        let outbound = &self.outbound[lane as usize];
        let known = outbound.is_acknowledged_in(epoch, next);
        let proven = match outbound.cookie_of(name.as_bytes()) {
            Some(given) => cookie == Some(given),
            // It was taken for one of an older revision.
            None => teller.certain,
        };
        // Who is taken for older than it is, is only told of more. Its age leaves out for how long its host slept.
        let by_age = question.map_or(Began::MAX, |question| outbound.began(now, question.age));
        let began = by_age.min(outbound.began_by_clock(life));
        // An answer tells how old who answers is, so that nobody takes numbers for lost that were heard in a former life.
        let age = if outbound.goes_on() { u64::MAX } else { self.age(now) };
        let echo = question.map(|question| Question { age, ..question });
        if known && proven {
            return self.count_ack(now, lane, name, (life, next, began), echo);
        }
        if !known {
            self.counters.former_lives += 1;
        } else if cookie.is_some() {
            self.counters.strangers += 1;
        }
        if (known || question.is_some()) && self.may_answer(now, name) {
            self.answer(lane, record, (life, began), echo);
        }
        Ok(())
    }

    /// Whether a member that has not proved who it is may be answered: not too often.
    pub(super) fn may_answer(&mut self, now: Instant, name: &NodeName) -> bool {
        let pause = self.patience() / 2;
        self.contacts.answered.entry(name.clone()).or_default().take(now, pause, Duration::ZERO)
    }

    /// Tells a member in which life this node is, and where that member begins in it.
    fn answer(&mut self, lane: Lane, record: &Record, (life, began): (u64, Began), echo: Option<Question>) {
        let start = self.outbound[lane as usize].offer(record.name.as_bytes(), life, began);
        let have = Control::Have(vec![self.own_have(lane, start)]).encode_by(self.by(echo));
        self.send(record.addr(), vec![have]);
    }
}
