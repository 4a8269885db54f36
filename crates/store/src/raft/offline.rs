//! What Raft has written on a disk, for who reads or writes that while no voter runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use bytes::Bytes;
use openraft::{EntryPayload, Membership};

use super::{
    codec,
    types::{StoredMembership, Voter},
};
use crate::{
    log::{Entry, Position},
    snapshot::Meta,
};

/// Where the log of a store begins that has the state of another. A node that is taken in counts as nearly equal if it is
/// not more than `replication_lag_threshold` entries behind ([`settings`](super::settings)): with nothing at all it is
/// further behind than that, and so gets the state before it votes.
const BEGINNING: Position = Position { term: 0, index: 1000 };

/// What an entry of the log says.
pub(crate) enum Written {
    /// A leader has begun.
    Blank,
    /// A command to the state.
    Command(Bytes),
    /// Who takes part from then on, by id and name.
    Members(BTreeMap<u64, String>),
}

pub(crate) fn written(entry: Entry) -> io::Result<Written> {
    Ok(match codec::raft_entry(entry)?.payload {
        EntryPayload::Blank => Written::Blank,
        EntryPayload::Normal(command) => Written::Command(command.0),
        EntryPayload::Membership(membership) => Written::Members(names(&membership)),
    })
}

/// Who took part when a snapshot was written, by id and name.
pub(crate) fn members(meta: &Meta) -> io::Result<BTreeMap<u64, String>> {
    Ok(names(codec::read_stored_membership(&meta.membership)?.membership()))
}

fn names(membership: &Membership<u64, Voter>) -> BTreeMap<u64, String> {
    membership.nodes().map(|(id, voter)| (*id, voter.name.clone())).collect()
}

/// What the snapshot of a store is of that begins with this voter alone.
pub(crate) fn alone(id: u64, name: &str) -> io::Result<Meta> {
    let voter = BTreeMap::from([(id, Voter { name: name.to_owned() })]);
    let membership = Membership::new(vec![BTreeSet::from([id])], voter).map_err(io::Error::other)?;
    let stored = StoredMembership::new(Some(codec::log_id(BEGINNING)), membership);
    Ok(Meta { last: Some(BEGINNING), membership: codec::write_stored_membership(&stored) })
}
