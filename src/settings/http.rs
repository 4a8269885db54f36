//! Whether and how a node serves its HTTP API.

use std::{
    env,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use broadcast_gateway::{Config, DEFAULT_PORT, MAX_CONNECTIONS, Origin, Token};
use clap::Args;
use zeroize::Zeroizing;

use super::values::address;
use crate::failure::Failure;

/// The variable that has the token itself. It comes from there or from a file and never from a flag, which
/// every user of the host could read.
const TOKEN: &str = "BROADCAST_HTTP_TOKEN";
const TOKEN_FILE: &str = "BROADCAST_HTTP_TOKEN_FILE (--http-token-file)";
/// Where it is served unless told otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);

#[derive(Debug, Args)]
pub(crate) struct HttpArgs {
    /// Address of the HTTP API and the page, IP or IP:PORT, or off [default: 127.0.0.1:8946, unless that is taken]
    #[arg(long, env = "BROADCAST_HTTP", hide_env_values = true, value_name = "ADDRESS", value_parser = listen)]
    http: Option<Listen>,

    #[command(flatten)]
    token: TokenArgs,

    /// Other web origins whose pages may call the API, like https://example.org, separated by commas [default: only
    /// the node's own page]
    #[arg(long, env = "BROADCAST_HTTP_ORIGINS", hide_env_values = true, value_name = "ORIGINS", value_parser = origins)]
    http_origins: Option<Origins>,

    /// How many connections the HTTP API may have open at once
    #[arg(long, env = "BROADCAST_HTTP_MAX_CONNECTIONS", hide_env_values = true, value_name = "COUNT", default_value_t = MAX_CONNECTIONS, value_parser = max_connections)]
    http_max_connections: usize,
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// File with the token that callers of the HTTP API must send, 8 to 1024 characters; or set
    /// BROADCAST_HTTP_TOKEN to the token [default: none is needed]
    #[arg(long, env = "BROADCAST_HTTP_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    http_token_file: Option<PathBuf>,
}

/// An address, or nowhere.
#[derive(Clone, Copy, Debug)]
enum Listen {
    At(SocketAddr),
    Off,
}

/// A list of origins, which clap is to take for one value.
type Origins = Vec<Origin>;

fn listen(text: &str) -> Result<Listen, String> {
    const FORM: &str = "not an address to listen on; write IP:PORT, like 127.0.0.1:8946 or 0.0.0.0:8946, with a port from 0 to 65535, or off";
    if text.trim() == "off" {
        return Ok(Listen::Off);
    }
    address(text, DEFAULT_PORT)?.map(Listen::At).ok_or_else(|| FORM.into())
}

fn origins(text: &str) -> Result<Origins, String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::parse).collect()
}

fn max_connections(text: &str) -> Result<usize, &'static str> {
    let count = text.trim().parse().ok().filter(|count| (1..=1_000_000).contains(count));
    count.ok_or("not a number of connections from 1 to 1000000")
}

impl TokenArgs {
    /// The token that the environment or the file has.
    pub(crate) fn token(&self) -> Result<Option<Token>, Failure> {
        let variable = env::var_os(TOKEN).filter(|value| !value.is_empty());
        let (name, text) = match (variable, &self.http_token_file) {
            (None, None) => return Ok(None),
            (Some(text), None) => {
                let text = text.into_string().map_err(|_| Failure::usage(format!("{TOKEN} is not text")))?;
                (TOKEN.to_owned(), Zeroizing::new(text))
            }
            (None, Some(file)) => {
                let name = format!("{TOKEN_FILE} = {file:?}");
                let text = read(file).map_err(|error| Failure::usage(format!("{name}: it cannot be read: {error}")))?;
                (name, text)
            }
            (Some(_), Some(_)) => {
                return Err(Failure::usage(format!("{TOKEN} and {TOKEN_FILE} are both set: keep one of them")));
            }
        };
        text.parse().map(Some).map_err(|problem| Failure::usage(format!("{name}: {problem}")))
    }
}

fn read(file: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    // Longer than any token, which is refused then.
    File::open(file)?.take(4 << 10).read_to_string(&mut text)?;
    Ok(text)
}

impl HttpArgs {
    /// The file that the token is in.
    pub(crate) fn token_file(&self) -> Option<&PathBuf> {
        self.token.http_token_file.as_ref()
    }

    /// Whether nobody has said where it is to be served.
    pub(crate) fn is_by_default(&self) -> bool {
        self.http.is_none()
    }

    /// How the API is to be served, if it is.
    pub(crate) fn config(&self) -> Result<Option<Config>, Failure> {
        let token = self.token.token()?;
        let addr = match self.http {
            Some(Listen::Off) => return Ok(None),
            Some(Listen::At(addr)) => addr,
            None => DEFAULT,
        };
        let (origins, max_connections) = (self.http_origins.clone().unwrap_or_default(), self.http_max_connections);
        Ok(Some(Config { token, origins, max_connections, ..Config::new(addr) }))
    }
}
