//! Accepting connections: health first, whatever the load.
//!
//! Two threads serve. This one accepts, shakes hands where TLS is spoken ([`handshakes`]), and looks at the first letters
//! of each connection; of one in HTTP/2, whose heads are compressed, it reads the first request. Who asks for the node's
//! health is answered here, and then the connection is closed; every other connection is handed to the other thread, with
//! its thousands who follow or ask for something large. So a health check waits for the work of nobody but the node.
//!
//! Nor does it wait for a permit: when there are no more than [`GatewayConfig::max_connections`](super::Config), so many
//! ([`SPARE_CONNECTIONS`]) more are let in for a moment, to say what they want, and all but health checks are refused.
//!
//! # What can go wrong
//!
//! - *A head that comes in pieces*, or a health check on a connection that has asked for something else before, is
//!   served like all others: well, but not first.
//! - *Connections that say nothing* have the time for a head ([`Timeouts`](super::Times)); those without a permit
//!   [`SPARE_TIMEOUT`]. Whoever opens as many as [`SPARE_CONNECTIONS`] in each such time, with all permits taken, keeps health checks
//!   out.
//! - *HandshakeQueue* have the time for a head, too. They are computed here, the newest first: whoever begins more of them than
//!   this thread has time for keeps health checks out.

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

/// How long the last answers may take once the node has stopped.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// Connections beyond the limit that may say what they want; more are closed without a word.
pub(crate) const SPARE_CONNECTIONS: usize = 256;
/// How long each of those may take, all in all.
const SPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to rest when the system has no more connections to give.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The longest beginning of a connection that shows what is wanted: a method, a path, and what ends it. As long is what
/// shows HTTP/2: its method, path and version, which nobody else uses.
const SNIFF_BYTES: usize = "HEAD /healthz ".len();
/// What TLS begins with: the type of a record that is part of a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// Serves connections, each where it belongs.
#[derive(Clone)]
struct Acceptor {
    service: Service,
    /// Where all but health checks are served.
    clients: runtime::Handle,
}

/// The right of a connection to be there, which counts it as long as it lasts.
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

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
enum ConnectionKind {
    /// A health check in HTTP/1.1.
    HealthCheck,
    /// Something else in it.
    Http1,
    Http2,
    /// Too little to tell HTTP/2 from what it is not.
    Undecided,
    /// It ended.
    Closed,
}

/// Takes connections until `background` is done, which is when the node has stopped. All but health checks are served by
/// `clients`.
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
        // Answers are small and wanted at once.
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
    // Ends when the last connection has.
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
                // The other thread has an own way to wait for it.
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

    /// Serves a connection that has none.
    async fn serve_over_limit(self, stream: TcpStream, peer: SocketAddr) {
        let refused = || self.service.app.counts.refused.fetch_add(1, Ordering::Relaxed);
        let Ok(established) = timeout(SPARE_TIMEOUT / 2, self.establish(stream, peer)).await else {
            refused();
            return;
        };
        let Some((mut stream, info)) = established else { return };
        // Who says nothing is refused as well, while there is time for that.
        match timeout(SPARE_TIMEOUT / 2, sniff(&mut stream)).await {
            Ok(Ok(ConnectionKind::HealthCheck)) => self.service.serve_http1(stream, info, false).await,
            Ok(Ok(ConnectionKind::Http2)) => match Http2Connection::accept_first(stream, info, self.service).await {
                Some(connection) if connection.asks_for_health() => connection.serve(false).await,
                Some(connection) => connection.refuse().await,
                None => {}
            },
            _ => {
                refused();
                // Whoever does not read it has not missed much.
                let _ = refuse_http1(stream).await;
            }
        }
    }

    /// Makes of a connection what HTTP is spoken over; nothing if that fails. Where TLS is spoken, that takes as long as
    /// the client makes it take.
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

/// Shakes hands; gives the subject of the client's certificate, too.
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
        // It is genuine all the same.
        Arc::from(subject.filter(|subject| !subject.is_empty()).unwrap_or_else(|| "no subject".into()))
    });
    Ok(Some((Transport::Tls(stream), subject)))
}

/// Looks at what comes first, and leaves it there.
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
