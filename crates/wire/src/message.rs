//! The messages of memberlist as plain values. Fields have memberlist's names where those speak for themselves.
//!
//! [`packet`](super::packet) and [`stream`](super::stream) encode and decode them; the [front page](crate) has an example.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

/// An address in the form in which its owner announced it.
///
/// Go compares addresses byte by byte, and announces IPv4 as 4 bytes or as 16 (IPv4-mapped), depending on its configuration.
/// So this keeps the form, to pass it on unaltered. [`PartialEq`] compares the form, too.
///
/// ```
/// use std::net::SocketAddr;
///
/// use broadcast_wire::Address;
///
/// let [mapped, plain]: [SocketAddr; 2] = ["[::ffff:10.0.0.1]:7946".parse()?, "10.0.0.1:7946".parse()?];
/// assert_ne!(Address::from(mapped), Address::from(plain));
/// assert_eq!(Address::from(mapped).socket_addr(), plain);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// The IP address as it travels: [`IpAddr::V4`] as 4 bytes, [`IpAddr::V6`] as 16, and so IPv4-mapped ones.
    pub ip: IpAddr,
    /// The UDP and TCP port.
    pub port: u16,
}

impl Address {
    /// The canonical address, to send to: IPv4-mapped addresses become IPv4.
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

/// The version bytes of a node (`Vsn`): protocol min, max and current, delegate min, max and current.
pub type Versions = [u8; 6];

/// The node that asks, in a ping or indirect ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where to answer.
    pub address: Address,
    /// The asking node's name.
    pub node: Bytes,
}

/// A ping: asks for an [`Ack`] with the same sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ping {
    /// The sequence number, by which the asker recognises the answer.
    pub seq: u32,
    /// The name of the node that is to answer; empty for any.
    pub node: Bytes,
    /// The node that asks. Old peers leave it out.
    pub source: Option<Source>,
}

/// An indirect ping: asks to ping a third node, and to pass on its [`Ack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndirectPing {
    /// The sequence number, by which the asker recognises the answer.
    pub seq: u32,
    /// The third node's address.
    pub target: Address,
    /// The third node's name.
    pub node: Bytes,
    /// Whether to answer with a [`Nack`] if the third node does not answer.
    pub nack: bool,
    /// The node that asks.
    pub source: Option<Source>,
}

/// The answer to a [`Ping`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The ping's sequence number.
    pub seq: u32,
    /// Data of the application, usually none.
    pub payload: Bytes,
}

/// The answer to an [`IndirectPing`] whose target did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// The indirect ping's sequence number.
    pub seq: u32,
}

/// An accusation: "`node` does not answer `from`."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// The incarnation in which the node is accused.
    pub incarnation: u32,
    /// The accused node.
    pub node: Bytes,
    /// The node that accuses it.
    pub from: Bytes,
}

/// An accusation: "`node` has failed" or, if it says so itself (`from == node`), "has left".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// The incarnation in which the node is gone.
    pub incarnation: u32,
    /// The node.
    pub node: Bytes,
    /// The node that says so.
    pub from: Bytes,
}

/// An announcement: "`node` is here."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// The incarnation of the node: a higher one overrules what was said about a lower one.
    pub incarnation: u32,
    /// The node.
    pub node: Bytes,
    /// The address at which it listens.
    pub address: Address,
    /// The application's metadata, at most [`limits::META`](super::limits::META) bytes.
    pub meta: Bytes,
    /// The protocol versions that it understands and speaks; `None` if it does not say.
    pub versions: Option<Versions>,
}

/// A message in a packet. [`packet`](super::packet) takes compounds, checksums and compression off.
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

/// The state of a node in a push/pull, as the sender believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It answers.
    Alive,
    /// It did not answer lately, and has still time to refute.
    Suspect,
    /// It has failed.
    Dead,
    /// It has left.
    Left,
}

/// One node's record in a push/pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushPullState {
    /// The node.
    pub name: Bytes,
    /// The address at which it listens.
    pub address: Address,
    /// The application's metadata.
    pub meta: Bytes,
    /// The incarnation of the node.
    pub incarnation: u32,
    /// The state of the node.
    pub state: NodeState,
    /// The protocol versions that it understands and speaks; `None` if the record does not say.
    pub versions: Option<Versions>,
}

/// A node's whole view of the cluster, exchanged over a stream (memberlist's push/pull).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct PushPull {
    /// Whether the node that began the exchange joins the cluster.
    pub join: bool,
    /// Every node that the sender knows, itself included.
    pub nodes: Vec<PushPullState>,
    /// Data of the application: memberlist's `LocalState`.
    pub user_state: Bytes,
}
