//! What others can make a node hold, and do, at most.

use std::ops::RangeInclusive;

use super::{ConfigError, range};
use crate::wire::limits;

/// What others can make a node hold at most, whatever they send. What exceeds a bound is dropped, told as
/// [`Event::Rejected`](crate::Event::Rejected), and counted in [`Metrics`](crate::Metrics).
///
/// What is kept of messages is bounded by [`Limits`](super::Limits), the time a stream may take by
/// [`Tuning::tcp_timeout`](super::Tuning), and what one packet can cost by the constants of
/// [`wire::limits`](crate::wire::limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many members are remembered, the dead and this node included, and how many a view may name. A
    /// stranger's made-up members are let in until there are so many, and there is no room for others then until
    /// they are found dead: a cluster that knows its size does well to say so, with room for twice as many.
    pub max_members: usize,
    /// How many streams others may have open to this node at once.
    pub max_streams: usize,
    /// What all streams together may hold of what has not come to an end, in bytes: what was sent, and what was made
    /// of it so far.
    pub max_stream_bytes: usize,
    /// What one stream may carry. Of the records in a view at most [`max_members`](Self::max_members) as well:
    /// who tells of more is not listened to, however often it names the same one.
    pub stream: limits::StreamLimits,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            max_members: 100_000,
            max_streams: 128,
            max_stream_bytes: 64 << 20,
            stream: limits::StreamLimits::default(),
        }
    }
}

/// The largest message has to fit in a stream.
const MESSAGE: usize = 2 << 20;

impl Bounds {
    /// What [`max_members`](Self::max_members) may be.
    pub const MAX_MEMBERS: RangeInclusive<usize> = 2..=1 << 20;
    /// What [`max_streams`](Self::max_streams) may be.
    pub const MAX_STREAMS: RangeInclusive<usize> = 1..=65_536;
    /// What [`max_stream_bytes`](Self::max_stream_bytes) may be.
    pub const MAX_STREAM_BYTES: RangeInclusive<usize> = MESSAGE..=1 << 40;

    /// What a stream may carry: a view names no more members than are remembered.
    pub(crate) fn stream(&self) -> limits::StreamLimits {
        let push_pull_nodes = self.stream.push_pull_nodes.min(self.max_members);
        limits::StreamLimits { push_pull_nodes, ..self.stream }
    }

    /// Whether a node can have them.
    ///
    /// # Errors
    ///
    /// Which cannot be, and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        range::check("max_members", self.max_members, &Self::MAX_MEMBERS)?;
        range::check("max_streams", self.max_streams, &Self::MAX_STREAMS)?;
        range::check_size("max_stream_bytes", self.max_stream_bytes, &Self::MAX_STREAM_BYTES)?;
        let most = limits::StreamLimits::default();
        let stream = &self.stream;
        range::check("stream.push_pull_nodes", stream.push_pull_nodes, &(2..=most.push_pull_nodes))?;
        for (setting, bytes, least, most) in [
            ("stream.user_message", stream.user_message, MESSAGE, most.user_message),
            ("stream.user_state", stream.user_state, 64 << 10, most.user_state),
            ("stream.whole", stream.whole, MESSAGE, most.whole),
            ("stream.decompressed", stream.decompressed, MESSAGE, most.decompressed),
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
    fn bounds_are_checked() {
        assert_eq!(Bounds::default().validate(), Ok(()));
        type Change = fn(&mut Bounds);
        let changes: [(&str, Change); 6] = [
            ("max_members", |b| b.max_members = 1),
            ("max_streams", |b| b.max_streams = 0),
            ("max_stream_bytes", |b| b.max_stream_bytes = 1),
            ("stream.user_message", |b| b.stream.user_message = 21 << 20),
            ("stream.push_pull_nodes", |b| b.stream.push_pull_nodes = 1),
            ("stream.decompressed", |b| b.stream.decompressed = usize::MAX),
        ];
        for (setting, change) in changes {
            let mut bounds = Bounds::default();
            change(&mut bounds);
            let error = bounds.validate().expect_err(setting).to_string();
            assert!(error.starts_with(&format!("`{setting}` = ")), "{error}");
        }
    }
}
