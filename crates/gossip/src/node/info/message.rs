//! Requests for infos and their responses, in bytes.
//!
//! They are user messages that begin like control messages, with kinds of their own. Numbers are in network order. An info is a
//! list of fields: each has a kind, a length and so many bytes. Fields of unknown kinds are skipped.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, Bytes};

use super::InfoTag;
use crate::{
    config::{
        NodeId, NodeInfo,
        info::{MAX_ENDPOINTS, MAX_LEN, MAX_ROLES, is_valid_name},
    },
    dissemination::{MAGIC, PATH_KINDS},
    wire::kind,
};

/// Leaves room for more messages about paths.
const REQUEST: u8 = PATH_KINDS + 0x10;
const RESPONSE: u8 = REQUEST + 1;

const NOTHING: u8 = 0;
const UNCHANGED: u8 = 1;
const INFO: u8 = 2;

const ID: u8 = 1;
const ROLE: u8 = 2;
const ENDPOINT_V4: u8 = 3;
const ENDPOINT_V6: u8 = 4;

/// See [`info`](super).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InfoMessage<'a> {
    /// Who are you? `own_tag` is the tag of the sender's info, `known_tag` that of the info it has of the receiver.
    Request { nonce: u64, own_tag: InfoTag, known_tag: InfoTag, from: &'a [u8] },
    /// The reply of a node with this name.
    Response { nonce: u64, from: &'a [u8], reply: InfoReply<'a> },
}

/// What a node tells about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InfoReply<'a> {
    Nothing,
    Unchanged,
    Info { tag: InfoTag, bytes: &'a [u8] },
}

/// Whether a user message is one of these.
pub(in super::super) fn is_info_message(payload: &[u8]) -> bool {
    matches!(payload, [MAGIC, REQUEST..=RESPONSE, ..])
}

impl<'a> InfoMessage<'a> {
    /// Reads a user message that [is one](is_info_message).
    pub(super) fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut rest = payload.get(2..)?;
        let nonce = rest.try_get_u64().ok()?;
        Some(match payload[1] {
            REQUEST => Self::Request {
                nonce,
                own_tag: rest.try_get_u64().ok()?,
                known_tag: rest.try_get_u64().ok()?,
                from: short(&mut rest)?,
            },
            RESPONSE => {
                let from = short(&mut rest)?;
                let reply = match rest.try_get_u8().ok()? {
                    NOTHING => InfoReply::Nothing,
                    UNCHANGED => InfoReply::Unchanged,
                    INFO => InfoReply::Info { tag: rest.try_get_u64().ok()?, bytes: rest },
                    _ => return None,
                };
                Self::Response { nonce, from, reply }
            }
            _ => return None,
        })
    }

    /// The message as it goes in a packet.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = vec![kind::USER, MAGIC];
        match self {
            Self::Request { nonce, own_tag, known_tag, from } => {
                out.push(REQUEST);
                for number in [nonce, own_tag, known_tag] {
                    out.extend_from_slice(&number.to_be_bytes());
                }
                put_short(&mut out, from);
            }
            Self::Response { nonce, from, reply } => {
                out.push(RESPONSE);
                out.extend_from_slice(&nonce.to_be_bytes());
                put_short(&mut out, from);
                match reply {
                    InfoReply::Nothing => out.push(NOTHING),
                    InfoReply::Unchanged => out.push(UNCHANGED),
                    InfoReply::Info { tag, bytes } => {
                        out.push(INFO);
                        out.extend_from_slice(&tag.to_be_bytes());
                        out.extend_from_slice(bytes);
                    }
                }
            }
        }
        out.into()
    }
}

/// An info in bytes. The same info always has the same bytes.
pub(super) fn encode_info(info: &NodeInfo) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |field: u8, value: &[u8]| {
        out.push(field);
        put_short(&mut out, value);
    };
    put(ID, &info.id.get().to_be_bytes());
    for role in &info.roles {
        put(ROLE, role.as_bytes());
    }
    for (service, addr) in &info.endpoints {
        let port = addr.port().to_be_bytes();
        let value = match addr.ip() {
            IpAddr::V4(ip) => [&port[..], &ip.octets(), service.as_bytes()].concat(),
            IpAddr::V6(ip) => [&port[..], &ip.octets(), service.as_bytes()].concat(),
        };
        put(if addr.is_ipv4() { ENDPOINT_V4 } else { ENDPOINT_V6 }, &value);
    }
    out
}

/// Reads an info.
///
/// # Errors
///
/// Says what is wrong with the bytes.
pub(super) fn decode_info(mut rest: &[u8]) -> Result<NodeInfo, &'static str> {
    const CUT: &str = "it is cut off";
    if rest.len() > MAX_LEN {
        return Err("it is too long");
    }
    let (mut id, mut roles, mut endpoints) = (None, Vec::new(), Vec::new());
    while let Ok(field) = rest.try_get_u8() {
        let mut value = short(&mut rest).ok_or(CUT)?;
        match field {
            ID => id = Some(NodeId::from(value.try_get_u64().map_err(|_| CUT)?)),
            ROLE => roles.push(word(value)?),
            ENDPOINT_V4 | ENDPOINT_V6 => {
                let port = value.try_get_u16().map_err(|_| CUT)?;
                let ip: IpAddr = if field == ENDPOINT_V4 {
                    value.try_get_u32().map_err(|_| CUT)?.to_be_bytes().into()
                } else {
                    value.try_get_u128().map_err(|_| CUT)?.to_be_bytes().into()
                };
                endpoints.push((word(value)?, SocketAddr::new(ip, port)));
            }
            _ => {}
        }
        if roles.len() > MAX_ROLES || endpoints.len() > MAX_ENDPOINTS {
            return Err("it has too many roles or endpoints");
        }
    }
    let id = id.ok_or("it has no id")?;
    Ok(NodeInfo { roles, endpoints, ..NodeInfo::new(id) })
}

fn word(bytes: &[u8]) -> Result<String, &'static str> {
    let name = std::str::from_utf8(bytes).ok().filter(|name| is_valid_name(name));
    name.map(str::to_owned).ok_or("the name of a role or an endpoint is none")
}

fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(u8::try_from(bytes.len()).expect("names have 255 bytes at most, and fields fewer"));
    out.extend_from_slice(bytes);
}

fn short<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::from(rest.try_get_u8().ok()?);
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
pub(in super::super) fn test_response(nonce: u64, from: &str, info: &NodeInfo) -> Bytes {
    let reply = InfoReply::Info { tag: 1, bytes: &encode_info(info) };
    InfoMessage::Response { nonce, from: from.as_bytes(), reply }.encode().slice(1..)
}

#[cfg(test)]
pub(in super::super) fn test_request(nonce: u64, (own_tag, known_tag): (InfoTag, InfoTag), from: &str) -> Bytes {
    InfoMessage::Request { nonce, own_tag, known_tag, from: from.as_bytes() }.encode().slice(1..)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info() -> impl Strategy<Value = NodeInfo> {
        let word = "[a-zA-Z0-9_-]{1,12}";
        let endpoint =
            (word, any::<SocketAddr>()).prop_map(|(name, addr)| (name, SocketAddr::new(addr.ip(), addr.port())));
        let endpoints = prop::collection::vec(endpoint, 0..=6);
        (any::<u64>(), prop::collection::vec(word, 0..=8), endpoints).prop_map(|(id, roles, endpoints)| {
            let info = roles.into_iter().fold(NodeInfo::new(id.into()), NodeInfo::role);
            endpoints.into_iter().fold(info, |info, (name, addr)| info.endpoint(name, addr))
        })
    }

    proptest! {
        #[test]
        fn what_is_told_is_read(info in info()) {
            let told = encode_info(&info);
            prop_assert_eq!(told.len() <= MAX_LEN, info.validate().is_ok());
            prop_assert!(told.len() > MAX_LEN || decode_info(&told) == Ok(info));
        }

        #[test]
        fn what_is_written_is_read(
            nonce: u64, own_tag: u64, known_tag: u64, tag: u64, from in prop::collection::vec(any::<u8>(), 0..=255),
            told in prop::collection::vec(any::<u8>(), 0..=600),
        ) {
            let response = |reply| InfoMessage::Response { nonce, from: &from, reply };
            for message in [
                InfoMessage::Request { nonce, own_tag, known_tag, from: &from },
                response(InfoReply::Nothing),
                response(InfoReply::Unchanged),
                response(InfoReply::Info { tag, bytes: &told }),
            ] {
                let encoded = message.encode();
                prop_assert!(is_info_message(&encoded[1..]));
                prop_assert_eq!(InfoMessage::decode(&encoded[1..]), Some(message));
            }
        }

        #[test]
        fn nothing_makes_it_panic(kind in REQUEST..=RESPONSE, data: Vec<u8>) {
            let _ = InfoMessage::decode(&[&[MAGIC, kind][..], &data].concat());
            let _ = decode_info(&data);
        }

        #[test]
        fn what_is_cut_off_is_refused(info in info(), part in 0.0..1.0) {
            let told = encode_info(&info);
            let cut = &told[..(told.len() as f64 * part) as usize];
            // If it is cut at the end of a field and has an id, it is a smaller info.
            prop_assert!(decode_info(cut).map_or(true, |less| less.id == info.id && less != info));
        }
    }

    #[test]
    fn fields_of_later_releases_are_skipped() {
        let told = [&[99, 3, 1, 2, 3][..], &encode_info(&NodeInfo::new(NodeId::from(7)).role("x")), &[98, 0]].concat();
        assert_eq!(decode_info(&told), Ok(NodeInfo::new(NodeId::from(7)).role("x")));
        assert_eq!(decode_info(&[99, 0]), Err("it has no id"));
        assert_eq!(decode_info(&[ROLE, 2, b'a']), Err("it is cut off"));
        assert_eq!(decode_info(&[ROLE, 1, b' ']), Err("the name of a role or an endpoint is none"));
        let many: Vec<u8> = (0..=MAX_ROLES).flat_map(|_| [ROLE, 1, b'a']).collect();
        assert_eq!(decode_info(&many), Err("it has too many roles or endpoints"));
    }
}
