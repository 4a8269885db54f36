//! What a node understands, as the largest delegate version tells that it announces.
//!
//! Plain memberlist nodes take part in agreeing on delegate versions, but do not use them. Ours announce one that no
//! other program does, and each revision of what they say to each other a larger one.

use std::{net::SocketAddr, ops::RangeInclusive};

use crate::{membership::Target, wire::Versions};

/// What a node that understands our messages announces as the largest delegate version it understands.
pub(crate) const DELEGATE_MAX: u8 = 0xB4;
/// The largest delegate versions that only our nodes announce: this, and later revisions.
const OURS: RangeInclusive<u8> = 0xB0..=0xBF;
/// Those of nodes that can be watched: this revision, and later ones.
const WATCHABLE: RangeInclusive<u8> = 0xB2..=0xBF;
/// Those of nodes that say by name what they say: this revision, and later ones.
const NAMED: RangeInclusive<u8> = 0xB3..=0xBF;

/// Whether a node with these versions understands our messages.
pub(crate) fn is_ours(versions: Versions) -> bool {
    OURS.contains(&versions[4])
}

/// Whether a node with these versions can be watched.
pub(super) fn is_watchable(versions: Versions) -> bool {
    WATCHABLE.contains(&versions[4])
}

/// Whether a node with these versions says, and is told, who says what.
pub(super) fn is_named(versions: Versions) -> bool {
    NAMED.contains(&versions[4])
}

/// One of our nodes, which all understand a checksum.
pub(super) fn ours(addr: SocketAddr) -> Target {
    Target { addr, checksum: true, versions: [1, 5, 2, 0, DELEGATE_MAX, 0] }
}
