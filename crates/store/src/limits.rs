//! Bounds and names that errors tell, and the modules that have them.

/// The most bytes of a request: keys, values and all.
pub const MAX_REQUEST: usize = 3 << 19;

/// The most operations, and the most comparisons, of a transaction, nested ones included.
pub const MAX_OPS: usize = 128;

/// The most bytes that a transaction may read, each key counted as it is against the quota.
pub const MAX_TXN_READ: u64 = 32 << 20;

/// The most keys that a transaction may look at, to compare, count or read them. It bounds how long others wait.
pub const MAX_TXN_KEYS: u64 = 1 << 20;

/// The most that a lease lives, in seconds.
pub const MAX_TTL: i64 = 9_000_000_000;

/// What a snapshot begins with.
pub const MAGIC: &str = "broadcast-store";

/// The name under which the state itself has commands: for leases, clients and quotas.
pub const NAME: &str = "store";
