//! The messages about paths, in bytes.
//!
//! They are user messages that begin like control messages, with kinds of their own. Numbers are in network order.

use bytes::{Buf, Bytes};

use super::MAX_PARTS;
use crate::{
    dissemination::{MAGIC, PATH_KINDS},
    wire::kind,
};

const PROBE: u8 = PATH_KINDS;
const PROBE_REPLY: u8 = PATH_KINDS + 1;
const BUNDLE: u8 = PATH_KINDS + 2;

/// See [`paths`](super).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PathMessage<'a> {
    /// A packet of `size` bytes, or a message over a stream with size 0, that asks for a reply.
    Probe { nonce: u64, size: usize, by_stream: bool, from: &'a [u8] },
    /// The probe has arrived.
    ProbeReply { nonce: u64, size: usize },
    /// Messages as they stand in packets, one after the other.
    Bundle { from: &'a [u8], parts: Vec<&'a [u8]> },
}

/// Whether a user message is one of these.
pub(in super::super) fn is_path_message(payload: &[u8]) -> bool {
    matches!(payload, [MAGIC, PROBE..=BUNDLE, ..])
}

pub(in super::super) fn is_bundle(payload: &[u8]) -> bool {
    matches!(payload, [MAGIC, BUNDLE, ..])
}

/// The first message of a bundle, behind its route, as which the bundle is counted.
pub(in super::super) fn first_bundled(payload: &[u8]) -> Option<&[u8]> {
    match is_bundle(payload).then(|| PathMessage::decode(payload)).flatten()? {
        PathMessage::Bundle { parts, .. } => parts.get(1).or(parts.first()).and_then(|part| part.get(1..)),
        _ => None,
    }
}

/// The parts of a bundle; none of anything else.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn parts_of(payload: &Bytes) -> Vec<Bytes> {
    match is_bundle(payload).then(|| PathMessage::decode(payload)).flatten() {
        Some(PathMessage::Bundle { parts, .. }) => parts.into_iter().map(|part| payload.slice_ref(part)).collect(),
        _ => Vec::new(),
    }
}

impl<'a> PathMessage<'a> {
    /// Reads a user message that [is one](is_path_message).
    pub(super) fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut rest = payload.get(2..)?;
        Some(match payload[1] {
            PROBE => Self::Probe {
                nonce: rest.try_get_u64().ok()?,
                size: rest.try_get_u16().ok()?.into(),
                by_stream: rest.try_get_u8().ok()? == 1,
                from: name(&mut rest)?,
            },
            PROBE_REPLY => Self::ProbeReply { nonce: rest.try_get_u64().ok()?, size: rest.try_get_u16().ok()?.into() },
            BUNDLE => {
                let from = name(&mut rest)?;
                let mut parts = Vec::new();
                while !rest.is_empty() {
                    let len = usize::try_from(rest.try_get_u32().ok()?).ok()?;
                    let (part, after) = rest.split_at_checked(len)?;
                    if parts.len() == MAX_PARTS {
                        return None;
                    }
                    parts.push(part);
                    rest = after;
                }
                Self::Bundle { from, parts }
            }
            _ => return None,
        })
    }

    /// The message as it goes in a packet. A probe fills one.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = vec![kind::USER, MAGIC];
        match self {
            Self::Probe { nonce, size, by_stream, from } => {
                out.push(PROBE);
                out.extend_from_slice(&nonce.to_be_bytes());
                out.extend_from_slice(&size_of(*size));
                out.push((*by_stream).into());
                put_name(&mut out, from);
                // Zeros would be compressible, but nothing on the way compresses: the size counts.
                out.resize(out.len().max(*size), 0);
            }
            Self::ProbeReply { nonce, size } => {
                out.push(PROBE_REPLY);
                out.extend_from_slice(&nonce.to_be_bytes());
                out.extend_from_slice(&size_of(*size));
            }
            Self::Bundle { from, parts } => {
                out.push(BUNDLE);
                put_name(&mut out, from);
                for part in parts {
                    out.extend_from_slice(&u32::try_from(part.len()).expect("a bundle is small").to_be_bytes());
                    out.extend_from_slice(part);
                }
            }
        }
        out.into()
    }
}

fn size_of(size: usize) -> [u8; 2] {
    u16::try_from(size).expect("no packet is larger than 65507 bytes").to_be_bytes()
}

fn put_name(out: &mut Vec<u8>, name: &[u8]) {
    out.push(u8::try_from(name.len()).expect("names have 255 bytes at most"));
    out.extend_from_slice(name);
}

fn name<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::from(rest.try_get_u8().ok()?);
    let (name, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            nonce: u64, size in 0_usize..2000, by_stream: bool, from in prop::collection::vec(any::<u8>(), 0..=255),
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..5),
        ) {
            for message in [
                PathMessage::Probe { nonce, size, by_stream, from: &from },
                PathMessage::ProbeReply { nonce, size },
                PathMessage::Bundle { from: &from, parts: parts.iter().map(Vec::as_slice).collect() },
            ] {
                let encoded = message.encode();
                prop_assert!(is_path_message(&encoded[1..]));
                prop_assert_eq!(PathMessage::decode(&encoded[1..]), Some(message.clone()));
                if let PathMessage::Probe { size, from, .. } = message {
                    prop_assert_eq!(encoded.len(), size.max(15 + from.len()));
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic(kind in PROBE..=BUNDLE, data: Vec<u8>) {
            let _ = PathMessage::decode(&[&[MAGIC, kind][..], &data].concat());
        }
    }

    #[test]
    fn more_parts_than_allowed_are_refused() {
        let many = [&[MAGIC, BUNDLE, 0][..], &vec![0; 4 * (MAX_PARTS + 1)]].concat();
        assert_eq!(PathMessage::decode(&many), None);
    }
}
