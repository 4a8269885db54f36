//! What a machine may see and do while it applies a command.

use std::sync::Arc;

use bytes::Bytes;

use super::{Leases, LogId};
use crate::{
    error::Error,
    keys::{self, Keys},
};

/// What there is besides the machine itself, while it applies a command. All that it changes is part of the same command.
#[derive(Debug)]
pub struct ApplyContext<'a> {
    log_id: LogId,
    leases: &'a mut Leases,
    keys: &'a mut Keys,
    events: Vec<Bytes>,
    ended: Vec<i64>,
}

impl<'a> ApplyContext<'a> {
    pub(super) fn new(log_id: LogId, leases: &'a mut Leases, keys: &'a mut Keys) -> Self {
        Self { log_id, leases, keys, events: Vec::new(), ended: Vec::new() }
    }

    /// What was told, and the leases that are to end.
    pub(super) fn finish(self) -> (Vec<Bytes>, Vec<i64>) {
        (self.events, self.ended)
    }

    /// The entry of the log that has the command.
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    /// The leases that there are.
    pub fn leases(&self) -> &Leases {
        self.leases
    }

    /// Grants a lease for so many seconds; gives how long it lives.
    ///
    /// # Errors
    ///
    /// Those of [`Command::grant`](super::Command::grant).
    pub fn grant(&mut self, lease: i64, ttl: i64) -> Result<i64, Error> {
        self.leases.grant(lease, ttl)
    }

    /// Has a lease end, as part of the same command, once the machine is done with it: then all machines are told so.
    pub fn end_lease(&mut self, lease: i64) {
        self.ended.push(lease);
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        self.keys.revision()
    }

    /// Raises the revision by one, without a change of keys: a number that nothing before had in this store, nor, as
    /// revisions jump when a store is founded anew, in a former one.
    pub fn next_revision(&mut self) -> u64 {
        self.keys.skip_revision()
    }

    /// Carries out a command for users' keys. Machines are not told of it, this one neither.
    ///
    /// # Errors
    ///
    /// It was refused, and has changed nothing.
    pub fn keys(&mut self, command: &keys::KeysCommand) -> Result<keys::KeysOutcome, Error> {
        self.keys.apply(self.leases, command)
    }

    /// What has changed in users' keys at the newest revision, if that is not this one: each key as it is now, or [what a
    /// delete leaves](keys::KeyValue::is_tombstone).
    pub fn changed_after(&self, revision: u64) -> Option<Arc<[Arc<keys::KeyValue>]>> {
        self.keys.changed_after(revision)
    }

    /// Tells those who follow the machine, at each member, something. It is no part of the state: who was not there does
    /// not hear it.
    pub fn emit(&mut self, event: impl Into<Bytes>) {
        self.events.push(event.into());
    }
}
