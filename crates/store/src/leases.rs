//! The leases. How long each has left is not in the replicated state: only the leader knows, in `machine::LeaseTimers`.

use crate::limits::{MAX_TTL, NAME};
use crate::{cow_map::CowMap, error::Error};

/// The shortest time to live of a lease, in seconds: a lease has to survive an election.
pub const MIN_TTL: i64 = 2;

/// How many leases there may be.
pub const MAX_LEASES: usize = 1 << 18;

/// Roughly how many bytes a lease takes in memory.
const LEASE_BYTES: u64 = 64;

/// The leases: their ids, and their times to live.
///
/// ```
/// use broadcast_store::{LogId, machine::{Command, State}};
///
/// let mut state = State::new();
/// state.apply(LogId { term: 1, index: 1 }, &Command::grant(7, 60))?;
/// assert_eq!(state.leases().ttl(7), Some(60));
/// # Ok::<(), broadcast_store::ApplyError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Leases {
    ttls: CowMap<i64, i64>,
    /// Counts grants and ends since this member started or read a snapshot.
    changes: u64,
}

impl Leases {
    /// Whether a lease exists.
    pub fn contains(&self, lease: i64) -> bool {
        self.ttls.get(&lease).is_some()
    }

    /// The time to live of a lease, in seconds.
    pub fn ttl(&self, lease: i64) -> Option<i64> {
        self.ttls.get(&lease).copied()
    }

    /// The leases and their times to live, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (i64, i64)> {
        self.ttls.iter().map(|(lease, ttl)| (*lease, *ttl))
    }

    /// How many leases exist.
    pub fn len(&self) -> usize {
        self.ttls.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number that grows with each change, so that timers notice one cheaply.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Grants a lease; returns its time to live, which is at least [`MIN_TTL`]. As in etcd, id 0 means "no lease"; here the
    /// proposer has to choose an id.
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
