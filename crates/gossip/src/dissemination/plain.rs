//! What plain memberlist nodes say, who give their messages no identity.
//!
//! A plain node gossips each message a few times, to whomever it picks; nobody passes it on. Ours see to
//! it that what reaches one of them reaches all, once:
//!
//! 1. Whoever hears it hands it to the plain node's *voice*: the one of ours that a hash of both names
//!    makes it (rendezvous hashing; Thaler, Ravishankar 1998).
//! 2. The voice takes equal messages of one source within [`WINDOW`] of the first for retransmissions of
//!    one. It publishes that one in a stream of its own, with the source's name, and all that holds for
//!    messages of ours holds for it.
//! 3. Whoever handed it over repeats that until the message comes back in the voice's stream, and after
//!    [`TRIES`] publishes it itself.
//!
//! What is no JSON with a key and a value travels as such a message all the same ([`Said::raw`]), so that
//! the applications of plain nodes may speak as they like. Strangers may not: theirs is refused.
//!
//! # The rule and its limit
//!
//! Memberlist sends a message `mult · ceil(log10(n + 1))` times, `gossip_nodes` of them in each round:
//! over 0.4 s at 3 nodes and 1.2 s at 1,000 in its LAN preset. So two sends of the same words by the same
//! node are two messages when [`WINDOW`] or more lies between them, and one when less does.
//!
//! While views differ there may be two voices for one source. Equal messages that come in different
//! voices' streams within [`WINDOW`] are one, too; in one voice's stream they have been told apart.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Dissemination, Draft, Lane, MAX_MESSAGE, Message, Output, Timer, Unusable,
    control::Control,
    hash,
    hearing::read,
    is_ours, ours,
    payload::{self, Parsed},
};
use crate::membership::{Membership, NodeName, Record};

/// For how long equal messages of a plain node are retransmissions of one.
pub(super) const WINDOW: Duration = Duration::from_secs(2);
/// How long a voice may take until it is reminded.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);
/// How often a message is handed to a voice.
const TRIES: u32 = 3;
/// How many messages are remembered at most, and how many wait for their voices at most.
const MAX_HEARD: usize = 65_536;
const MAX_WAITING: usize = 4096;

/// A message of a plain node: its name, and a hash of what it said.
pub(super) type Words = (NodeName, u64);

/// What was said, whatever JSON it was in.
pub(super) fn words(source: &NodeName, said: &Said<'_>) -> Words {
    let value = hash(said.value.as_bytes()) ^ u64::from(said.raw);
    (source.clone(), hash(said.key.as_bytes()) ^ value.rotate_left(32))
}

/// What a plain node said.
#[derive(Debug)]
pub(super) struct Said<'a> {
    pub(super) key: Cow<'a, str>,
    /// JSON.
    pub(super) value: Cow<'a, str>,
    /// Whether it was not in this crate's form: the value has the bytes.
    pub(super) raw: bool,
}

impl<'a> Said<'a> {
    pub(super) fn raw(payload: &[u8]) -> Self {
        Self { key: "".into(), value: payload::raw_value(payload).into(), raw: true }
    }

    pub(super) fn parsed(text: &'a str, parsed: Parsed<'a>) -> Self {
        Self { key: parsed.key, value: text[parsed.value].into(), raw: false }
    }
}

/// Whether this is the address of a plain node.
pub(super) fn is_from_one(from: SocketAddr, membership: &Membership) -> bool {
    membership.find_addr(from).is_some_and(|record| !is_ours(record.versions))
}

/// The member that something comes from which is no message of ours; over a stream it comes from a port of
/// the system's choice.
pub(super) fn at(from: SocketAddr, membership: &Membership) -> Option<&Record> {
    membership.find_addr(from).or_else(|| {
        let mut plain = membership.others().filter(|record| !is_ours(record.versions));
        plain.find(|record| record.addr().ip() == from.ip() && record.is_live())
    })
}

/// There is no room to remember one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more messages from plain memberlist nodes came within {WINDOW:?} than can be told apart")]
pub(crate) struct Flooded;

/// Who is the voice of a plain node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Voice {
    Me,
    At(SocketAddr),
}

pub(super) fn voice_of(source: &NodeName, membership: &Membership) -> Voice {
    let me = membership.me();
    let ours = membership.others().filter(|record| record.is_live() && record.is_proven() && is_ours(record.versions));
    let score = |name: &NodeName| {
        let seed = hash(source.as_bytes()) ^ hash(name.as_bytes()).rotate_left(32);
        (hash(&seed.to_be_bytes()), name.clone())
    };
    let best = ours.chain([me]).max_by_key(|record| score(&record.name));
    match best {
        Some(record) if record.name != me.name => Voice::At(record.addr()),
        _ => Voice::Me,
    }
}

/// What was heard of plain nodes of late.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When, and in whose stream.
    heard: HashMap<Words, (Instant, NodeName)>,
    /// The same, oldest first.
    order: VecDeque<(Instant, Words)>,
    /// What waits to come back in its voice's stream.
    pub(super) waiting: BTreeMap<Words, Waiting>,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) message: Bytes,
    pub(super) tries: u32,
    pub(super) until: Instant,
}

impl Heard {
    /// Whether this was heard within the window.
    pub(super) fn knows(&self, now: Instant, words: &Words) -> bool {
        let fresh = |(at, _): &(Instant, NodeName)| now.saturating_duration_since(*at) < WINDOW;
        self.heard.get(words).is_some_and(fresh) || self.waiting.contains_key(words)
    }

    /// Whether words that come in the stream of `voice` are new. From now on they are not.
    pub(super) fn is_new(&mut self, now: Instant, words: &Words, voice: &NodeName) -> Result<bool, Flooded> {
        while let Some((at, old)) = self.order.front() {
            if now.saturating_duration_since(*at) < WINDOW {
                break;
            }
            if self.heard.get(old).is_some_and(|(heard, _)| heard == at) {
                self.heard.remove(old);
            }
            self.order.pop_front();
        }
        self.waiting.remove(words);
        if self.heard.get(words).is_some_and(|(_, by)| by != voice) {
            return Ok(false);
        }
        if self.order.len() >= MAX_HEARD {
            return Err(Flooded);
        }
        self.heard.insert(words.clone(), (now, voice.clone()));
        self.order.push_back((now, words.clone()));
        Ok(true)
    }

    /// A message is handed to its voice.
    pub(super) fn wait(&mut self, now: Instant, words: Words, message: Bytes) -> Result<(), Flooded> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(Flooded);
        }
        self.waiting.insert(words, Waiting { message, tries: 1, until: now + PATIENCE });
        Ok(())
    }

    /// When the next voice is to be reminded.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.values().map(|waiting| waiting.until).min()
    }

    /// The messages whose voices are to be reminded, and whether they have been reminded often enough.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Words, Bytes, bool)> {
        let due = self.waiting.iter_mut().filter(|(_, waiting)| waiting.until <= now);
        let due = due.map(|(words, waiting)| {
            waiting.tries += 1;
            waiting.until = now + PATIENCE * waiting.tries;
            (words.clone(), waiting.message.clone(), waiting.tries > TRIES)
        });
        due.collect()
    }
}

impl Dissemination {
    pub(super) fn hear_plain(
        &mut self,
        now: Instant,
        from: SocketAddr,
        payload: &Bytes,
        said: &Said<'_>,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let source =
            at(from, membership).map_or_else(|| from.to_string().as_str().into(), |record| record.name.clone());
        let words = words(&source, said);
        if self.heard.knows(now, &words) {
            return Ok(());
        }
        match voice_of(&source, membership) {
            Voice::Me => self.adopt(now, &source, payload, membership),
            Voice::At(addr) => {
                self.heard.wait(now, words, payload.clone()).map_err(|error| Unusable::Plain(source.clone(), error))?;
                self.hand_over(addr, &source, payload, membership);
                self.timers.set(Timer::Plain, self.heard.next_due().unwrap_or(now));
                Ok(())
            }
        }
    }

    fn hand_over(&mut self, voice: SocketAddr, source: &NodeName, message: &Bytes, membership: &Membership) {
        let versions = membership.find_addr(voice).map(|record| record.versions).unwrap_or_default();
        let message = self.words(versions, &Control::Plain { source: source.as_bytes(), message });
        self.spread(vec![ours(voice)], None, vec![message]);
    }

    /// Publishes what a plain node said, as its voice.
    pub(super) fn adopt(
        &mut self,
        now: Instant,
        source: &NodeName,
        payload: &Bytes,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let said = read(payload).map_or_else(|_| Said::raw(payload), |(text, parsed)| Said::parsed(text, parsed));
        let words = words(source, &said);
        let waited = self.heard.waiting.remove(&words).is_some();
        if !waited && self.heard.knows(now, &words) {
            return Ok(());
        }
        if !self.outbound[Lane::Voice as usize].has_room() {
            return Err(Unusable::NoRoom(source.clone()));
        }
        let me = self.me.clone();
        let draft = Draft::new(&said.key, &said.value, &me.to_string()).on_behalf_of(&source.to_string(), said.raw);
        let size = draft.max_len();
        if said.raw && size > MAX_MESSAGE {
            return Err(Unusable::TooLarge { name: source.clone(), size });
        }
        self.heard.is_new(now, &words, &me).map_err(|error| Unusable::Plain(source.clone(), error))?;
        let (_, message) = self.append(now, Lane::Voice, draft, membership);
        let payload = message.slice(1..);
        let text = std::str::from_utf8(&payload).expect("a draft is made of text");
        let parsed = payload::parse(text).expect("a draft is JSON");
        let identity = parsed.identity.as_ref().expect("a finished draft has an identity");
        self.counters.delivered += 1;
        self.outputs.push_back(Output::Deliver(Message::new(me, identity, &parsed, &payload, 0)));
        Ok(())
    }

    pub(super) fn remind_voices(&mut self, now: Instant, membership: &Membership) {
        for (words, message, enough) in self.heard.due(now) {
            let source = words.0;
            match voice_of(&source, membership) {
                Voice::At(addr) if !enough => self.hand_over(addr, &source, &message, membership),
                // It cannot be used by anybody if it cannot be used here; and there is nobody to tell.
                _ => drop(self.adopt(now, &source, &message, membership)),
            }
        }
        if let Some(at) = self.heard.next_due() {
            self.timers.set(Timer::Plain, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &NodeName, key: &str, value: &str) -> Words {
        super::words(source, &Said { key: key.into(), value: value.into(), raw: false })
    }

    #[test]
    fn equal_words_are_one_message_within_the_window_unless_one_voice_said_them_twice() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let (a, b) = (NodeName::from("voice a"), NodeName::from("voice b"));
        let mut heard = Heard::default();
        let said = words(&"go1".into(), "k", "1");
        assert_ne!(said, words(&"go1".into(), "1", "k"));
        assert_ne!(words(&"go1".into(), "", "\"x\""), super::words(&"go1".into(), &Said::raw(b"x")));
        assert!(!heard.knows(at(0), &said));
        assert_eq!(heard.is_new(at(0), &said, &a), Ok(true));
        assert!(heard.knows(at(1999), &said));
        assert_eq!(heard.is_new(at(1999), &said, &b), Ok(false), "two voices, one message");
        assert_eq!(heard.is_new(at(1999), &words(&"go2".into(), "k", "1"), &b), Ok(true));
        assert!(!heard.knows(at(2000), &said));
        assert_eq!(heard.is_new(at(2000), &said, &b), Ok(true));
        assert_eq!(heard.is_new(at(2001), &said, &b), Ok(true), "a voice knows what it says");
        assert_eq!(heard.is_new(at(4002), &said, &a), Ok(true));
    }

    #[test]
    fn a_voice_is_reminded_a_few_times() {
        let start = Instant::now();
        let mut heard = Heard::default();
        let said = words(&"go1".into(), "k", "1");
        heard.wait(start, said.clone(), Bytes::from_static(b"x")).unwrap();
        assert!(heard.knows(start, &said));
        let mut now = start;
        let mut last = Vec::new();
        for _ in 0..TRIES {
            now = heard.next_due().unwrap();
            last.extend(heard.due(now).into_iter().map(|(_, _, enough)| enough));
        }
        assert_eq!(last, [false, false, true]);
        assert_eq!(heard.is_new(now, &said, &"voice".into()), Ok(true));
        assert_eq!(heard.next_due(), None);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut heard = Heard::default();
        let said = |i: usize| words(&"go1".into(), "k", &i.to_string());
        let new = (0..2 * MAX_HEARD).filter(|i| heard.is_new(now, &said(*i), &"a".into()) == Ok(true)).count();
        assert_eq!(new, MAX_HEARD);
        let kept = (0..2 * MAX_WAITING).filter(|i| heard.wait(now, said(*i), Bytes::new()).is_ok()).count();
        assert_eq!(kept, MAX_WAITING);
        assert_eq!(heard.is_new(now + WINDOW, &said(0), &"a".into()), Ok(true));
        assert_eq!(heard.heard.len(), 1);
    }
}
