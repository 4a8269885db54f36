//! The messages between nodes and voters, as bytes.
//!
//! Requests and answers begin with the id of the store that they are about. Keys and watch events use the encoding of the log
//! and of snapshots; what may change between releases is JSON or postcard.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::stream::frame;
use crate::{
    CodecError,
    codec::{ByteReader, ByteWriter},
    keys::{
        CancelReason, KeyEvent, Range, RangeOutcome, Watch, WatchEvent,
        codec::{read_key_value, read_keys, read_range, write_key_value, write_keys, write_range},
    },
    machine::CommandVersions,
};

/// The calls that a voter serves.
pub(super) const EXECUTE: &str = "store/execute";
pub(super) const READ: &str = "store/read";
pub(super) const KEEP_ALIVE: &str = "store/keep-alive";
pub(super) const SAVE: &str = "store/save";
pub(super) const WATCH: &str = "store/watch";
pub(super) const VOTER: &str = "store/voter";
pub(super) const JOIN: &str = "store/join";
pub(super) const CHANGE: &str = "store/change";
pub(super) const QUERY: &str = "store/query";
pub(super) const EVENTS: &str = "store/events";
pub(super) const LEASES: &str = "store/leases";

/// Puts the id of a store in front of a message; 0 if the sender does not know one yet.
pub(super) fn with_store(store: u64, body: &[u8]) -> Bytes {
    [&store.to_be_bytes()[..], body].concat().into()
}

/// Splits a message into the id of its store and the rest.
pub(super) fn split_store(bytes: &Bytes) -> Option<(u64, Bytes)> {
    let (store, _) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*store), bytes.slice(8..)))
}

/// A query for a machine; with an empty question, a subscription to its events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MachineQuery {
    /// The machine's name.
    pub(super) machine: String,
    /// The question, in the machine's own encoding.
    pub(super) question: Bytes,
}

/// A read of keys, with its options. [`Store::read`](super::Store::read) takes it.
///
/// ```
/// use broadcast_store::{keys::Range, node::ReadRequest};
///
/// // Fast, and perhaps old: what the nearest voter has.
/// let request = ReadRequest { range: Range::of("color"), serializable: true, most_bytes: None };
/// # let _ = request;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadRequest {
    /// Which keys, and how to answer them.
    pub range: Range,
    /// Serializable instead of linearizable, as in etcd: any voter answers from its own state. That is faster and works without
    /// a quorum, but may be old.
    pub serializable: bool,
    /// The most bytes that the answered keys may take ([`RangeOutcome::within`]); `None` for no limit.
    pub most_bytes: Option<u64>,
}

impl From<Range> for ReadRequest {
    fn from(range: Range) -> Self {
        Self { range, ..Self::default() }
    }
}

pub(super) fn write_read_request(read: &ReadRequest) -> Bytes {
    let mut to = ByteWriter::new();
    to.flag(read.serializable);
    to.option(read.most_bytes.as_ref(), |to, most| to.number(*most));
    write_range(&mut to, &read.range);
    to.finish().into()
}

pub(super) fn read_read_request(bytes: &[u8]) -> Result<ReadRequest, CodecError> {
    let mut from = ByteReader::new(bytes);
    let (serializable, most_bytes) = (from.flag()?, from.option(ByteReader::number)?);
    let range = read_range(&mut from)?;
    from.end()?;
    Ok(ReadRequest { range, serializable, most_bytes })
}

pub(super) fn write_range_outcome(outcome: &RangeOutcome) -> Bytes {
    let mut to = ByteWriter::new();
    to.number(outcome.revision);
    to.number(outcome.count);
    to.flag(outcome.more);
    to.list(&outcome.kvs, |to, kv| write_key_value(to, kv));
    to.finish().into()
}

pub(super) fn read_range_outcome(bytes: &[u8]) -> Result<RangeOutcome, CodecError> {
    let mut from = ByteReader::new(bytes);
    let (revision, count, more) = (from.number()?, from.number()?, from.flag()?);
    let kvs = from.list(read_key_value)?;
    from.end()?;
    Ok(RangeOutcome { revision, count, more, kvs })
}

pub(super) fn write_watch(watch: &Watch) -> Bytes {
    let mut to = ByteWriter::new();
    write_keys(&mut to, &watch.keys);
    to.number(watch.start_revision);
    [watch.prev_kv, watch.no_put, watch.no_delete].into_iter().for_each(|flag| to.flag(flag));
    to.finish().into()
}

pub(super) fn read_watch(bytes: &[u8]) -> Result<Watch, CodecError> {
    let mut from = ByteReader::new(bytes);
    let keys = read_keys(&mut from)?;
    let start_revision = from.number()?;
    let (prev_kv, no_put, no_delete) = (from.flag()?, from.flag()?, from.flag()?);
    from.end()?;
    Ok(Watch { keys, start_revision, prev_kv, no_put, no_delete })
}

/// A watch event behind its length.
pub(super) fn write_event(event: &WatchEvent) -> Bytes {
    let mut to = ByteWriter::new();
    match event {
        WatchEvent::Changes { revision, events } => {
            to.byte(0);
            to.number(*revision);
            to.list(events, |to, event| {
                write_key_value(to, &event.kv);
                to.option(event.prev.as_ref(), |to, kv| write_key_value(to, kv));
            });
        }
        WatchEvent::Progress { revision } => {
            to.byte(1);
            to.number(*revision);
        }
        WatchEvent::Cancelled(CancelReason::Compacted { start, compacted }) => {
            to.byte(2);
            to.number(*start);
            to.number(*compacted);
        }
        WatchEvent::Cancelled(CancelReason::Slow { next, compacted }) => {
            to.byte(3);
            to.number(*next);
            to.number(*compacted);
        }
    }
    frame(&to.finish())
}

pub(super) fn read_event(bytes: &[u8]) -> Result<WatchEvent, CodecError> {
    let mut from = ByteReader::new(bytes);
    let event = match from.byte()? {
        0 => WatchEvent::Changes {
            revision: from.number()?,
            events: from.list(|from| Ok(KeyEvent { kv: read_key_value(from)?, prev: from.option(read_key_value)? }))?,
        },
        1 => WatchEvent::Progress { revision: from.number()? },
        2 => WatchEvent::Cancelled(CancelReason::Compacted { start: from.number()?, compacted: from.number()? }),
        3 => WatchEvent::Cancelled(CancelReason::Slow { next: from.number()?, compacted: from.number()? }),
        tag => return Err(CodecError::Tag { what: "what a watcher is told", tag }),
    };
    from.end()?;
    Ok(event)
}

/// The status of a voter, as it tells others. [`Store::status`](super::Store::status) asks all voters for it.
///
/// On the wire it is JSON, for voters of other releases may know more fields, or fewer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VoterStatus {
    /// The voter's name.
    pub name: String,
    /// The voter's id, which is on its disk.
    pub id: u64,
    /// The id of its store, if it belongs to one.
    pub cluster: Option<u64>,
    /// Whether that store has been founded, as far as the voter knows.
    pub founded: bool,
    /// The names in its setting [`StoreConfig::voters`](super::StoreConfig::voters).
    pub configured: Vec<String>,
    /// The current term.
    pub term: u64,
    /// The versions of the commands that it knows.
    pub versions: CommandVersions,
    /// The leader's name, if the voter has heard of the leader within the last 3 s.
    pub leader: Option<String>,
    /// Whether it is the leader, and a quorum has confirmed that within the last 3 s.
    pub leads: bool,
    /// The voters by id and name, as far as it knows.
    pub voters: Vec<(u64, String)>,
    /// The learners, which get entries and do not vote, by id and name.
    pub learners: Vec<(u64, String)>,
    /// The index of the last entry of its log.
    pub last: Option<u64>,
    /// The term of that entry. Of two logs the one with the later last term is the newer; of equal ones the longer.
    pub last_term: Option<u64>,
    /// The index of the last entry that it knows to be committed.
    pub committed: Option<u64>,
    /// The index of the last entry that it has applied.
    pub applied: Option<u64>,
    /// The index of the last entry in its newest snapshot.
    pub snapshot: Option<u64>,
    /// On the leader: how many entries each other voter lacks, by name.
    pub lags: Vec<(String, u64)>,
    /// How many terms have begun since it started.
    pub elections: u64,
    /// How often the leader has changed since it started.
    pub leader_changes: u64,
    /// The newest revision of keys.
    pub revision: u64,
    /// The compacted revision: the first one that can be read.
    pub compacted: u64,
    /// How many bytes keys take, history included.
    pub bytes: u64,
    /// How many bytes they may take.
    pub quota: u64,
    /// Whether the alarm of too little space is on.
    pub alarm: bool,
    /// How many leases there are.
    pub leases: u64,
    /// How many watchers this voter has.
    pub watchers: u64,
    /// How many bytes its log takes on the disk, preallocated ones included.
    pub log_bytes: u64,
    /// How many bytes its newest snapshot takes.
    pub snapshot_bytes: u64,
    /// How often it has synced its log since it started.
    pub syncs: u64,
    /// The median of the last 128 syncs, in microseconds.
    pub sync_median: u64,
    /// The longest of the last 128 syncs, in microseconds.
    pub sync_longest: u64,
    /// Whether its disk has room for more.
    pub has_room: bool,
    /// Whether it keeps everything in memory, and loses it when its process ends.
    pub ephemeral: bool,
    /// Why it cannot go on, if it cannot.
    pub failure: Option<String>,
}
