//! Looking at leases: how long each was granted for, how long it has left, and which keys it has. Only the leader knows how
//! long a lease has left, so that one is asked.

use std::{sync::PoisonError, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{clock::since_boot, error::Said, voter::Voter};

/// What is asked of leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LeaseQuery {
    /// All that there are.
    All,
    /// One, and its keys if they are wanted.
    One { lease: i64, keys: bool },
}

/// How a lease is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// Its id.
    pub lease: i64,
    /// How long it lives after it was last kept alive.
    pub granted: Duration,
    /// How long it has left; zero, if its end is agreed on at this very moment.
    pub left: Duration,
    /// Its keys, in order, if they were asked for.
    pub keys: Vec<Bytes>,
}

/// Leases, as they were when that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundLeases {
    /// The newest revision.
    pub revision: u64,
    /// Those that were asked for and are there, the one that ends soonest first.
    pub leases: Vec<LeaseStatus>,
}

impl Voter {
    /// Looks at leases, if this voter leads.
    pub(super) async fn leases(&self, query: &LeaseQuery) -> Result<FoundLeases, Said> {
        let raft = self.need()?;
        raft.confirm().await.map_err(|error| Self::said(&raft, error))?;
        let term = raft.standing().term;
        raft.state().read(|replica, _| {
            let (leases, keys) = (replica.state.leases(), replica.state.keys());
            let timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            // It has just come to lead, and times them in a moment.
            if timers.term() != Some(term) {
                return Err(Said::NotLeader(None));
            }
            let now = since_boot();
            let status = |lease: i64, ttl: i64| {
                let granted = Duration::from_secs(ttl.unsigned_abs());
                // One that nobody has timed yet has just been granted.
                let left = timers.remaining(now, lease).unwrap_or(granted);
                LeaseStatus { lease, granted, left, keys: Vec::new() }
            };
            let mut found = match query {
                LeaseQuery::All => leases.iter().map(|(lease, ttl)| status(lease, ttl)).collect(),
                LeaseQuery::One { lease, keys: wanted } => {
                    let mut found: Vec<_> = leases.ttl(*lease).map(|ttl| status(*lease, ttl)).into_iter().collect();
                    found
                        .iter_mut()
                        .filter(|_| *wanted)
                        .for_each(|each| each.keys = keys.attached(*lease).cloned().collect());
                    found
                }
            };
            found.sort_by_key(|each| (each.left, each.lease));
            Ok(FoundLeases { revision: keys.revision(), leases: found })
        })
    }
}
