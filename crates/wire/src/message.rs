//! The messages, as plain values.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

/// An address as its owner announced it.
///
/// Go compares addresses byte by byte, and announces IPv4 as 4 bytes or as 16 (IPv4-mapped),
/// depending on its configuration. The form received is kept, so that it is passed on unaltered;
/// [`PartialEq`] compares the form too, [`Address::socket_addr`] gives the canonical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The IP address in the form it travels in: [`IpAddr::V4`] as 4 bytes, [`IpAddr::V6`] as 16,
    /// IPv4-mapped addresses being V6.
    pub ip: IpAddr,
    /// The UDP and TCP port.
    pub port: u16,
}

impl Address {
    /// The address to send to: IPv4-mapped addresses become IPv4.
    #[must_use]
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip.to_canonical(), self.port)
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self { ip: addr.ip(), port: addr.port() }
    }
}

/// The six version bytes of a node: protocol min, max and current, delegate min, max and current.
pub type Versions = [u8; 6];

/// Who asks, in a ping or indirect ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where to answer.
    pub address: Address,
    /// The asking node's name.
    pub node: Bytes,
}

/// A request to be answered with an [`Ack`] of the same sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The asker's probe counter.
    pub seq: u32,
    /// The name of the node meant; empty for "whoever listens here".
    pub node: Bytes,
    /// Who asks. Old peers leave it out.
    pub source: Option<Source>,
}

/// A request to ping a third node and pass its [`Ack`] on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndirectPing {
    /// The asker's probe counter.
    pub seq: u32,
    /// Where the third node is.
    pub target: Address,
    /// Its name.
    pub node: Bytes,
    /// Whether a [`Nack`] is wanted when it does not answer.
    pub nack: bool,
    /// Who asks.
    pub source: Option<Source>,
}

/// The answer to a [`Ping`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The ping's sequence number.
    pub seq: u32,
    /// Free for the application; usually empty.
    pub payload: Bytes,
}

/// The answer to an [`IndirectPing`] whose target stayed silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The indirect ping's sequence number.
    pub seq: u32,
}

/// "`node` does not answer `from`."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The incarnation of the accused that is meant.
    pub incarnation: u32,
    /// The accused.
    pub node: Bytes,
    /// The accuser.
    pub from: Bytes,
}

/// "`node` is gone": failed, or left when it says so itself (`from == node`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The incarnation of the node that is meant.
    pub incarnation: u32,
    /// The node.
    pub node: Bytes,
    /// Who says so.
    pub from: Bytes,
}

/// "`node` is here."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Which life of the node this is; a higher one overrules what was said of a lower.
    pub incarnation: u32,
    /// The node.
    pub node: Bytes,
    /// Where it listens.
    pub address: Address,
    /// The application's metadata, at most [`limits::META`](super::limits::META) bytes.
    pub meta: Bytes,
    /// The protocol versions it speaks; `None` when it does not say.
    pub versions: Option<Versions>,
}

/// Anything that travels in a packet. Compounds, checksums and compression are taken off below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// See [`Ping`].
    Ping(Ping),
    /// See [`IndirectPing`].
    IndirectPing(IndirectPing),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Nack`].
    Nack(Nack),
    /// See [`Suspect`].
    Suspect(Suspect),
    /// See [`Alive`].
    Alive(Alive),
    /// See [`Dead`].
    Dead(Dead),
    /// The application's bytes.
    User(Bytes),
}

/// What a node believes of another, in a push/pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It answers.
    Alive,
    /// It did not answer lately.
    Suspect,
    /// It failed.
    Dead,
    /// It said good-bye.
    Left,
}

/// One node's record in a push/pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPullState {
    /// The node.
    pub name: Bytes,
    /// Where it listens.
    pub address: Address,
    /// The application's metadata.
    pub meta: Bytes,
    /// Which life of the node is meant.
    pub incarnation: u32,
    /// What is believed of it.
    pub state: NodeState,
    /// The protocol versions it speaks.
    pub versions: Option<Versions>,
}

/// A node's whole view of the cluster, exchanged over a stream.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PushPull {
    /// Whether the initiator is joining.
    pub join: bool,
    /// Every node the sender knows of, itself included.
    pub nodes: Vec<PushPullState>,
    /// The application's own state.
    pub user_state: Bytes,
}
