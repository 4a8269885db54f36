//! Where a node serves etcd's clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use broadcast_etcd::DEFAULT_PORT;
use clap::Args;

use super::http::Listen;

/// Where a voter serves them unless told otherwise.
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
    etcd: Option<Listen>,
}

fn listen(text: &str) -> Result<Listen, String> {
    Listen::read(text, DEFAULT_PORT)
}

impl EtcdArgs {
    /// Whether nobody has said where they are to be served.
    pub(crate) fn is_by_default(&self) -> bool {
        self.etcd.is_none()
    }

    /// Where they are to be served, if they are, by a node that votes or not.
    pub(crate) fn addr(&self, votes: bool) -> Option<SocketAddr> {
        match self.etcd {
            Some(Listen::Off) => None,
            Some(Listen::At(addr)) => Some(addr),
            None => votes.then_some(DEFAULT),
        }
    }
}
