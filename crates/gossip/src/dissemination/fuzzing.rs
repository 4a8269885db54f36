//! Messages and control messages from few bytes, for [`crate::fuzzing`].

use arbitrary::Arbitrary;
use bytes::Bytes;

use super::{
    control::{self, StreamDigest, StreamStart},
    draft::{self, Draft},
    payload::{self, Identity},
};

/// A control message without its first byte: what is read can be written and read again.
pub fn control(data: &[u8]) {
    if let Ok(control) = control::Control::decode(data) {
        assert_eq!(control::Control::decode(&control.encode()[2..]), Ok(control));
    }
}

/// A message: both parsers agree, and it can be renumbered.
pub fn payload(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let slow = payload::parse_any(text).ok();
    if let Some(fast) = payload::parse_ours(text) {
        assert_eq!(Some(&fast), slow.as_ref());
    }
    if let Some(parsed) = slow {
        let (key, value) = (parsed.key, &text[parsed.value]);
        let message = draft::renumber(&Draft::new(&key, value, "origin").finish(1, 2), "other", 3, 4);
        let again = std::str::from_utf8(&message[1..]).expect("a draft is made of text");
        let again_parsed = payload::parse(again).expect("a draft is JSON");
        assert_eq!((&again_parsed.key, &again[again_parsed.value]), (&key, value));
        let identity = Identity { origin: "other".into(), plain: None, raw: false, epoch: 3, seq: 4, event: None };
        assert_eq!(again_parsed.identity, Some(identity));
    }
}

/// A control message from few bytes.
#[derive(Arbitrary, Debug)]
pub(crate) enum Control {
    Relay {
        hops: u8,
        until: Option<u64>,
        message: Vec<u8>,
    },
    Digest(Vec<DigestEntry>),
    Ack {
        epoch: u8,
        receiver_epoch: u8,
        next: Option<u16>,
    },
    RepairRequest {
        origin: u8,
        epoch: u8,
        ranges: Vec<(u16, u16)>,
    },
    ProxyPublish {
        source: u8,
        value: u8,
    },
    WatchAcks,
    AckReport {
        epoch: u8,
        members: Vec<(u8, u16)>,
    },
    CookieAck {
        sender: u8,
        epoch: u8,
        receiver_epoch: u8,
        next: Option<u16>,
        cookie: Option<u8>,
        challenge: Option<u8>,
    },
    DigestFrom {
        sender: u8,
        echo: Option<u8>,
        origin: u8,
        epoch: u8,
        next: u16,
        start: Option<(u16, u8, u8)>,
    },
}

/// One entry of a digest.
#[derive(Arbitrary, Debug)]
pub(crate) struct DigestEntry {
    origin: u8,
    epoch: u8,
    base: u16,
    next: u16,
    floor: u16,
    start: Option<(u16, u8)>,
}

impl Control {
    /// A user message with its type byte. `name` gives the name of a node, and epochs count from `first`.
    pub(crate) fn encode(&self, name: impl Fn(u8) -> Bytes, first: u64) -> Bytes {
        let epoch_of = |epoch: u8| first + u64::from(epoch);
        match self {
            Self::Relay { hops, until, message } => {
                let route = control::Route { hops: *hops, until: *until };
                control::Control::Relay { route, message }.encode()
            }
            Self::Digest(positions) => {
                let origins: Vec<_> = positions.iter().map(|position| name(position.origin)).collect();
                let digests = positions.iter().zip(&origins).map(|(position, origin)| StreamDigest {
                    origin,
                    epoch: epoch_of(position.epoch),
                    base: position.base.into(),
                    next: position.next.into(),
                    floor: position.floor.into(),
                    start: position.start.map(|(seq, epoch)| StreamStart {
                        seq: seq.into(),
                        receiver_epoch: epoch_of(epoch),
                        cookie: None,
                    }),
                });
                control::Control::Digest(digests.collect()).encode()
            }
            Self::Ack { epoch, receiver_epoch: other, next } => {
                let next = next.map(u64::from);
                control::Control::Ack { epoch: epoch_of(*epoch), receiver_epoch: epoch_of(*other), next }.encode()
            }
            Self::RepairRequest { origin, epoch, ranges } => {
                let origin = name(*origin);
                let ranges = ranges.iter().map(|(first, count)| (u64::from(*first), u64::from(*count)));
                control::Control::RepairRequest { origin: &origin, epoch: epoch_of(*epoch), ranges: ranges.collect() }
                    .encode()
            }
            Self::CookieAck { sender, epoch, receiver_epoch: other, next, cookie, challenge } => {
                let (next, cookie) = (next.map(u64::from), cookie.map(u64::from));
                let challenge =
                    challenge.map(|nonce| control::Challenge { nonce: nonce.into(), age: u64::from(nonce) << 24 });
                let header = control::SenderHeader { name: &name(*sender), echo: None };
                let (epoch, receiver_epoch) = (epoch_of(*epoch), epoch_of(*other));
                control::Control::CookieAck { epoch, receiver_epoch, next, cookie, challenge }.encode_from(header)
            }
            Self::DigestFrom { sender, echo, origin, epoch, next, start } => {
                let start = start.map(|(seq, epoch, cookie)| StreamStart {
                    seq: seq.into(),
                    receiver_epoch: epoch_of(epoch),
                    cookie: Some(cookie.into()),
                });
                let (origin, next) = (name(*origin), u64::from(*next));
                let digest = StreamDigest { origin: &origin, epoch: epoch_of(*epoch), base: 0, next, floor: 0, start };
                let header = control::SenderHeader {
                    name: &name(*sender),
                    echo: echo.map(|echo| control::Challenge {
                        nonce: echo.into(),
                        age: u64::from(epoch.wrapping_mul(37)) << 20,
                    }),
                };
                control::Control::Digest(vec![digest]).encode_from(header)
            }
            Self::WatchAcks => control::Control::WatchAcks.encode(),
            Self::AckReport { epoch, members } => {
                let members: Vec<_> = members.iter().map(|(member, next)| (name(*member), u64::from(*next))).collect();
                let members = members.iter().map(|(name, next)| (&**name, *next)).collect();
                control::Control::AckReport { epoch: epoch_of(*epoch), members }.encode()
            }
            Self::ProxyPublish { source, value } => {
                let message = format!(r#"{{"key":"k","value":{value}}}"#);
                control::Control::ProxyPublish { source: &name(*source), message: message.as_bytes() }.encode()
            }
        }
    }
}
