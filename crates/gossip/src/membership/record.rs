//! The record of one member.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{Member, MemberState, NodeName, rtt::Rtt};
use crate::wire::{Address, Versions};

/// A member's state, and whether it is proven, in the one byte that a record has to spare.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackedState(u8);

impl PackedState {
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

/// What this node knows about a member, or about itself.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) name: NodeName,
    /// In the form in which its owner announced it: Go peers compare it byte by byte.
    pub(super) address: Address,
    meta: Option<Box<Bytes>>,
    pub(crate) versions: Versions,
    pub(crate) incarnation: u32,
    pub(super) packed_state: PackedState,
    pub(crate) rtt: Rtt,
    /// When it got into its state, in nanoseconds since the table was created.
    pub(super) since: u64,
}

impl Record {
    pub(super) fn new(name: NodeName, address: Address, versions: Versions, since: u64) -> Self {
        let (packed_state, rtt) = (PackedState::new(MemberState::Alive, false), Rtt::default());
        Self { name, address, meta: None, versions, incarnation: 0, packed_state, rtt, since }
    }

    pub(crate) fn state(&self) -> MemberState {
        self.packed_state.state()
    }

    /// Whether it has answered this node at its present address.
    pub(crate) fn is_proven(&self) -> bool {
        self.packed_state.is_proven()
    }

    /// Its address, in the form in which its owner announced it.
    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// Its metadata.
    pub(crate) fn meta(&self) -> Bytes {
        self.meta.as_deref().cloned().unwrap_or_default()
    }

    /// Keeps a copy of the metadata: a slice would keep a whole packet in memory.
    pub(crate) fn set_meta(&mut self, meta: &[u8]) {
        self.meta = (!meta.is_empty()).then(|| Box::new(Bytes::copy_from_slice(meta)));
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.address.socket_addr()
    }

    /// Whether it may still be there: alive or suspect.
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
