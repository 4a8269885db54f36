//! What is said: messages, their identity, and how they spread.
//!
//! # On the wire
//!
//! A message is a memberlist user message, a JSON object with `key` and `value` at its top level, as any
//! Go program in the cluster would read and write it. Ours carry one more field, which others ignore:
//!
//! ```json
//! {"key":"I am node2","value":0,"broadcast":{"origin":"node2","epoch":1764000000000000,"seq":0}}
//! ```
//!
//! `origin`, `epoch` (the origin's start) and `seq` (a count) identify it. Nodes that understand this
//! field say so in the largest delegate version of their "alive" messages ([`DELEGATE_MAX`]), which
//! plain memberlist nodes take part in agreeing on but do not use.
//!
//! # How it spreads
//!
//! The origin sends a message at once to every plain node and to up to [`FANOUT`] of ours. Each of ours
//! that hears it for the first time delivers it and passes it on by gossip, to ours only: plain nodes
//! would not know a copy from a second message.
//!
//! A plain node's message has no identity. Plain nodes do not pass messages on, so it comes straight
//! from its origin, a few times within the origin's retransmissions. The first copy is delivered, and
//! sent on as a *copy*: with the field `"broadcast":{"origin":…,"copy":…}`, where `copy` is a hash of
//! the original. The same origin and hash within [`COPY_WINDOW`] are the same message; later, they are a
//! new one that happens to say the same.
//!
//! # What can go wrong
//!
//! - *A copy that arrives later than the window* is delivered again; *the same words said twice within
//!   it* by a plain node are one message.
//! - *A forged identity* can make a later message of that origin look old. Gossip without encryption
//!   trusts its network.
//! - *More origins than [`MAX_ORIGINS`]*, or more copies than [`MAX_COPIES`]: those beyond are refused,
//!   as they could not be told from repetitions.

mod message;
mod seen;

use std::{
    borrow::Cow,
    hash::Hasher,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::message::{Message, MessageId, PublishError};
use self::seen::{Copies, Origins};
use crate::{
    config::Tuning,
    membership::{NodeName, TransmitLimitedQueue},
    wire::{self, Versions, packet},
};

/// What a node that understands our messages announces as the largest delegate version it understands.
pub(crate) const DELEGATE_MAX: u8 = 0xB1;
/// The largest delegate versions that only our nodes announce: this, and later revisions.
const OUR_DELEGATE_MAX: std::ops::RangeInclusive<u8> = 0xB0..=0xBF;
/// To how many of our nodes an origin sends a message itself.
pub(crate) const FANOUT: usize = 32;
/// For how long equal messages of a plain node are retransmissions of one. Memberlist's end after
/// `mult · ceil(log10(n + 1)) / gossip_nodes` rounds: 0.4 s at 3 nodes, 1.2 s at 1,000.
pub(crate) const COPY_WINDOW: Duration = Duration::from_secs(2);
/// How many origins are remembered at most.
const MAX_ORIGINS: usize = 65_536;
/// How many messages of plain nodes are remembered at most.
const MAX_COPIES: usize = 65_536;
/// How many messages wait to be passed on at most.
const QUEUE_CAPACITY: usize = 4096;

/// Whether a node with these versions understands our messages.
pub(crate) fn is_ours(versions: Versions) -> bool {
    OUR_DELEGATE_MAX.contains(&versions[4])
}

/// The largest user message that fits in a packet, as JSON.
pub(crate) fn max_payload(tuning: &Tuning) -> usize {
    let overhead = packet::COMPOUND_OVERHEAD + packet::PART_OVERHEAD + size_of::<u8>();
    tuning.udp_buffer_size.saturating_sub(overhead)
}

/// A message as it travels.
#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
    /// An [`Identity`]. Some other program's field of that name is no error.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    broadcast: Option<&'a RawValue>,
}

/// What tells messages apart.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Identity<'a> {
    Original {
        #[serde(borrow)]
        origin: Cow<'a, str>,
        epoch: u64,
        seq: u64,
    },
    Copy {
        #[serde(borrow)]
        origin: Cow<'a, str>,
        copy: u64,
    },
}

/// What came of a user message.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It is new: deliver it. A copy made of a plain node's message is to be sent on at once.
    New { message: Message, relay: Option<Bytes> },
    /// It was heard before, or is this node's own.
    Known,
}

/// Why a user message cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("a user message of {len} bytes is not a JSON object with a text \"key\" and a \"value\": {source}")]
    Json { len: usize, source: serde_json::Error },
    #[error("a message of \"{0}\" was refused: {MAX_ORIGINS} origins are remembered already")]
    Origins(NodeName),
    #[error(
        "a message of \"{0}\" was refused: {MAX_COPIES} messages of plain memberlist nodes came within {COPY_WINDOW:?}"
    )]
    Copies(NodeName),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Dissemination {
    me: NodeName,
    epoch: u64,
    next_seq: u64,
    max_payload: usize,
    origins: Origins,
    copies: Copies,
    queue: TransmitLimitedQueue,
}

impl Dissemination {
    pub(crate) fn new(me: NodeName, epoch: u64, tuning: &Tuning) -> Self {
        Self {
            me,
            epoch,
            next_seq: 0,
            max_payload: max_payload(tuning),
            origins: Origins::new(MAX_ORIGINS),
            copies: Copies::new(MAX_COPIES, COPY_WINDOW),
            queue: TransmitLimitedQueue::new(tuning.retransmit_mult, QUEUE_CAPACITY),
        }
    }

    /// Makes a message of this node; gives it as it stands in a packet, to be sent at once.
    ///
    /// # Errors
    ///
    /// It is too large, or `value` is not JSON.
    pub(crate) fn publish(&mut self, key: &str, value: &str) -> Result<(MessageId, Bytes), PublishError> {
        let id = MessageId { epoch: self.epoch, seq: self.next_seq };
        let origin = String::from_utf8_lossy(self.me.as_bytes());
        let identity = Identity::Original { origin, epoch: id.epoch, seq: id.seq };
        let value = serde_json::from_str(value).map_err(|error| PublishError::Value(error.to_string()))?;
        let payload = encode(key, value, &identity);
        if payload.len() > self.max_payload {
            return Err(PublishError::TooLarge { size: payload.len(), max: self.max_payload });
        }
        self.next_seq += 1;
        let message = packet::encode_message(&wire::Message::User(payload));
        self.queue.push(message.clone());
        Ok((id, message))
    }

    /// Takes a user message that came from `from`; `sender` finds the member of that address.
    ///
    /// # Errors
    ///
    /// See [`Unusable`].
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        sender: impl FnOnce() -> Option<NodeName>,
        payload: &Bytes,
    ) -> Result<Heard, Unusable> {
        let parsed: Payload<'_> =
            serde_json::from_slice(payload).map_err(|source| Unusable::Json { len: payload.len(), source })?;
        let identity = parsed.broadcast.and_then(|raw| serde_json::from_str(raw.get()).ok());
        match identity {
            Some(Identity::Original { origin, epoch, seq }) => {
                let origin = NodeName::from(&*origin);
                let id = MessageId { epoch, seq };
                if origin == self.me
                    || !self.origins.is_new(&origin, id).map_err(|_| Unusable::Origins(origin.clone()))?
                {
                    return Ok(Heard::Known);
                }
                self.pass_on(payload);
                Ok(Heard::New { message: Message::new(origin, Some(id), parsed.key, parsed.value), relay: None })
            }
            Some(Identity::Copy { origin, copy }) => {
                let origin = NodeName::from(&*origin);
                if origin == self.me || !self.is_new_copy(now, &origin, copy)? {
                    return Ok(Heard::Known);
                }
                self.pass_on(payload);
                Ok(Heard::New { message: Message::new(origin, None, parsed.key, parsed.value), relay: None })
            }
            None => {
                let origin = sender().map_or_else(|| from.to_string(), |name| name.to_string());
                let origin = NodeName::from(&*origin);
                let copy = hash(payload);
                if !self.is_new_copy(now, &origin, copy)? {
                    return Ok(Heard::Known);
                }
                let identity = Identity::Copy { origin: String::from_utf8_lossy(origin.as_bytes()), copy };
                let relay = self.pass_on(&encode(&parsed.key, parsed.value, &identity));
                Ok(Heard::New { message: Message::new(origin, None, parsed.key, parsed.value), relay })
            }
        }
    }

    fn is_new_copy(&mut self, now: Instant, origin: &NodeName, copy: u64) -> Result<bool, Unusable> {
        self.copies.is_new(now, origin, copy).map_err(|_| Unusable::Copies(origin.clone()))
    }

    /// Queues a message for gossip, if it fits in a packet of it; gives it as it stands in one.
    fn pass_on(&mut self, payload: &Bytes) -> Option<Bytes> {
        if payload.len() > self.max_payload {
            return None;
        }
        let message = packet::encode_message(&wire::Message::User(payload.clone()));
        self.queue.push(message.clone());
        Some(message)
    }

    /// Whether something is waiting to be passed on.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// How much is waiting to be passed on, in messages.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How much may wait.
    pub(crate) fn queue_capacity(&self) -> usize {
        QUEUE_CAPACITY
    }

    /// Takes what is to be passed on, for one packet to one of `n` members with `budget` bytes left;
    /// gives the bytes used.
    pub(crate) fn fill(&mut self, n: usize, budget: usize, out: &mut Vec<Bytes>) -> usize {
        self.queue.take(n, packet::PART_OVERHEAD, budget, out)
    }
}

fn encode(key: &str, value: &RawValue, identity: &Identity<'_>) -> Bytes {
    let identity = serde_json::value::to_raw_value(identity).expect("text and numbers always serialise");
    let payload = Payload { key: key.into(), value, broadcast: Some(&identity) };
    serde_json::to_vec(&payload).expect("text and JSON always serialise").into()
}

/// A hash that is the same on every node: 64-bit FNV-1a (Fowler, Noll, Vo; RFC 9923).
fn hash(bytes: &[u8]) -> u64 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    fnv.write(bytes);
    fnv.finish()
}
