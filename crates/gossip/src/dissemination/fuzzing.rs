//! What travels in user messages, for [`crate::fuzzing`].

use arbitrary::Arbitrary;
use bytes::Bytes;

use super::{
    control::{self, Have, Start},
    draft::{self, Draft},
    payload::{self, Identity},
};

/// What follows the first byte of a control message: what was read can be written and read again.
pub fn control(data: &[u8]) {
    if let Ok(control) = control::Control::decode(data) {
        assert_eq!(control::Control::decode(&control.encode()[2..]), Ok(control));
    }
}

/// A message: both ways of reading agree, and it can be given another number.
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
    Relay { hops: u8, until: Option<u64>, message: Vec<u8> },
    Have(Vec<StreamPosition>),
    Ack { epoch: u8, life: u8, next: Option<u16> },
    Want { origin: u8, epoch: u8, ranges: Vec<(u16, u16)> },
    Plain { source: u8, value: u8 },
    Watch,
    Acked { epoch: u8, members: Vec<(u8, u16)> },
    Receipt { sender: u8, epoch: u8, life: u8, next: Option<u16>, cookie: Option<u8>, question: Option<u8> },
    HaveBy { sender: u8, echo: Option<u8>, origin: u8, epoch: u8, next: u16, start: Option<(u16, u8, u8)> },
}

/// What somebody has of one life.
#[derive(Arbitrary, Debug)]
pub(crate) struct StreamPosition {
    origin: u8,
    epoch: u8,
    base: u16,
    next: u16,
    floor: u16,
    start: Option<(u16, u8)>,
}

impl Control {
    /// A user message, its type byte included; `name` gives the node at a place, epochs count from
    /// `epoch`.
    pub(crate) fn encode(&self, name: impl Fn(u8) -> Bytes, first: u64) -> Bytes {
        let life = |epoch: u8| first + u64::from(epoch);
        match self {
            Self::Relay { hops, until, message } => {
                let route = control::Route { hops: *hops, until: *until };
                control::Control::Relay { route, message }.encode()
            }
            Self::Have(positions) => {
                let origins: Vec<_> = positions.iter().map(|position| name(position.origin)).collect();
                let haves = positions.iter().zip(&origins).map(|(position, origin)| Have {
                    origin,
                    epoch: life(position.epoch),
                    base: position.base.into(),
                    next: position.next.into(),
                    floor: position.floor.into(),
                    start: position.start.map(|(at, epoch)| Start { at: at.into(), life: life(epoch), cookie: None }),
                });
                control::Control::Have(haves.collect()).encode()
            }
            Self::Ack { epoch, life: other, next } => {
                let next = next.map(u64::from);
                control::Control::Ack { epoch: life(*epoch), life: life(*other), next }.encode()
            }
            Self::Want { origin, epoch, ranges } => {
                let origin = name(*origin);
                let ranges = ranges.iter().map(|(first, count)| (u64::from(*first), u64::from(*count)));
                control::Control::Want { origin: &origin, epoch: life(*epoch), ranges: ranges.collect() }.encode()
            }
            Self::Receipt { sender, epoch, life: other, next, cookie, question } => {
                let (next, cookie) = (next.map(u64::from), cookie.map(u64::from));
                let question =
                    question.map(|number| control::Question { number: number.into(), age: u64::from(number) << 24 });
                let by = control::By { sender: &name(*sender), echo: None };
                control::Control::Receipt { epoch: life(*epoch), life: life(*other), next, cookie, question }
                    .encode_by(by)
            }
            Self::HaveBy { sender, echo, origin, epoch, next, start } => {
                let start = start.map(|(at, epoch, cookie)| Start {
                    at: at.into(),
                    life: life(epoch),
                    cookie: Some(cookie.into()),
                });
                let (origin, next) = (name(*origin), u64::from(*next));
                let have = Have { origin: &origin, epoch: life(*epoch), base: 0, next, floor: 0, start };
                let by = control::By {
                    sender: &name(*sender),
                    echo: echo.map(|echo| control::Question {
                        number: echo.into(),
                        age: u64::from(epoch.wrapping_mul(37)) << 20,
                    }),
                };
                control::Control::Have(vec![have]).encode_by(by)
            }
            Self::Watch => control::Control::Watch.encode(),
            Self::Acked { epoch, members } => {
                let members: Vec<_> = members.iter().map(|(member, next)| (name(*member), u64::from(*next))).collect();
                let members = members.iter().map(|(name, next)| (&**name, *next)).collect();
                control::Control::Acked { epoch: life(*epoch), members }.encode()
            }
            Self::Plain { source, value } => {
                let message = format!(r#"{{"key":"k","value":{value}}}"#);
                control::Control::Plain { source: &name(*source), message: message.as_bytes() }.encode()
            }
        }
    }
}
