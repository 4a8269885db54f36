//! How a node starts on a host.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use crate::{
    Envelope,
    config::{Config, DEFAULT_PORT, Retention, Seed, Tuning},
    member::NodeName,
    membership::Cohort,
    node::{AdvertisedHost, Node, NodeConfig},
};

/// Where a node has its address from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AddressSource {
    /// Its host's address at the start; it never changes.
    #[default]
    Fixed,
    /// Its host's address at any time, which the node guesses.
    Guessed,
    /// A lookup of the host's name.
    Named,
}

/// How to start a node.
#[derive(Clone, Debug)]
pub(crate) struct BootOptions<'a> {
    pub(crate) seeds: &'a [Seed],
    pub(crate) tuning: &'a Tuning,
    pub(crate) limits: Retention,
    pub(crate) envelope: Envelope,
    /// Whether it asks the others for what they retain.
    pub(crate) replay: bool,
    /// The host's wall clock, in microseconds since 1970.
    pub(crate) epoch: u64,
    pub(crate) address_source: AddressSource,
    /// The members that it knows from the start.
    pub(crate) cohort: Option<&'a Arc<Cohort>>,
}

impl<'a> BootOptions<'a> {
    /// With this tuning, without seeds, and otherwise with the defaults.
    pub(crate) fn new(tuning: &'a Tuning) -> Self {
        Self {
            seeds: &[],
            tuning,
            limits: Retention::default(),
            envelope: Envelope::default(),
            replay: false,
            epoch: 1,
            address_source: AddressSource::Fixed,
            cohort: None,
        }
    }

    /// Starts a node at `now`, on a host of this name and address.
    pub(super) fn start(&self, now: Instant, name: &NodeName, addr: SocketAddr, rng_seed: u64) -> Node {
        let config = Config::new(name.to_string())
            .join(self.seeds.iter().cloned())
            .tuning(self.tuning.clone())
            .retention(self.limits)
            .replay(self.replay)
            .envelope(self.envelope.clone());
        // It differs for each life, as the seed does.
        let nonce = (u128::from(rng_seed) << 64).to_be_bytes()[..12].try_into().expect("12 bytes of 16");
        let config = NodeConfig { epoch: self.epoch, rng_seed, nonce, ..NodeConfig::new(config, addr) };
        let mut node = Node::new(now, config);
        if let Some(cohort) = self.cohort {
            node.acquaint(now, cohort);
        }
        match self.address_source {
            AddressSource::Fixed => {}
            AddressSource::Guessed => node.guess_address(now),
            AddressSource::Named => {
                let host = Seed { host: name.to_string(), port: DEFAULT_PORT };
                node.follow(now, AdvertisedHost { host, ipv6: false });
            }
        }
        node
    }
}
