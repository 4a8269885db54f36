//! From openraft's types to the log's and back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use openraft::{EntryPayload, Membership};

use super::types::{CommittedLeaderId, LeaderId, Proposal, RaftEntry, RaftLogId, RaftNode, RaftVote, StoredMembership};
use crate::log::{Entry, LogId, Vote};

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what}: a later version of this program may have written it"))
}

pub(super) fn log_id(id: &RaftLogId) -> LogId {
    LogId { term: id.leader_id.term, index: id.index }
}

pub(super) fn raft_log_id(log_id: LogId) -> RaftLogId {
    RaftLogId::new(CommittedLeaderId::new(log_id.term), log_id.index)
}

pub(super) fn vote(vote: &RaftVote) -> Vote {
    Vote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(super) fn raft_vote(vote: Vote) -> RaftVote {
    let leader_id = LeaderId { term: vote.term, voted_for: vote.node };
    RaftVote { leader_id, committed: vote.committed }
}

pub(super) fn entry(entry: RaftEntry) -> Entry {
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(command) => (NORMAL, command.0),
        EntryPayload::Membership(membership) => (MEMBERSHIP, write_membership(&membership).into()),
    };
    Entry { log_id: log_id(&entry.log_id), kind, payload }
}

pub(super) fn raft_entry(entry: Entry) -> io::Result<RaftEntry> {
    let payload = match entry.kind {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Proposal(entry.payload)),
        MEMBERSHIP => {
            let mut bytes = &entry.payload[..];
            EntryPayload::Membership(read_membership(&mut bytes)?)
        }
        kind => return Err(damaged(&format!("entry {} has the unknown kind {kind}", entry.log_id.index))),
    };
    Ok(RaftEntry { log_id: raft_log_id(entry.log_id), payload })
}

// Counts and ids are u32 and u64, little endian; names have their length before them.
fn write_membership(membership: &Membership<u64, RaftNode>) -> Vec<u8> {
    let mut out = Vec::new();
    let count =
        |out: &mut Vec<u8>, n: usize| out.extend_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
    let configs = membership.get_joint_config();
    count(&mut out, configs.len());
    for voters in configs {
        count(&mut out, voters.len());
        voters.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    }
    count(&mut out, membership.nodes().count());
    for (id, voter) in membership.nodes() {
        out.extend_from_slice(&id.to_le_bytes());
        count(&mut out, voter.name.len());
        out.extend_from_slice(voter.name.as_bytes());
    }
    out
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> io::Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n).ok_or_else(|| damaged("who votes is cut short"))?;
    *bytes = rest;
    Ok(taken)
}

fn take_count(bytes: &mut &[u8]) -> io::Result<u32> {
    Ok(u32::from_le_bytes(take(bytes, 4)?.try_into().expect("four bytes")))
}

fn take_number(bytes: &mut &[u8]) -> io::Result<u64> {
    Ok(u64::from_le_bytes(take(bytes, 8)?.try_into().expect("eight bytes")))
}

fn read_membership(bytes: &mut &[u8]) -> io::Result<Membership<u64, RaftNode>> {
    let mut configs = Vec::new();
    for _ in 0..take_count(bytes)? {
        let mut voters = BTreeSet::new();
        for _ in 0..take_count(bytes)? {
            voters.insert(take_number(bytes)?);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..take_count(bytes)? {
        let id = take_number(bytes)?;
        let length = take_count(bytes)? as usize;
        let name = std::str::from_utf8(take(bytes, length)?).map_err(|_| damaged("a voter's name is not text"))?;
        nodes.insert(id, RaftNode { name: name.to_owned() });
    }
    if !bytes.is_empty() {
        return Err(damaged("who votes has more bytes than it should"));
    }
    // Before a cluster is founded nobody votes, which openraft's constructor refuses.
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| damaged(&error.to_string()))
}

pub(super) fn write_stored_membership(stored: &StoredMembership) -> Vec<u8> {
    let log_id = stored.log_id().as_ref().map(log_id);
    let mut out = vec![u8::from(log_id.is_some())];
    let at = log_id.unwrap_or_default();
    out.extend_from_slice(&at.term.to_le_bytes());
    out.extend_from_slice(&at.index.to_le_bytes());
    out.extend(write_membership(stored.membership()));
    out
}

pub(super) fn read_stored_membership(mut bytes: &[u8]) -> io::Result<StoredMembership> {
    let some = take(&mut bytes, 1)?[0];
    let log_id = LogId { term: take_number(&mut bytes)?, index: take_number(&mut bytes)? };
    let id = match some {
        0 => None,
        1 => Some(raft_log_id(log_id)),
        _ => return Err(damaged("who votes begins with an unknown byte")),
    };
    Ok(StoredMembership::new(id, read_membership(&mut bytes)?))
}
