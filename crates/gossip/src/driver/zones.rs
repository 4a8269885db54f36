//! The zones of link-local IPv6 addresses: which of the host's links they are on (RFC 4007).
//!
//! Such an address is one only together with its link, and memberlist's messages carry no link. So the node
//! itself knows link-local addresses without their zones, as it hears of them from others; here they get the one
//! they were configured with, and all others the zone of the node's own address, or else of its seeds: who is
//! reached at such addresses is on the same link.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use nix::net::if_;

use crate::config::MAX_SEEDS;

/// The zones of addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Zones {
    /// As they were configured.
    of: BTreeMap<Ipv6Addr, u32>,
    /// That of all others; 0 for none.
    other: u32,
}

impl Zones {
    /// A configured address may have a zone. The first one's is taken for addresses that come without.
    pub(super) fn learn(&mut self, addr: SocketAddr) {
        let SocketAddr::V6(addr) = addr else { return };
        if addr.scope_id() == 0 {
            return;
        }
        if self.other == 0 {
            self.other = addr.scope_id();
        }
        if self.of.len() < MAX_SEEDS || self.of.contains_key(addr.ip()) {
            self.of.insert(*addr.ip(), addr.scope_id());
        }
    }

    /// The same address, for the system.
    pub(super) fn with_zone(&self, addr: SocketAddr) -> SocketAddr {
        match addr {
            SocketAddr::V6(v6) if v6.scope_id() == 0 && v6.ip().is_unicast_link_local() => {
                let zone = self.of.get(v6.ip()).copied().unwrap_or(self.other);
                SocketAddrV6::new(*v6.ip(), v6.port(), v6.flowinfo(), zone).into()
            }
            addr => addr,
        }
    }
}

/// The same address, for the node.
pub(super) fn without_zone(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => SocketAddr::new(IpAddr::V6(*v6.ip()), v6.port()),
        addr => addr,
    }
}

/// The number of the interface that a zone names, by its name or its number.
///
/// # Errors
///
/// This host has no such interface, or they cannot be listed.
pub fn number(zone: &str) -> Result<u32, String> {
    let interfaces = if_::if_nameindex().map_err(|error| format!("cannot list this host's interfaces: {error}"))?;
    let is_it = |interface: &&if_::Interface| {
        interface.name().to_bytes() == zone.as_bytes() || zone.parse() == Ok(interface.index())
    };
    interfaces.iter().find(is_it).map(if_::Interface::index).ok_or_else(|| {
        let names: Vec<_> = interfaces.iter().map(|interface| interface.name().to_string_lossy()).collect();
        format!("this host has no interface {zone:?}; it has {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_zone_is_the_name_or_the_number_of_an_interface() {
        let loopback = number("lo").expect("every host has it");
        assert_eq!(number(&loopback.to_string()), Ok(loopback));
        let error = number("no-such").expect_err("it is not there");
        assert!(
            error.starts_with("this host has no interface \"no-such\"; it has ") && error.contains("lo"),
            "{error}"
        );
        assert!(number("4294967295").is_err());
    }

    #[test]
    fn link_local_addresses_get_the_zone_they_were_configured_with_or_the_first_one() {
        let mut zones = Zones::default();
        assert_eq!(zones.with_zone(addr("[fe80::1]:7")), addr("[fe80::1]:7"));
        zones.learn(addr("10.0.0.1:7"));
        zones.learn(addr("[fd00::1]:7"));
        zones.learn(addr("[fe80::1%3]:7"));
        zones.learn(addr("[fe80::2%4]:7"));
        assert_eq!(zones.with_zone(addr("[fe80::1]:9")), addr("[fe80::1%3]:9"));
        assert_eq!(zones.with_zone(addr("[fe80::2]:9")), addr("[fe80::2%4]:9"));
        assert_eq!(zones.with_zone(addr("[fe80::3]:9")), addr("[fe80::3%3]:9"));
        for other in ["10.0.0.1:7", "[fd00::1]:7", "[::1]:7"] {
            assert_eq!(zones.with_zone(addr(other)), addr(other));
        }
        assert_eq!(without_zone(addr("[fe80::2%4]:9")), addr("[fe80::2]:9"));
        assert_eq!(without_zone(addr("10.0.0.1:7")), addr("10.0.0.1:7"));
    }
}
