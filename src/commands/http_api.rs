//! Serves a node over HTTP as its settings say, and reloads tokens and certificates while it does.

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

/// How many open files everything besides HTTP connections may need.
const SPARE_FILES: u64 = 512;

/// How long before it expires a certificate should be renewed.
const RENEWAL: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The HTTP API of a node, which listens already and is served once the node runs; nothing, if it is off.
pub(super) struct HttpApi(Option<(Server, ServeConfig)>);

/// How a node is served: tokens, TLS and limits. Tokens and certificates can be reloaded.
#[derive(Clone, Debug)]
pub(super) struct ServeConfig {
    args: HttpArgs,
    config: GatewayConfig,
}

impl HttpApi {
    /// Listens, unless HTTP is off. If the default address is taken, by another node on this host perhaps, the node starts
    /// without HTTP.
    pub(super) fn bind(serving: &ServeConfig, node: &str) -> Result<Self, Failure> {
        if serving.args.is_off() {
            return Ok(Self(None));
        }
        match Server::bind(serving.config.clone()) {
            Ok(server) => {
                if serving.is_open_at(server.addr()) {
                    warn!(
                        node,
                        event = "http_open",
                        addr = %server.addr(),
                        "the HTTP API at {} is open to everyone who reaches it: set BROADCAST_TOKEN, or BROADCAST_HTTP=127.0.0.1",
                        server.addr()
                    );
                }
                Ok(Self(Some((server, serving.clone()))))
            }
            Err(error) if serving.args.is_by_default() => {
                warn!(node, event = "http_off", %error, "no HTTP API: {error}");
                Ok(Self(None))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The scheme and the address, if HTTP is served.
    pub(super) fn endpoint(&self) -> Option<(&'static str, SocketAddr)> {
        self.0.as_ref().map(|(server, serving)| (serving.scheme(), server.addr()))
    }

    /// Whether HTTP is served.
    pub(super) fn is_served(&self) -> bool {
        self.0.is_some()
    }

    /// Serves the node, with more routes besides its own, until it has stopped.
    pub(super) fn serve(
        self,
        node: &Handle,
        routes: impl IntoIterator<Item = Routes>,
    ) -> Result<ServerThread, Failure> {
        let Some((server, serving)) = self.0 else { return Ok(ServerThread(None)) };
        let addr = server.addr();
        let server = routes.into_iter().fold(server, Server::mount);
        let thread = server.spawn(node.clone()).map_err(Failure::start)?;
        let url = reachable_url(serving.scheme(), addr, node.addr().ip());
        info!(node = node.name(), event = "http", %addr, scheme = serving.scheme(), "HTTP API and page at {url}");
        Ok(ServerThread(Some(thread)))
    }
}

impl ServeConfig {
    /// Reads tokens and certificates for the first time.
    pub(super) fn read(args: &HttpArgs, node: &str) -> Result<Self, Failure> {
        let mut config = args.config()?;
        config.explain = explain;
        let max_connections = possible_connections(config.max_connections);
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

    /// The same configuration at another address.
    pub(super) fn config(&self, addr: SocketAddr) -> GatewayConfig {
        GatewayConfig { addr, ..self.config.clone() }
    }

    /// The tokens that callers must show.
    pub(super) fn access(&self) -> &Access {
        &self.config.access
    }

    /// Whether anybody from another host can call what is served there.
    pub(super) fn is_open_at(&self, addr: SocketAddr) -> bool {
        let asks_for_certificate = self.config.tls.as_ref().is_some_and(Tls::asks_for_certificate);
        self.config.access.is_open() && !asks_for_certificate && !addr.ip().is_loopback()
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.config.tls.is_some() { "https" } else { "http" }
    }

    /// All files with tokens, certificates and keys.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.args.token_files().chain(self.args.tls.files()).cloned().collect()
    }

    /// Reads all files again. If one is not valid, this logs why, and what was read before stays.
    pub(super) fn reload(&self) {
        // A pipe would block the node.
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
                // Cannot be: a file without a token is an error.
                Ok(None) => {}
                Err(problem) => error!(event = "tokens", "the tokens stay as they are: {problem}"),
            }
        }
        if let Some(tls) = &self.config.tls {
            match self.args.tls.reload(tls) {
                Ok(()) => {
                    let certificate = tls.certificate();
                    let (subject, until) = (&certificate.subject, date(certificate.not_after));
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

    /// Logs a warning if the certificate has expired, or will soon.
    pub(super) fn warn_of_expiry(&self) {
        let Some(certificate) = self.config.tls.as_ref().map(Tls::certificate) else { return };
        if certificate.not_after > SystemTime::now() + RENEWAL {
            return;
        }
        let until = date(certificate.not_after);
        let is = if certificate.not_after < SystemTime::now() { "was valid" } else { "is valid" };
        warn!(
            event = "tls_expiry",
            until,
            "the certificate in BROADCAST_TLS_CERT_FILE (--tls-cert-file) {is} until {until}: renew it, and write it there"
        );
    }
}

fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// The thread that serves a node; nothing, if it is not served.
#[must_use]
pub(super) struct ServerThread(pub(super) Option<thread::JoinHandle<()>>);

impl ServerThread {
    /// Waits until the thread ends. It does once the node has stopped and followers have been told so.
    pub(super) async fn join(self) {
        let Some(thread) = self.0 else { return };
        // If it panicked, it has ended as well.
        let _ = tokio::task::spawn_blocking(|| thread.join()).await;
    }
}

/// The URL at which people find what listens at `addr`. If that is all addresses, it is where other nodes reach this one,
/// provided that is an address of this host: in a container, `localhost` would mean another host to whoever reads the log.
fn reachable_url(scheme: &str, addr: SocketAddr, node: IpAddr) -> String {
    let port = addr.port();
    if !addr.ip().is_unspecified() {
        format!("{scheme}://{addr}/")
    } else if UdpSocket::bind((node, 0)).is_ok() {
        format!("{scheme}://{}/", SocketAddr::new(node, port))
    } else {
        format!("port {port} of this host")
    }
}

/// How many of the wanted connections the system has open files for, after raising the soft limit as far as allowed.
fn possible_connections(wanted: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return wanted };
    // Some kernels report a hard limit that they do not grant.
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
            assert_eq!(
                reachable_url("http", addr.parse().expect("an address"), node.parse().expect("an address")),
                said
            );
        }
    }
}
