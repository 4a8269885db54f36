//! The name of an entry of the log. Both the log and the state machine use it, and neither knows the other.

/// The term and the index of an entry of Raft's log: together they name it. What Raft's papers call a log id.
///
/// Of two logs the one whose last entry has the greater log id is the newer one: a later term counts for more than a longer
/// log.
///
/// ```
/// use broadcast_store::LogId;
///
/// assert!(LogId { term: 3, index: 7 } > LogId { term: 2, index: 9 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId {
    /// The term of the leader that appended the entry.
    pub term: u64,
    /// The entry's place in the log; the first entry of a cluster has 0.
    pub index: u64,
}
