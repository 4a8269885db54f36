//! How a node is started.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use crate::{
    Envelope,
    config::{Config, DEFAULT_PORT, Retention, Seed, Tuning},
    member::NodeName,
    membership::Cohort,
    node::{AdvertisedHost, Node, NodeConfig},
};

/// What a node takes for its address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Advertises {
    /// The one its host has when it starts.
    #[default]
    Fixed,
    /// The one its host has.
    Guessed,
    /// The one that its name leads to.
    Named,
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub(crate) struct Boot<'a> {
    pub(crate) seeds: &'a [Seed],
    pub(crate) tuning: &'a Tuning,
    pub(crate) limits: Retention,
    pub(crate) envelope: Envelope,
    /// Whether it begins with what the others still retain.
    pub(crate) replay: bool,
    /// What the host's wall clock says, in microseconds since 1970.
    pub(crate) epoch: u64,
    pub(crate) advertises: Advertises,
    /// Whom it knows from the start.
    pub(crate) acquainted: Option<&'a Arc<Cohort>>,
}

impl Boot<'_> {
    /// A node that begins at `now`, on a host of that name at that address.
    pub(super) fn start(&self, now: Instant, name: &NodeName, addr: SocketAddr, rng_seed: u64) -> Node {
        let config = Config::new(name.to_string())
            .join(self.seeds.iter().cloned())
            .tuning(self.tuning.clone())
            .retention(self.limits)
            .replay(self.replay)
            .envelope(self.envelope.clone());
        // Different for each life, as the seed is.
        let nonce = (u128::from(rng_seed) << 64).to_be_bytes()[..12].try_into().expect("12 bytes of 16");
        let config = NodeConfig { epoch: self.epoch, rng_seed, nonce, ..NodeConfig::new(config, addr) };
        let mut node = Node::new(now, config);
        if let Some(cohort) = self.acquainted {
            node.acquaint(now, cohort);
        }
        match self.advertises {
            Advertises::Fixed => {}
            Advertises::Guessed => node.guess_address(now),
            Advertises::Named => {
                let host = Seed { host: name.to_string(), port: DEFAULT_PORT };
                node.follow(now, AdvertisedHost { host, ipv6: false });
            }
        }
        node
    }
}
