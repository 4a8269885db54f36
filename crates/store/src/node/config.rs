//! The settings of a node's store.

use std::{path::PathBuf, time::Duration};

use crate::machine::Machines;

/// The default of [`StoreConfig::replace_after`].
pub const REPLACE_AFTER: Duration = Duration::from_secs(300);
/// The default of [`StoreConfig::request_timeout`].
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How a node takes part in the store.
///
/// ```
/// use std::time::Duration;
/// use broadcast_store::StoreConfig;
///
/// // A node that does not vote needs no settings.
/// let reader = StoreConfig::default();
/// let voter = StoreConfig::default()
///     .voters(["node1", "node2", "node3"])
///     .data("/var/lib/broadcast")
///     .replace_after(Duration::from_secs(600));
/// # let _ = (reader, voter);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreConfig {
    /// The names of the voters that found the store together; all of them need the same list. Empty on a node that does not
    /// vote.
    ///
    /// More voters survive more failures: three bear the loss of one, five that of two. Fewer agree faster, and send fewer
    /// messages. An even number bears no more than the odd one below it.
    pub voters: Vec<String>,
    /// The directory in which a voter keeps its log and snapshots.
    ///
    /// With one, a voter that restarts goes on where it was, and each change waits for the disk's sync. Without one all is in
    /// memory and faster, but a voter that restarts is another node that has to be told everything, and the store is gone when
    /// all voters restart at once.
    pub data: Option<PathBuf>,
    /// How long the leader waits for a voter that lost its disk, before a node of the same name with an empty disk takes its
    /// place; 5 minutes by default.
    ///
    /// Shorter, and the store has all its voters again sooner; but a disk that was only slow to come back is given up. Longer,
    /// and a further failure may cost the quorum meanwhile.
    pub replace_after: Duration,
    /// How long a request waits for a leader that answers; 10 seconds by default.
    ///
    /// Longer, and callers notice fewer elections and restarts; shorter, and they learn sooner that there is no quorum. An
    /// election takes about a second: less than that turns each one into errors.
    pub request_timeout: Duration,
    /// The machines that a voter keeps besides users' keys, such as locks.
    ///
    /// Each takes memory and room in snapshots. All voters should have the same: a command for a machine that one of them
    /// lacks is refused.
    pub machines: Machines,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            voters: Vec::new(),
            data: None,
            replace_after: REPLACE_AFTER,
            request_timeout: REQUEST_TIMEOUT,
            machines: Machines::default(),
        }
    }
}

impl StoreConfig {
    /// Makes this node one of these voters. See [`StoreConfig::voters`](Self#structfield.voters).
    #[must_use]
    pub fn voters(mut self, voters: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.voters = voters.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the directory of a voter. See [`StoreConfig::data`](Self#structfield.data).
    #[must_use]
    pub fn data(mut self, path: impl Into<PathBuf>) -> Self {
        self.data = Some(path.into());
        self
    }

    /// Sets the machines of a voter. See [`StoreConfig::machines`](Self#structfield.machines).
    #[must_use]
    pub fn machines(mut self, machines: Machines) -> Self {
        self.machines = machines;
        self
    }

    /// Sets how long a voter that lost its disk is waited for. See
    /// [`StoreConfig::replace_after`](Self#structfield.replace_after).
    #[must_use]
    pub fn replace_after(mut self, time: Duration) -> Self {
        self.replace_after = time;
        self
    }
}
