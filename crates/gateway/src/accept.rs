//! The accept loop: health checks first, whatever the load.
//!
//! Two threads serve. This one accepts connections, does TLS handshakes ([`handshakes`]), and looks at the first bytes of
//! each connection. A connection in HTTP/2 has compressed heads, so of that it reads the first request. A health check is
//! answered here, and its connection is closed. Every other connection is handed to the other thread, which may be busy with
//! thousands of followers. So a health check waits for nobody's work but the node's.
//!
//! Nor does a health check wait for a permit. When [`max_connections`](super::GatewayConfig::max_connections) are open,
//! [`SPARE_CONNECTIONS`] more are let in for a moment to say what they want, and all but health checks are refused.
//!
//! # What can go wrong
//!
//! - *A health check that comes in pieces*, or on a connection that asked for something else before, is served like all others:
//!   well, but not first.
//! - *Connections that say nothing* are closed after the timeout for a head ([`Timeouts`](super::Timeouts)); those without a
//!   permit after [`SPARE_TIMEOUT`]. While all permits are taken, whoever opens [`SPARE_CONNECTIONS`] in each such time keeps
//!   health checks out.
//! - *Handshakes* have the timeout for a head, too. They are computed here, the newest first. Whoever begins more of them than
//!   this thread can compute keeps health checks out.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    access::ConnectionInfo,
    app::App,
    connection::{ClientStream, Http2Connection, PREFACE, Service, refuse_http1, refuse_plain},
    guard,
    tls::{Certificate, Tls, handshakes},
    transport::{Socket, Transport},
};

/// How long the last responses may take once the node has stopped.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// How many connections beyond the limit may say what they want; more are closed at once.
pub(crate) const SPARE_CONNECTIONS: usize = 256;
/// How long each of those may take in all.
const SPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after the system could not accept a connection, as when file descriptors run out.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How many bytes show what a connection wants: the longest method and path of a health check, and the blank behind them. As
/// many show HTTP/2, by a preface that no request of HTTP/1.1 begins with.
const SNIFF_BYTES: usize = "HEAD /healthz ".len();
/// The first byte of TLS: the type of a handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// Decides on which thread each connection is served.
#[derive(Clone)]
struct Acceptor {
    service: Service,
    /// Serves all but health checks.
    clients: runtime::Handle,
}

/// The permit of a connection. It counts the connection as long as it lives.
struct ConnectionPermit {
    app: Arc<App>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionPermit {
    fn new(app: &Arc<App>, permit: OwnedSemaphorePermit) -> Self {
        app.counts.connections.fetch_add(1, Ordering::Relaxed);
        Self { app: Arc::clone(app), _permit: permit }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.app.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the first bytes of a connection say of it.
#[derive(Debug, PartialEq, Eq)]
enum ConnectionKind {
    /// A health check in HTTP/1.1.
    HealthCheck,
    /// Any other request in HTTP/1.1.
    Http1,
    Http2,
    /// Too few bytes to tell HTTP/2 from HTTP/1.1.
    Undecided,
    /// The client has closed it.
    Closed,
}

/// Accepts connections until `background` ends, which is when the node has stopped. `clients` serves all but health checks.
pub(super) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    clients: runtime::Handle,
    background: impl Future,
) {
    let [permits, spare, refusals] =
        [app.config.max_connections, SPARE_CONNECTIONS, SPARE_CONNECTIONS].map(|count| Arc::new(Semaphore::new(count)));
    let (stop, stopping) = watch::channel(());
    let service = Service { app, router, stopping, permits, refusals };
    let acceptor = Acceptor { service, clients };
    let mut background = pin!(background);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut background => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "while accepting HTTP connections");
                sleep(ACCEPT_RETRY_PAUSE).await;
                continue;
            }
        };
        // Responses are small and wanted at once: do not wait to fill packets.
        let _ = stream.set_nodelay(true);
        let Service { app, permits, .. } = &acceptor.service;
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            tokio::spawn(acceptor.clone().admit(stream, peer, ConnectionPermit::new(app, permit)));
        } else if let Ok(permit) = Arc::clone(&spare).try_acquire_owned() {
            let serve_over_limit = acceptor.clone().serve_over_limit(stream, peer);
            tokio::spawn(async move {
                let _ = timeout(SPARE_TIMEOUT, serve_over_limit).await;
                drop(permit);
            });
        } else {
            app.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
    drop((listener, acceptor));
    let _ = stop.send(());
    // Resolves when the last connection is closed.
    let _ = timeout(SHUTDOWN_GRACE, stop.closed()).await;
}

impl Acceptor {
    /// Serves a connection that has a permit.
    async fn admit(self, stream: TcpStream, peer: SocketAddr, permit: ConnectionPermit) {
        let head = self.service.app.config.timeouts.head;
        let Ok(established) = timeout(head, self.establish(stream, peer)).await else {
            return debug!(%peer, "an HTTP connection said nothing for {head:?}");
        };
        let Some((mut stream, info)) = established else { return };
        let Ok(kind) = timeout(head, sniff(&mut stream)).await else {
            return debug!(%peer, "an HTTP connection said nothing for {head:?}");
        };
        let Self { service, clients } = self;
        match kind {
            Ok(ConnectionKind::HealthCheck) => service.serve_http1(stream, info, false).await,
            Ok(ConnectionKind::Http2) => {
                match timeout(head, Http2Connection::accept_first(stream, info, service)).await {
                    Ok(Some(connection)) if connection.asks_for_health() => connection.serve(false).await,
                    Ok(Some(connection)) => {
                        let connection = connection.moved();
                        clients.spawn(async move {
                            let _permit = permit;
                            connection.serve(true).await;
                        });
                    }
                    Ok(None) => {}
                    Err(_) => debug!(%peer, "an HTTP/2 connection asked nothing for {head:?}"),
                }
            }
            Ok(kind @ (ConnectionKind::Http1 | ConnectionKind::Undecided)) => {
                // The socket must register with the other thread's runtime.
                stream.runtime_switch().switch();
                clients.spawn(async move {
                    let _permit = permit;
                    if kind == ConnectionKind::Http1 {
                        service.serve_http1(stream, info, true).await;
                    } else {
                        service.serve_undecided(stream, info).await;
                    }
                });
            }
            Ok(ConnectionKind::Closed) => {}
            Err(error) => debug!(%peer, %error, "an HTTP connection broke"),
        }
    }

    /// Serves a connection beyond the limit: a health check, or a refusal.
    async fn serve_over_limit(self, stream: TcpStream, peer: SocketAddr) {
        let refused = || self.service.app.counts.refused.fetch_add(1, Ordering::Relaxed);
        let Ok(established) = timeout(SPARE_TIMEOUT / 2, self.establish(stream, peer)).await else {
            refused();
            return;
        };
        let Some((mut stream, info)) = established else { return };
        // A client that says nothing is refused, too, while there is time.
        match timeout(SPARE_TIMEOUT / 2, sniff(&mut stream)).await {
            Ok(Ok(ConnectionKind::HealthCheck)) => self.service.serve_http1(stream, info, false).await,
            Ok(Ok(ConnectionKind::Http2)) => match Http2Connection::accept_first(stream, info, self.service).await {
                Some(connection) if connection.asks_for_health() => connection.serve(false).await,
                Some(connection) => connection.refuse().await,
                None => {}
            },
            _ => {
                refused();
                // A client that does not read the refusal misses little.
                let _ = refuse_http1(stream).await;
            }
        }
    }

    /// Makes a stream for HTTP of a connection, with a TLS handshake if there is TLS; nothing if that fails. A handshake
    /// takes as long as the client makes it take.
    async fn establish(&self, stream: TcpStream, peer: SocketAddr) -> Option<(ClientStream, Arc<ConnectionInfo>)> {
        let app = &self.service.app;
        let stall = app.config.timeouts.stall;
        let info = |certificate| Arc::new(ConnectionInfo { peer, over_tls: app.config.tls.is_some(), certificate });
        let Some(tls) = &app.config.tls else {
            return Some((ClientStream::new(Transport::Plain(Socket::new(stream, stall))), info(None)));
        };
        match tls_handshake(tls, &app.handshakes, stream, stall).await {
            Ok(Some((stream, certificate))) => Some((ClientStream::new(stream), info(certificate))),
            Ok(None) => None,
            Err(error) => {
                app.counts.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                debug!(%peer, %error, "a TLS handshake failed");
                None
            }
        }
    }
}

/// Does the TLS handshake. Also gives the subject of the client's certificate.
async fn tls_handshake(
    tls: &Tls,
    handshakes: &handshakes::HandshakeQueue,
    stream: TcpStream,
    stall: Duration,
) -> io::Result<Option<(Transport, Option<Arc<str>>)>> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => return Ok(None),
        _ if first == [HANDSHAKE] => {}
        _ => return refuse_plain(stream).await.map(|()| None),
    }
    let stream = handshakes.handshake(tls, Socket::new(stream, stall)).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let subject = certificate.map(|certificate| {
        let subject = Certificate::read(certificate).map(|certificate| certificate.subject);
        // The handshake has verified the certificate, whatever its subject is.
        Arc::from(subject.filter(|subject| !subject.is_empty()).unwrap_or_else(|| "no subject".into()))
    });
    Ok(Some((Transport::Tls(stream), subject)))
}

/// Looks at the first bytes of a connection, and leaves them to be read.
async fn sniff(stream: &mut ClientStream) -> io::Result<ConnectionKind> {
    let seen = stream.peek().await?;
    Ok(ConnectionKind::of(&seen[..seen.len().min(SNIFF_BYTES)]))
}

impl ConnectionKind {
    fn of(seen: &[u8]) -> Self {
        match seen {
            [] => Self::Closed,
            _ if asks_for_health(seen) => Self::HealthCheck,
            _ if seen.len() == SNIFF_BYTES && PREFACE.starts_with(seen) => Self::Http2,
            _ if PREFACE.starts_with(seen) => Self::Undecided,
            _ => Self::Http1,
        }
    }
}

fn asks_for_health(first_bytes: &[u8]) -> bool {
    let path = [&b"GET "[..], b"HEAD "].iter().find_map(|method| first_bytes.strip_prefix(*method));
    path.is_some_and(|path| {
        let rest = guard::HEALTH_PATHS.iter().find_map(|open| path.strip_prefix(open.as_bytes()));
        rest.and_then(<[u8]>::first).is_some_and(|end| b" ?".contains(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_known_by_its_preface() {
        assert_eq!(ConnectionKind::of(&PREFACE[..SNIFF_BYTES]), ConnectionKind::Http2);
        (1..SNIFF_BYTES)
            .for_each(|length| assert_eq!(ConnectionKind::of(&PREFACE[..length]), ConnectionKind::Undecided));
        for request in [&b"POST /v1/messages"[..SNIFF_BYTES], b"PRI / HTTP/1.1", b"PRI * HTTP/1.1"] {
            assert_eq!(ConnectionKind::of(request), ConnectionKind::Http1);
        }
        assert_eq!(ConnectionKind::of(b""), ConnectionKind::Closed);
    }

    #[test]
    fn health_checks_are_known_by_how_they_begin() {
        for path in guard::HEALTH_PATHS {
            for request in
                [format!("GET {path} HTTP/1.1\r\n"), format!("HEAD {path} HTTP"), format!("GET {path}?a=b H")]
            {
                let seen = &request.as_bytes()[..request.len().min(SNIFF_BYTES)];
                assert!(asks_for_health(seen), "{request}");
            }
        }
        for request in [
            "",
            "G",
            "GET",
            "GET ",
            "GET /",
            "GET /health",
            "GET /healthz",
            "GET /healthzz ",
            "GET /readyz/",
            "POST /healthz ",
            "get /healthz ",
            "GET /v1/events ",
            "GET  /healthz ",
            "\r\nGET /livez ",
        ] {
            assert!(!asks_for_health(request.as_bytes()), "{request}");
        }
    }
}
