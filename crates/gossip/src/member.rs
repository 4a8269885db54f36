//! What the application sees of members.

use std::{borrow::Borrow, fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::wire::{NodeState, PushPullState};

/// A node's name, unique in its cluster. Go nodes may put any bytes in it; when it is printed, bytes that are not UTF-8
/// are replaced.
///
/// ```
/// use broadcast::NodeName;
///
/// let name = NodeName::from("node1");
/// assert_eq!(name, *"node1");
/// assert_eq!(name.to_string(), "node1");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<[u8]>);

impl NodeName {
    /// The name's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for NodeName {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for NodeName {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl Borrow<[u8]> for NodeName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq<str> for NodeName {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other.as_bytes()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// The state of a member, as one node believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer lately, and still has time to refute.
    Suspect,
    /// It has failed.
    Dead,
    /// It said goodbye.
    Left,
}

impl MemberState {
    /// Whether the member may still be there: alive or suspect.
    ///
    /// ```
    /// use broadcast::MemberState;
    ///
    /// assert!(MemberState::Suspect.is_live() && !MemberState::Dead.is_live());
    /// ```
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// A member of the cluster, as one node sees it. [`Handle::members`](crate::Handle::members) lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// The UDP and TCP address at which it listens.
    pub addr: SocketAddr,
    /// Its [metadata](crate::Config::meta), at most 512 bytes.
    pub meta: Bytes,
    /// Whether it is there.
    pub state: MemberState,
    /// Its incarnation, which it raises to refute a suspicion, and when its metadata or its address changes.
    pub incarnation: u32,
    /// The round-trip time of the last ping from this node that it answered at once, within 3.2 %.
    pub rtt: Option<Duration>,
}

/// An entry of a view: what one member believes of another, or of itself. [`Handle::view`](crate::Handle::view) gives those of
/// a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewEntry {
    /// The member that it is about.
    pub name: NodeName,
    /// Whether that member is there.
    pub state: MemberState,
    /// The member's incarnation.
    pub incarnation: u32,
    /// The member's address.
    pub addr: SocketAddr,
}

impl ViewEntry {
    /// The records of a view, sorted by name.
    pub(crate) fn from_view(view: &[PushPullState]) -> Vec<Self> {
        let mut entries: Vec<_> = view.iter().map(Self::from).collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        entries
    }
}

impl From<&PushPullState> for ViewEntry {
    fn from(node: &PushPullState) -> Self {
        let state = match node.state {
            NodeState::Alive => MemberState::Alive,
            NodeState::Suspect => MemberState::Suspect,
            NodeState::Dead => MemberState::Dead,
            NodeState::Left => MemberState::Left,
        };
        let (name, addr) = (NodeName::from(&*node.name), node.address.socket_addr());
        Self { name, state, incarnation: node.incarnation, addr }
    }
}
