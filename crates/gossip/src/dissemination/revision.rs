//! What a node understands, as the largest delegate version tells that it announces.
//!
//! Plain memberlist nodes take part in agreeing on delegate versions, but do not use them. Ours announce one that no
//! other program does, and each revision of what they say to each other a larger one.

use std::net::SocketAddr;

use crate::{membership::Target, wire::Versions};

/// What a node that understands our messages announces as the largest delegate version it understands.
pub(crate) const DELEGATE_MAX: u8 = 0xB4;
/// The first revision, and those that added something: members that are watched; names with what nodes say; probes of
/// paths, and bundles; what nodes tell about themselves.
const FIRST: u8 = 0xB0;
const WATCHED: u8 = 0xB2;
const NAMED: u8 = 0xB3;
const PATHS: u8 = 0xB3;
const INFO: u8 = 0xB4;
/// The last one that only our nodes announce.
const LAST: u8 = 0xBF;

/// Whether a node with these versions is of this revision, or a later one.
fn is_since(revision: u8, versions: Versions) -> bool {
    (revision..=LAST).contains(&versions[4])
}

/// Whether a node with these versions understands our messages.
pub(crate) fn is_ours(versions: Versions) -> bool {
    is_since(FIRST, versions)
}

/// Whether a node with these versions can be watched.
pub(super) fn is_watchable(versions: Versions) -> bool {
    is_since(WATCHED, versions)
}

/// Whether a node with these versions says, and is told, who says what.
pub(super) fn is_named(versions: Versions) -> bool {
    is_since(NAMED, versions)
}

/// Whether a node with these versions understands probes of paths, and bundles.
pub(crate) fn probes_paths(versions: Versions) -> bool {
    is_since(PATHS, versions)
}

/// Whether a node with these versions asks others about themselves, and answers.
pub(crate) fn tells_info(versions: Versions) -> bool {
    is_since(INFO, versions)
}

/// One of our nodes, which all understand a checksum.
pub(super) fn ours(addr: SocketAddr) -> Target {
    Target { addr, checksum: true, versions: [1, 5, 2, 0, DELEGATE_MAX, 0] }
}
