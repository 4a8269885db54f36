//! The zones of link-local IPv6 addresses: on which of the host's links they are (RFC 4007).
//!
//! A link-local address is complete only with its link, and memberlist's messages carry no links. So the node handles
//! link-local addresses without zones, and the driver adds them: to a configured address the zone it was configured with, to
//! any other the zone of the node's own address, or else of its seeds, since such peers are on the same link.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use nix::net::if_;

use crate::config::MAX_SEEDS;

/// Adds the zones to link-local addresses; see the [module](self).
#[derive(Clone, Debug, Default)]
pub(super) struct Zones {
    /// The zones of configured addresses.
    configured: BTreeMap<Ipv6Addr, u32>,
    /// The zone of all other addresses; 0 for none.
    default: u32,
}

impl Zones {
    /// Remembers the zone of a configured address, if it has one. The first one becomes the default.
    pub(super) fn learn(&mut self, addr: SocketAddr) {
        let SocketAddr::V6(addr) = addr else { return };
        if addr.scope_id() == 0 {
            return;
        }
        if self.default == 0 {
            self.default = addr.scope_id();
        }
        if self.configured.len() < MAX_SEEDS || self.configured.contains_key(addr.ip()) {
            self.configured.insert(*addr.ip(), addr.scope_id());
        }
    }

    /// The address as the system needs it.
    pub(super) fn with_zone(&self, addr: SocketAddr) -> SocketAddr {
        match addr {
            SocketAddr::V6(v6) if v6.scope_id() == 0 && v6.ip().is_unicast_link_local() => {
                let zone = self.configured.get(v6.ip()).copied().unwrap_or(self.default);
                SocketAddrV6::new(*v6.ip(), v6.port(), v6.flowinfo(), zone).into()
            }
            addr => addr,
        }
    }
}

/// The address as the node knows it.
pub(super) fn without_zone(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => SocketAddr::new(IpAddr::V6(*v6.ip()), v6.port()),
        addr => addr,
    }
}

/// The index of the interface that a zone names, by its name or its index.
///
/// # Errors
///
/// This host has no such interface, or the interfaces cannot be listed.
///
/// ```
/// let loopback = if cfg!(target_os = "linux") { "lo" } else { "lo0" };
/// let index = broadcast::zones::interface_index(loopback)?;
/// assert_eq!(broadcast::zones::interface_index(&index.to_string()), Ok(index));
/// # Ok::<(), String>(())
/// ```
pub fn interface_index(zone: &str) -> Result<u32, String> {
    let interfaces = if_::if_nameindex().map_err(|error| format!("cannot list this host's interfaces: {error}"))?;
    let is_it = |interface: &&if_::Interface| {
        interface.name().to_bytes() == zone.as_bytes() || zone.parse() == Ok(interface.index())
    };
    interfaces.iter().find(is_it).map(if_::Interface::index).ok_or_else(|| {
        let names: Vec<_> = interfaces.iter().map(|interface| interface.name().to_string_lossy()).collect();
        format!("this host has no interface {zone:?}; it has {}", names.join(", "))
    })
}

#[doc(hidden)]
#[deprecated(note = "now `interface_index`")]
pub fn number(zone: &str) -> Result<u32, String> {
    interface_index(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_zone_is_the_name_or_the_number_of_an_interface() {
        let loopback = interface_index("lo").expect("every host has it");
        assert_eq!(interface_index(&loopback.to_string()), Ok(loopback));
        let error = interface_index("no-such").expect_err("it is not there");
        assert!(
            error.starts_with("this host has no interface \"no-such\"; it has ") && error.contains("lo"),
            "{error}"
        );
        assert!(interface_index("4294967295").is_err());
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
