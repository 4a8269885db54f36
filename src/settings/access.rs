//! Which members a node lets in, what it tells them about itself, and how many resources they can make it spend.

use broadcast::{
    Config, ConfigError, ResourceLimits,
    config::{ByteSize, IpNet, check_meta, check_networks, parse_network},
    wire::limits,
};
use clap::Args;

use super::values::problem;

#[derive(Debug, Args)]
pub(crate) struct AccessArgs {
    #[arg(
        long,
        env = "BROADCAST_META",
        value_name = "TEXT",
        value_parser = meta,
        help = format!(
            "What the node tells the others about itself, at most {} bytes [default: nothing]",
            limits::META
        )
    )]
    meta: Option<String>,

    /// Networks that members may be in, like 10.0.0.0/8,fd00::/8 [default: all]
    #[arg(long, env = "BROADCAST_ALLOW", value_name = "NETWORKS", value_parser = networks)]
    allow: Option<Networks>,

    /// How many members the node remembers, including dead ones; it lets in no more
    #[arg(long, env = "BROADCAST_MAX_MEMBERS", value_name = "COUNT", default_value_t = ResourceLimits::default().max_members, value_parser = max_members)]
    max_members: usize,

    /// How many connections others may have open to this node at once
    #[arg(long, env = "BROADCAST_MAX_STREAMS", value_name = "COUNT", default_value_t = ResourceLimits::default().max_streams, value_parser = max_streams)]
    max_streams: usize,

    /// How many bytes of incomplete messages all connections together may hold
    #[arg(long, env = "BROADCAST_MAX_STREAM_BYTES", value_name = "SIZE", default_value_t = ByteSize(ResourceLimits::default().max_stream_bytes), value_parser = max_stream_bytes)]
    max_stream_bytes: ByteSize,
}

/// A list of networks. The alias has clap take it for one value.
type Networks = Vec<IpNet>;

impl AccessArgs {
    pub(crate) fn apply(self, config: Config) -> Config {
        let Self { meta, allow, max_members, max_streams, max_stream_bytes: ByteSize(max_stream_bytes) } = self;
        config.meta(meta.unwrap_or_default()).allow(allow.unwrap_or_default()).resource_limits(ResourceLimits {
            max_members,
            max_streams,
            max_stream_bytes,
            ..ResourceLimits::default()
        })
    }
}

fn meta(text: &str) -> Result<String, ConfigError> {
    check_meta(text.as_bytes()).map(|()| text.into())
}

fn networks(text: &str) -> Result<Networks, String> {
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let networks =
        items.map(|item| parse_network(item).map_err(|error| error.to_string())).collect::<Result<Networks, _>>()?;
    // An empty list is a mistake: it must not let in everybody, and nobody wants to let in none.
    if networks.is_empty() {
        return Err("it names no network; leave it out to allow all".into());
    }
    check_networks(&networks).map_err(problem).map(|()| networks)
}

fn max_members(text: &str) -> Result<usize, String> {
    let max_members = count(text)?;
    check(ResourceLimits { max_members, ..ResourceLimits::default() }).map(|()| max_members)
}

fn max_streams(text: &str) -> Result<usize, String> {
    let max_streams = count(text)?;
    check(ResourceLimits { max_streams, ..ResourceLimits::default() }).map(|()| max_streams)
}

fn max_stream_bytes(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    check(ResourceLimits { max_stream_bytes: size.0, ..ResourceLimits::default() }).map(|()| size)
}

fn count(text: &str) -> Result<usize, String> {
    text.trim().parse().map_err(|_| "not a whole number; write one like 1000".into())
}

fn check(limits: ResourceLimits) -> Result<(), String> {
    limits.validate().map_err(problem)
}
