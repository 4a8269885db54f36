//! What Raft has written on a disk, for who reads or writes that while no voter runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use bytes::Bytes;
use openraft::{EntryPayload, Membership};

use super::{
    codec,
    types::{RaftNode, StoredMembership},
};
use crate::{
    log::{Entry, LogId},
    snapshot::SnapshotMeta,
};

/// Where the log of a store begins that has the state of another. A node that is taken in counts as nearly equal if it is
/// not more than `replication_lag_threshold` entries behind ([`settings`](super::settings)): with nothing at all it is
/// further behind than that, and so gets the state before it votes.
const BEGINNING: LogId = LogId { term: 0, index: 1000 };

/// What an entry of the log says.
pub(crate) enum OfflineEntry {
    /// A leader has begun.
    Blank,
    /// A command to the state.
    Command(Bytes),
    /// Who takes part from then on, by id and name.
    Members(BTreeMap<u64, String>),
}

pub(crate) fn decode_entry(entry: Entry) -> io::Result<OfflineEntry> {
    Ok(match codec::raft_entry(entry)?.payload {
        EntryPayload::Blank => OfflineEntry::Blank,
        EntryPayload::Normal(command) => OfflineEntry::Command(command.0),
        EntryPayload::Membership(membership) => OfflineEntry::Members(names(&membership)),
    })
}

/// Who took part when a snapshot was written, by id and name.
pub(crate) fn snapshot_members(meta: &SnapshotMeta) -> io::Result<BTreeMap<u64, String>> {
    Ok(names(codec::read_stored_membership(&meta.membership)?.membership()))
}

fn names(membership: &Membership<u64, RaftNode>) -> BTreeMap<u64, String> {
    membership.nodes().map(|(id, voter)| (*id, voter.name.clone())).collect()
}

/// What the snapshot of a store is of that begins with this voter alone.
pub(crate) fn single_voter(id: u64, name: &str) -> io::Result<SnapshotMeta> {
    let voter = BTreeMap::from([(id, RaftNode { name: name.to_owned() })]);
    let membership = Membership::new(vec![BTreeSet::from([id])], voter).map_err(io::Error::other)?;
    let stored = StoredMembership::new(Some(codec::raft_log_id(BEGINNING)), membership);
    Ok(SnapshotMeta { last: Some(BEGINNING), membership: codec::write_stored_membership(&stored) })
}
