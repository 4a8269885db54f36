//! The leases that there are. How long they have left is not in the state: the leader keeps that, see
//! `machine::LeaseTimers`.

use crate::limits::{MAX_TTL, NAME};
use crate::{cow_map::CowMap, error::Error};

/// The least that a lease lives, in seconds: it has to survive an election.
pub const MIN_TTL: i64 = 2;

/// How many leases there may be.
pub const MAX_LEASES: usize = 1 << 18;

/// Roughly what a lease takes in memory.
const LEASE_BYTES: u64 = 64;

/// The leases: their ids, and how long each lives after it was last kept alive.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    ttls: CowMap<i64, i64>,
    /// How many were granted and have ended since this member read the state.
    changes: u64,
}

impl Leases {
    /// Whether a lease is there.
    pub fn contains(&self, lease: i64) -> bool {
        self.ttls.get(&lease).is_some()
    }

    /// How long a lease lives, in seconds.
    pub fn ttl(&self, lease: i64) -> Option<i64> {
        self.ttls.get(&lease).copied()
    }

    /// The leases and how long each lives, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        self.ttls.iter().map(|(lease, ttl)| (*lease, *ttl))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ttls.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Another number after each change, while this member has the same state.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Grants a lease. What is too short is made longer. As in etcd, id 0 means "no lease" and cannot be granted; who
    /// proposes the command chooses an id.
    pub(crate) fn grant(&mut self, lease: i64, ttl: i64) -> Result<i64, Error> {
        if lease == 0 {
            return Err(Error::LeaseNotFound { lease });
        }
        if ttl > MAX_TTL {
            return Err(Error::LeaseTtlTooLarge { ttl });
        }
        if self.contains(lease) {
            return Err(Error::LeaseExists { lease });
        }
        if self.len() >= MAX_LEASES {
            let (quota, bytes) = (MAX_LEASES as u64 * LEASE_BYTES, self.len() as u64 * LEASE_BYTES);
            return Err(Error::NoSpace { machine: NAME.to_owned(), quota, bytes });
        }
        let ttl = ttl.max(MIN_TTL);
        self.ttls.insert(lease, ttl);
        self.changes += 1;
        Ok(ttl)
    }

    pub(crate) fn end(&mut self, lease: i64) -> Result<(), Error> {
        self.ttls.remove(&lease).ok_or(Error::LeaseNotFound { lease })?;
        self.changes += 1;
        Ok(())
    }
}
