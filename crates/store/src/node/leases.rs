//! Reading leases: for how long each was granted, how long it has left, and which keys it has. Only the leader knows how long a
//! lease has left (etcd's `LeaseTimeToLive` and `LeaseLeases`).

use std::{sync::PoisonError, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{clock::since_boot, error::RefusalReason, voter::Voter};

/// Which leases to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LeaseQuery {
    /// All of them.
    All,
    /// One, with its keys if `keys` says so.
    One { lease: i64, keys: bool },
}

/// A lease, and how long it has left. [`Store::lease`](super::Store::lease) reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Its id.
    pub lease: i64,
    /// Its time to live: how long it lives after each keepalive.
    pub granted: Duration,
    /// How long it has left; zero if its expiry has been proposed and not applied yet.
    pub left: Duration,
    /// Its keys in order, if the caller asked for them.
    pub keys: Vec<Bytes>,
}

/// Leases at a revision. [`Store::leases`](super::Store::leases) reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseList {
    /// The newest revision.
    pub revision: u64,
    /// The leases that exist of those asked for; the one that ends soonest comes first.
    pub leases: Vec<LeaseStatus>,
}

impl Voter {
    /// Reads leases, if this voter leads.
    pub(super) async fn leases(&self, query: &LeaseQuery) -> Result<LeaseList, RefusalReason> {
        let raft = self.require_raft()?;
        raft.read_index().await.map_err(|error| Self::refusal(&raft, error))?;
        let term = raft.basic_status().term;
        raft.state().read(|replica, _| {
            let (leases, keys) = (replica.state.leases(), replica.state.keys());
            let timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            // This voter has just been elected, and has no timers for this term yet.
            if timers.term() != Some(term) {
                return Err(RefusalReason::NotLeader(None));
            }
            let now = since_boot();
            let status = |lease: i64, ttl: i64| {
                let granted = Duration::from_secs(ttl.unsigned_abs());
                // A lease without a timer has just been granted.
                let left = timers.remaining(now, lease).unwrap_or(granted);
                LeaseStatus { lease, granted, left, keys: Vec::new() }
            };
            let mut found = match query {
                LeaseQuery::All => leases.iter().map(|(lease, ttl)| status(lease, ttl)).collect(),
                LeaseQuery::One { lease, keys: with_keys } => {
                    let mut found: Vec<_> = leases.ttl(*lease).map(|ttl| status(*lease, ttl)).into_iter().collect();
                    found
                        .iter_mut()
                        .filter(|_| *with_keys)
                        .for_each(|each| each.keys = keys.attached(*lease).cloned().collect());
                    found
                }
            };
            found.sort_by_key(|each| (each.left, each.lease));
            Ok(LeaseList { revision: keys.revision(), leases: found })
        })
    }
}
