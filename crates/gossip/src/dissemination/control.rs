//! What only nodes of this crate say to each other: positions, acknowledgements, requests.
//!
//! A control message is a user message that begins with [`MAGIC`], with which no JSON can begin, and
//! goes only to nodes that understand it. Then follow its kind and its fields: numbers as unsigned
//! LEB128, names behind their lengths.
//!
//! Reading is bounded: no field is longer than what it stands in, no list longer than its limit.

use bytes::Bytes;

use crate::wire::{kind, limits};

/// The first byte of a control message, and the revision of its format.
pub(crate) const MAGIC: u8 = 0xB5;
/// Entries of a [`Control::Have`] at most.
pub(super) const MAX_HAVES: usize = 1024;
/// Members of a [`Control::Acked`] at most.
pub(super) const MAX_POSITIONS: usize = 1024;
/// What a [`Control::Acked`] takes at most apart from its members, in bytes.
pub(super) const ACKED_OVERHEAD: usize = 3 + 10;
/// Ranges of a [`Control::Want`] at most.
pub(super) const MAX_RANGES: usize = 32;

/// Kinds from here on are about the paths to members, and from 16 later on about nodes: [`node`](crate::node).
pub(crate) const PATH_KINDS: u8 = 0x40;
const RELAY: u8 = 1;
const HAVE: u8 = 2;
const ACK: u8 = 3;
const WANT: u8 = 4;
const PLAIN: u8 = 5;
const WATCH: u8 = 6;
const ACKED: u8 = 7;
const BY: u8 = 8;
const RECEIPT: u8 = 9;

/// What a user message of this crate is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// It is a message, or says who is to pass one on.
    Message,
    /// Who has which.
    Receipt,
    /// Who could give which, and who asks for it.
    Repair,
}

impl Talk {
    pub(crate) fn of(payload: &[u8]) -> Self {
        match payload {
            [MAGIC, BY, rest @ ..] => match Control::decode_by(rest) {
                Ok((_, [kind, ..])) => Self::of(&[MAGIC, *kind]),
                _ => Self::Message,
            },
            [MAGIC, ACK | WATCH | ACKED | RECEIPT, ..] => Self::Receipt,
            [MAGIC, HAVE | WANT, ..] => Self::Repair,
            _ => Self::Message,
        }
    }
}

/// How a message reached whom it reached, and who is to get it from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// Over how many hops it came to who sends it on.
    pub(super) hops: u8,
    /// Pass it on to the nodes from the receiver up to this place on the ring, exclusive.
    pub(super) until: Option<u64>,
}

impl Route {
    /// The message that says that those after it came straight from their origin, and go no further.
    pub(crate) fn none() -> Bytes {
        Control::Relay { route: Self::default(), message: &[] }.encode()
    }
}

/// What a node has of one life of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Have<'a> {
    pub(super) origin: &'a [u8],
    pub(super) epoch: u64,
    /// The first number it can still give to others.
    pub(super) base: u64,
    /// The number after the last one it has.
    pub(super) next: u64,
    /// Below this number nobody needs anything any more.
    pub(super) floor: u64,
    /// Said by the origin to one node: where that node begins, and which life of it is meant (0 when
    /// that is not known).
    pub(super) start: Option<Start>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) at: u64,
    pub(super) life: u64,
    /// What that node's acknowledgements are to carry: they come from where it is reached, then.
    pub(super) cookie: Option<u64>,
}

/// A question, or the echo of one in its answer, and how old who says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) number: u64,
    /// For how long its sender has been running, in microseconds: that tells whether it was there before something
    /// happened, whatever the clocks of the two say.
    pub(super) age: u64,
}

/// Who says what follows, wherever its packets leave from. Only nodes of [revisions](super::revision) that know of it are
/// told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct By<'a> {
    pub(super) sender: &'a [u8],
    /// What whom it is told to has asked the sender with.
    pub(super) echo: Option<Question>,
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control<'a> {
    /// The route of the messages that follow in the same packet, or in `message` if that is there.
    Relay { route: Route, message: &'a [u8] },
    /// What the sender has.
    Have(Vec<Have<'a>>),
    /// To an origin: the sender, in this life of it, has everything below `next`. Without one it asks
    /// where to begin.
    Ack { epoch: u64, life: u64, next: Option<u64> },
    /// The same, said by name. It carries the cookie that the origin gave the sender; `question` is to be
    /// echoed with where the sender begins, and in which life.
    Receipt { epoch: u64, life: u64, next: Option<u64>, cookie: Option<u64>, question: Option<Question> },
    /// Send me these: first numbers and counts.
    Want { origin: &'a [u8], epoch: u64, ranges: Vec<(u64, u64)> },
    /// A plain node said this; pass it on to everybody.
    Plain { source: &'a [u8], message: &'a [u8] },
    /// Tell me for a while who acknowledges what of yours.
    Watch,
    /// In this life of the sender these members have everything below these numbers.
    Acked { epoch: u64, members: Vec<(&'a [u8], u64)> },
    /// Another control message, and who says it.
    By { by: By<'a>, control: &'a [u8] },
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
        Ok(match reader.byte()? {
            RELAY => {
                let hops = reader.byte()?;
                let until = reader.option()?;
                Self::Relay { route: Route { hops, until }, message: reader.rest }
            }
            HAVE => {
                let mut haves = Vec::new();
                while !reader.rest.is_empty() {
                    if haves.len() == MAX_HAVES {
                        return Err(ControlError::Limit);
                    }
                    haves.push(reader.have()?);
                }
                Self::Have(haves)
            }
            ACK => Self::Ack { epoch: reader.number()?, life: reader.number()?, next: reader.option()? },
            RECEIPT => Self::Receipt {
                epoch: reader.number()?,
                life: reader.number()?,
                next: reader.option()?,
                cookie: reader.option()?,
                question: reader.question()?,
            },
            BY => {
                let (by, control) = Self::decode_by(reader.rest)?;
                Self::By { by, control }
            }
            WANT => {
                let (origin, epoch) = (reader.name()?, reader.number()?);
                let mut ranges = Vec::new();
                while !reader.rest.is_empty() {
                    if ranges.len() == MAX_RANGES {
                        return Err(ControlError::Limit);
                    }
                    ranges.push((reader.number()?, reader.number()?));
                }
                Self::Want { origin, epoch, ranges }
            }
            PLAIN => Self::Plain { source: reader.name()?, message: reader.rest },
            WATCH => Self::Watch,
            ACKED => {
                let epoch = reader.number()?;
                let mut members = Vec::new();
                while !reader.rest.is_empty() {
                    if members.len() == MAX_POSITIONS {
                        return Err(ControlError::Limit);
                    }
                    members.push((reader.name()?, reader.number()?));
                }
                Self::Acked { epoch, members }
            }
            kind => return Err(ControlError::Kind(kind)),
        })
    }

    /// Reads who says what follows.
    fn decode_by(data: &'a [u8]) -> Result<(By<'a>, &'a [u8]), ControlError> {
        let mut reader = Reader { rest: data, len: data.len() };
        let by = By { sender: reader.name()?, echo: reader.question()? };
        Ok((by, reader.rest))
    }

    /// The message, ready for a packet.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = begin();
        self.put(&mut out);
        out.into()
    }

    /// The same, said by somebody.
    pub(super) fn encode_by(&self, by: By<'_>) -> Bytes {
        let mut out = begin();
        by.put(&mut out);
        self.put(&mut out);
        out.into()
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Relay { route, message } => {
                out.reserve(message.len() + 16);
                out.extend_from_slice(&[RELAY, route.hops]);
                put_option(out, route.until);
                out.extend_from_slice(message);
            }
            Self::Have(haves) => {
                out.push(HAVE);
                for have in haves {
                    have.put(out);
                }
            }
            Self::Ack { epoch, life, next } => {
                out.push(ACK);
                put_number(out, *epoch);
                put_number(out, *life);
                put_option(out, *next);
            }
            Self::Receipt { epoch, life, next, cookie, question } => {
                out.push(RECEIPT);
                put_number(out, *epoch);
                put_number(out, *life);
                put_option(out, *next);
                put_option(out, *cookie);
                put_question(out, *question);
            }
            Self::By { by, control } => {
                by.put(out);
                out.extend_from_slice(control);
            }
            Self::Want { origin, epoch, ranges } => {
                out.push(WANT);
                put_name(out, origin);
                put_number(out, *epoch);
                for (first, count) in ranges {
                    put_number(out, *first);
                    put_number(out, *count);
                }
            }
            Self::Plain { source, message } => {
                out.push(PLAIN);
                put_name(out, source);
                out.extend_from_slice(message);
            }
            Self::Watch => out.push(WATCH),
            Self::Acked { epoch, members } => {
                out.push(ACKED);
                put_number(out, *epoch);
                for (name, next) in members {
                    put_name(out, name);
                    put_number(out, *next);
                }
            }
        }
    }
}

impl By<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(BY);
        put_name(out, self.sender);
        put_question(out, self.echo);
    }

    /// How many bytes it takes at most in front of a control message.
    pub(super) fn max_len(&self) -> usize {
        1 + 2 + self.sender.len() + 21
    }
}

impl Have<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        put_name(out, self.origin);
        for number in [self.epoch, self.base, self.next, self.floor] {
            put_number(out, number);
        }
        match self.start {
            None => out.push(0),
            Some(Start { at, life, cookie }) => {
                out.push(if cookie.is_some() { 2 } else { 1 });
                put_number(out, at);
                put_number(out, life);
                if let Some(cookie) = cookie {
                    put_number(out, cookie);
                }
            }
        }
    }

    /// How many bytes it takes at most in a [`Control::Have`].
    pub(super) fn max_len(&self) -> usize {
        2 + self.origin.len() + 7 * 10 + 1
    }
}

/// A control message, with room for an acknowledgement, which most of them are.
fn begin() -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(&[kind::USER, MAGIC]);
    out
}

/// How many bytes a member takes at most in a [`Control::Acked`].
pub(super) fn position_len(name: &[u8]) -> usize {
    2 + name.len() + 10
}

fn put_question(out: &mut Vec<u8>, question: Option<Question>) {
    put_option(out, question.map(|question| question.number));
    if let Some(question) = question {
        put_number(out, question.age);
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

    fn question(&mut self) -> Result<Option<Question>, ControlError> {
        Ok(match self.option()? {
            Some(number) => Some(Question { number, age: self.number()? }),
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

    fn have(&mut self) -> Result<Have<'a>, ControlError> {
        let origin = self.name()?;
        let (epoch, base, next, floor) = (self.number()?, self.number()?, self.number()?, self.number()?);
        let start = match self.byte()? {
            0 => None,
            1 => Some(Start { at: self.number()?, life: self.number()?, cookie: None }),
            _ => Some(Start { at: self.number()?, life: self.number()?, cookie: Some(self.number()?) }),
        };
        Ok(Have { origin, epoch, base, next, floor, start })
    }
}

#[cfg(test)]
mod tests {
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
            let start = start.map(|(at, life, cookie)| Start { at, life, cookie });
            let have = Have { origin: &origin, epoch, base, next, floor, start };
            let max_len = have.max_len();
            let question = until.map(|number| Question { number, age: next });
            for control in [
                Control::Relay { route: Route { hops, until }, message: &message },
                Control::Have(vec![have.clone(), have]),
                Control::Ack { epoch, life: base, next: until },
                Control::Want { origin: &origin, epoch, ranges },
                Control::Plain { source: &origin, message: &message },
                Control::Watch,
                Control::Acked { epoch, members: vec![(&origin, base), (b"", next)] },
                Control::Receipt { epoch, life: base, next: until, cookie: Some(next), question },
            ] {
                let by = By { sender: &origin, echo: question };
                let said = control.encode_by(by);
                prop_assert!(said.len() <= control.encode().len() + by.max_len());
                let inner = control.encode();
                prop_assert_eq!(decode(&said).unwrap(), Control::By { by, control: &inner[2..] });
                let encoded = control.encode();
                prop_assert_eq!(decode(&encoded).unwrap(), control.clone());
                if let Control::Have(_) = control {
                    prop_assert!(encoded.len() <= 3 + 2 * max_len);
                }
                if let Control::Acked { .. } = control {
                    prop_assert!(encoded.len() <= ACKED_OVERHEAD + position_len(&origin) + position_len(b""));
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
        assert_eq!(Control::decode(&[PLAIN, 5, b'a']), Err(ControlError::Short(3)));
        assert_eq!(Control::decode(&[PLAIN, 0x80, 0x02]), Err(ControlError::Limit));
        let mut long = vec![ACK];
        long.extend_from_slice(&[0xff; 9]);
        long.push(2);
        assert_eq!(Control::decode(&long), Err(ControlError::Limit));
        let mut many = vec![WANT, 0, 0];
        many.extend_from_slice(&[0; 2 * MAX_RANGES + 2]);
        assert_eq!(Control::decode(&many), Err(ControlError::Limit));
        let mut many = vec![HAVE];
        many.extend_from_slice(&[0; 6 * (MAX_HAVES + 1)]);
        assert_eq!(Control::decode(&many), Err(ControlError::Limit));
        let mut many = vec![ACKED, 0];
        many.extend_from_slice(&[0; 2 * (MAX_POSITIONS + 1)]);
        assert_eq!(Control::decode(&many), Err(ControlError::Limit));
    }
}
