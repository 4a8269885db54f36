//! The address that a node advertises: where the others reach it.
//!
//! The first of these that exists: the configured address; the address that the node listens on, unless that is all
//! addresses; the source address of the route to a seed; the best address of an interface that is up. Of equally good ones,
//! it is the source address of the default route, not that of a bridge to containers. The last two are guesses. Loopback is
//! guessed only if there is nothing else.
//!
//! The node guesses again when it meets others, by the route to these, and when the address is no longer one of the host's.
//! At the start there may be no network, or no seed in DNS whose route would tell which of several addresses it is. Later
//! the host may get another address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use if_addrs::{IfOperStatus, Interface};
use tokio::time::timeout;

use super::lookup;
use crate::Seed;

/// How long the lookup of seeds may delay the start. It only makes the guess better.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(1);

/// The address to advertise for a node that listens on `listening`.
pub(super) async fn address(
    configured: Option<&Seed>,
    listening: SocketAddr,
    seeds: &[Seed],
    allows: impl Fn(IpAddr) -> bool,
) -> Result<SocketAddr, String> {
    if let Some(seed) = configured {
        return configured_address(seed, listening).await;
    }
    if !listening.ip().is_unspecified() {
        return Ok(listening);
    }
    let routed = timeout(ROUTE_TIMEOUT, route_to_any(seeds, listening.is_ipv6())).await.ok().flatten();
    let ip = match routed.filter(|ip| allows(*ip)) {
        Some(ip) => ip,
        None => match if_addrs::get_if_addrs() {
            Ok(interfaces) => {
                let allowed = |interface: &Interface| allows(interface.ip());
                let (allowed, others) = interfaces.into_iter().partition::<Vec<_>, _>(allowed);
                // If no address is allowed, the caller reports it.
                best_address(if allowed.is_empty() { &others } else { &allowed }, listening.is_ipv6(), default_route())
            }
            Err(error) => {
                return Err(format!(
                    "cannot list the interfaces to find an address to advertise: {error}; set `advertise`"
                ));
            }
        },
    };
    Ok(SocketAddr::new(ip, listening.port()))
}

/// The source address of packets to the first of these peers that is not on this host. Sends nothing.
pub(super) fn guess_by_route(peers: &[SocketAddr], ipv6: bool) -> Option<IpAddr> {
    let elsewhere = |peer: &SocketAddr| route_to(*peer).ok().filter(|ip| !ip.is_loopback() && *ip != peer.ip());
    peers.iter().filter(|peer| peer.is_ipv4() || ipv6).find_map(elsewhere)
}

/// A new guess, if the guessed address is no longer one of the host's, or is loopback although not all peers are on this
/// host. `None` if there is no better one.
pub(super) fn guess_again(current: IpAddr, peers: &[SocketAddr], ipv6: bool) -> Option<IpAddr> {
    // Listing the interfaces takes long on a host that has thousands.
    if !current.is_loopback() && UdpSocket::bind((current, 0)).is_ok() {
        return None;
    }
    let interfaces = if_addrs::get_if_addrs().ok()?;
    let is_here = interfaces.iter().any(|interface| interface.ip() == current);
    if is_here && !current.is_loopback() {
        return None;
    }
    let best = || best_address(&interfaces, ipv6, default_route());
    let all_here = is_here && !peers.is_empty();
    let guess = guess_by_route(peers, ipv6).or_else(|| (!all_here).then(best))?;
    (!guess.is_loopback()).then_some(guess)
}

async fn configured_address(seed: &Seed, listening: SocketAddr) -> Result<SocketAddr, String> {
    let refuse = |why: String| {
        format!(
            "cannot advertise {:?}: {why}; set `advertise` to an address of this node that others reach, or leave it out",
            seed.host
        )
    };
    let port = if seed.port == 0 { listening.port() } else { seed.port };
    let found = lookup::resolve(&Seed { host: seed.host.clone(), port }, lookup::TIMEOUT).await.map_err(refuse)?;
    let address = found
        .iter()
        .find(|address| address.is_ipv4() || listening.is_ipv6())
        .ok_or_else(|| refuse(format!("it is IPv6, and the node listens on {listening}")))?;
    if address.ip().is_unspecified() {
        return Err(refuse("nobody can be reached there".to_owned()));
    }
    Ok(*address)
}

/// The source address of packets to the first seed that resolves. Seeds on this host are a second choice, and none on
/// loopback.
async fn route_to_any(seeds: &[Seed], ipv6: bool) -> Option<IpAddr> {
    let mut own = None;
    for seed in seeds {
        let Ok(addresses) = lookup::resolve(seed, ROUTE_TIMEOUT).await else { continue };
        if let Some(ip) = guess_by_route(&addresses, ipv6) {
            return Some(ip);
        }
        let usable = addresses.iter().filter(|address| address.is_ipv4() || ipv6);
        own = own.or_else(|| usable.filter_map(|address| route_to(*address).ok()).find(|ip| !ip.is_loopback()));
    }
    own
}

/// The source address of packets to an address. Connecting a UDP socket sends nothing, but makes the system choose a route.
fn route_to(address: SocketAddr) -> io::Result<IpAddr> {
    let any = if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    Ok(socket.local_addr()?.ip())
}

/// The source address of the default route: of packets to an address that is reserved for documentation (RFC 5737).
fn default_route() -> Option<IpAddr> {
    route_to(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9))).ok()
}

/// The address that others most likely reach: private IPv4, then any other IPv4, then IPv6, then loopback. Of equally good
/// ones, `preferred`, or else the first that the system lists.
fn best_address(interfaces: &[Interface], ipv6: bool, preferred: Option<IpAddr>) -> IpAddr {
    let up = interfaces.iter().filter(|interface| interface.oper_status == IfOperStatus::Up);
    up.map(Interface::ip)
        .filter_map(|ip| Some((rank(ip)?, ip)))
        .filter(|(_, ip)| ip.is_ipv4() || ipv6)
        .min_by_key(|(rank, ip)| (*rank, preferred != Some(*ip)))
        .map_or(Ipv4Addr::LOCALHOST.into(), |(_, ip)| ip)
}

/// Lower is better; `None` for an address that is never advertised.
fn rank(ip: IpAddr) -> Option<u8> {
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_unspecified() => None,
        IpAddr::V4(ip) if ip.is_private() => Some(0),
        IpAddr::V4(ip) if !ip.is_link_local() => Some(1),
        IpAddr::V4(_) => Some(2),
        IpAddr::V6(ip)
            if ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || ip.is_multicast() =>
        {
            None
        }
        IpAddr::V6(_) => Some(3),
    }
}

#[cfg(test)]
mod tests {
    use if_addrs::{IfAddr, Ifv4Addr, Ifv6Addr};

    use super::*;

    fn interface(ip: &str, oper_status: IfOperStatus) -> Interface {
        let addr = match ip.parse().unwrap() {
            IpAddr::V4(ip) => IfAddr::V4(Ifv4Addr { ip, netmask: ip, prefixlen: 24, broadcast: None }),
            IpAddr::V6(ip) => IfAddr::V6(Ifv6Addr { ip, netmask: ip, prefixlen: 64, broadcast: None }),
        };
        Interface { name: ip.to_owned(), addr, index: None, oper_status, is_p2p: false }
    }

    fn best_of(ips: &[&str], ipv6: bool) -> String {
        let interfaces: Vec<_> = ips.iter().map(|ip| interface(ip, IfOperStatus::Up)).collect();
        best_address(&interfaces, ipv6, None).to_string()
    }

    #[test]
    fn prefers_private_ipv4_then_any_then_ipv6_then_loopback() {
        let all = [
            "127.0.0.1",
            "::1",
            "fe80::1",
            "fd00::2",
            "2001:db8::1",
            "169.254.1.1",
            "8.8.8.8",
            "10.0.0.7",
            "192.168.1.1",
        ];
        assert_eq!(best_of(&all, true), "10.0.0.7");
        assert_eq!(best_of(&all[..7], true), "8.8.8.8");
        assert_eq!(best_of(&all[..6], true), "169.254.1.1");
        assert_eq!(best_of(&all[..5], true), "fd00::2");
        assert_eq!(best_of(&all[..5], false), "127.0.0.1", "a socket without IPv6 cannot be reached over it");
        assert_eq!(best_of(&all[..3], true), "127.0.0.1");
        assert_eq!(best_of(&[], true), "127.0.0.1");
    }

    #[test]
    fn of_equals_prefers_the_one_that_leads_anywhere() {
        let interfaces = ["172.17.0.1", "192.168.1.7", "198.51.100.1"].map(|ip| interface(ip, IfOperStatus::Up));
        let best = |preferred: &str| best_address(&interfaces, true, preferred.parse().ok()).to_string();
        assert_eq!(best("192.168.1.7"), "192.168.1.7", "not the bridge that is listed first");
        assert_eq!(best("198.51.100.1"), "172.17.0.1", "a private one is not given up for a public one");
        assert_eq!(best("10.0.0.1"), "172.17.0.1");
    }

    #[test]
    fn ignores_interfaces_that_are_down() {
        let interfaces = [interface("172.17.0.1", IfOperStatus::Unknown), interface("192.0.2.1", IfOperStatus::Up)];
        assert_eq!(best_address(&interfaces, true, None).to_string(), "192.0.2.1");
    }

    fn seed(host: &str, port: u16) -> Seed {
        Seed { host: host.to_owned(), port }
    }

    #[tokio::test]
    async fn takes_what_is_configured_with_the_port_listened_on_unless_told() {
        let listening = "127.0.0.1:4000".parse().unwrap();
        let advertised = |seed| async move { address(Some(&seed), listening, &[], |_| true).await };
        assert_eq!(advertised(seed("192.0.2.1", 0)).await, Ok("192.0.2.1:4000".parse().unwrap()));
        assert_eq!(advertised(seed("192.0.2.1", 9)).await, Ok("192.0.2.1:9".parse().unwrap()));
        let error = advertised(seed("no such host", 0)).await.unwrap_err();
        assert!(error.contains("no such host") && error.contains("`advertise`"), "{error}");
        let error = advertised(seed("0.0.0.0", 0)).await.unwrap_err();
        assert!(error.contains("0.0.0.0"), "{error}");
        let error = advertised(seed("2001:db8::1", 0)).await.unwrap_err();
        assert!(error.contains("2001:db8::1") && error.contains("IPv6"), "{error}");
    }

    #[tokio::test]
    async fn takes_the_very_address_listened_on() {
        let listening = "127.0.0.7:4000".parse().unwrap();
        assert_eq!(address(None, listening, &[seed("127.0.0.1", 1)], |_| true).await, Ok(listening));
    }

    #[tokio::test]
    async fn guesses_a_reachable_address_and_is_not_misled_by_a_seed_on_loopback() {
        let listening: SocketAddr = "0.0.0.0:4000".parse().unwrap();
        let guess = address(None, listening, &[seed("127.0.0.1", 1)], |_| true).await.unwrap();
        let interfaces = if_addrs::get_if_addrs().unwrap();
        assert_eq!(guess, SocketAddr::new(best_address(&interfaces, false, default_route()), 4000));
    }

    #[test]
    fn an_address_of_the_host_is_kept_and_another_one_is_not() {
        let mine = best_address(&if_addrs::get_if_addrs().unwrap(), false, default_route());
        let nobodys = "192.0.2.77".parse().unwrap();
        if mine.is_loopback() {
            assert_eq!(guess_again(nobodys, &[], false), None, "nothing is better than loopback");
            return;
        }
        assert_eq!(guess_again(mine, &[], false), None);
        assert_eq!(guess_again(nobodys, &[], false), Some(mine));
        assert_eq!(guess_by_route(&[SocketAddr::new(mine, 9)], false), None, "that is this host");
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(guess_again(loopback, &[], false), Some(mine), "a network has come");
        assert_eq!(
            guess_again(loopback, &["127.0.0.1:9".parse().unwrap()], false),
            None,
            "all others are on this host"
        );
    }

    #[test]
    fn asks_the_system_for_the_route() {
        assert_eq!(route_to("127.0.0.1:9".parse().unwrap()).unwrap(), IpAddr::from(Ipv4Addr::LOCALHOST));
    }
}
