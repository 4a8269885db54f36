//! What a machine may read and do besides itself while it applies a command.

use std::sync::Arc;

use bytes::Bytes;

use super::{Leases, LogId};
use crate::{
    error::Error,
    keys::{self, Keys},
};

/// What a machine may read and do besides itself while it applies a command. All of it is part of that command. See
/// [`Machine::apply`](super::Machine::apply).
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

    /// The events that were emitted, and the leases that have to end.
    pub(super) fn finish(self) -> (Vec<Bytes>, Vec<i64>) {
        (self.events, self.ended)
    }

    /// The entry of the log that has the command.
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    /// All leases.
    pub fn leases(&self) -> &Leases {
        self.leases
    }

    /// Grants a lease for `ttl` seconds. Returns its time to live.
    ///
    /// # Errors
    ///
    /// Those of [`Command::grant`](super::Command::grant).
    pub fn grant(&mut self, lease: i64, ttl: i64) -> Result<i64, Error> {
        self.leases.grant(lease, ttl)
    }

    /// Ends a lease once this machine is done: then all machines learn of it, this one too.
    pub fn end_lease(&mut self, lease: i64) {
        self.ended.push(lease);
    }

    /// The current revision.
    pub fn revision(&self) -> u64 {
        self.keys.revision()
    }

    /// Raises the revision by one without a change of keys, and returns it. Nothing before had this number, neither in this
    /// store nor in one that it was restored from.
    pub fn next_revision(&mut self) -> u64 {
        self.keys.skip_revision()
    }

    /// Carries out a command for users' keys. No machine's [`keys_changed`](super::Machine::keys_changed) is called for it.
    ///
    /// # Errors
    ///
    /// The command was refused, and has changed nothing.
    pub fn keys(&mut self, command: &keys::KeysCommand) -> Result<keys::KeysOutcome, Error> {
        self.keys.apply(self.leases, command)
    }

    /// The changes of the current revision, if that is not this one: each key as it is now, or its
    /// [tombstone](keys::KeyValue::is_tombstone).
    pub fn changed_after(&self, revision: u64) -> Option<Arc<[Arc<keys::KeyValue>]>> {
        self.keys.changed_after(revision)
    }

    /// Emits an event to the machine's [subscribers](crate::Store::subscribe). It is not part of the state: later subscribers do not
    /// get it.
    pub fn emit(&mut self, event: impl Into<Bytes>) {
        self.events.push(event.into());
    }
}
