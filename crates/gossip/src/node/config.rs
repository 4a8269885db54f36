//! What a node starts with.

use crate::{
    config::Config,
    wire::{Address, Nonce},
};

/// The configuration of a [`Node`](super::Node) with what its driver has settled. See the [module's example](super).
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The user's configuration. [`bind`](Config::bind), [`advertise`](Config::advertise) and [`faults`](Config::faults) are for
    /// the driver, and not used here.
    pub config: Config,
    /// Where others reach the node.
    pub address: Address,
    /// When this node starts, in microseconds since 1970.
    pub epoch: u64,
    /// Seeds the node's random numbers.
    pub rng_seed: u64,
    /// The first nonce for encryption. No other run of a node of the cluster may start with a nonce near it.
    pub nonce: Nonce,
}

impl NodeConfig {
    /// A node at this address. If you run more than one, give each its own `rng_seed` and, with keys, `nonce`; if you start one
    /// again, give it a larger `epoch`.
    #[must_use]
    pub fn new(config: Config, address: impl Into<Address>) -> Self {
        Self { config, address: address.into(), epoch: 1, rng_seed: 1, nonce: Nonce::default() }
    }
}
