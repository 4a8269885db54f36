//! The section of the snapshot: one record for each session, entry and fence. Queues follow from the entries. A change of a
//! record's fields, or of their order, is a new format.

use std::{io, sync::Arc};

use broadcast_store::{CodecError, SnapshotError, machine::SectionReader, machine::SectionWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{LockTotals, Locks, QueueEntry, fence_bytes, malformed, session_bytes};
use crate::{
    message::{LockSessionConfig, Mode, decode, encode},
    name::Name,
};

#[derive(Serialize, Deserialize)]
enum Record {
    Session {
        session: i64,
        config: LockSessionConfig,
    },
    Entry {
        token: u64,
        session: i64,
        names: Vec<Name>,
        mode: Mode,
        value: Bytes,
        since: u64,
        held: bool,
        has_keys: bool,
    },
    Fence {
        name: Name,
        highest: u64,
    },
    Totals {
        quota: u64,
        grants: u64,
        releases: u64,
        forced: u64,
        expired: u64,
        fenced: u64,
    },
}

impl Locks {
    pub(super) fn write_records(&self, sink: &mut SectionWriter<'_>) -> io::Result<()> {
        let mut write = |record: Record| sink.record(&encode(&record));
        let LockTotals { grants, releases, forced, expired, fenced } = self.totals;
        write(Record::Totals { quota: self.quota, grants, releases, forced, expired, fenced })?;
        for (session, config) in self.sessions.iter() {
            write(Record::Session { session: *session, config: config.as_ref().clone() })?;
        }
        for (token, entry) in self.entries.iter() {
            let QueueEntry { session, names, mode, value, since, has_keys } = entry.as_ref().clone();
            let held = self.holds(&names[0], *token);
            write(Record::Entry { token: *token, session, names, mode, value, since, held, has_keys })?;
        }
        for (name, highest) in self.fences.iter() {
            write(Record::Fence { name: name.clone(), highest: *highest })?;
        }
        Ok(())
    }

    pub(super) fn read_records(source: &mut SectionReader<'_>) -> Result<Self, SnapshotError> {
        let mut locks = Self::default();
        while let Some(record) = source.record()? {
            let added = decode(&record).map_err(malformed).and_then(|record| locks.add_record(record));
            added.map_err(|malformed| source.malformed(malformed))?;
        }
        Ok(locks)
    }

    fn add_record(&mut self, record: Record) -> Result<(), CodecError> {
        let check = |holds: bool, what| if holds { Ok(()) } else { Err(CodecError::Contradiction { what }) };
        match record {
            Record::Totals { quota, grants, releases, forced, expired, fenced } => {
                self.quota = quota;
                self.totals = LockTotals { grants, releases, forced, expired, fenced };
            }
            Record::Session { session, config } => {
                check(self.sessions.get(&session).is_none(), "a session is there twice")?;
                self.bytes += session_bytes(&config);
                self.sessions.insert(session, Arc::new(config));
            }
            Record::Entry { token, session, names, mode, value, since, held, has_keys } => {
                check(!names.is_empty() && self.entries.get(&token).is_none(), "a place is there twice")?;
                let entry = QueueEntry { session, names, mode, value, since, has_keys };
                let is_whole =
                    !entry.is_etcd_entry() || (has_keys && entry.names.len() == 1 && mode == Mode::Exclusive);
                check(is_whole, "a place of a client of etcd is none")?;
                check(entry.is_etcd_entry() || self.sessions.get(&session).is_some(), "a place is of no session")?;
                let twice = entry.names.iter().any(|name| self.of_session.get(&(session, name.clone())).is_some());
                check(!twice, "a session has two places in a queue")?;
                self.insert(token, entry, held);
            }
            Record::Fence { name, highest } => {
                self.bytes += fence_bytes(&name);
                check(self.fences.insert(name, highest).is_none(), "a fence is there twice")?;
            }
        }
        Ok(())
    }
}
