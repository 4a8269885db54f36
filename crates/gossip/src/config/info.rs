//! What a node tells the other nodes of this crate about itself, beside memberlist's metadata.

use std::{fmt, net::SocketAddr, str::FromStr};

use rand::{TryRng as _, rngs::SysRng};

use super::{ConfigError, quote};

/// How many roles, and how many endpoints, a node can have.
pub(crate) const MAX_ROLES: usize = 16;
pub(crate) const MAX_ENDPOINTS: usize = 16;
/// The longest name of a role or an endpoint, in bytes.
const MAX_NAME: usize = 32;
/// The longest encoding of an info, in bytes: it fits in every packet, beside the longest name.
pub(crate) const MAX_LEN: usize = 512;

/// A node's identity: 64 random bits that it keeps while its name, its address and its host may change. Printed as 16
/// hexadecimal digits.
///
/// ```
/// use broadcast::NodeId;
///
/// let id: NodeId = "00c0ffee00c0ffee".parse()?;
/// assert_eq!(id.to_string(), "00c0ffee00c0ffee");
/// # Ok::<(), broadcast::ConfigError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// A new identity, which no other node is likely to have. `None` if the system has no source of randomness.
    #[must_use]
    pub fn random() -> Option<Self> {
        SysRng.try_next_u64().ok().map(Self)
    }

    /// The identity as a number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl From<u64> for NodeId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = ConfigError;

    /// Reads what is printed: 16 digits, in lower case.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let is_digit = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        let id = (text.len() == 16 && text.as_bytes().iter().all(is_digit)).then(|| u64::from_str_radix(text, 16));
        match id {
            Some(Ok(id)) => Ok(Self(id)),
            _ => Err(ConfigError::NodeId { value: text.chars().take(64).collect() }),
        }
    }
}

/// What a node tells the other nodes of this crate about itself, in 512 bytes at most. Plain memberlist nodes do not see
/// it.
///
/// ```
/// use broadcast::{Config, NodeId, NodeInfo};
///
/// let info = NodeInfo::new(NodeId::random().ok_or("no randomness")?).role("cache").endpoint("http", "0.0.0.0:8946".parse()?);
/// let config = Config::new("node1").info(info);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// Its identity.
    pub id: NodeId,
    /// What it does: at most 16 names of up to 32 bytes, sorted.
    pub roles: Vec<String>,
    /// Where clients reach its services: at most 16, by the services' names, sorted. An unspecified address, `0.0.0.0` or
    /// `::`, stands for the address that the member has at that time.
    pub endpoints: Vec<(String, SocketAddr)>,
}

impl NodeInfo {
    /// An info with this identity, no role and no endpoint.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self { id, roles: Vec::new(), endpoints: Vec::new() }
    }

    /// Adds a role.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        let role = role.into();
        if let Err(index) = self.roles.binary_search(&role) {
            self.roles.insert(index, role);
        }
        self
    }

    /// Adds an endpoint: `service` is served at `addr`. Replaces the one that the service had.
    #[must_use]
    pub fn endpoint(mut self, service: impl Into<String>, addr: SocketAddr) -> Self {
        let service = service.into();
        self.endpoints.retain(|(other, _)| *other != service);
        let index = self.endpoints.partition_point(|(other, _)| *other < service);
        self.endpoints.insert(index, (service, addr));
        self
    }

    /// Where clients reach `service` of a member that has this address.
    ///
    /// ```
    /// use broadcast::NodeInfo;
    ///
    /// let info = NodeInfo::new(7.into()).endpoint("http", "0.0.0.0:8946".parse()?);
    /// assert_eq!(info.endpoint_at("http", "10.0.0.1:7946".parse()?), Some("10.0.0.1:8946".parse()?));
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn endpoint_at(&self, service: &str, member: SocketAddr) -> Option<SocketAddr> {
        let (_, addr) = self.endpoints.iter().find(|(name, _)| name == service)?;
        Some(resolve(*addr, member))
    }

    /// Checks whether a node can tell this about itself.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Info`]: more than 16 roles or endpoints, more than 512 bytes, or a name with other characters than
    /// letters, digits, `-` and `_`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let too_many =
            |what, count, most| ConfigError::Info { problem: format!("{count} {what} are more than {most}") };
        if self.roles.len() > MAX_ROLES {
            return Err(too_many("roles", self.roles.len(), MAX_ROLES));
        }
        if self.endpoints.len() > MAX_ENDPOINTS {
            return Err(too_many("endpoints", self.endpoints.len(), MAX_ENDPOINTS));
        }
        let len = self.encoded_len();
        if len > MAX_LEN {
            return Err(ConfigError::Info {
                problem: format!("roles and endpoints take {len} bytes, more than {MAX_LEN}"),
            });
        }
        let mut names = self.roles.iter().chain(self.endpoints.iter().map(|(name, _)| name));
        match names.find(|name| !is_valid_name(name)) {
            Some(name) => Err(ConfigError::Info {
                problem: format!(
                    "{} is not a name: write 1 to {MAX_NAME} letters, digits, \"-\" or \"_\"",
                    quote(name)
                ),
            }),
            None => Ok(()),
        }
    }

    /// The length of its encoding: each field with its kind and its length.
    fn encoded_len(&self) -> usize {
        let roles = self.roles.iter().map(|role| 2 + role.len());
        let ip = |addr: &SocketAddr| if addr.is_ipv4() { 4 } else { 16 };
        let endpoints = self.endpoints.iter().map(|(name, addr)| 2 + 2 + ip(addr) + name.len());
        10 + roles.chain(endpoints).sum::<usize>()
    }
}

/// The address of an endpoint of a member that has this address.
pub(crate) fn resolve(endpoint: SocketAddr, member: SocketAddr) -> SocketAddr {
    if endpoint.ip().is_unspecified() { SocketAddr::new(member.ip(), endpoint.port()) } else { endpoint }
}

/// Whether a role or an endpoint may have this name.
pub(crate) fn is_valid_name(name: &str) -> bool {
    let allowed = |letter: u8| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown() {
        let id = NodeId::from(0x0123_4567_89ab_cdef);
        assert_eq!(id.to_string(), "0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in
            ["", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "+123456789abcdef", "é123456789abcde"]
        {
            let error = text.parse::<NodeId>().expect_err("no id").to_string();
            assert!(error.contains("16 digits"), "{error}");
        }
    }

    #[test]
    fn the_same_is_told_whatever_the_order_it_was_given_in() {
        let [http, etcd] = ["0.0.0.0:8946", "10.0.0.1:2379"].map(|addr| addr.parse().expect("an address"));
        let new = || NodeInfo::new(NodeId::from(7));
        let one = new().role("sender").role("cache").role("sender").endpoint("http", http).endpoint("etcd", etcd);
        let other =
            new().endpoint("etcd", http).endpoint("etcd", etcd).endpoint("http", http).role("cache").role("sender");
        assert_eq!(one, other);
        let member = "10.0.0.7:7946".parse().expect("an address");
        assert_eq!(one.endpoint_at("http", member), Some("10.0.0.7:8946".parse().expect("an address")));
        assert_eq!(one.endpoint_at("etcd", member), Some(etcd));
        assert_eq!(one.endpoint_at("resp", member), None);
    }

    #[test]
    fn what_is_too_much_or_no_name_is_refused() {
        let new = || NodeInfo::new(NodeId::from(7));
        let many = (0..=MAX_ROLES).fold(new(), |info, i| info.role(format!("role{i}")));
        assert_eq!(
            many.validate().expect_err("too many").to_string(),
            "what the node tells of itself: 17 roles are more than 16"
        );
        for word in ["", "a b", "ä", &"x".repeat(33)] {
            assert!(new().role(word).validate().is_err(), "{word:?}");
            assert!(new().endpoint(word, SocketAddr::from(([0; 4], 1))).validate().is_err(), "{word:?}");
        }
        assert_eq!(new().role("x".repeat(32)).validate(), Ok(()));
    }
}
