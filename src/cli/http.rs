//! Whether and how a node serves its HTTP API.

use std::{
    env,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use broadcast::Handle;
use broadcast_gateway::{Config, DEFAULT_PORT, LogFilter, MAX_CONNECTIONS, Origin, Server, Token};
use clap::Args;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{Failure, log};

/// The variable that has the token itself. It comes from there or from a file and never from a flag, which
/// every user of the host could read.
const TOKEN: &str = "BROADCAST_HTTP_TOKEN";
const TOKEN_FILE: &str = "BROADCAST_HTTP_TOKEN_FILE (--http-token-file)";
/// Where it is served unless told otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);
/// Files and sockets that everything but HTTP may need.
const SPARE_FILES: u64 = 512;

#[derive(Debug, Args)]
pub(super) struct HttpArgs {
    /// Address of the HTTP API and the page, IP or IP:PORT, or off [default: 127.0.0.1:8946, unless that is taken]
    #[arg(long, env = "BROADCAST_HTTP", hide_env_values = true, value_name = "ADDRESS", value_parser = listen)]
    http: Option<Listen>,

    #[command(flatten)]
    pub(super) token: TokenArgs,

    /// Other web origins whose pages may call the API, like https://example.org, separated by commas [default: only
    /// the node's own page]
    #[arg(long, env = "BROADCAST_HTTP_ORIGINS", hide_env_values = true, value_name = "ORIGINS", value_parser = origins)]
    http_origins: Option<Origins>,

    /// How many connections the HTTP API may have open at once
    #[arg(long, env = "BROADCAST_HTTP_MAX_CONNECTIONS", hide_env_values = true, value_name = "COUNT", default_value_t = MAX_CONNECTIONS, value_parser = max_connections)]
    http_max_connections: usize,
}

#[derive(Debug, Args)]
pub(super) struct TokenArgs {
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
    super::address(text, DEFAULT_PORT)?.map(Listen::At).ok_or_else(|| FORM.into())
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
    pub(super) fn token(&self) -> Result<Option<Token>, Failure> {
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
    pub(super) fn token_file(&self) -> Option<&PathBuf> {
        self.token.http_token_file.as_ref()
    }
}

/// What is to serve a node once it runs.
pub(super) struct Api(Option<Server>);

impl HttpArgs {
    /// Listens, or not. The default address may be taken by another node of this host, which is no reason not
    /// to start.
    pub(super) fn bind(self, node: &str, log: log::Control) -> Result<Api, Failure> {
        let token = self.token.token()?;
        let addr = match self.http {
            Some(Listen::Off) => return Ok(Api(None)),
            Some(Listen::At(addr)) => addr,
            None => DEFAULT,
        };
        let max_connections = room_for(self.http_max_connections);
        if max_connections < self.http_max_connections {
            warn!(
                node,
                event = "http_limit",
                max_connections,
                "the system allows {max_connections} HTTP connections only; raise its limit of open files (ulimit -n)"
            );
        }
        let open = token.is_none() && !addr.ip().is_loopback();
        let log: Option<Arc<dyn LogFilter>> = Some(Arc::new(log));
        let config =
            Config { token, origins: self.http_origins.unwrap_or_default(), max_connections, log, ..Config::new(addr) };
        match Server::bind(config) {
            Ok(server) => {
                if open {
                    warn!(
                        node,
                        event = "http_open",
                        addr = %server.addr(),
                        "the HTTP API at {} is open to everyone who reaches it: set BROADCAST_HTTP_TOKEN, or BROADCAST_HTTP=127.0.0.1",
                        server.addr()
                    );
                }
                Ok(Api(Some(server)))
            }
            Err(error) if self.http.is_none() => {
                warn!(node, event = "http_off", %error, "no HTTP API: {error}");
                Ok(Api(None))
            }
            Err(error) => Err(Failure::other(error)),
        }
    }
}

impl Api {
    /// Serves the node until it has stopped.
    pub(super) fn serve(self, node: &Handle) -> Result<Served, Failure> {
        let Some(server) = self.0 else { return Ok(Served(None)) };
        let addr = server.addr();
        let served = server.spawn(node.clone()).map_err(Failure::start)?;
        let place = place(addr, node.addr().ip());
        info!(node = node.name(), event = "http", %addr, "HTTP API and page at {place}");
        Ok(Served(Some(served)))
    }
}

/// What serves a node.
#[must_use]
pub(super) struct Served(Option<thread::JoinHandle<()>>);

impl Served {
    /// Waits, once the node has stopped, until those who follow have been told.
    pub(super) async fn end(self) {
        let Some(served) = self.0 else { return };
        // Should it have panicked, it has ended as well.
        let _ = tokio::task::spawn_blocking(|| served.join()).await;
    }
}

/// Where what is served at `addr` is found. At all addresses: where the other nodes reach this one, if that is an
/// address of this host, which may be a container; its `localhost` is not that of who reads the log.
fn place(addr: SocketAddr, node: IpAddr) -> String {
    let port = addr.port();
    if !addr.ip().is_unspecified() {
        format!("http://{addr}/")
    } else if UdpSocket::bind((node, 0)).is_ok() {
        format!("http://{}/", SocketAddr::new(node, port))
    } else {
        format!("port {port} of this host")
    }
}

/// As many of so many connections as the system has open files for. It is asked for all it allows.
fn room_for(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    // Some kernels say more than they give.
    let allowed = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    let room = if allowed > 2 * SPARE_FILES { allowed - SPARE_FILES } else { allowed / 2 };
    wanted.min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_said_to_be_where_it_can_be_reached() {
        for (addr, node, said) in [
            ("127.0.0.1:8946", "192.0.2.1", "http://127.0.0.1:8946/"),
            ("0.0.0.0:8946", "127.0.0.1", "http://127.0.0.1:8946/"),
            ("[::]:8947", "127.0.0.1", "http://127.0.0.1:8947/"),
            // No address of this host: another one's, as a NAT has it.
            ("0.0.0.0:8946", "192.0.2.1", "port 8946 of this host"),
        ] {
            assert_eq!(place(addr.parse().expect("an address"), node.parse().expect("an address")), said);
        }
    }
}
