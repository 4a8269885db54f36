//! Messages of plain memberlist nodes, which have no identity.
//!
//! A plain node gossips each message a few times, to whomever it picks, and nobody passes it on. Our nodes see to it that
//! what reaches one of them reaches all, once:
//!
//! 1. Whoever receives it sends it to the plain node's *proxy*: the one of our nodes that a hash of both names selects
//!    (rendezvous hashing; Thaler, Ravishankar 1998).
//! 2. The proxy takes equal messages of one source within [`DEDUP_WINDOW`](super::dedup::DEDUP_WINDOW) of the first for
//!    retransmissions of it. It publishes the first in a stream of its own, with the source's name. All that holds for our
//!    messages then holds for it.
//! 3. Whoever sent it to the proxy repeats that until the message comes back in the proxy's stream, and after
//!    [`PROXY_ATTEMPTS`](super::dedup::PROXY_ATTEMPTS) publishes it itself.
//!
//! What is not JSON with a key and a value is published all the same ([`PlainPayload::raw`]): the applications of plain nodes
//! may use any format. From others than members it is refused.
//!
//! # The rule and its limit
//!
//! Memberlist sends a message `mult · ceil(log10(n + 1))` times, `gossip_nodes` of them in each round: over 0.4 s at 3 nodes
//! and 1.2 s at 1,000 in its LAN preset. So when a node sends the same bytes twice, these are two messages if
//! [`DEDUP_WINDOW`](super::dedup::DEDUP_WINDOW) or more lies between them, and one if less does.
//!
//! While views differ, a source may have two proxies. Equal messages in the streams of different proxies within
//! [`DEDUP_WINDOW`](super::dedup::DEDUP_WINDOW) are one, too; in the stream of one proxy they are different messages.

use std::{borrow::Cow, net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::{
    context::{Context, Timer},
    control::Control,
    dedup::{DedupWindow, PayloadKey},
    draft::{Draft, MAX_MESSAGE},
    error::DisseminationError,
    hash::hash,
    lane::Lane,
    message::Message,
    output::Output,
    payload::{self, Parsed},
    publisher::Publisher,
    revision::{is_ours, target_of_ours},
};
use crate::membership::{Membership, NodeName, Record, TransmitLimitedQueue};

/// The most messages that wait to be repeated to plain nodes.
const QUEUE_CAPACITY: usize = 4096;

/// A message of a plain node, as it was parsed.
#[derive(Debug)]
pub(super) struct PlainPayload<'a> {
    pub(super) key: Cow<'a, str>,
    /// JSON.
    pub(super) value: Cow<'a, str>,
    /// Whether it was not a JSON object with a key and a value. Its value then has its bytes.
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

/// Whether a plain node is at this address.
pub(super) fn is_plain_addr(from: SocketAddr, membership: &Membership) -> bool {
    membership.find_addr(from).is_some_and(|record| !is_ours(record.versions))
}

/// The member that a message without an identity comes from. Over a stream it comes from a port of the system's choice.
pub(super) fn member_at(from: SocketAddr, membership: &Membership) -> Option<&Record> {
    membership.find_addr(from).or_else(|| {
        let mut plain = membership.others().filter(|record| !is_ours(record.versions));
        plain.find(|record| record.addr().ip() == from.ip() && record.is_live())
    })
}

/// The proxy of a plain node.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proxy {
    LocalNode,
    Remote(SocketAddr),
}

pub(super) fn proxy_for(source: &NodeName, membership: &Membership) -> Proxy {
    let me = membership.me();
    let ours = membership.others().filter(|record| record.is_live() && record.is_proven() && is_ours(record.versions));
    let score = |name: &NodeName| {
        let seed = hash(source.as_bytes()) ^ hash(name.as_bytes()).rotate_left(32);
        (hash(&seed.to_be_bytes()), name.clone())
    };
    let best = ours.chain([me]).max_by_key(|record| score(&record.name));
    match best {
        Some(record) if record.name != me.name => Proxy::Remote(record.addr()),
        _ => Proxy::LocalNode,
    }
}

/// The messages of plain nodes, and what they are sent. See the [module](self).
#[derive(Debug)]
pub(super) struct PlainNodes {
    window: DedupWindow,
    /// Messages of this node to repeat to them.
    pub(super) queue: TransmitLimitedQueue,
    /// Whether they are sent anything at all.
    pub(super) enabled: bool,
}

impl PlainNodes {
    pub(super) fn new(retransmit_mult: u32) -> Self {
        let queue = TransmitLimitedQueue::new(retransmit_mult, QUEUE_CAPACITY);
        Self { window: DedupWindow::default(), queue, enabled: true }
    }

    /// How many messages wait to be repeated to them, and the most that may.
    pub(super) fn queued(&self) -> (usize, usize) {
        (self.queue.len(), QUEUE_CAPACITY)
    }

    /// Whether to deliver a message: not if it is one of a plain node that has come through another proxy.
    pub(super) fn is_new(&mut self, now: Instant, message: &Message) -> bool {
        let Some(source) = message.plain_source() else { return true };
        let key = PayloadKey::new(source, message.key(), message.value(), message.is_raw());
        // In a flood, a duplicate is better than a loss.
        self.window.admit(now, &key, message.publisher()) != Ok(false)
    }

    /// Receives a message from a plain node itself.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context,
        publisher: &mut Publisher,
        now: Instant,
        from: SocketAddr,
        (payload, payload_read): (&Bytes, &PlainPayload<'_>),
        membership: &Membership,
    ) -> Result<(), DisseminationError> {
        let source =
            member_at(from, membership).map_or_else(|| from.to_string().as_str().into(), |record| record.name.clone());
        let key = payload_read.dedup_key(&source);
        if self.window.contains(now, &key) {
            return Ok(());
        }
        match proxy_for(&source, membership) {
            Proxy::LocalNode => self.publish_as_proxy(cx, publisher, now, &source, payload_read, membership),
            Proxy::Remote(addr) => {
                self.window
                    .await_proxy(now, key, payload.clone())
                    .map_err(|error| DisseminationError::PlainFlood(source.clone(), error))?;
                send_to_proxy(cx, addr, &source, payload, membership);
                cx.timers.set(Timer::RetryProxies, self.window.next_due().unwrap_or(now));
                Ok(())
            }
        }
    }

    /// Publishes a message of a plain node, as its proxy.
    pub(super) fn publish_as_proxy(
        &mut self,
        cx: &mut Context,
        publisher: &mut Publisher,
        now: Instant,
        source: &NodeName,
        payload_read: &PlainPayload<'_>,
        membership: &Membership,
    ) -> Result<(), DisseminationError> {
        let key = payload_read.dedup_key(source);
        if !self.window.remove_waiting(&key) && self.window.contains(now, &key) {
            return Ok(());
        }
        if !publisher.lanes[Lane::Proxy].outbound.has_room() {
            return Err(DisseminationError::NoRoom(source.clone()));
        }
        let me = &cx.local.name;
        let draft = Draft::new(&payload_read.key, &payload_read.value, &me.to_string())
            .on_behalf_of(&source.to_string(), payload_read.raw);
        let size = draft.max_len();
        if payload_read.raw && size > MAX_MESSAGE {
            return Err(DisseminationError::TooLarge { name: source.clone(), size });
        }
        self.window.admit(now, &key, me).map_err(|error| DisseminationError::PlainFlood(source.clone(), error))?;
        let published = publisher.append(cx, now, Lane::Proxy, draft, membership);
        cx.counters.delivered += 1;
        cx.outputs.push_back(Output::Deliver(published.into()));
        Ok(())
    }

    /// Repeats messages to proxies that have not published them.
    pub(super) fn retry_proxies(
        &mut self,
        cx: &mut Context,
        publisher: &mut Publisher,
        now: Instant,
        membership: &Membership,
    ) {
        for (key, message, enough) in self.window.due(now) {
            match proxy_for(&key.source, membership) {
                Proxy::Remote(addr) if !enough => send_to_proxy(cx, addr, &key.source, &message, membership),
                // What cannot be used here can be used nowhere, and there is nobody to tell.
                _ => {
                    let payload_read = PlainPayload::read(&message);
                    drop(self.publish_as_proxy(cx, publisher, now, &key.source, &payload_read, membership));
                }
            }
        }
        if let Some(at) = self.window.next_due() {
            cx.timers.set(Timer::RetryProxies, at);
        }
    }
}

fn send_to_proxy(cx: &mut Context, proxy: SocketAddr, source: &NodeName, message: &Bytes, membership: &Membership) {
    let versions = membership.find_addr(proxy).map(|record| record.versions).unwrap_or_default();
    let message = cx.local.encode_for(versions, &Control::ProxyPublish { source: source.as_bytes(), message });
    cx.multicast(vec![target_of_ours(proxy)], None, vec![message]);
}
