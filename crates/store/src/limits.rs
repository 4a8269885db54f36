//! Limits and names that both the errors and the modules need.

/// The most bytes of a request, keys and values included: etcd's default, 1.5 MiB.
pub const MAX_REQUEST: usize = 3 << 19;

/// The most operations, and the most comparisons, of a transaction, nested ones included.
pub const MAX_OPS: usize = 128;

/// The most bytes that a transaction may read; each key counts as it does against the quota.
pub const MAX_TXN_READ: u64 = 32 << 20;

/// The most keys that a transaction may look at, to compare, count or read them. Other commands wait meanwhile.
pub const MAX_TXN_KEYS: u64 = 1 << 20;

/// The longest time to live of a lease, in seconds.
pub const MAX_TTL: i64 = 9_000_000_000;

/// The first bytes of a snapshot.
pub const MAGIC: &str = "broadcast-store";

/// The name of the state itself among the machines: it has the commands for leases, clients and quotas.
pub const NAME: &str = "store";
