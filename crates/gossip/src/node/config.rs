//! What a node begins with.

use crate::{
    config::Config,
    wire::{Address, Nonce},
};

/// What a node needs to know, once the outside is settled.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// What was chosen. [`bind`](Config::bind), [`advertise`](Config::advertise) and [`faults`](Config::faults) are for
    /// who drives the node, and are not looked at here.
    pub config: Config,
    /// Where others reach it.
    pub address: Address,
    /// When this node starts, in microseconds since 1970.
    pub epoch: u64,
    /// Seeds the node's random choices.
    pub rng_seed: u64,
    /// Where the nonces begin: at a place no other life of a node of this cluster begins at.
    pub nonce: Nonce,
}

impl NodeConfig {
    /// A node at this address. Who runs more than one gives each its own `rng_seed` and, with keys, `nonce`; who starts
    /// one again gives it a larger `epoch`.
    #[must_use]
    pub fn new(config: Config, address: impl Into<Address>) -> Self {
        Self { config, address: address.into(), epoch: 1, rng_seed: 1, nonce: Nonce::default() }
    }
}
