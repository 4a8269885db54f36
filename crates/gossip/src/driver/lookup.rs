//! DNS lookups: names to addresses, by the system's resolver, in bounded time.

use std::{
    net::{SocketAddr, SocketAddrV6},
    time::Duration,
};

use tokio::time::timeout;

use super::{sockets::canonical, zones};
use crate::Seed;

/// How long a lookup may take. The resolver's thread goes on until the resolver itself gives up.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// All addresses of `seed`, in the resolver's order. The error does not name the seed.
pub(super) async fn resolve(seed: &Seed, limit: Duration) -> Result<Vec<SocketAddr>, String> {
    #[cfg(test)]
    if let Some(found) = fake_names::of(seed) {
        return Ok(found);
    }
    if let Some((ip, zone)) = seed.zoned() {
        return Ok(vec![SocketAddrV6::new(ip, seed.port, 0, zones::interface_index(zone)?).into()]);
    }
    let mut addresses = Vec::new();
    match timeout(limit, tokio::net::lookup_host((seed.host.as_str(), seed.port))).await {
        Ok(Ok(found)) => {
            for address in found.map(canonical) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err(format!("the name server did not answer within {limit:?}")),
    }
    if addresses.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(addresses)
}

/// Names for tests, whose addresses a test can change.
#[cfg(test)]
pub(super) mod fake_names {
    use std::{
        collections::BTreeMap,
        net::{IpAddr, SocketAddr},
        sync::{Mutex, PoisonError},
    };

    use crate::Seed;

    static NAMES: Mutex<BTreeMap<String, Vec<IpAddr>>> = Mutex::new(BTreeMap::new());

    /// From now on the name has these addresses. Each test uses its own names.
    pub(crate) fn set(host: &str, ips: &[&str]) {
        let ips = ips.iter().map(|ip| ip.parse().expect("a test's address")).collect();
        NAMES.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), ips);
    }

    pub(super) fn of(seed: &Seed) -> Option<Vec<SocketAddr>> {
        let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        Some(names.get(&seed.host)?.iter().map(|ip| SocketAddr::new(*ip, seed.port)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_addresses_as_they_are_and_canonical() {
        let seed = |host: &str| Seed { host: host.to_owned(), port: 7 };
        assert_eq!(resolve(&seed("127.0.0.1"), TIMEOUT).await, Ok(vec!["127.0.0.1:7".parse().unwrap()]));
        assert_eq!(resolve(&seed("::1"), TIMEOUT).await, Ok(vec!["[::1]:7".parse().unwrap()]));
        assert_eq!(resolve(&seed("::ffff:127.0.0.1"), TIMEOUT).await, Ok(vec!["127.0.0.1:7".parse().unwrap()]));
    }

    #[tokio::test]
    async fn gives_link_local_addresses_their_zone() {
        let seed = |host: &str| Seed { host: host.to_owned(), port: 7 };
        let loopback = zones::interface_index("lo").unwrap();
        let expected = SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 0, loopback);
        assert_eq!(resolve(&seed("fe80::1%lo"), TIMEOUT).await, Ok(vec![expected.into()]));
        let error = resolve(&seed("fe80::1%no-such"), TIMEOUT).await.unwrap_err();
        assert!(error.starts_with("this host has no interface \"no-such\"; it has "), "{error}");
    }

    #[tokio::test]
    async fn says_why_a_name_has_no_address() {
        let seed = Seed { host: "not a name".to_owned(), port: 7 };
        assert!(resolve(&seed, TIMEOUT).await.is_err());
    }
}
