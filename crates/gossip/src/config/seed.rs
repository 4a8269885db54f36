//! Seeds: where a node looks for the cluster it is to join.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use super::{ConfigError, DEFAULT_PORT};

/// An address at which to find a node: `host`, `host:port`, `1.2.3.4`, `[::1]:7946`, `::1`, `[fe80::1%eth0]:7946`.
///
/// ```
/// use broadcast::{Config, Seed};
///
/// let config = Config::new("node2").join(["node1.example.org:7946".parse::<Seed>()?]);
/// # Ok::<(), broadcast::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seed {
    /// A DNS name or an IP address. A link-local IPv6 address has a zone: the name or number of the interface that leads
    /// to it.
    pub host: String,
    /// The UDP and TCP port.
    pub port: u16,
}

impl Seed {
    /// Reads `host[:port]`; without a port, the seed has `default_port`.
    ///
    /// ```
    /// use broadcast::Seed;
    ///
    /// let seed = Seed::parse("::1", 7946)?;
    /// assert_eq!((seed.host.as_str(), seed.port), ("::1", 7946));
    /// # Ok::<(), broadcast::ConfigError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ConfigError::Seed`]: it is no such address, or stands for all of them.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, ConfigError> {
        split_host_port(text, default_port)
            .and_then(|(host, port)| check_host(host).map(|()| Self { host: host.into(), port }))
            .map_err(|problem| ConfigError::Seed { value: text.into(), problem })
    }

    /// The address and the zone, if the host is an address with a zone.
    #[must_use]
    pub fn zoned(&self) -> Option<(Ipv6Addr, &str)> {
        let (ip, zone) = self.host.split_once('%')?;
        Some((ip.parse().ok()?, zone))
    }

    /// Whether the host is an address, and not a name whose address can change.
    pub(crate) fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok() || self.zoned().is_some()
    }

    /// Checks whether a node can be there; `needs_port` refuses port 0.
    pub(super) fn check(&self, needs_port: bool) -> Result<(), ConfigError> {
        let problem = match check_host(&self.host) {
            Err(problem) => problem,
            Ok(()) if needs_port && self.port == 0 => "port 0 reaches nobody; give the port the node listens on",
            Ok(()) => return Ok(()),
        };
        Err(ConfigError::Seed { value: self.to_string(), problem })
    }
}

impl FromStr for Seed {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::parse(text, DEFAULT_PORT)
    }
}

fn split_host_port(text: &str, default_port: u16) -> Result<(&str, u16), &'static str> {
    const PORT: &str = "the port must be a number from 0 to 65535";
    const BRACKETS: &str = "write an IPv6 address with a port as [::1]:7946";

    let without_zone = |text: &'_ str| text.split('%').next().unwrap_or_default().parse::<Ipv6Addr>();
    if text.parse::<IpAddr>().is_ok() || without_zone(text).is_ok() && !text.ends_with(']') {
        return Ok((text, default_port));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(BRACKETS)?;
        without_zone(host).map_err(|_| BRACKETS)?;
        return match port.strip_prefix(':') {
            Some(port) => Ok((host, port.parse().map_err(|_| PORT)?)),
            None if port.is_empty() => Ok((host, default_port)),
            None => Err(BRACKETS),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(BRACKETS),
        Some((host, port)) => Ok((host, port.parse().map_err(|_| PORT)?)),
        None => Ok((text, default_port)),
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return if ip.is_unspecified() {
            Err("it stands for every address and names no node; give one at which others reach it")
        } else {
            Ok(())
        };
    }
    if let Some((ip, zone)) = host.split_once('%') {
        return check_zone(ip, zone);
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.is_empty() {
        return Err("the host is missing; write it as node1, node1:7946, 10.0.0.1:7946 or [::1]:7946");
    }
    if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err("a host name is at most 253 characters long, and each part between its dots 1 to 63");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err("a host name is made of the letters a to z, digits, dots, - and _");
    }
    // No top-level domain is a number, so this is an IPv4 address with a slip in it.
    if name.rsplit_once('.').is_some_and(|(_, top)| top.bytes().all(|b| b.is_ascii_digit())) {
        return Err("an IPv4 address is four numbers from 0 to 255 with dots between them");
    }
    Ok(())
}

fn check_zone(ip: &str, zone: &str) -> Result<(), &'static str> {
    // What Linux lets an interface be named.
    let is_interface =
        (1..16).contains(&zone.len()) && zone.bytes().all(|b| b.is_ascii_graphic() && !b"%/:[],".contains(&b));
    match ip.parse::<Ipv6Addr>() {
        Ok(ip) if !ip.is_unicast_link_local() => Err("only link-local addresses, fe80::1 and the like, have a zone"),
        Ok(_) if is_interface => Ok(()),
        Ok(_) => Err("write the interface after the %, by its name or its number, as in fe80::1%eth0"),
        Err(_) => Err("only an IPv6 address has a zone, as in fe80::1%eth0"),
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(text: &str) -> Result<(String, u16), String> {
        text.parse::<Seed>().map(|seed| (seed.host, seed.port)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_seed_is_a_host_with_or_without_a_port() {
        for (text, host, port) in [
            ("node1", "node1", 7946),
            ("node1:8000", "node1", 8000),
            ("my_project-node-1.net.:1", "my_project-node-1.net.", 1),
            ("123456789012", "123456789012", 7946),
            ("1.2.3.4", "1.2.3.4", 7946),
            ("1.2.3.4:65535", "1.2.3.4", 65535),
            ("::1", "::1", 7946),
            ("[::1]", "::1", 7946),
            ("[fd00::2]:80", "fd00::2", 80),
            ("fe80::1%eth0", "fe80::1%eth0", 7946),
            ("[fe80::1%br-0a.1]", "fe80::1%br-0a.1", 7946),
            ("[fe80::1%2]:80", "fe80::1%2", 80),
        ] {
            assert_eq!(seed(text), Ok((host.into(), port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_seed_is_named_with_its_remedy() {
        for (text, remedy) in [
            ("", "the host is missing"),
            (":7946", "the host is missing"),
            ("node1:", "the port must be a number from 0 to 65535"),
            ("node1:65536", "the port must be a number from 0 to 65535"),
            ("node1:-1", "the port must be a number"),
            ("[::1]:x", "the port must be a number"),
            ("::1:7946:x", "write an IPv6 address with a port as [::1]:7946"),
            ("[::1", "[::1]:7946"),
            ("[::1]7946", "[::1]:7946"),
            ("[node1]:7946", "[::1]:7946"),
            ("256.0.0.1", "an IPv4 address is four numbers"),
            ("10.0.1:7946", "an IPv4 address is four numbers"),
            ("0.0.0.0:7946", "names no node"),
            ("::", "names no node"),
            ("node 1", "a host name is made of"),
            ("nöde", "a host name is made of"),
            ("udp://node1", "the port must be a number"),
            ("a..b", "each part between its dots"),
            ("fd00::1%eth0", "only link-local addresses"),
            ("[fd00::1%eth0]:1", "only link-local addresses"),
            ("fe80::1%", "write the interface after the %"),
            ("[fe80::1%]:7946", "write the interface after the %"),
            ("fe80::1%eth0:7946", "write the interface after the %"),
            ("fe80::1%a%b", "write the interface after the %"),
            ("fe80::1%a-name-longer-than-any", "write the interface after the %"),
            ("10.0.0.1%eth0", "only an IPv6 address has a zone"),
            ("node1%eth0:1", "only an IPv6 address has a zone"),
            (&"a".repeat(64), "1 to 63"),
        ] {
            let error = seed(text).expect_err(text);
            assert!(error.contains(&format!("{text:?} is not host[:port]")), "{error}");
            assert!(error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn a_seed_prints_as_it_is_read() {
        for text in ["node1:1", "[::1]:7946", "1.2.3.4:80", "[fe80::1%eth0]:7946"] {
            assert_eq!(text.parse::<Seed>().expect("a seed").to_string(), text);
        }
    }
}
