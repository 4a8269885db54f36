//! Packets: datagrams to messages and back. The [front page](crate) has an example.
//!
//! A packet is, from the outside in: an optional checksum, an optional compressed message, an optional compound, messages.
//! Only the checksum has a fixed place. Compounds and compressed messages can hold each other, which memberlist never sends,
//! but reads. A label and encryption go around all this: see [`envelope`](super::envelope). A packet that is still encrypted
//! is recognised and refused.

use std::ops::Range;

use bytes::Bytes;

use super::{
    Ack, Alive, BodyError, Dead, IndirectPing, Message, Nack, Ping, Suspect,
    body::{compressed_message, decode_compressed, kind},
    compress, limits,
};

/// How many bytes a compound takes beside its parts: type and count.
pub const COMPOUND_OVERHEAD: usize = 2;
/// How many bytes each part of a compound takes beside itself: its length.
pub const PART_OVERHEAD: usize = 2;
/// How many parts a compound can have: it counts them in a byte.
pub const COMPOUND_PARTS: usize = u8::MAX as usize;
/// How many bytes a checksum takes: type and CRC-32.
const CHECKSUM_OVERHEAD: usize = 5;
/// The length of the shortest encrypted packet: version, nonce and tag around nothing.
const ENCRYPTED_MIN: usize = 1 + 12 + 16;

/// Why a packet, or a part of it, was dropped. The text says what may be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The packet, or a part of it, is empty.
    #[error("empty message; every message begins with its type")]
    Empty,
    /// memberlist has no such type.
    #[error("message of {len} bytes has the unknown type {kind}; is another program sending to this port?")]
    UnknownType {
        /// The type byte.
        kind: u8,
        /// The message's length.
        len: usize,
    },
    /// The type exists, but not in this place.
    #[error("message of {len} bytes is of type {name}, which is not allowed in a packet, or not at that place")]
    Misplaced {
        /// The type.
        name: &'static str,
        /// The message's length.
        len: usize,
    },
    /// The packet seems to be encrypted.
    #[error(
        "packet of {len} bytes is encrypted or damaged, and this node has no key; \
         give this node the sender's key, or remove the key from the sender"
    )]
    Encrypted {
        /// The packet's length.
        len: usize,
    },
    /// The checksum does not match.
    #[error("packet of {len} bytes has the checksum {found:08x}, but states {stated:08x}; it was damaged on the way")]
    Checksum {
        /// The packet's length.
        len: usize,
        /// The checksum in the packet.
        stated: u32,
        /// The checksum of what is in it.
        found: u32,
    },
    /// A packet, or the list of a compound's parts, is cut off.
    #[error("{name} of {len} bytes is too short for its header")]
    Header {
        /// The type.
        name: &'static str,
        /// The message's length.
        len: usize,
    },
    /// A compound announces more or longer parts than it has; the others were read.
    #[error("compound of {parts} parts lacks the last {missing}; it was cut off")]
    Parts {
        /// How many parts it announces.
        parts: usize,
        /// How many of them are not there.
        missing: usize,
    },
    /// The body cannot be read.
    #[error("{name} of {len} bytes cannot be used: {source}")]
    Body {
        /// The type.
        name: &'static str,
        /// The message's length.
        len: usize,
        /// What is wrong with it.
        source: BodyError,
    },
    /// Compounds and compressed messages nest too deeply.
    #[error("packet nests compounds and compressed messages more than {max} deep", max = limits::PACKET_DEPTH)]
    TooDeep,
    /// There are too many messages; the first ones were read.
    #[error("packet has more than {max} messages, the limit", max = limits::PACKET_MESSAGES)]
    TooMany,
}

/// Decodes a datagram: appends its messages to `out`, in order.
///
/// A part that cannot be used does not affect the others. [`limits::PACKET_MESSAGES`], [`limits::PACKET_DECOMPRESSED`] and
/// [`limits::PACKET_DEPTH`] bound work and memory for the whole datagram. After a part that cannot be decompressed, no other
/// is decompressed.
///
/// # Errors
///
/// The first problem. All messages that could be decoded are in `out` all the same.
pub fn decode(datagram: &Bytes, out: &mut Vec<Message>) -> Result<(), PacketError> {
    let len = datagram.len();
    let mut reader = Reader { out, messages: limits::PACKET_MESSAGES, decompressed: limits::PACKET_DECOMPRESSED };
    match datagram.first() {
        Some(&kind::CHECKSUM) => {
            let Some((stated, rest)) = datagram[1..].split_first_chunk() else {
                return Err(PacketError::Header { name: "checksum", len });
            };
            let (stated, found) = (u32::from_be_bytes(*stated), crc32fast::hash(rest));
            if stated != found {
                return Err(PacketError::Checksum { len, stated, found });
            }
            reader.message(datagram, CHECKSUM_OVERHEAD..len, 0)
        }
        // An encrypted packet begins with its version, 0 or 1, which are also types; the rest is random.
        Some(&(kind::PING | kind::INDIRECT_PING)) if len >= ENCRYPTED_MIN => {
            reader.message(datagram, 0..len, 0).map_err(|error| match error {
                PacketError::Body { source: BodyError::Malformed(_), .. } => PacketError::Encrypted { len },
                error => error,
            })
        }
        _ => reader.message(datagram, 0..len, 0),
    }
}

/// Decodes one datagram into `out`, and knows how much more may come out of it.
struct Reader<'a> {
    out: &'a mut Vec<Message>,
    messages: usize,
    decompressed: usize,
}

impl Reader<'_> {
    /// Decodes the message in `input[at]`, with all that it holds.
    fn message(&mut self, input: &Bytes, at: Range<usize>, depth: usize) -> Result<(), PacketError> {
        self.messages = self.messages.checked_sub(1).ok_or(PacketError::TooMany)?;
        let len = at.len();
        let &kind = input[at.clone()].first().ok_or(PacketError::Empty)?;
        let body = at.start + 1..at.end;
        let message = match kind {
            kind::PING => Ping::decode(input, body).map(Message::Ping),
            kind::INDIRECT_PING => IndirectPing::decode(input, body).map(Message::IndirectPing),
            kind::ACK => Ack::decode(input, body).map(Message::Ack),
            kind::NACK => Nack::decode(input, body).map(Message::Nack),
            kind::SUSPECT => Suspect::decode(input, body).map(Message::Suspect),
            kind::ALIVE => Alive::decode(input, body).map(Message::Alive),
            kind::DEAD => Dead::decode(input, body).map(Message::Dead),
            kind::USER => Ok(Message::User(input.slice(body))),
            kind::COMPOUND => return self.compound(input, body, depth),
            kind::COMPRESS => return self.compressed(input, body, depth),
            _ => {
                return Err(match kind::name(kind) {
                    Some(name) => PacketError::Misplaced { name, len },
                    None => PacketError::UnknownType { kind, len },
                });
            }
        };
        match message {
            Ok(message) => self.out.push(message),
            Err(source) => return Err(body_error(kind, len, source)),
        }
        Ok(())
    }

    fn compound(&mut self, input: &Bytes, body: Range<usize>, depth: usize) -> Result<(), PacketError> {
        if depth == limits::PACKET_DEPTH {
            return Err(PacketError::TooDeep);
        }
        let header = PacketError::Header { name: "compound", len: body.len() + 1 };
        let Some((&parts, rest)) = input[body.clone()].split_first() else { return Err(header) };
        let parts = usize::from(parts);
        let Some(lengths) = rest.get(..parts * PART_OVERHEAD) else { return Err(header) };
        let mut start = body.start + 1 + lengths.len();
        let mut first = Ok(());
        for (index, len) in lengths.as_chunks().0.iter().enumerate() {
            let end = start + usize::from(u16::from_be_bytes(*len));
            if end > body.end {
                return first.and(Err(PacketError::Parts { parts, missing: parts - index }));
            }
            first = first.and(self.message(input, start..end, depth + 1));
            if self.messages == 0 && index + 1 < parts {
                return first.and(Err(PacketError::TooMany));
            }
            start = end;
        }
        first
    }

    fn compressed(&mut self, input: &Bytes, body: Range<usize>, depth: usize) -> Result<(), PacketError> {
        if depth == limits::PACKET_DEPTH {
            return Err(PacketError::TooDeep);
        }
        let len = body.len() + 1;
        let plain = decode_compressed(input, body).and_then(|data| {
            // How much a failed attempt has cost is unknown, so it uses up the budget.
            let max = std::mem::take(&mut self.decompressed);
            let plain = compress::decompress(&data, max)?;
            self.decompressed = max - plain.len();
            Ok(Bytes::from(plain))
        });
        let plain = plain.map_err(|source| body_error(kind::COMPRESS, len, source))?;
        self.message(&plain, 0..plain.len(), depth + 1)
    }
}

fn body_error(kind: u8, len: usize, source: BodyError) -> PacketError {
    PacketError::Body { name: kind::name(kind).unwrap_or("message"), len, source }
}

/// Encodes one message as it stands in a packet: type byte and body.
#[must_use]
pub fn encode_message(message: &Message) -> Bytes {
    let variable = match message {
        Message::Ack(ack) => ack.payload.len(),
        Message::Alive(alive) => alive.node.len() + alive.meta.len(),
        Message::Suspect(Suspect { node, from, .. }) | Message::Dead(Dead { node, from, .. }) => {
            node.len() + from.len()
        }
        Message::Ping(ping) => ping.node.len() + ping.source.as_ref().map_or(0, |source| source.node.len()),
        Message::IndirectPing(ping) => ping.node.len() + ping.source.as_ref().map_or(0, |source| source.node.len()),
        Message::Nack(_) => 0,
        Message::User(data) => data.len(),
    };
    // The keys, numbers and addresses of an indirect ping, the largest message, take 119 bytes.
    let fixed = if matches!(message, Message::User(_)) { 1 } else { 128 };
    let mut out = Vec::with_capacity(fixed + variable);
    encode_message_into(message, &mut out);
    Bytes::from(out)
}

/// Appends the encoding of a message to `out`. See [`encode_message`].
pub fn encode_message_into(message: &Message, out: &mut Vec<u8>) {
    let mut kind = |kind| out.push(kind);
    match message {
        Message::Ping(ping) => {
            kind(kind::PING);
            ping.encode(out);
        }
        Message::IndirectPing(ping) => {
            kind(kind::INDIRECT_PING);
            ping.encode(out);
        }
        Message::Ack(ack) => {
            kind(kind::ACK);
            ack.encode(out);
        }
        Message::Nack(nack) => {
            kind(kind::NACK);
            nack.encode(out);
        }
        Message::Suspect(suspect) => {
            kind(kind::SUSPECT);
            suspect.encode(out);
        }
        Message::Alive(alive) => {
            kind(kind::ALIVE);
            alive.encode(out);
        }
        Message::Dead(dead) => {
            kind(kind::DEAD);
            dead.encode(out);
        }
        Message::User(data) => {
            kind(kind::USER);
            out.extend_from_slice(data);
        }
    }
}

/// Makes one datagram of encoded messages: a compound, unless there is only one.
///
/// `parts` are at most [`COMPOUND_PARTS`], each shorter than 64 KiB; more are left out. `compress` uses LZW if that makes the
/// packet smaller. `checksum` puts a CRC-32 in front, which peers from protocol 5 on understand.
#[must_use]
pub fn encode(parts: &[Bytes], compress: bool, checksum: bool) -> Bytes {
    debug_assert!(parts.len() <= COMPOUND_PARTS, "a compound cannot count {} parts", parts.len());
    let parts = &parts[..parts.len().min(COMPOUND_PARTS)];
    if let ([only], false, false) = (parts, compress, checksum) {
        return only.clone();
    }
    let head = if checksum { CHECKSUM_OVERHEAD } else { 0 };
    let content: usize = parts.iter().map(|part| part.len() + PART_OVERHEAD).sum();
    let mut out = Vec::with_capacity(head + COMPOUND_OVERHEAD + content);
    out.resize(head, 0);
    if let [only] = parts {
        out.extend_from_slice(only);
    } else {
        out.extend_from_slice(&[kind::COMPOUND, parts.len() as u8]);
        for part in parts {
            debug_assert!(part.len() <= usize::from(u16::MAX), "a part of {} bytes exceeds any datagram", part.len());
            out.extend_from_slice(&(part.len() as u16).to_be_bytes());
        }
        for part in parts {
            out.extend_from_slice(part);
        }
    }
    if compress {
        let packed = compressed_message(&compress::compress(&out[head..]));
        if packed.len() < out.len() - head {
            out.truncate(head);
            out.extend_from_slice(&packed);
        }
    }
    if let Some((header, rest)) = out.split_first_chunk_mut::<CHECKSUM_OVERHEAD>().filter(|_| checksum) {
        header[0] = kind::CHECKSUM;
        header[1..].copy_from_slice(&crc32fast::hash(rest).to_be_bytes());
    }
    Bytes::from(out)
}

#[cfg(test)]
mod tests;
