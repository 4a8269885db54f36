//! Who may become a member: the networks that are allowed, and what the application says.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{ConfigError, MAX_NETWORKS};

/// What a node says about itself, or another says about it, before it is believed. See [`Config::admit`](super::Config::admit)
/// for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim<'a> {
    /// The node's name.
    pub name: &'a [u8],
    /// Where it says that it listens.
    pub addr: SocketAddr,
    /// Its metadata.
    pub meta: &'a [u8],
    /// Its versions as memberlist has them: protocol min, max and current, delegate min, max and current.
    pub versions: [u8; 6],
    /// Whether it is said to be there: alive or suspect.
    pub live: bool,
}

impl<'a> Claim<'a> {
    pub(crate) fn new(name: &'a [u8], addr: SocketAddr, meta: &'a [u8], versions: [u8; 6], live: bool) -> Self {
        Self { name, addr, meta, versions, live }
    }
}

/// What the filter of [`Config::admit`](super::Config::admit) decides on.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Candidate<'a> {
    /// A node that would become a member, come back, or change its metadata or its address (memberlist's
    /// `AliveDelegate`).
    Member(Claim<'a>),
    /// The whole view of a node that joins, or that this node joins through (memberlist's `MergeDelegate`). If it is
    /// refused, nothing in it is believed.
    View(&'a [Claim<'a>]),
}

/// An application's filter of candidates: `Err` refuses one, and says why. See [`Config::admit`](super::Config::admit).
pub type AdmissionFilter = dyn Fn(Candidate<'_>) -> Result<(), String> + Send + Sync;

/// Who may become a member. [`Config::allow`](super::Config::allow) and [`Config::admit`](super::Config::admit) set it.
#[derive(Clone, Default)]
pub struct Admission {
    /// The networks that members may be in, at most [`MAX_NETWORKS`]; everywhere if there are none.
    pub networks: Vec<IpNet>,
    /// The application's filter, if it has one.
    pub filter: Option<Arc<AdmissionFilter>>,
}

impl Admission {
    /// Whether a member may have this address.
    pub(crate) fn allows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.networks.is_empty() || self.networks.iter().any(|network| network.contains(&ip))
    }

    /// What the application decides on a candidate.
    pub(crate) fn decide(&self, candidate: Candidate<'_>) -> Result<(), String> {
        self.filter.as_ref().map_or(Ok(()), |filter| filter(candidate))
    }

    /// Whether the application decides on anything.
    pub(crate) fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check_networks(&self.networks)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { networks, filter } = self;
        f.debug_struct("Admission").field("networks", networks).field("filter", &filter.is_some()).finish()
    }
}

/// Checks whether members can be limited to these networks.
///
/// # Errors
///
/// There are more than [`MAX_NETWORKS`].
pub fn check_networks(networks: &[IpNet]) -> Result<(), ConfigError> {
    if networks.len() > MAX_NETWORKS {
        return Err(ConfigError::TooManyNetworks { count: networks.len() });
    }
    Ok(())
}

/// Reads one network: `10.0.0.0/8`, `fd00::/8`, or a single address.
///
/// ```
/// use broadcast::config::parse_network;
///
/// assert_eq!(parse_network("192.0.2.7")?, parse_network("192.0.2.7/32")?);
/// # Ok::<(), broadcast::ConfigError>(())
/// ```
///
/// # Errors
///
/// It is neither.
pub fn parse_network(text: &str) -> Result<IpNet, ConfigError> {
    let text = text.trim();
    let single_address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| single_address()).map_err(|_| ConfigError::Network {
        value: text.into(),
        problem: "write an address and the length of its prefix, like 10.0.0.0/8 or fd00::/8",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing(networks: &[&str]) -> Admission {
        let networks = networks.iter().map(|text| parse_network(text).expect("a network")).collect();
        Admission { networks, filter: None }
    }

    #[test]
    fn a_list_allows_its_networks_and_no_list_everything() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let some = allowing(&["10.0.0.0/8", "fd00::/8", "192.0.2.7"]);
        for (address, allowed) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
        ] {
            assert_eq!(some.allows(ip(address)), allowed, "{address}");
            assert!(allowing(&[]).allows(ip(address)), "{address}");
        }
    }

    #[test]
    fn what_is_no_network_is_named_with_its_remedy() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "fd00::/129", "10.0.0.0/"] {
            let error = parse_network(text).expect_err(text).to_string();
            assert!(error.contains(&format!("{text:?}")) && error.contains("like 10.0.0.0/8"), "{error}");
        }
    }
}
