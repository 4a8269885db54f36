//! The bodies of messages: their fields, and what makes them unusable.
//!
//! Fields are listed in Go's order of declaration, for bodies that come as an array. Keys are sent in the order of their
//! bytes, as Go sends them.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use bytes::Bytes;

use super::{
    Ack, Address, Alive, Dead, IndirectPing, Nack, NodeState, Ping, PushPullState, Source, Suspect, Versions,
    compress::DecompressError,
    limits,
    msgpack::{Decoder, MsgpackError, put_bool, put_bytes, put_int, put_map, put_str, put_uint},
};

/// The type bytes of messages: memberlist's `messageType`.
pub mod kind {
    pub(crate) const PING: u8 = 0;
    pub(crate) const INDIRECT_PING: u8 = 1;
    pub(crate) const ACK: u8 = 2;
    pub(crate) const SUSPECT: u8 = 3;
    pub(crate) const ALIVE: u8 = 4;
    pub(crate) const DEAD: u8 = 5;
    pub(crate) const PUSH_PULL: u8 = 6;
    pub(crate) const COMPOUND: u8 = 7;
    /// A user message, whose content is the application's.
    pub const USER: u8 = 8;
    pub(crate) const COMPRESS: u8 = 9;
    pub(crate) const ENCRYPT: u8 = 10;
    pub(crate) const NACK: u8 = 11;
    pub(crate) const CHECKSUM: u8 = 12;
    pub(crate) const ERROR: u8 = 13;
    pub(crate) const LABEL: u8 = 244;

    /// Whether messages of this type belong to probes, and are not about a member.
    ///
    /// ```
    /// use broadcast_wire::kind;
    ///
    /// assert!(kind::is_of_probes(0)); // a ping
    /// assert!(!kind::is_of_probes(kind::USER));
    /// ```
    pub fn is_of_probes(kind: u8) -> bool {
        matches!(kind, PING | INDIRECT_PING | ACK | NACK)
    }

    /// The name of a type, for errors; `None` if memberlist has no such type.
    pub(crate) fn name(kind: u8) -> Option<&'static str> {
        Some(match kind {
            PING => "ping",
            INDIRECT_PING => "indirect ping",
            ACK => "ack",
            SUSPECT => "suspect",
            ALIVE => "alive",
            DEAD => "dead",
            PUSH_PULL => "push/pull",
            COMPOUND => "compound",
            USER => "user message",
            COMPRESS => "compressed message",
            ENCRYPT => "encrypted stream",
            NACK => "nack",
            CHECKSUM => "checksum",
            ERROR => "error",
            LABEL => "label",
            _ => return None,
        })
    }
}

/// Why a node's record cannot be used, though it can be read: no node can be as it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The name is missing.
    #[error("the node has no name")]
    NoName,
    /// The name exceeds [`limits::NAME`].
    #[error("the node's name has {len} bytes, more than {max}; shorten it there", max = limits::NAME)]
    Name {
        /// Its length.
        len: usize,
    },
    /// The metadata exceeds [`limits::META`].
    #[error("the metadata of node {name:?} has {len} bytes, more than {max}", max = limits::META)]
    Meta {
        /// The node.
        name: Bytes,
        /// Its length.
        len: usize,
    },
    /// The IP address is neither IPv4 nor IPv6.
    #[error("the address of node {name:?} has {len} bytes; IPv4 has 4 and IPv6 16")]
    Address {
        /// The node.
        name: Bytes,
        /// The address's length.
        len: usize,
    },
    /// The state is none of alive (0), suspect (1), dead (2) and left (3).
    #[error("the state of node {name:?} is {state}; states are 0 to 3")]
    State {
        /// The node.
        name: Bytes,
        /// The state.
        state: u64,
    },
}

/// Why the body of a message cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is not the MessagePack that was expected.
    #[error(transparent)]
    Malformed(#[from] MsgpackError),
    /// It is about a node that cannot exist.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It cannot be decompressed.
    #[error(transparent)]
    Decompress(#[from] DecompressError),
}

impl BodyError {
    /// Whether the body is valid as far as it was read, but larger than a limit.
    pub fn exceeds_limit(&self) -> bool {
        matches!(
            self,
            Self::Decompress(DecompressError::TooLong { .. }) | Self::Malformed(MsgpackError::TooLong { .. })
        )
    }
}

/// Decodes an IP address from its 4 or 16 bytes, as memberlist sends it; `None` of other lengths.
///
/// ```
/// use broadcast_wire::decode_ip;
///
/// assert_eq!(decode_ip(&[10, 0, 0, 1]), "10.0.0.1".parse().ok());
/// assert_eq!(decode_ip(&[10]), None);
/// ```
pub fn decode_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| IpAddr::V6(Ipv6Addr::from(v6)))
}

fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => put_str(out, &v4.octets()),
        IpAddr::V6(v6) => put_str(out, &v6.octets()),
    }
}

fn put_versions(out: &mut Vec<u8>, versions: Option<Versions>) {
    put_bytes(out, versions.as_ref().map_or(&[], |bytes| bytes));
}

/// The fields of a ping that name its sender, as they arrive.
#[derive(Default)]
struct SourceFields<'a> {
    ip: Cow<'a, [u8]>,
    port: u16,
    node: Bytes,
}

impl SourceFields<'_> {
    /// The sender. If a field is missing or odd, there is none, and the answer goes to where the packet came from.
    fn read(self) -> Option<Source> {
        let ip = decode_ip(&self.ip).filter(|_| self.port != 0)?;
        Some(Source { address: Address { ip, port: self.port }, node: self.node })
    }

    /// How many fields are sent: those that are not zero.
    fn count(source: Option<&Source>) -> u8 {
        source.map_or(0, |source| 1 + u8::from(!source.node.is_empty()) + u8::from(source.address.port != 0))
    }

    fn put(source: Option<&Source>, out: &mut Vec<u8>) {
        let Some(Source { address, node }) = source else { return };
        put_str(out, b"SourceAddr");
        put_ip(out, address.ip);
        if !node.is_empty() {
            put_str(out, b"SourceNode");
            put_str(out, node);
        }
        if address.port != 0 {
            put_str(out, b"SourcePort");
            put_uint(out, u32::from(address.port));
        }
    }
}

impl Ping {
    pub(super) fn decode(input: &Bytes, at: Range<usize>) -> Result<Self, BodyError> {
        let (mut seq, mut node, mut source) = (0, Bytes::new(), SourceFields::default());
        let names = ["SeqNo", "Node", "SourceAddr", "SourcePort", "SourceNode"];
        Decoder::new(input, at, "the ping").fields(&names, |d, index| {
            match index {
                0 => seq = d.u32()?,
                1 => node = d.str()?,
                2 => source.ip = d.bytes_cow()?,
                3 => source.port = d.u16()?,
                _ => source.node = d.str()?,
            }
            Ok(())
        })?;
        Ok(Self { seq, node, source: source.read() })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let source = self.source.as_ref();
        put_map(out, 2 + SourceFields::count(source));
        put_str(out, b"Node");
        put_str(out, &self.node);
        put_str(out, b"SeqNo");
        put_uint(out, self.seq);
        SourceFields::put(source, out);
    }
}

impl IndirectPing {
    pub(super) fn decode(input: &Bytes, at: Range<usize>) -> Result<Self, BodyError> {
        let (mut seq, mut target, mut port, mut node, mut nack) = (0, Bytes::new(), 0, Bytes::new(), false);
        let mut source = SourceFields::default();
        let names = ["SeqNo", "Target", "Port", "Node", "Nack", "SourceAddr", "SourcePort", "SourceNode"];
        Decoder::new(input, at, "the indirect ping").fields(&names, |d, index| {
            match index {
                0 => seq = d.u32()?,
                1 => target = d.bytes()?,
                2 => port = d.u16()?,
                3 => node = d.str()?,
                4 => nack = d.bool()?,
                5 => source.ip = d.bytes_cow()?,
                6 => source.port = d.u16()?,
                _ => source.node = d.str()?,
            }
            Ok(())
        })?;
        let Some(ip) = decode_ip(&target) else {
            return Err(RecordError::Address { name: node, len: target.len() }.into());
        };
        Ok(Self { seq, target: Address { ip, port }, node, nack, source: source.read() })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let source = self.source.as_ref();
        put_map(out, 5 + SourceFields::count(source));
        put_str(out, b"Nack");
        put_bool(out, self.nack);
        put_str(out, b"Node");
        put_str(out, &self.node);
        put_str(out, b"Port");
        put_uint(out, u32::from(self.target.port));
        put_str(out, b"SeqNo");
        put_uint(out, self.seq);
        SourceFields::put(source, out);
        put_str(out, b"Target");
        put_ip(out, self.target.ip);
    }
}

impl Ack {
    pub(super) fn decode(input: &Bytes, at: Range<usize>) -> Result<Self, BodyError> {
        let (mut seq, mut payload) = (0, Bytes::new());
        Decoder::new(input, at, "the ack").fields(&["SeqNo", "Payload"], |d, index| {
            match index {
                0 => seq = d.u32()?,
                _ => payload = d.bytes()?,
            }
            Ok(())
        })?;
        Ok(Self { seq, payload })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_map(out, 2);
        put_str(out, b"Payload");
        put_bytes(out, &self.payload);
        put_str(out, b"SeqNo");
        put_uint(out, self.seq);
    }
}

impl Nack {
    pub(super) fn decode(input: &Bytes, at: Range<usize>) -> Result<Self, BodyError> {
        let mut seq = 0;
        Decoder::new(input, at, "the nack").fields(&["SeqNo"], |d, _| {
            seq = d.u32()?;
            Ok(())
        })?;
        Ok(Self { seq })
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        put_map(out, 1);
        put_str(out, b"SeqNo");
        put_uint(out, self.seq);
    }
}

/// Suspect and dead have the same fields: incarnation, node, from.
fn decode_accusation(input: &Bytes, at: Range<usize>) -> Result<(u32, Bytes, Bytes), BodyError> {
    let (mut incarnation, mut node, mut from) = (0, Bytes::new(), Bytes::new());
    Decoder::new(input, at, "the accusation").fields(&["Incarnation", "Node", "From"], |d, index| {
        match index {
            0 => incarnation = d.u32()?,
            1 => node = d.str()?,
            _ => from = d.str()?,
        }
        Ok(())
    })?;
    Ok((incarnation, node, from))
}

fn encode_accusation(out: &mut Vec<u8>, incarnation: u32, node: &[u8], from: &[u8]) {
    put_map(out, 3);
    put_str(out, b"From");
    put_str(out, from);
    put_str(out, b"Incarnation");
    put_uint(out, incarnation);
    put_str(out, b"Node");
    put_str(out, node);
}

impl Suspect {
    pub(super) fn decode(input: &Bytes, at: Range<usize>) -> Result<Self, BodyError> {
        let (incarnation, node, from) = decode_accusation(input, at)?;
        Ok(Self { incarnation, node, from })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        encode_accusation(out, self.incarnation, &self.node, &self.from);
    }
}

impl Dead {
    pub(super) fn decode(input: &Bytes, at: Range<usize>) -> Result<Self, BodyError> {
        let (incarnation, node, from) = decode_accusation(input, at)?;
        Ok(Self { incarnation, node, from })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        encode_accusation(out, self.incarnation, &self.node, &self.from);
    }
}

/// The fields of alive messages and push/pull records, as they arrive.
#[derive(Default)]
struct NodeFields<'a> {
    name: Bytes,
    ip: Cow<'a, [u8]>,
    port: u16,
    meta: Bytes,
    incarnation: u32,
    versions: Cow<'a, [u8]>,
}

impl NodeFields<'_> {
    /// The "alive" message, unless no node can be as it says.
    fn read(self) -> Result<Alive, RecordError> {
        let Self { name, ip: address, port, meta, incarnation, versions } = self;
        if name.is_empty() {
            return Err(RecordError::NoName);
        }
        if name.len() > limits::NAME {
            return Err(RecordError::Name { len: name.len() });
        }
        if meta.len() > limits::META {
            return Err(RecordError::Meta { name, len: meta.len() });
        }
        let Some(ip) = decode_ip(&address) else { return Err(RecordError::Address { name, len: address.len() }) };
        let versions = versions.first_chunk().copied();
        Ok(Alive { incarnation, node: name, address: Address { ip, port }, meta, versions })
    }
}

impl Alive {
    pub(super) fn decode(input: &Bytes, at: Range<usize>) -> Result<Self, BodyError> {
        let mut node = NodeFields::default();
        let names = ["Incarnation", "Node", "Addr", "Port", "Meta", "Vsn"];
        Decoder::new(input, at, "the alive").fields(&names, |d, index| {
            match index {
                0 => node.incarnation = d.u32()?,
                1 => node.name = d.str()?,
                2 => node.ip = d.bytes_cow()?,
                3 => node.port = d.u16()?,
                4 => node.meta = d.bytes()?,
                _ => node.versions = d.bytes_cow()?,
            }
            Ok(())
        })?;
        Ok(node.read()?)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_map(out, 6);
        put_str(out, b"Addr");
        put_ip(out, self.address.ip);
        put_str(out, b"Incarnation");
        put_uint(out, self.incarnation);
        put_str(out, b"Meta");
        put_bytes(out, &self.meta);
        put_str(out, b"Node");
        put_str(out, &self.node);
        put_str(out, b"Port");
        put_uint(out, u32::from(self.address.port));
        put_str(out, b"Vsn");
        put_versions(out, self.versions);
    }
}

impl PushPullState {
    pub(super) fn decode(input: &Bytes) -> Result<Self, BodyError> {
        let (mut node, mut state) = (NodeFields::default(), 0);
        let names = ["Name", "Addr", "Port", "Meta", "Incarnation", "State", "Vsn"];
        Decoder::new(input, 0..input.len(), "the node's record").fields(&names, |d, index| {
            match index {
                0 => node.name = d.str()?,
                1 => node.ip = d.bytes_cow()?,
                2 => node.port = d.u16()?,
                3 => node.meta = d.bytes()?,
                4 => node.incarnation = d.u32()?,
                5 => state = d.uint(i64::MAX as u64)?,
                _ => node.versions = d.bytes_cow()?,
            }
            Ok(())
        })?;
        let Alive { incarnation, node: name, address, meta, versions } = node.read()?;
        let state = match state {
            0 => NodeState::Alive,
            1 => NodeState::Suspect,
            2 => NodeState::Dead,
            3 => NodeState::Left,
            state => return Err(RecordError::State { name, state }.into()),
        };
        Ok(Self { name, address, meta, incarnation, state, versions })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_map(out, 7);
        put_str(out, b"Addr");
        put_ip(out, self.address.ip);
        put_str(out, b"Incarnation");
        put_uint(out, self.incarnation);
        put_str(out, b"Meta");
        put_bytes(out, &self.meta);
        put_str(out, b"Name");
        put_str(out, &self.name);
        put_str(out, b"Port");
        put_uint(out, u32::from(self.address.port));
        put_str(out, b"State");
        out.push(match self.state {
            NodeState::Alive => 0,
            NodeState::Suspect => 1,
            NodeState::Dead => 2,
            NodeState::Left => 3,
        });
        put_str(out, b"Vsn");
        put_versions(out, self.versions);
    }
}

/// The header of a push/pull, before its records.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PushPullHeader {
    pub(super) nodes: u64,
    pub(super) user_state: u64,
    pub(super) join: bool,
}

impl PushPullHeader {
    pub(super) fn decode(input: &Bytes) -> Result<Self, BodyError> {
        let mut header = Self::default();
        Decoder::new(input, 0..input.len(), "the push/pull header").fields(
            &["Nodes", "UserStateLen", "Join"],
            |d, index| {
                match index {
                    0 => header.nodes = d.uint(i64::MAX as u64)?,
                    1 => header.user_state = d.uint(i64::MAX as u64)?,
                    _ => header.join = d.bool()?,
                }
                Ok(())
            },
        )?;
        Ok(header)
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        put_map(out, 3);
        put_str(out, b"Join");
        put_bool(out, self.join);
        put_str(out, b"Nodes");
        put_int(out, self.nodes);
        put_str(out, b"UserStateLen");
        put_int(out, self.user_state);
    }
}

/// Decodes the header of a user message in a stream: its length.
pub(super) fn decode_user_header(input: &Bytes) -> Result<u64, BodyError> {
    let mut len = 0;
    Decoder::new(input, 0..input.len(), "the user message header").fields(&["UserMsgLen"], |d, _| {
        len = d.uint(i64::MAX as u64)?;
        Ok(())
    })?;
    Ok(len)
}

pub(super) fn encode_user_header(out: &mut Vec<u8>, len: u64) {
    put_map(out, 1);
    put_str(out, b"UserMsgLen");
    put_int(out, len);
}

/// Decodes the text of an error that a peer reports over a stream.
pub(super) fn decode_error(input: &Bytes) -> Result<Bytes, BodyError> {
    let mut text = Bytes::new();
    Decoder::new(input, 0..input.len(), "the error").fields(&["Error"], |d, _| {
        text = d.str()?;
        Ok(())
    })?;
    Ok(text)
}

pub(super) fn encode_error(out: &mut Vec<u8>, text: &[u8]) {
    put_map(out, 1);
    put_str(out, b"Error");
    put_str(out, text);
}

/// Decodes a compressed message. Its content is still compressed.
pub(super) fn decode_compressed(input: &Bytes, at: Range<usize>) -> Result<Bytes, BodyError> {
    let (mut algorithm, mut data) = (0, Bytes::new());
    Decoder::new(input, at, "the compressed message").fields(&["Algo", "Buf"], |d, index| {
        match index {
            0 => algorithm = d.uint(u64::from(u8::MAX))? as u8,
            _ => data = d.bytes()?,
        }
        Ok(())
    })?;
    if algorithm == 0 { Ok(data) } else { Err(DecompressError::Algorithm(algorithm).into()) }
}

/// Encodes a compressed message, with its type byte, of data that is [compressed](super::compress::compress).
pub(super) fn compressed_message(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + 20);
    out.push(kind::COMPRESS);
    put_map(&mut out, 2);
    put_str(&mut out, b"Algo");
    put_int(&mut out, 0);
    put_str(&mut out, b"Buf");
    put_bytes(&mut out, data);
    out
}
