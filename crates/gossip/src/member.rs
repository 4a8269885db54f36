//! What the application sees of members.

use std::{borrow::Borrow, fmt, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::wire::{NodeState, PushPullState};

/// A node's name, unique in its cluster. Go nodes may put any bytes in it; it is shown as UTF-8 with
/// what is not replaced.
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

/// What is believed of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer lately; it has some time left to say otherwise.
    Suspect,
    /// It failed.
    Dead,
    /// It said good-bye.
    Left,
}

impl MemberState {
    /// Whether the member may still be there: alive or suspect.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// A member of the cluster, as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it tells about itself, at most 512 bytes.
    pub meta: Bytes,
    /// What is believed of it.
    pub state: MemberState,
    /// Which of its lives is meant: it counts up when it has to refute something said of it.
    pub incarnation: u32,
    /// How long it took to answer this node's last ping that it answered at once, within 3.2 %.
    pub rtt: Option<Duration>,
}

/// What one member believes of another, or of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Belief {
    /// Whom it is about.
    pub name: NodeName,
    /// Whether that one is there.
    pub state: MemberState,
    /// Which of its lives is meant.
    pub incarnation: u32,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Belief {
    /// What a view says, by name.
    pub(crate) fn all_of(view: &[PushPullState]) -> Vec<Self> {
        let mut beliefs: Vec<_> = view.iter().map(Self::from).collect();
        beliefs.sort_by(|one, other| one.name.cmp(&other.name));
        beliefs
    }
}

impl From<&PushPullState> for Belief {
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
