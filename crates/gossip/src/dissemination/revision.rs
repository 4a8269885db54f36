//! Which of this crate's messages a node understands, by the largest delegate version that it announces.
//!
//! Plain memberlist nodes agree on delegate versions but do not use them. Our nodes announce one that no other program does,
//! and a larger one for each revision of the messages between them.

use std::net::SocketAddr;

use crate::{membership::Target, wire::Versions};

/// What this node announces as the largest delegate version that it understands. It grows by one with each change that nodes of
/// the commit before must not be sent, whether that is released or not. Tests have some revisions in digits: look through
/// them for `0xB` then.
pub(crate) const DELEGATE_MAX: u8 = 0xB4;
/// The first revision, and those that added something: reports of acknowledgements; senders' headers; probes of paths, and
/// bundles; infos of nodes.
const FIRST: u8 = 0xB0;
const WATCHED: u8 = 0xB2;
const NAMED: u8 = 0xB3;
const PATHS: u8 = 0xB3;
const INFO: u8 = 0xB4;
/// The last revision that is reserved for our nodes: whoever knows no more takes anything larger for a plain node's. After it,
/// nodes have to keep announcing this one, and to tell what they understand in another way.
const LAST: u8 = 0xBF;

/// Whether a node with these versions is of this revision or a later one.
fn is_since(revision: u8, versions: Versions) -> bool {
    (revision..=LAST).contains(&versions[4])
}

/// Whether a node with these versions understands our messages at all.
pub(crate) fn is_ours(versions: Versions) -> bool {
    is_since(FIRST, versions)
}

/// Whether a node with these versions reports acknowledgements.
pub(super) fn is_watchable(versions: Versions) -> bool {
    is_since(WATCHED, versions)
}

/// Whether a node with these versions understands senders' headers, cookies and challenges.
pub(super) fn is_named(versions: Versions) -> bool {
    is_since(NAMED, versions)
}

/// Whether a node with these versions understands probes of paths, and bundles.
pub(crate) fn probes_paths(versions: Versions) -> bool {
    is_since(PATHS, versions)
}

/// Whether a node with these versions asks others for their infos, and answers.
pub(crate) fn tells_info(versions: Versions) -> bool {
    is_since(INFO, versions)
}

/// One of our nodes, all of which understand a checksum, as a target. It claims this node's own versions, whatever the node there
/// announces, so never ask it what the receiver understands: the member's [`Record`](crate::membership::Record) tells that.
pub(super) fn target_of_ours(addr: SocketAddr) -> Target {
    Target { addr, checksum: true, versions: [1, 5, 2, 0, DELEGATE_MAX, 0], is_live: true }
}
