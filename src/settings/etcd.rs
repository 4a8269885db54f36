//! Where a node serves clients of etcd.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use broadcast_etcd::DEFAULT_PORT;
use clap::Args;

use super::http::ListenAddress;

/// The default address on a voter.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct EtcdArgs {
    #[arg(
        long,
        env = "BROADCAST_ETCD",
        value_name = "ADDRESS",
        value_parser = listen,
        help = format!(
            "Address at which the store is served to clients of etcd, IP or IP:PORT, or off; any node may serve it, with the \
             tokens and TLS of the HTTP API [default: {DEFAULT} on a voter, unless that is taken; off elsewhere]"
        )
    )]
    etcd: Option<ListenAddress>,
}

fn listen(text: &str) -> Result<ListenAddress, String> {
    ListenAddress::parse(text, DEFAULT_PORT)
}

impl EtcdArgs {
    /// Whether the setting is not set.
    pub(crate) fn is_by_default(&self) -> bool {
        self.etcd.is_none()
    }

    /// The address to listen on, if any. The default depends on whether the node votes.
    pub(crate) fn addr(&self, votes: bool) -> Option<SocketAddr> {
        match self.etcd {
            Some(ListenAddress::Off) => None,
            Some(ListenAddress::At(addr)) => Some(addr),
            None => votes.then_some(DEFAULT),
        }
    }
}
