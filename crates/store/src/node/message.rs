//! What nodes ask voters, and what these answer, as bytes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::stream::framed;
use crate::{
    Malformed,
    codec::{Reader, Writer},
    keys::{
        Cancelled, Event, Range, RangeOutcome, Watch, WatchEvent,
        codec::{read_key_value, read_keys, read_range, write_key_value, write_keys, write_range},
    },
    machine::Versions,
};

/// The services of a voter.
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

/// With the store that a question is about, or an answer of, in front; 0 where none is known yet.
pub(super) fn with_store(store: u64, body: &[u8]) -> Bytes {
    [&store.to_be_bytes()[..], body].concat().into()
}

/// The store, and the rest.
pub(super) fn split_store(bytes: &Bytes) -> Option<(u64, Bytes)> {
    let (store, _) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*store), bytes.slice(8..)))
}

/// A question for a machine, or with nothing in it, the wish to be told what that tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Query {
    /// The machine's name.
    pub(super) machine: String,
    /// What that one reads.
    pub(super) question: Bytes,
}

/// What is read, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Which keys.
    pub range: Range,
    /// Whether any voter's state will do. It may be old, but takes no agreement.
    pub serializable: bool,
    /// The most bytes that the keys may take that are answered ([`RangeOutcome::within`]); `None` for all.
    pub most_bytes: Option<u64>,
}

impl From<Range> for Read {
    fn from(range: Range) -> Self {
        Self { range, ..Self::default() }
    }
}

pub(super) fn write_read(read: &Read) -> Bytes {
    let mut to = Writer::new();
    to.flag(read.serializable);
    to.option(read.most_bytes.as_ref(), |to, most| to.number(*most));
    write_range(&mut to, &read.range);
    to.finish().into()
}

pub(super) fn read_read(bytes: &[u8]) -> Result<Read, Malformed> {
    let mut from = Reader::new(bytes);
    let (serializable, most_bytes) = (from.flag()?, from.option(Reader::number)?);
    let range = read_range(&mut from)?;
    from.end()?;
    Ok(Read { range, serializable, most_bytes })
}

pub(super) fn write_found(found: &RangeOutcome) -> Bytes {
    let mut to = Writer::new();
    to.number(found.revision);
    to.number(found.count);
    to.flag(found.more);
    to.list(&found.kvs, |to, kv| write_key_value(to, kv));
    to.finish().into()
}

pub(super) fn read_found(bytes: &[u8]) -> Result<RangeOutcome, Malformed> {
    let mut from = Reader::new(bytes);
    let (revision, count, more) = (from.number()?, from.number()?, from.flag()?);
    let kvs = from.list(read_key_value)?;
    from.end()?;
    Ok(RangeOutcome { revision, count, more, kvs })
}

pub(super) fn write_watch(watch: &Watch) -> Bytes {
    let mut to = Writer::new();
    write_keys(&mut to, &watch.keys);
    to.number(watch.start_revision);
    [watch.prev_kv, watch.no_put, watch.no_delete].into_iter().for_each(|flag| to.flag(flag));
    to.finish().into()
}

pub(super) fn read_watch(bytes: &[u8]) -> Result<Watch, Malformed> {
    let mut from = Reader::new(bytes);
    let keys = read_keys(&mut from)?;
    let start_revision = from.number()?;
    let (prev_kv, no_put, no_delete) = (from.flag()?, from.flag()?, from.flag()?);
    from.end()?;
    Ok(Watch { keys, start_revision, prev_kv, no_put, no_delete })
}

/// One thing that a watcher is told, with its length in front.
pub(super) fn write_event(event: &WatchEvent) -> Bytes {
    let mut to = Writer::new();
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
        WatchEvent::Cancelled(Cancelled::Compacted { start, compacted }) => {
            to.byte(2);
            to.number(*start);
            to.number(*compacted);
        }
        WatchEvent::Cancelled(Cancelled::Slow { next, compacted }) => {
            to.byte(3);
            to.number(*next);
            to.number(*compacted);
        }
    }
    framed(&to.finish())
}

pub(super) fn read_event(bytes: &[u8]) -> Result<WatchEvent, Malformed> {
    let mut from = Reader::new(bytes);
    let event = match from.byte()? {
        0 => WatchEvent::Changes {
            revision: from.number()?,
            events: from.list(|from| Ok(Event { kv: read_key_value(from)?, prev: from.option(read_key_value)? }))?,
        },
        1 => WatchEvent::Progress { revision: from.number()? },
        2 => WatchEvent::Cancelled(Cancelled::Compacted { start: from.number()?, compacted: from.number()? }),
        3 => WatchEvent::Cancelled(Cancelled::Slow { next: from.number()?, compacted: from.number()? }),
        tag => return Err(Malformed::Tag { what: "what a watcher is told", tag }),
    };
    from.end()?;
    Ok(event)
}

/// How a voter is, as it tells others.
///
/// On the wire it is JSON: voters of other releases may know more, or less.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VoterStatus {
    /// Its name.
    pub name: String,
    /// Its id: that of its disk.
    pub id: u64,
    /// The cluster that it belongs to, if it belongs to any.
    pub cluster: Option<u64>,
    /// Whether that cluster has been founded, as far as it knows.
    pub founded: bool,
    /// The names that its settings have for the voters of a new cluster.
    pub configured: Vec<String>,
    /// The term.
    pub term: u64,
    /// The commands that it knows.
    pub versions: Versions,
    /// Who leads, by name, if it has heard of that one within the last 3 s.
    pub leader: Option<String>,
    /// Whether it leads itself, and a quorum has said so within the last 3 s.
    pub leads: bool,
    /// Who votes, by id and name, as far as it knows.
    pub voters: Vec<(u64, String)>,
    /// Who is told, and does not vote.
    pub learners: Vec<(u64, String)>,
    /// The last entry of its log.
    pub last: Option<u64>,
    /// The term that this entry is of. Of two logs, the one with the later is the newer one; if both have the same, the
    /// longer one.
    pub last_term: Option<u64>,
    /// The last entry that it knows to be committed.
    pub committed: Option<u64>,
    /// The last entry that it has applied.
    pub applied: Option<u64>,
    /// The last entry in its newest snapshot.
    pub snapshot: Option<u64>,
    /// If it leads: how many entries each other voter does not have yet, by name.
    pub lags: Vec<(String, u64)>,
    /// How many terms have begun since it was started.
    pub elections: u64,
    /// How often another one has come to lead since it was started.
    pub leader_changes: u64,
    /// The newest revision of keys.
    pub revision: u64,
    /// The first revision that can be read.
    pub compacted: u64,
    /// How many bytes keys take, history included.
    pub bytes: u64,
    /// How many they may.
    pub quota: u64,
    /// Whether they have taken all of it.
    pub alarm: bool,
    /// How many leases there are.
    pub leases: u64,
    /// How many watch keys at this voter.
    pub watchers: u64,
    /// How many bytes its log takes on the disk, what is preallocated included.
    pub log_bytes: u64,
    /// How many its newest snapshot takes.
    pub snapshot_bytes: u64,
    /// How often it has written to its log and synced that, since it was started.
    pub syncs: u64,
    /// How long the last 128 of them took: the median, in microseconds.
    pub sync_median: u64,
    /// The longest of them, in microseconds.
    pub sync_longest: u64,
    /// Whether there is room on its disk.
    pub has_room: bool,
    /// Whether what it has is gone when it ends.
    pub ephemeral: bool,
    /// Why it has stopped, if it has.
    pub failure: Option<String>,
}
