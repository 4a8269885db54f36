//! How a command reaches a node: its URL, the token and TLS.

use std::{ffi::OsString, fmt, net::IpAddr, str::FromStr};

use broadcast::{Seed, config::check_seeds};
use broadcast_gateway::DEFAULT_PORT;
use clap::Args;
use hyper::Uri;

use super::{http::TokenArgs, tls::ClientTlsArgs};

/// The variable with the URL of a node. [`ClientArgs`] has a default; some commands do something else without it.
pub(crate) const NODE: &str = "BROADCAST_NODE";

#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The node to ask: where it serves its HTTP API, as HOST, HOST:PORT or a URL
    #[arg(long, env = NODE, value_name = "NODE", default_value_t = NodeUrl::default())]
    pub(crate) node: NodeUrl,

    #[command(flatten)]
    pub(crate) token: TokenArgs,

    #[command(flatten)]
    pub(crate) tls: ClientTlsArgs,

    /// Print the API's answer, as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl ClientArgs {
    /// Variables with which another command asks the same node in the same way.
    pub(crate) fn env(&self) -> Vec<(&'static str, OsString)> {
        // The default is left out: some commands do something else without a node.
        let node = (self.node != NodeUrl::default()).then(|| (NODE, self.node.to_string().into()));
        node.into_iter().chain(self.token.env()).chain(self.tls.env()).collect()
    }
}

/// Where a node serves its API: `http://HOST[:PORT][/PREFIX]`, or the same with `https://`, or without a scheme. The default
/// port is that of the scheme; without a scheme, it is a node's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeUrl {
    /// Whether to use TLS.
    pub(crate) is_https: bool,
    /// The value of the header `Host`, which has no zones (RFC 6874).
    pub(crate) authority: String,
    /// The address to connect to, if it has a zone.
    pub(crate) zoned: Option<Seed>,
    /// Comes before each path, for a proxy.
    pub(crate) prefix: String,
}

impl Default for NodeUrl {
    fn default() -> Self {
        Self { is_https: false, authority: format!("127.0.0.1:{DEFAULT_PORT}"), zoned: None, prefix: String::new() }
    }
}

impl FromStr for NodeUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "not where a node serves its API; write it like localhost:8946 or http://127.0.0.1:8946";
        const ZONE: &str = "a link-local address is written with its interface, like http://[fe80::1%25eth0]:8946";
        let text = text.trim();
        let has_scheme = text.contains("://");
        let url = if has_scheme { text.into() } else { format!("http://{text}") };
        let uri: Uri = url.parse().map_err(|_| FORM)?;
        let (is_https, default_port) = match uri.scheme_str() {
            Some("http") if has_scheme => (false, 80),
            Some("http") => (false, DEFAULT_PORT),
            Some("https") => (true, 443),
            _ => return Err(FORM),
        };
        let authority = uri.authority().ok_or(FORM)?;
        if authority.as_str().contains('@') {
            return Err("the token is not part of the URL; set BROADCAST_TOKEN to it");
        }
        let port: u16 = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" => default_port,
            port => port.strip_prefix(':').and_then(|port| port.parse().ok()).filter(|port| *port > 0).ok_or(FORM)?,
        };
        if authority.host().is_empty() || uri.query().is_some() {
            return Err(FORM);
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let host = authority.host();
        let Some((ip, zone)) = host.split_once('%') else {
            return Ok(Self { is_https, authority: format!("{host}:{port}"), zoned: None, prefix });
        };
        // In a URL, the % before the zone is written %25.
        let zone = zone.strip_prefix("25").unwrap_or(zone).trim_end_matches(']');
        let ip = ip.trim_start_matches('[');
        let zoned = Seed { host: format!("{ip}%{zone}"), port };
        check_seeds(std::slice::from_ref(&zoned)).map_err(|_| ZONE)?;
        Ok(Self { is_https, authority: format!("[{ip}]:{port}"), zoned: Some(zoned), prefix })
    }
}

impl NodeUrl {
    /// The name or address that its certificate must be for.
    pub(crate) fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// Whether the node is on this host.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        match &self.zoned {
            Some(zoned) => write!(f, "{scheme}://{}{}", zoned.to_string().replacen('%', "%25", 1), self.prefix),
            None => write!(f, "{scheme}://{}{}", self.authority, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_an_http_url() {
        for (text, shown) in [
            ("http://127.0.0.1:8946", "http://127.0.0.1:8946"),
            ("http://127.0.0.1:8946/", "http://127.0.0.1:8946"),
            (" http://[::1]:1 ", "http://[::1]:1"),
            ("http://node1", "http://node1:80"),
            ("http://[fe80::1%25eth0]:8946", "http://[fe80::1%25eth0]:8946"),
            ("http://[fe80::1%25eth0]/a", "http://[fe80::1%25eth0]:80/a"),
            ("HTTP://proxy.example.org/node1/", "http://proxy.example.org:80/node1"),
            ("https://node1", "https://node1:443"),
            ("https://[::1]:8946/a/", "https://[::1]:8946/a"),
            ("localhost:8947", "http://localhost:8947"),
            (" node1 ", "http://node1:8946"),
            ("127.0.0.1", "http://127.0.0.1:8946"),
            ("[::1]:1", "http://[::1]:1"),
            ("[fe80::1%25eth0]", "http://[fe80::1%25eth0]:8946"),
            ("proxy.example.org:80/node1/", "http://proxy.example.org:80/node1"),
        ] {
            assert_eq!(text.parse::<NodeUrl>().expect(text).to_string(), shown);
        }
        for text in [
            "",
            " ",
            "a b",
            "localhost:",
            "localhost:http",
            "ftp://node1",
            "https://",
            "http://",
            "http://:1",
            "http://a:0",
            "http://a:99999",
            "http://a?b",
        ] {
            assert!(
                text.parse::<NodeUrl>()
                    .expect_err(text)
                    .ends_with("write it like localhost:8946 or http://127.0.0.1:8946"),
                "{text}"
            );
        }
        assert!(":secret@node1".parse::<NodeUrl>().expect_err("no token").contains("BROADCAST_TOKEN"));
        assert!("http://:secret@node1".parse::<NodeUrl>().expect_err("no token").contains("BROADCAST_TOKEN"));
    }

    #[test]
    fn a_certificate_is_for_the_host_alone() {
        for (text, host, is_loopback) in [
            ("https://node1:8946", "node1", false),
            ("https://127.0.0.2", "127.0.0.2", true),
            ("https://[::1]:1/a", "::1", true),
            ("https://LocalHost", "LocalHost", true),
            ("https://[fe80::1%25eth0]:1", "fe80::1", false),
        ] {
            let node: NodeUrl = text.parse().expect(text);
            assert_eq!((node.host(), node.is_loopback()), (host, is_loopback), "{text}");
        }
    }
}
