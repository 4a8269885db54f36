//! How many messages a node keeps for members that lack them, and for how long.

use broadcast::{Retention, config::ByteSize};
use clap::Args;

use super::values::{duration, problem};

/// See [`Retention`], whose defaults these are.
#[derive(Debug, Args)]
pub(crate) struct RetentionArgs {
    /// How many messages the node keeps for members that lack them: this many of its own, and this many of all others
    #[arg(long, env = "BROADCAST_RETAIN_MESSAGES", value_name = "COUNT", default_value_t = Retention::default().retain_messages, value_parser = retain_messages)]
    retain_messages: usize,

    /// How many bytes of messages the node keeps, half of them for its own: 64MiB, 64MB or a number of bytes
    #[arg(long, env = "BROADCAST_RETAIN_BYTES", value_name = "SIZE", default_value_t = ByteSize(Retention::default().retain_bytes), value_parser = retain_bytes)]
    retain_bytes: ByteSize,

    /// How long publishers wait for a member that acknowledges nothing
    #[arg(long, env = "BROADCAST_LAG_LIMIT", value_name = "DURATION", default_value_t = Retention::default().lag_limit.into(), value_parser = lag_limit)]
    lag_limit: humantime::Duration,
}

impl From<RetentionArgs> for Retention {
    fn from(args: RetentionArgs) -> Self {
        let RetentionArgs { retain_messages, retain_bytes: ByteSize(retain_bytes), lag_limit } = args;
        Self { retain_messages, retain_bytes, lag_limit: *lag_limit }
    }
}

fn retain_messages(text: &str) -> Result<usize, String> {
    let retain_messages = text.trim().parse().map_err(|_| "not a whole number of messages")?;
    check(Retention { retain_messages, ..Retention::default() }).map(|()| retain_messages)
}

fn retain_bytes(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    check(Retention { retain_bytes: size.0, ..Retention::default() }).map(|()| size)
}

fn lag_limit(text: &str) -> Result<humantime::Duration, String> {
    let lag_limit = duration(text)?;
    check(Retention { lag_limit, ..Retention::default() }).map(|()| lag_limit.into())
}

fn check(retention: Retention) -> Result<(), String> {
    retention.validate().map_err(problem)
}
