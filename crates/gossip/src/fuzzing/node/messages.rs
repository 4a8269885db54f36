//! Messages of peers, made from few bytes: their names, addresses and numbers are likely to match.

use std::collections::VecDeque;

use arbitrary::Arbitrary;
use bytes::Bytes;

use super::{EPOCH, addr, name};
use crate::{
    dissemination::fuzzing::Control,
    node::{
        VERSIONS,
        fuzzing::{Info, Transcript},
    },
    wire::{
        Ack, Address, Alive, Dead, IndirectPing, Message, Nack, NodeState, Ping, PushPull, PushPullState, Source,
        Suspect, Versions, kind, packet,
    },
};

/// A datagram.
#[derive(Arbitrary, Debug)]
pub(super) struct Packet {
    parts: Vec<PacketPart>,
    compress: bool,
    checksum: bool,
}

impl Packet {
    pub(super) fn encode(&self, pings: &VecDeque<u32>, transcript: &Transcript) -> Bytes {
        let parts = self.parts.iter().take(packet::COMPOUND_PARTS).map(|part| part.encode(pings, transcript));
        packet::encode(&parts.collect::<Vec<_>>(), self.compress, self.checksum)
    }
}

#[derive(Arbitrary, Debug)]
enum PacketPart {
    Ping { seq: u8, node: u8, source: Option<u8> },
    IndirectPing { seq: u8, node: u8, target: u8, nack: bool, source: Option<u8> },
    Ack { seq: u8 },
    Nack { seq: u8 },
    Suspect { incarnation: u8, node: u8, from: u8 },
    Dead { incarnation: u8, node: u8, from: u8 },
    Alive(Node),
    User(UserMessage),
}

impl PacketPart {
    fn encode(&self, pings: &VecDeque<u32>, transcript: &Transcript) -> Bytes {
        packet::encode_message(&match *self {
            Self::Ping { seq, node, source } => Message::Ping(ping(seq, node, source)),
            Self::IndirectPing { seq, node, target, nack, source } => Message::IndirectPing(IndirectPing {
                seq: seq.into(),
                target: addr(target).into(),
                node: name(node),
                nack,
                source: source.map(source_at),
            }),
            Self::Ack { seq } => Message::Ack(ack(seq, pings)),
            Self::Nack { seq } => Message::Nack(Nack { seq: ack(seq, pings).seq }),
            Self::Suspect { incarnation: i, node, from } => {
                Message::Suspect(Suspect { incarnation: incarnation(i), node: name(node), from: name(from) })
            }
            Self::Dead { incarnation: i, node, from } => {
                Message::Dead(Dead { incarnation: incarnation(i), node: name(node), from: name(from) })
            }
            Self::Alive(ref node) => Message::Alive(Alive {
                incarnation: incarnation(node.incarnation),
                node: name(node.peer),
                address: node.address(),
                meta: node.meta(),
                versions: node.versions(),
            }),
            Self::User(ref message) => return message.encode(transcript),
        })
    }
}

/// One node, as others describe it.
#[derive(Arbitrary, Debug)]
struct Node {
    peer: u8,
    /// Another address than its name has.
    elsewhere: Option<u8>,
    incarnation: u8,
    meta: u8,
    versions: VersionsField,
}

#[derive(Arbitrary, Debug)]
enum VersionsField {
    Ours,
    Go,
    Nothing,
    Any(Versions),
}

impl Node {
    fn address(&self) -> Address {
        addr(self.elsewhere.unwrap_or(self.peer)).into()
    }

    fn meta(&self) -> Bytes {
        vec![b'm'; 2 * usize::from(self.meta)].into()
    }

    fn versions(&self) -> Option<Versions> {
        match self.versions {
            VersionsField::Ours => Some(VERSIONS),
            VersionsField::Go => Some([1, 5, 2, 0, 0, 0]),
            VersionsField::Nothing => None,
            VersionsField::Any(versions) => Some(versions),
        }
    }
}

/// A view of the cluster.
#[derive(Arbitrary, Debug)]
pub(super) struct View {
    join: bool,
    nodes: Vec<(Node, State)>,
    user_state: Option<Control>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum State {
    Alive,
    Suspect,
    Dead,
    Left,
}

impl View {
    pub(super) fn build(&self) -> PushPull {
        let nodes = self.nodes.iter().map(|(node, state)| PushPullState {
            name: name(node.peer),
            address: node.address(),
            meta: node.meta(),
            incarnation: incarnation(node.incarnation),
            state: match state {
                State::Alive => NodeState::Alive,
                State::Suspect => NodeState::Suspect,
                State::Dead => NodeState::Dead,
                State::Left => NodeState::Left,
            },
            versions: node.versions(),
        });
        let user_state = self.user_state.as_ref().map(|control| control.encode(name, EPOCH).slice(1..));
        PushPull { join: self.join, nodes: nodes.collect(), user_state: user_state.unwrap_or_default() }
    }
}

/// A user message: of an application, or of this crate's dissemination.
#[derive(Arbitrary, Debug)]
pub(super) enum UserMessage {
    /// As a Go program sends it.
    Plain {
        value: u8,
    },
    /// As a node of this crate sends it.
    Message {
        origin: u8,
        epoch: u8,
        seq: u16,
        len: u8,
    },
    Control(Control),
    Info(Info),
    Bytes(Vec<u8>),
}

impl UserMessage {
    /// The encoded message with its type byte.
    pub(super) fn encode(&self, transcript: &Transcript) -> Bytes {
        let user = |bytes: &[u8]| [&[kind::USER], bytes].concat().into();
        match *self {
            Self::Plain { value } => user(format!(r#"{{"key":"k","value":{value}}}"#).as_bytes()),
            Self::Message { origin, epoch, seq, len } => {
                let origin = String::from_utf8(name(origin).into()).expect("names are text");
                let (value, epoch) = ("1".repeat(1 + usize::from(len)), EPOCH + u64::from(epoch));
                let identity = format!(r#"{{"origin":"{origin}","epoch":{epoch},"seq":{seq}}}"#);
                user(format!(r#"{{"key":"k","value":{value},"broadcast":{identity}}}"#).as_bytes())
            }
            Self::Control(ref control) => control.encode(name, EPOCH),
            Self::Info(ref info) => transcript.encode(info, name),
            Self::Bytes(ref bytes) => user(bytes),
        }
    }
}

/// A peer of this crate announces itself.
pub(super) fn alive(peer: u8) -> Bytes {
    packet::encode_message(&Message::Alive(Alive {
        incarnation: 1,
        node: name(peer),
        address: addr(peer).into(),
        meta: Bytes::new(),
        versions: Some(VERSIONS),
    }))
}

pub(super) fn ping(seq: u8, node: u8, source: Option<u8>) -> Ping {
    Ping { seq: seq.into(), node: name(node), source: source.map(source_at) }
}

/// An ack of one of the latest `pings`, if there are so many.
pub(super) fn ack(seq: u8, pings: &VecDeque<u32>) -> Ack {
    Ack { seq: pings.get(usize::from(seq)).copied().unwrap_or(seq.into()), payload: Bytes::new() }
}

fn source_at(peer: u8) -> Source {
    Source { address: addr(peer).into(), node: name(peer) }
}

/// Small ones, and the largest there are.
fn incarnation(byte: u8) -> u32 {
    if byte < 0xf0 { byte.into() } else { u32::MAX - u32::from(0xff - byte) }
}
