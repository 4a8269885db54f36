//! Serving a node over HTTP, if its settings say so; and reading again what it is served with.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
    thread,
    time::{Duration, SystemTime},
};

use broadcast::Handle;
use broadcast_gateway::{Access, GatewayConfig, Routes, Server, Tls};
use tracing::{error, info, warn};

use crate::{
    failure::Failure,
    settings::{explain, http::HttpArgs},
};

/// Files and sockets that everything but HTTP may need.
const SPARE_FILES: u64 = 512;

/// How long before its end a certificate should have been renewed.
const RENEWAL: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What is to serve a node once it runs.
pub(super) struct Api(Option<(Server, Live)>);

/// What it is served with, and can be read again while it is.
#[derive(Clone, Debug)]
pub(super) struct Live {
    args: HttpArgs,
    config: GatewayConfig,
}

impl Api {
    /// Listens, or not. The default address may be taken by another node of this host, which is no reason not
    /// to start.
    pub(super) fn bind(live: &Live, node: &str) -> Result<Self, Failure> {
        if live.args.is_off() {
            return Ok(Self(None));
        }
        match Server::bind(live.config.clone()) {
            Ok(server) => {
                if live.is_open_at(server.addr()) {
                    warn!(
                        node,
                        event = "http_open",
                        addr = %server.addr(),
                        "the HTTP API at {} is open to everyone who reaches it: set BROADCAST_TOKEN, or BROADCAST_HTTP=127.0.0.1",
                        server.addr()
                    );
                }
                Ok(Self(Some((server, live.clone()))))
            }
            Err(error) if live.args.is_by_default() => {
                warn!(node, event = "http_off", %error, "no HTTP API: {error}");
                Ok(Self(None))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Where it is served and by which scheme, if it is.
    pub(super) fn endpoint(&self) -> Option<(&'static str, SocketAddr)> {
        self.0.as_ref().map(|(server, live)| (live.scheme(), server.addr()))
    }

    /// Whether it is served.
    pub(super) fn is_served(&self) -> bool {
        self.0.is_some()
    }

    /// Serves the node until it has stopped, and what else is to be served with it.
    pub(super) fn serve(self, node: &Handle, routes: impl IntoIterator<Item = Routes>) -> Result<Served, Failure> {
        let Some((server, live)) = self.0 else { return Ok(Served(None)) };
        let addr = server.addr();
        let server = routes.into_iter().fold(server, Server::mount);
        let served = server.spawn(node.clone()).map_err(Failure::start)?;
        let place = place(live.scheme(), addr, node.addr().ip());
        info!(node = node.name(), event = "http", %addr, scheme = live.scheme(), "HTTP API and page at {place}");
        Ok(Served(Some(served)))
    }
}

impl Live {
    /// Reads it for the first time.
    pub(super) fn read(args: &HttpArgs, node: &str) -> Result<Self, Failure> {
        let mut config = args.config()?;
        config.explain = explain;
        let max_connections = room_for(config.max_connections);
        if max_connections < config.max_connections {
            config.max_connections = max_connections;
            warn!(
                node,
                event = "http_limit",
                max_connections,
                "the system allows {max_connections} HTTP connections only; raise its limit of open files (ulimit -n)"
            );
        }
        Ok(Self { args: args.clone(), config })
    }

    /// How something else is served there: as the API is.
    pub(super) fn config(&self, addr: SocketAddr) -> GatewayConfig {
        GatewayConfig { addr, ..self.config.clone() }
    }

    /// The tokens that callers show.
    pub(super) fn access(&self) -> &Access {
        &self.config.access
    }

    /// Whether what is served there is open to others than this host, and whoever they are.
    pub(super) fn is_open_at(&self, addr: SocketAddr) -> bool {
        let asks = self.config.tls.as_ref().is_some_and(Tls::asks_for_certificate);
        self.config.access.is_open() && !asks && !addr.ip().is_loopback()
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.config.tls.is_some() { "https" } else { "http" }
    }

    /// All files that it comes from.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.args.token_files().chain(self.args.tls.files()).cloned().collect()
    }

    /// Reads all of them again. What cannot be used is told, and what there was stays.
    pub(super) fn read_again(&self) {
        // Nothing else comes while a pipe is read.
        let odd = self.files().into_iter().find(|file| file.metadata().is_ok_and(|found| !found.is_file()));
        if let Some(file) = odd {
            return error!(
                event = "reload",
                "tokens and certificates stay as they are: {file:?} is not a file any more"
            );
        }
        if self.args.token_files().next().is_some() {
            match self.args.tokens() {
                Ok(Some(tokens)) => {
                    let count = tokens.count();
                    self.config.access.replace(tokens);
                    info!(event = "tokens", count, "read the tokens again: {count}");
                }
                // A file without a token is an error.
                Ok(None) => {}
                Err(problem) => error!(event = "tokens", "the tokens stay as they are: {problem}"),
            }
        }
        if let Some(tls) = &self.config.tls {
            match self.args.tls.read_again(tls) {
                Ok(()) => {
                    let certificate = tls.certificate();
                    let (subject, until) = (&certificate.subject, told(certificate.not_after));
                    info!(
                        event = "tls",
                        subject, until, "read the certificate again: it is for {subject:?}, until {until}"
                    );
                    self.warn_of_expiry();
                }
                Err(problem) => error!(event = "tls", "the certificate stays as it is: {problem}"),
            }
        }
    }

    /// Says that the certificate has to be renewed, if it has.
    pub(super) fn warn_of_expiry(&self) {
        let Some(certificate) = self.config.tls.as_ref().map(Tls::certificate) else { return };
        if certificate.not_after > SystemTime::now() + RENEWAL {
            return;
        }
        let until = told(certificate.not_after);
        let is = if certificate.not_after < SystemTime::now() { "was valid" } else { "is valid" };
        warn!(
            event = "tls_expiry",
            until,
            "the certificate in BROADCAST_TLS_CERT_FILE (--tls-cert-file) {is} until {until}: renew it, and write it there"
        );
    }
}

fn told(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// What serves a node.
#[must_use]
pub(super) struct Served(pub(super) Option<thread::JoinHandle<()>>);

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
pub(super) fn place(scheme: &str, addr: SocketAddr, node: IpAddr) -> String {
    let port = addr.port();
    if !addr.ip().is_unspecified() {
        format!("{scheme}://{addr}/")
    } else if UdpSocket::bind((node, 0)).is_ok() {
        format!("{scheme}://{}/", SocketAddr::new(node, port))
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
            assert_eq!(place("http", addr.parse().expect("an address"), node.parse().expect("an address")), said);
        }
    }
}
