//! Control messages: what only nodes of this crate say to each other. Digests, acknowledgements, requests.
//!
//! A control message is a user message that begins with [`MAGIC`], with which no JSON can begin. It goes only to nodes
//! that understand it. Its kind follows, then its fields: numbers as unsigned LEB128 (but `hops` as a plain byte), names behind
//! their lengths.
//!
//! Reading is bounded: no field is longer than what it stands in, and no list longer than its limit.

use bytes::Bytes;

use crate::wire::{kind, limits};

/// The first byte of a control message. It never changes: it has nothing to do with [revisions](super::revision), though their
/// numbers look like it.
pub(crate) const MAGIC: u8 = 0xB5;
/// The most entries of a [`Control::Digest`].
pub(super) const MAX_DIGESTS: usize = 1024;
/// The most members of a [`Control::AckReport`].
pub(super) const MAX_POSITIONS: usize = 1024;
/// The most bytes that a [`Control::AckReport`] takes without its members.
pub(super) const ACK_REPORT_OVERHEAD: usize = 3 + 10;
/// The most ranges of a [`Control::RepairRequest`].
pub(super) const MAX_RANGES: usize = 32;

/// Kinds from here on are about paths to members, and from 16 later on about nodes: see [`node`](crate::node).
pub(crate) const PATH_KINDS: u8 = 0x40;

/// The kind of a control message, as a byte. One for each variant of [`Control`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Relay = 1,
    Digest = 2,
    Ack = 3,
    RepairRequest = 4,
    ProxyPublish = 5,
    WatchAcks = 6,
    AckReport = 7,
    Sender = 8,
    CookieAck = 9,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Relay,
            2 => Self::Digest,
            3 => Self::Ack,
            4 => Self::RepairRequest,
            5 => Self::ProxyPublish,
            6 => Self::WatchAcks,
            7 => Self::AckReport,
            8 => Self::Sender,
            9 => Self::CookieAck,
            _ => return None,
        })
    }
}

/// What a user message of this crate is for, to count traffic by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrafficClass {
    /// Published messages, and where they go.
    Message,
    /// Acknowledgements.
    Ack,
    /// Digests and requests.
    Repair,
}

impl TrafficClass {
    pub(crate) fn of(payload: &[u8]) -> Self {
        let [MAGIC, kind, rest @ ..] = payload else { return Self::Message };
        let Some(kind) = Kind::of(*kind) else { return Self::Message };
        match kind {
            Kind::Sender => match Control::decode_sender(rest) {
                Ok((_, [kind, ..])) => Self::of(&[MAGIC, *kind]),
                _ => Self::Message,
            },
            Kind::Ack | Kind::WatchAcks | Kind::AckReport | Kind::CookieAck => Self::Ack,
            Kind::Digest | Kind::RepairRequest => Self::Repair,
            Kind::Relay | Kind::ProxyPublish => Self::Message,
        }
    }
}

/// How a message got to a node, and who gets it from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// The hops to the node that sends it.
    pub(super) hops: u8,
    /// The receiver passes it on to the nodes from itself up to this position on the ring, exclusive.
    pub(super) until: Option<u64>,
}

impl Route {
    /// A control message that says that the messages after it came straight from their origin, and go no further.
    pub(crate) fn none() -> Bytes {
        Control::Relay { route: Self::default(), message: &[] }.encode()
    }
}

/// What a node has of one epoch of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamDigest<'a> {
    pub(super) origin: &'a [u8],
    pub(super) epoch: u64,
    /// The first number that it can still retransmit.
    pub(super) base: u64,
    /// The number after the last one that it has.
    pub(super) next: u64,
    /// Below this number nobody needs anything any more.
    pub(super) floor: u64,
    /// Set when an origin tells one node where that node starts.
    pub(super) start: Option<StreamStart>,
}

/// Where one receiver starts in an origin's stream, as the origin says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamStart {
    /// The first number that it is owed.
    pub(super) seq: u64,
    /// The epoch of the receiver that is meant; 0 if the origin does not know it.
    pub(super) receiver_epoch: u64,
    /// What the receiver's acknowledgements have to carry, as proof that they come from where it is reached.
    pub(super) cookie: Option<u64>,
}

/// A challenge, or its echo in the response, with the age of the node that sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) nonce: u64,
    /// For how long the sender has been running, in microseconds. It tells whether the sender was there before something
    /// happened, whatever its clock says.
    pub(super) age: u64,
}

/// Who sends the control message that follows, whatever address its packets leave from. Only nodes of
/// [revisions](super::revision) that know it are sent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SenderHeader<'a> {
    pub(super) name: &'a [u8],
    /// The echo of the receiver's challenge.
    pub(super) echo: Option<Challenge>,
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control<'a> {
    /// The route of the messages that follow in the packet, or of `message` unless that is empty.
    Relay { route: Route, message: &'a [u8] },
    /// What the sender has: one entry for each epoch of each origin.
    Digest(Vec<StreamDigest<'a>>),
    /// To an origin, by a receiver in this epoch of its own: it has everything below `next`. Without `next` it asks where to
    /// start.
    Ack { epoch: u64, receiver_epoch: u64, next: Option<u64> },
    /// The same with the cookie that the origin gave the sender. The `challenge` is to be echoed with the answer, which says
    /// where the sender starts and in which epoch the origin is.
    CookieAck { epoch: u64, receiver_epoch: u64, next: Option<u64>, cookie: Option<u64>, challenge: Option<Challenge> },
    /// Retransmit these messages: first numbers and counts.
    RepairRequest { origin: &'a [u8], epoch: u64, ranges: Vec<(u64, u64)> },
    /// A plain node sent this; publish it on its behalf.
    ProxyPublish { source: &'a [u8], message: &'a [u8] },
    /// Report to the sender for a while who acknowledges the receiver's messages.
    WatchAcks,
    /// In this epoch of the sender, these members have everything below these numbers.
    AckReport { epoch: u64, members: Vec<(&'a [u8], u64)> },
    /// Another control message, and who sends it.
    Sender { header: SenderHeader<'a>, control: &'a [u8] },
}

/// Why a control message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("a control message of {0} bytes is cut off")]
    Short(usize),
    #[error("a control message is of the unknown kind {0}; do all nodes run the same version?")]
    Kind(u8),
    #[error("a control message has a number, a name or a list beyond its limit")]
    Limit,
}

impl<'a> Control<'a> {
    /// Reads what follows [`MAGIC`].
    pub(super) fn decode(data: &'a [u8]) -> Result<Self, ControlError> {
        let mut reader = Reader { rest: data, len: data.len() };
        let kind = reader.byte()?;
        Ok(match Kind::of(kind).ok_or(ControlError::Kind(kind))? {
            Kind::Relay => {
                let hops = reader.byte()?;
                let until = reader.option()?;
                Self::Relay { route: Route { hops, until }, message: reader.rest }
            }
            Kind::Digest => {
                let mut digests = Vec::new();
                while !reader.rest.is_empty() {
                    if digests.len() == MAX_DIGESTS {
                        return Err(ControlError::Limit);
                    }
                    digests.push(reader.digest()?);
                }
                Self::Digest(digests)
            }
            Kind::Ack => {
                Self::Ack { epoch: reader.number()?, receiver_epoch: reader.number()?, next: reader.option()? }
            }
            Kind::CookieAck => Self::CookieAck {
                epoch: reader.number()?,
                receiver_epoch: reader.number()?,
                next: reader.option()?,
                cookie: reader.option()?,
                challenge: reader.challenge()?,
            },
            Kind::Sender => {
                let (header, control) = Self::decode_sender(reader.rest)?;
                Self::Sender { header, control }
            }
            Kind::RepairRequest => {
                let (origin, epoch) = (reader.name()?, reader.number()?);
                let mut ranges = Vec::new();
                while !reader.rest.is_empty() {
                    if ranges.len() == MAX_RANGES {
                        return Err(ControlError::Limit);
                    }
                    ranges.push((reader.number()?, reader.number()?));
                }
                Self::RepairRequest { origin, epoch, ranges }
            }
            Kind::ProxyPublish => Self::ProxyPublish { source: reader.name()?, message: reader.rest },
            Kind::WatchAcks => Self::WatchAcks,
            Kind::AckReport => {
                let epoch = reader.number()?;
                let mut members = Vec::new();
                while !reader.rest.is_empty() {
                    if members.len() == MAX_POSITIONS {
                        return Err(ControlError::Limit);
                    }
                    members.push((reader.name()?, reader.number()?));
                }
                Self::AckReport { epoch, members }
            }
        })
    }

    /// Reads a sender's header; gives what follows it, too.
    fn decode_sender(data: &'a [u8]) -> Result<(SenderHeader<'a>, &'a [u8]), ControlError> {
        let mut reader = Reader { rest: data, len: data.len() };
        let header = SenderHeader { name: reader.name()?, echo: reader.challenge()? };
        Ok((header, reader.rest))
    }

    /// The message as it goes in a packet.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = begin();
        self.put(&mut out);
        out.into()
    }

    /// The same behind a sender's header.
    pub(super) fn encode_from(&self, header: SenderHeader<'_>) -> Bytes {
        let mut out = begin();
        header.put(&mut out);
        self.put(&mut out);
        out.into()
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Relay { route, message } => {
                out.reserve(message.len() + 16);
                out.extend_from_slice(&[Kind::Relay as u8, route.hops]);
                put_option(out, route.until);
                out.extend_from_slice(message);
            }
            Self::Digest(digests) => {
                out.push(Kind::Digest as u8);
                for digest in digests {
                    digest.put(out);
                }
            }
            Self::Ack { epoch, receiver_epoch, next } => {
                out.push(Kind::Ack as u8);
                put_number(out, *epoch);
                put_number(out, *receiver_epoch);
                put_option(out, *next);
            }
            Self::CookieAck { epoch, receiver_epoch, next, cookie, challenge } => {
                out.push(Kind::CookieAck as u8);
                put_number(out, *epoch);
                put_number(out, *receiver_epoch);
                put_option(out, *next);
                put_option(out, *cookie);
                put_challenge(out, *challenge);
            }
            Self::Sender { header, control } => {
                header.put(out);
                out.extend_from_slice(control);
            }
            Self::RepairRequest { origin, epoch, ranges } => {
                out.push(Kind::RepairRequest as u8);
                put_name(out, origin);
                put_number(out, *epoch);
                for (first, count) in ranges {
                    put_number(out, *first);
                    put_number(out, *count);
                }
            }
            Self::ProxyPublish { source, message } => {
                out.push(Kind::ProxyPublish as u8);
                put_name(out, source);
                out.extend_from_slice(message);
            }
            Self::WatchAcks => out.push(Kind::WatchAcks as u8),
            Self::AckReport { epoch, members } => {
                out.push(Kind::AckReport as u8);
                put_number(out, *epoch);
                for (name, next) in members {
                    put_name(out, name);
                    put_number(out, *next);
                }
            }
        }
    }
}

impl SenderHeader<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(Kind::Sender as u8);
        put_name(out, self.name);
        put_challenge(out, self.echo);
    }

    /// The most bytes that it takes in front of a control message.
    pub(super) fn max_len(&self) -> usize {
        1 + 2 + self.name.len() + 21
    }
}

impl StreamDigest<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        put_name(out, self.origin);
        for number in [self.epoch, self.base, self.next, self.floor] {
            put_number(out, number);
        }
        match self.start {
            None => out.push(0),
            Some(StreamStart { seq, receiver_epoch, cookie }) => {
                out.push(if cookie.is_some() { 2 } else { 1 });
                put_number(out, seq);
                put_number(out, receiver_epoch);
                if let Some(cookie) = cookie {
                    put_number(out, cookie);
                }
            }
        }
    }

    /// The most bytes that it takes in a [`Control::Digest`].
    pub(super) fn max_len(&self) -> usize {
        2 + self.origin.len() + 7 * 10 + 1
    }
}

/// An empty control message, with room for an acknowledgement, since most are one.
fn begin() -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(&[kind::USER, MAGIC]);
    out
}

/// The most bytes that a member takes in a [`Control::AckReport`].
pub(super) fn position_len(name: &[u8]) -> usize {
    2 + name.len() + 10
}

fn put_challenge(out: &mut Vec<u8>, challenge: Option<Challenge>) {
    put_option(out, challenge.map(|challenge| challenge.nonce));
    if let Some(challenge) = challenge {
        put_number(out, challenge.age);
    }
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_option(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(number.is_some().into());
    if let Some(number) = number {
        put_number(out, number);
    }
}

fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    put_number(out, name.len() as u64);
    out.extend_from_slice(name);
}

struct Reader<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, ControlError> {
        let (&byte, rest) = self.rest.split_first().ok_or(ControlError::Short(self.len))?;
        self.rest = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, ControlError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && bits > 1 {
                return Err(ControlError::Limit);
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(ControlError::Limit)
    }

    fn challenge(&mut self) -> Result<Option<Challenge>, ControlError> {
        Ok(match self.option()? {
            Some(nonce) => Some(Challenge { nonce, age: self.number()? }),
            None => None,
        })
    }

    fn option(&mut self) -> Result<Option<u64>, ControlError> {
        match self.byte()? {
            0 => Ok(None),
            _ => self.number().map(Some),
        }
    }

    fn name(&mut self) -> Result<&'a [u8], ControlError> {
        let len = usize::try_from(self.number()?).map_err(|_| ControlError::Limit)?;
        if len > limits::NAME {
            return Err(ControlError::Limit);
        }
        let (name, rest) = self.rest.split_at_checked(len).ok_or(ControlError::Short(self.len))?;
        self.rest = rest;
        Ok(name)
    }

    fn digest(&mut self) -> Result<StreamDigest<'a>, ControlError> {
        let origin = self.name()?;
        let (epoch, base, next, floor) = (self.number()?, self.number()?, self.number()?, self.number()?);
        let start = match self.byte()? {
            0 => None,
            1 => Some(StreamStart { seq: self.number()?, receiver_epoch: self.number()?, cookie: None }),
            _ => {
                Some(StreamStart { seq: self.number()?, receiver_epoch: self.number()?, cookie: Some(self.number()?) })
            }
        };
        Ok(StreamDigest { origin, epoch, base, next, floor, start })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn decode(encoded: &[u8]) -> Result<Control<'_>, ControlError> {
        assert_eq!(encoded[..2], [kind::USER, MAGIC]);
        Control::decode(&encoded[2..])
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            origin in prop::collection::vec(any::<u8>(), 0..=255), numbers: [u64; 4],
            start in any::<Option<(u64, u64, Option<u64>)>>(), until: Option<u64>, hops: u8,
            ranges in prop::collection::vec(any::<(u64, u64)>(), 0..=MAX_RANGES), message: Vec<u8>,
        ) {
            let [epoch, base, next, floor] = numbers;
            let start = start.map(|(seq, receiver_epoch, cookie)| StreamStart { seq, receiver_epoch, cookie });
            let digest = StreamDigest { origin: &origin, epoch, base, next, floor, start };
            let max_len = digest.max_len();
            let challenge = until.map(|nonce| Challenge { nonce, age: next });
            let controls = [
                Control::Relay { route: Route { hops, until }, message: &message },
                Control::Digest(vec![digest.clone(), digest]),
                Control::Ack { epoch, receiver_epoch: base, next: until },
                Control::RepairRequest { origin: &origin, epoch, ranges },
                Control::ProxyPublish { source: &origin, message: &message },
                Control::WatchAcks,
                Control::AckReport { epoch, members: vec![(&origin, base), (b"", next)] },
                Control::CookieAck { epoch, receiver_epoch: base, next: until, cookie: Some(next), challenge },
            ];
            let kinds = controls.iter().map(|control| control.encode()[2]).chain([Kind::Sender as u8]);
            let all = (0..=255).filter(|byte| Kind::of(*byte).is_some());
            prop_assert_eq!(kinds.collect::<BTreeSet<_>>(), all.collect(), "each kind is in the list");
            for control in controls {
                let header = SenderHeader { name: &origin, echo: challenge };
                let said = control.encode_from(header);
                prop_assert!(said.len() <= control.encode().len() + header.max_len());
                let inner = control.encode();
                prop_assert_eq!(decode(&said).unwrap(), Control::Sender { header, control: &inner[2..] });
                let encoded = control.encode();
                prop_assert_eq!(decode(&encoded).unwrap(), control.clone());
                if let Control::Digest(_) = control {
                    prop_assert!(encoded.len() <= 3 + 2 * max_len);
                }
                if let Control::AckReport { .. } = control {
                    prop_assert!(encoded.len() <= ACK_REPORT_OVERHEAD + position_len(&origin) + position_len(b""));
                }
                for end in 2..encoded.len() {
                    // Cut off it may be something else, or an error, but nothing worse.
                    let _ = decode(&encoded[..end]);
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic(data: Vec<u8>) {
            let _ = Control::decode(&data);
        }
    }

    #[test]
    fn what_is_beyond_a_limit_is_refused() {
        assert_eq!(Control::decode(&[]), Err(ControlError::Short(0)));
        assert_eq!(Control::decode(&[99]), Err(ControlError::Kind(99)));
        assert_eq!(Control::decode(&[Kind::ProxyPublish as u8, 5, b'a']), Err(ControlError::Short(3)));
        assert_eq!(Control::decode(&[Kind::ProxyPublish as u8, 0x80, 0x02]), Err(ControlError::Limit));
        let mut long = vec![Kind::Ack as u8];
        long.extend_from_slice(&[0xff; 9]);
        long.push(2);
        assert_eq!(Control::decode(&long), Err(ControlError::Limit));
        let mut many = vec![Kind::RepairRequest as u8, 0, 0];
        many.extend_from_slice(&[0; 2 * MAX_RANGES + 2]);
        assert_eq!(Control::decode(&many), Err(ControlError::Limit));
        let mut many = vec![Kind::Digest as u8];
        many.extend_from_slice(&[0; 6 * (MAX_DIGESTS + 1)]);
        assert_eq!(Control::decode(&many), Err(ControlError::Limit));
        let mut many = vec![Kind::AckReport as u8, 0];
        many.extend_from_slice(&[0; 2 * (MAX_POSITIONS + 1)]);
        assert_eq!(Control::decode(&many), Err(ControlError::Limit));
    }
}
