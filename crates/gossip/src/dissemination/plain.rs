//! What plain memberlist nodes say, who give their messages no identity.
//!
//! A plain node gossips each message a few times, to whomever it picks; nobody passes it on. Ours see to
//! it that what reaches one of them reaches all, once:
//!
//! 1. Whoever hears it hands it to the plain node's *voice*: the one of ours that a hash of both names
//!    makes it (rendezvous hashing; Thaler, Ravishankar 1998).
//! 2. The voice takes equal messages of one source within [`WINDOW`](super::dedup::WINDOW) of the first for retransmissions of
//!    one. It publishes that one in a stream of its own, with the source's name, and all that holds for
//!    messages of ours holds for it.
//! 3. Whoever handed it over repeats that until the message comes back in the voice's stream, and after
//!    [`TRIES`](super::dedup::TRIES) publishes it itself.
//!
//! What is no JSON with a key and a value travels as such a message all the same ([`PlainPayload::raw`]), so that
//! the applications of plain nodes may speak as they like. Strangers may not: theirs is refused.
//!
//! # The rule and its limit
//!
//! Memberlist sends a message `mult · ceil(log10(n + 1))` times, `gossip_nodes` of them in each round:
//! over 0.4 s at 3 nodes and 1.2 s at 1,000 in its LAN preset. So two sends of the same words by the same
//! node are two messages when [`WINDOW`](super::dedup::WINDOW) or more lies between them, and one when less does.
//!
//! While views differ there may be two voices for one source. Equal messages that come in different
//! voices' streams within [`WINDOW`](super::dedup::WINDOW) are one, too; in one voice's stream they have been told apart.

use std::{borrow::Cow, net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    context::{Context, Timer},
    control::Control,
    dedup::{DedupWindow, PayloadKey},
    draft::{Draft, MAX_MESSAGE},
    error::Unusable,
    hash::hash,
    lane::Lane,
    message::Message,
    output::Output,
    payload::{self, Parsed},
    publisher::Publisher,
    revision::{is_ours, ours},
};
use crate::membership::{Membership, NodeName, Record, TransmitLimitedQueue};

/// How many messages wait to be repeated to plain nodes at most.
const QUEUE_CAPACITY: usize = 4096;

/// What a plain node said.
#[derive(Debug)]
pub(super) struct PlainPayload<'a> {
    pub(super) key: Cow<'a, str>,
    /// JSON.
    pub(super) value: Cow<'a, str>,
    /// Whether it was not in this crate's form: the value has the bytes.
    pub(super) raw: bool,
}

impl<'a> PlainPayload<'a> {
    pub(super) fn raw(payload: &[u8]) -> Self {
        Self { key: "".into(), value: payload::raw_value(payload).into(), raw: true }
    }

    pub(super) fn parsed(text: &'a str, parsed: Parsed<'a>) -> Self {
        Self { key: parsed.key, value: text[parsed.value].into(), raw: false }
    }

    pub(super) fn read(payload: &'a [u8]) -> Self {
        payload::read(payload).map_or_else(|_| Self::raw(payload), |(text, parsed)| Self::parsed(text, parsed))
    }

    fn dedup_key(&self, source: &NodeName) -> PayloadKey {
        PayloadKey::new(source, &self.key, &self.value, self.raw)
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

/// What plain nodes say, and what they are told. See the [module](self).
#[derive(Debug)]
pub(super) struct PlainNodes {
    window: DedupWindow,
    /// Messages of this node to repeat to them.
    pub(super) queue: TransmitLimitedQueue,
    /// Whether they are told at all.
    pub(super) told: bool,
}

impl PlainNodes {
    pub(super) fn new(retransmit_mult: u32) -> Self {
        let queue = TransmitLimitedQueue::new(retransmit_mult, QUEUE_CAPACITY);
        Self { window: DedupWindow::default(), queue, told: true }
    }

    /// How much is waiting to be repeated to them, in messages, and how much may.
    pub(super) fn queued(&self) -> (usize, usize) {
        (self.queue.len(), QUEUE_CAPACITY)
    }

    /// Whether a message is to be delivered: not one of a plain node that came in the stream of another voice already.
    pub(super) fn is_new(&mut self, now: Instant, message: &Message) -> bool {
        let Some(source) = message.plain_source() else { return true };
        let key = PayloadKey::new(source, message.key(), message.value(), message.is_raw());
        // A flood is let through rather than lost.
        self.window.is_new(now, &key, message.publisher()) != Ok(false)
    }

    /// Takes what came from a plain node itself.
    pub(super) fn hear(
        &mut self,
        cx: &mut Context,
        publisher: &mut Publisher,
        now: Instant,
        from: SocketAddr,
        (payload, said): (&Bytes, &PlainPayload<'_>),
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let source =
            at(from, membership).map_or_else(|| from.to_string().as_str().into(), |record| record.name.clone());
        let key = said.dedup_key(&source);
        if self.window.knows(now, &key) {
            return Ok(());
        }
        match voice_of(&source, membership) {
            Voice::Me => self.adopt(cx, publisher, now, &source, said, membership),
            Voice::At(addr) => {
                self.window.wait(now, key, payload.clone()).map_err(|error| Unusable::Plain(source.clone(), error))?;
                hand_over(cx, addr, &source, payload, membership);
                cx.timers.set(Timer::Plain, self.window.next_due().unwrap_or(now));
                Ok(())
            }
        }
    }

    /// Publishes what a plain node said, as its voice.
    pub(super) fn adopt(
        &mut self,
        cx: &mut Context,
        publisher: &mut Publisher,
        now: Instant,
        source: &NodeName,
        said: &PlainPayload<'_>,
        membership: &Membership,
    ) -> Result<(), Unusable> {
        let key = said.dedup_key(source);
        if !self.window.stop_waiting(&key) && self.window.knows(now, &key) {
            return Ok(());
        }
        if !publisher.lanes[Lane::Voice].outbound.has_room() {
            return Err(Unusable::NoRoom(source.clone()));
        }
        let me = &cx.me.name;
        let draft = Draft::new(&said.key, &said.value, &me.to_string()).on_behalf_of(&source.to_string(), said.raw);
        let size = draft.max_len();
        if said.raw && size > MAX_MESSAGE {
            return Err(Unusable::TooLarge { name: source.clone(), size });
        }
        self.window.is_new(now, &key, me).map_err(|error| Unusable::Plain(source.clone(), error))?;
        let published = publisher.append(cx, now, Lane::Voice, draft, membership);
        cx.counters.delivered += 1;
        cx.outputs.push_back(Output::Deliver(published.into()));
        Ok(())
    }

    /// Reminds the voices that have not published what was handed to them.
    pub(super) fn remind_voices(
        &mut self,
        cx: &mut Context,
        publisher: &mut Publisher,
        now: Instant,
        membership: &Membership,
    ) {
        for (key, message, enough) in self.window.due(now) {
            match voice_of(&key.source, membership) {
                Voice::At(addr) if !enough => hand_over(cx, addr, &key.source, &message, membership),
                // It cannot be used by anybody if it cannot be used here; and there is nobody to tell.
                _ => {
                    let said = PlainPayload::read(&message);
                    drop(self.adopt(cx, publisher, now, &key.source, &said, membership));
                }
            }
        }
        if let Some(at) = self.window.next_due() {
            cx.timers.set(Timer::Plain, at);
        }
    }
}

fn hand_over(cx: &mut Context, voice: SocketAddr, source: &NodeName, message: &Bytes, membership: &Membership) {
    let versions = membership.find_addr(voice).map(|record| record.versions).unwrap_or_default();
    let message = cx.me.encode_for(versions, &Control::Plain { source: source.as_bytes(), message });
    cx.spread(vec![ours(voice)], None, vec![message]);
}
