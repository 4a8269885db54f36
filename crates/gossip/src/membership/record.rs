//! What is known of one member.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{Member, MemberState, NodeName, rtt::Rtt};
use crate::wire::{Address, Versions};

/// What is believed of a member, and whether it is proven, in one byte: a record has no more to spare.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing(u8);

impl Standing {
    const PROVEN: u8 = 1 << 2;

    pub(super) const fn new(state: MemberState, proven: bool) -> Self {
        Self(state as u8 | if proven { Self::PROVEN } else { 0 })
    }

    fn state(self) -> MemberState {
        const STATES: [MemberState; 4] =
            [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left];
        const { assert!(STATES[3] as u8 == 3 && STATES[2] as u8 == 2 && STATES[1] as u8 == 1) };
        STATES[usize::from(self.0 & 3)]
    }

    fn is_proven(self) -> bool {
        self.0 & Self::PROVEN != 0
    }
}

/// What is known of one node.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) name: NodeName,
    /// As its owner announced it: Go peers compare it byte by byte.
    pub(super) address: Address,
    meta: Option<Box<Bytes>>,
    pub(crate) versions: Versions,
    pub(crate) incarnation: u32,
    pub(super) standing: Standing,
    pub(crate) rtt: Rtt,
    /// Since when it is in that state, in nanoseconds since the table's beginning.
    pub(super) since: u64,
}

impl Record {
    pub(super) fn new(name: NodeName, address: Address, versions: Versions, since: u64) -> Self {
        let (standing, rtt) = (Standing::new(MemberState::Alive, false), Rtt::default());
        Self { name, address, meta: None, versions, incarnation: 0, standing, rtt, since }
    }

    pub(crate) fn state(&self) -> MemberState {
        self.standing.state()
    }

    /// Whether it has answered this node since it is at this address.
    pub(crate) fn is_proven(&self) -> bool {
        self.standing.is_proven()
    }

    /// As its owner announced it.
    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// What the member tells about itself.
    pub(crate) fn meta(&self) -> Bytes {
        self.meta.as_deref().cloned().unwrap_or_default()
    }

    /// Keeps a copy of its own, lest the record keep a whole packet in memory.
    pub(crate) fn set_meta(&mut self, meta: &[u8]) {
        self.meta = (!meta.is_empty()).then(|| Box::new(Bytes::copy_from_slice(meta)));
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address.socket_addr()
    }

    /// Whether it may still be there.
    pub(crate) fn is_live(&self) -> bool {
        self.state().is_live()
    }

    pub(crate) fn to_member(&self) -> Member {
        Member {
            name: self.name.clone(),
            addr: self.addr(),
            meta: self.meta(),
            state: self.state(),
            incarnation: self.incarnation,
            rtt: self.rtt.get(),
        }
    }
}
