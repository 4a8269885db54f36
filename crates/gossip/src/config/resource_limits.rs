//! What others can make a node hold at most.

use std::ops::RangeInclusive;

use super::{ConfigError, range};
use crate::wire::limits;

/// What others can make a node hold at most, whatever they send. What exceeds a limit is dropped, told as
/// [`Event::Rejected`](crate::Event::Rejected), and counted in [`Metrics`](crate::Metrics).
///
/// Other limits are elsewhere: [`Retention`](super::Retention) has those of messages,
/// [`Tuning::tcp_timeout`](super::Tuning::tcp_timeout) the time that a stream may take, and
/// [`wire::limits`](crate::wire::limits) what one packet can cost.
///
/// ```
/// use broadcast::{Config, ResourceLimits};
///
/// // A cluster of 50 nodes: strangers cannot fill its memory with a hundred thousand made-up members.
/// let limits = ResourceLimits { max_members: 100, ..ResourceLimits::default() };
/// let config = Config::new("node1").resource_limits(limits);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceLimits {
    /// How many members the node remembers, the dead and itself included, and how many records a view may have. By
    /// default 100,000; from 2 to 1,048,576.
    ///
    /// A cluster can grow to that many. Without a key, a stranger can make up as many, each of which takes memory and
    /// pings until it is found dead, and while all places are taken, nobody else gets in. So a cluster that knows its
    /// size does well to say so, with room for twice as many.
    pub max_members: usize,
    /// How many streams (TCP connections) others may have open to this node at once. By default 128; from 1 to 65,536.
    ///
    /// With more, many nodes can join through this one at the same time, and hostile peers are less likely to keep others
    /// out. Each takes a file descriptor and some memory.
    pub max_streams: usize,
    /// How many bytes all streams together may hold of messages that are incomplete: what has arrived, and what was made
    /// of it so far. By default 64 MiB; from 2 MiB to 1 TiB.
    ///
    /// More lets larger views and more large messages arrive at the same time. Others can make the node take that much
    /// memory.
    pub max_stream_bytes: usize,
    /// What one stream may carry: see [`StreamLimits`](limits::StreamLimits) for each field. A view may have no more
    /// records than [`max_members`](Self::max_members), either, even if several are about the same member.
    ///
    /// By default, and at most, memberlist's limits. Smaller ones protect memory; a node that sends more, and one that has
    /// more to tell about its cluster, is not heard.
    pub stream: limits::StreamLimits,
}

impl Default for ResourceLimits {
    fn default() -> Self {
        Self {
            max_members: 100_000,
            max_streams: 128,
            max_stream_bytes: 64 << 20,
            stream: limits::StreamLimits::default(),
        }
    }
}

/// Room for the largest message, which has to fit in a stream.
const LARGEST_MESSAGE: usize = 2 << 20;

impl ResourceLimits {
    /// What [`max_members`](Self::max_members) may be.
    pub const MAX_MEMBERS: RangeInclusive<usize> = 2..=1 << 20;
    /// What [`max_streams`](Self::max_streams) may be.
    pub const MAX_STREAMS: RangeInclusive<usize> = 1..=65_536;
    /// What [`max_stream_bytes`](Self::max_stream_bytes) may be.
    pub const MAX_STREAM_BYTES: RangeInclusive<usize> = LARGEST_MESSAGE..=1 << 40;

    /// What one stream may carry: a view has no more records than the node remembers members.
    pub(crate) fn stream_limits(&self) -> limits::StreamLimits {
        let push_pull_nodes = self.stream.push_pull_nodes.min(self.max_members);
        limits::StreamLimits { push_pull_nodes, ..self.stream }
    }

    /// Checks whether a node can run with this.
    ///
    /// # Errors
    ///
    /// The first field that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        range::check("max_members", self.max_members, &Self::MAX_MEMBERS)?;
        range::check("max_streams", self.max_streams, &Self::MAX_STREAMS)?;
        range::check_size("max_stream_bytes", self.max_stream_bytes, &Self::MAX_STREAM_BYTES)?;
        let most = limits::StreamLimits::default();
        let stream = &self.stream;
        range::check("stream.push_pull_nodes", stream.push_pull_nodes, &(2..=most.push_pull_nodes))?;
        for (setting, bytes, least, most) in [
            ("stream.user_message", stream.user_message, LARGEST_MESSAGE, most.user_message),
            ("stream.user_state", stream.user_state, 64 << 10, most.user_state),
            ("stream.whole", stream.whole, LARGEST_MESSAGE, most.whole),
            ("stream.decompressed", stream.decompressed, LARGEST_MESSAGE, most.decompressed),
        ] {
            range::check_size(setting, bytes, &(least..=most))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_limits_are_checked() {
        assert_eq!(ResourceLimits::default().validate(), Ok(()));
        type Change = fn(&mut ResourceLimits);
        let changes: [(&str, Change); 6] = [
            ("max_members", |b| b.max_members = 1),
            ("max_streams", |b| b.max_streams = 0),
            ("max_stream_bytes", |b| b.max_stream_bytes = 1),
            ("stream.user_message", |b| b.stream.user_message = 21 << 20),
            ("stream.push_pull_nodes", |b| b.stream.push_pull_nodes = 1),
            ("stream.decompressed", |b| b.stream.decompressed = usize::MAX),
        ];
        for (setting, change) in changes {
            let mut limits = ResourceLimits::default();
            change(&mut limits);
            let error = limits.validate().expect_err(setting).to_string();
            assert!(error.starts_with(&format!("`{setting}` = ")), "{error}");
        }
    }
}
