//! The section of the snapshot: one record for each session, place and fence. Queues are made from places.

use std::{io, sync::Arc};

use broadcast_store::{CodecError, SnapshotError, machine::SectionReader, machine::SectionWriter};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Locks, Place, Totals, fence_bytes, malformed, session_bytes};
use crate::{
    message::{Mode, SessionConfig, decode, encode},
    name::Name,
};

#[derive(Serialize, Deserialize)]
enum Record {
    Session { session: i64, config: SessionConfig },
    Place { token: u64, session: i64, names: Vec<Name>, mode: Mode, value: Bytes, since: u64, held: bool, shown: bool },
    Fence { name: Name, highest: u64 },
    Totals { quota: u64, grants: u64, releases: u64, forced: u64, expired: u64, fenced: u64 },
}

impl Locks {
    pub(super) fn write_records(&self, sink: &mut SectionWriter<'_>) -> io::Result<()> {
        let mut write = |record: Record| sink.record(&encode(&record));
        let Totals { grants, releases, forced, expired, fenced } = self.totals;
        write(Record::Totals { quota: self.quota, grants, releases, forced, expired, fenced })?;
        for (session, config) in self.sessions.iter() {
            write(Record::Session { session: *session, config: config.as_ref().clone() })?;
        }
        for (token, place) in self.places.iter() {
            let Place { session, names, mode, value, since, shown } = place.as_ref().clone();
            let held = self.holds(&names[0], *token);
            write(Record::Place { token: *token, session, names, mode, value, since, held, shown })?;
        }
        for (name, highest) in self.fences.iter() {
            write(Record::Fence { name: name.clone(), highest: *highest })?;
        }
        Ok(())
    }

    pub(super) fn read_records(source: &mut SectionReader<'_>) -> Result<Self, SnapshotError> {
        let mut locks = Self::default();
        while let Some(record) = source.record()? {
            let added = decode(&record).map_err(malformed).and_then(|record| locks.add(record));
            added.map_err(|malformed| source.malformed(malformed))?;
        }
        Ok(locks)
    }

    fn add(&mut self, record: Record) -> Result<(), CodecError> {
        let check = |holds: bool, what| if holds { Ok(()) } else { Err(CodecError::Contradiction { what }) };
        match record {
            Record::Totals { quota, grants, releases, forced, expired, fenced } => {
                self.quota = quota;
                self.totals = Totals { grants, releases, forced, expired, fenced };
            }
            Record::Session { session, config } => {
                check(self.sessions.get(&session).is_none(), "a session is there twice")?;
                self.bytes += session_bytes(&config);
                self.sessions.insert(session, Arc::new(config));
            }
            Record::Place { token, session, names, mode, value, since, held, shown } => {
                check(!names.is_empty() && self.places.get(&token).is_none(), "a place is there twice")?;
                let place = Place { session, names, mode, value, since, shown };
                let is_whole = !place.is_foreign() || (shown && place.names.len() == 1 && mode == Mode::Exclusive);
                check(is_whole, "a place of a client of etcd is none")?;
                check(place.is_foreign() || self.sessions.get(&session).is_some(), "a place is of no session")?;
                let twice = place.names.iter().any(|name| self.of_session.get(&(session, name.clone())).is_some());
                check(!twice, "a session has two places in a queue")?;
                self.insert(token, place, held);
            }
            Record::Fence { name, highest } => {
                self.bytes += fence_bytes(&name);
                check(self.fences.insert(name, highest).is_none(), "a fence is there twice")?;
            }
        }
        Ok(())
    }
}
