//! How a node serves its HTTP API: address, tokens, origins and limits.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

use broadcast_gateway::{Access, DEFAULT_PORT, GatewayConfig, MAX_CONNECTIONS, NamedToken, Origin, Token, Tokens};
use clap::Args;

use super::{
    secret::{self, HTTP_TOKEN, TOKEN},
    tls::ServerTlsArgs,
    values::{address, path},
};
use crate::failure::Failure;

/// The default address.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);
/// The allowed numbers of connections.
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct HttpArgs {
    #[arg(
        long,
        env = "BROADCAST_HTTP",
        value_name = "ADDRESS",
        value_parser = listen,
        help = format!(
            "Address of the HTTP API and the page, IP or IP:PORT, or off [default: {DEFAULT}, unless that is taken]"
        )
    )]
    http: Option<ListenAddress>,

    #[command(flatten)]
    token: TokenArgs,

    /// File with more tokens that callers may send, one a line: `name: scope,scope token`, with the scopes read, publish,
    /// operate, locks, cache and deploy. The node reads the file again when it changes, and on SIGHUP [default: none]
    #[arg(long, env = "BROADCAST_TOKENS_FILE", value_name = "FILE")]
    tokens_file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tls: ServerTlsArgs,

    /// Other web origins whose pages may call the API, like https://example.org, separated by commas [default: only
    /// the node's own page]
    #[arg(long, env = "BROADCAST_HTTP_ORIGINS", value_name = "ORIGINS", value_parser = origins)]
    http_origins: Option<Origins>,

    /// How many connections the HTTP API may have open at once
    #[arg(long, env = "BROADCAST_HTTP_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = MAX_CONNECTIONS, value_parser = max_connections)]
    http_max_connections: usize,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TokenArgs {
    #[arg(
        long,
        env = "BROADCAST_TOKEN_FILE",
        value_name = "FILE",
        help = format!(
            "File with the token that callers must send, {} to {} characters; or set {} to the token [default: none is \
             needed]",
            Token::LENGTH.start(),
            Token::LENGTH.end(),
            TOKEN.variable
        )
    )]
    token_file: Option<PathBuf>,

    #[arg(
        long,
        env = "BROADCAST_HTTP_TOKEN_FILE",
        value_name = "FILE",
        value_parser = path(),
        help = format!(
            "File with the token for the HTTP API alone, {} to {} characters; or set {} to the token [default: that for \
             all ports]",
            Token::LENGTH.start(),
            Token::LENGTH.end(),
            HTTP_TOKEN.variable
        )
    )]
    http_token_file: Option<PathBuf>,
}

/// An address to listen on, or `off`.
#[derive(Clone, Copy, Debug)]
pub(super) enum ListenAddress {
    At(SocketAddr),
    Off,
}

/// A list of origins. The alias has clap take it for one value.
type Origins = Vec<Origin>;

impl ListenAddress {
    /// Parses an address with a default port.
    pub(super) fn parse(text: &str, port: u16) -> Result<Self, String> {
        if text.trim() == "off" {
            return Ok(Self::Off);
        }
        address(text, port)?.map(Self::At).ok_or_else(|| {
            format!(
                "not an address to listen on; write IP:PORT, like 127.0.0.1:{port} or 0.0.0.0:{port}, with a port from 0 \
                 to 65535, or off"
            )
        })
    }
}

fn listen(text: &str) -> Result<ListenAddress, String> {
    ListenAddress::parse(text, DEFAULT_PORT)
}

fn origins(text: &str) -> Result<Origins, String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::parse).collect()
}

fn max_connections(text: &str) -> Result<usize, String> {
    let count = text.trim().parse().ok().filter(|count| CONNECTIONS.contains(count));
    count.ok_or_else(|| format!("not a number of connections from {} to {}", CONNECTIONS.start(), CONNECTIONS.end()))
}

impl TokenArgs {
    /// Variables with which another command sends the same token.
    pub(super) fn env(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        let files = [("BROADCAST_TOKEN_FILE", &self.token_file), ("BROADCAST_HTTP_TOKEN_FILE", &self.http_token_file)];
        files.into_iter().filter_map(|(variable, file)| Some((variable, file.clone()?.into())))
    }

    /// The token for the HTTP API, from the environment or a file.
    pub(crate) fn token(&self) -> Result<Option<Token>, Failure> {
        Ok(self.named()?.map(|(_, token)| token))
    }

    /// The token with the name of its setting.
    fn named(&self) -> Result<Option<(&'static str, Token)>, Failure> {
        let parse = |text: &str| text.parse().map_err(|problem| format!("{problem}; make one with broadcast keygen"));
        // Reads both, so that an error in either is reported.
        let token = TOKEN.read(self.token_file.as_deref(), parse)?;
        let http_token = HTTP_TOKEN.read(self.http_token_file.as_deref(), parse)?;
        let named = |secret: &secret::Secret, token| (secret.name, token);
        Ok(http_token.map(|token| named(&HTTP_TOKEN, token)).or(token.map(|token| named(&TOKEN, token))))
    }
}

impl HttpArgs {
    /// The files with tokens.
    pub(crate) fn token_files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.token.token_file, &self.token.http_token_file, &self.tokens_file].into_iter().flatten()
    }

    /// All tokens that callers may send, if they have to send one.
    pub(crate) fn tokens(&self) -> Result<Option<Tokens>, Failure> {
        let own = self
            .token
            .named()?
            .map(|(name, token)| NamedToken::new(name.parse().expect("settings have plain names"), token));
        let parse = |text: &str| {
            let named = Tokens::parse(text).map_err(|error| error.to_string())?;
            // All must differ, also from the one that is set by itself.
            Tokens::new(own.iter().cloned().chain(named)).map_err(|error| error.to_string())
        };
        match &self.tokens_file {
            Some(file) => secret::in_file("tokens_file", file, parse).map(Some).map_err(Failure::usage),
            None => own.clone().map(|token| Tokens::new([token])).transpose().map_err(Failure::usage),
        }
    }

    /// Whether the address is not set.
    pub(crate) fn is_by_default(&self) -> bool {
        self.http.is_none()
    }

    /// Whether HTTP is off.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self.http, Some(ListenAddress::Off))
    }

    /// The configuration of the API's server, and of what else is served in the same way.
    pub(crate) fn config(&self) -> Result<GatewayConfig, Failure> {
        let access = self.tokens()?.map_or_else(Access::open, Access::with);
        let tls = self.tls.tls().map_err(Failure::usage)?;
        let addr = match self.http {
            Some(ListenAddress::At(addr)) => addr,
            Some(ListenAddress::Off) | None => DEFAULT,
        };
        let (origins, max_connections) = (self.http_origins.clone().unwrap_or_default(), self.http_max_connections);
        Ok(GatewayConfig { access, tls, origins, max_connections, ..GatewayConfig::new(addr) })
    }
}
