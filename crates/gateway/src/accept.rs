//! Accepting connections: health first, whatever the load.
//!
//! Two threads serve. This one accepts, shakes hands where TLS is spoken ([`handshakes`]), and looks at the first letters
//! of each connection; of one in HTTP/2, whose heads are compressed, it reads the first request. Who asks for the node's
//! health is answered here, and then the connection is closed; every other connection is handed to the other thread, with
//! its thousands who follow or ask for something large. So a health check waits for the work of nobody but the node.
//!
//! Nor does it wait for a permit: when there are no more than [`Config::max_connections`](super::Config), so many
//! ([`SPARE`]) more are let in for a moment, to say what they want, and all but health checks are refused.
//!
//! # What can go wrong
//!
//! - *A head that comes in pieces*, or a health check on a connection that has asked for something else before, is
//!   served like all others: well, but not first.
//! - *Connections that say nothing* have the time for a head ([`Times`](super::Times)); those without a permit
//!   [`SPARE_TIME`]. Whoever opens as many as [`SPARE`] in each such time, with all permits taken, keeps health checks
//!   out.
//! - *Handshakes* have the time for a head, too. They are computed here, the newest first: whoever begins more of them than
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
    access::Caller,
    app::App,
    connection::{PREFACE, Patient, Service, Session, refuse, refuse_plain},
    guard,
    tls::{Certificate, Tls, handshakes},
    transport::{Socket, Transport},
};

/// How long the last answers may take once the node has stopped.
const GOOD_BYE: Duration = Duration::from_secs(1);
/// Connections beyond the limit that may say what they want; more are closed without a word.
pub(crate) const SPARE: usize = 256;
/// How long each of those may take, all in all.
const SPARE_TIME: Duration = Duration::from_secs(2);
/// How long to rest when the system has no more connections to give.
const REST: Duration = Duration::from_millis(50);
/// The longest beginning of a connection that shows what is wanted: a method, a path, and what ends it. As long is what
/// shows HTTP/2: its method, path and version, which nobody else uses.
const LOOKED_AT: usize = "HEAD /healthz ".len();
/// What TLS begins with: the type of a record that is part of a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// Serves connections, each where it belongs.
#[derive(Clone)]
struct Acceptor {
    service: Service,
    /// Where all but health checks are served.
    others: runtime::Handle,
}

/// The right of a connection to be there, which counts it as long as it lasts.
struct Permit {
    app: Arc<App>,
    _permit: OwnedSemaphorePermit,
}

impl Permit {
    fn new(app: &Arc<App>, permit: OwnedSemaphorePermit) -> Self {
        app.counts.connections.fetch_add(1, Ordering::Relaxed);
        Self { app: Arc::clone(app), _permit: permit }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.app.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
enum Beginning {
    /// A health check in HTTP/1.1.
    Health,
    /// Something else in it.
    Http1,
    Http2,
    /// Too little to tell HTTP/2 from what it is not.
    Unclear,
    /// It ended.
    Nothing,
}

/// Takes connections until `keeping` is done, which is when the node has stopped. All but health checks are served by
/// `others`.
pub(super) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    others: runtime::Handle,
    keeping: impl Future,
) {
    let [permits, spare, refusals] =
        [app.config.max_connections, SPARE, SPARE].map(|count| Arc::new(Semaphore::new(count)));
    let (stop, stopping) = watch::channel(());
    let service = Service { app, router, stopping, permits, refusals };
    let acceptor = Acceptor { service, others };
    let mut keeping = pin!(keeping);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut keeping => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "while accepting HTTP connections");
                sleep(REST).await;
                continue;
            }
        };
        // Answers are small and wanted at once.
        let _ = stream.set_nodelay(true);
        let Service { app, permits, .. } = &acceptor.service;
        if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
            tokio::spawn(acceptor.clone().admit(stream, peer, Permit::new(app, permit)));
        } else if let Ok(permit) = Arc::clone(&spare).try_acquire_owned() {
            let beyond = acceptor.clone().beyond(stream, peer);
            tokio::spawn(async move {
                let _ = timeout(SPARE_TIME, beyond).await;
                drop(permit);
            });
        } else {
            app.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
    drop((listener, acceptor));
    let _ = stop.send(());
    // Ends when the last connection has.
    let _ = timeout(GOOD_BYE, stop.closed()).await;
}

impl Acceptor {
    /// Serves a connection that has a permit.
    async fn admit(self, stream: TcpStream, peer: SocketAddr, permit: Permit) {
        let head = self.service.app.config.times.head;
        let Ok(arrived) = timeout(head, self.arrive(stream, peer)).await else {
            return debug!(%peer, "an HTTP connection said nothing for {head:?}");
        };
        let Some((mut stream, caller)) = arrived else { return };
        let Ok(beginning) = timeout(head, beginning(&mut stream)).await else {
            return debug!(%peer, "an HTTP connection said nothing for {head:?}");
        };
        let Self { service, others } = self;
        match beginning {
            Ok(Beginning::Health) => service.serve_http1(stream, caller, false).await,
            Ok(Beginning::Http2) => match timeout(head, Session::begin(stream, caller, service)).await {
                Ok(Some(session)) if session.asks_for_health() => session.serve(false).await,
                Ok(Some(session)) => {
                    let session = session.moved();
                    others.spawn(async move {
                        let _permit = permit;
                        session.serve(true).await;
                    });
                }
                Ok(None) => {}
                Err(_) => debug!(%peer, "an HTTP/2 connection asked nothing for {head:?}"),
            },
            Ok(other @ (Beginning::Http1 | Beginning::Unclear)) => {
                // The other thread has an own way to wait for it.
                stream.mover().move_on();
                others.spawn(async move {
                    let _permit = permit;
                    if other == Beginning::Http1 {
                        service.serve_http1(stream, caller, true).await;
                    } else {
                        service.serve_unclear(stream, caller).await;
                    }
                });
            }
            Ok(Beginning::Nothing) => {}
            Err(error) => debug!(%peer, %error, "an HTTP connection broke"),
        }
    }

    /// Serves a connection that has none.
    async fn beyond(self, stream: TcpStream, peer: SocketAddr) {
        let refused = || self.service.app.counts.refused.fetch_add(1, Ordering::Relaxed);
        let Ok(arrived) = timeout(SPARE_TIME / 2, self.arrive(stream, peer)).await else {
            refused();
            return;
        };
        let Some((mut stream, caller)) = arrived else { return };
        // Who says nothing is refused as well, while there is time for that.
        match timeout(SPARE_TIME / 2, beginning(&mut stream)).await {
            Ok(Ok(Beginning::Health)) => self.service.serve_http1(stream, caller, false).await,
            Ok(Ok(Beginning::Http2)) => match Session::begin(stream, caller, self.service).await {
                Some(session) if session.asks_for_health() => session.serve(false).await,
                Some(session) => session.refuse().await,
                None => {}
            },
            _ => {
                refused();
                // Whoever does not read it has not missed much.
                let _ = refuse(stream).await;
            }
        }
    }

    /// Makes of a connection what HTTP is spoken over; nothing if that fails. Where TLS is spoken, that takes as long as
    /// the client makes it take.
    async fn arrive(&self, stream: TcpStream, peer: SocketAddr) -> Option<(Patient, Arc<Caller>)> {
        let app = &self.service.app;
        let stall = app.config.times.stall;
        let caller = |certificate| Arc::new(Caller { peer, over_tls: app.config.tls.is_some(), certificate });
        let Some(tls) = &app.config.tls else {
            return Some((Patient::new(Transport::Plain(Socket::new(stream, stall))), caller(None)));
        };
        match shake(tls, &app.handshakes, stream, stall).await {
            Ok(Some((stream, certificate))) => Some((Patient::new(stream), caller(certificate))),
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
async fn shake(
    tls: &Tls,
    handshakes: &handshakes::Handshakes,
    stream: TcpStream,
    stall: Duration,
) -> io::Result<Option<(Transport, Option<Arc<str>>)>> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => return Ok(None),
        _ if first == [HANDSHAKE] => {}
        _ => return refuse_plain(stream).await.map(|()| None),
    }
    let stream = handshakes.shake(tls, Socket::new(stream, stall)).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let subject = certificate.map(|certificate| {
        let subject = Certificate::read(certificate).map(|certificate| certificate.subject);
        // It is genuine all the same.
        Arc::from(subject.filter(|subject| !subject.is_empty()).unwrap_or_else(|| "no subject".into()))
    });
    Ok(Some((Transport::Tls(stream), subject)))
}

/// Looks at what comes first, and leaves it there.
async fn beginning(stream: &mut Patient) -> io::Result<Beginning> {
    let seen = stream.beginning().await?;
    Ok(Beginning::of(&seen[..seen.len().min(LOOKED_AT)]))
}

impl Beginning {
    fn of(seen: &[u8]) -> Self {
        match seen {
            [] => Self::Nothing,
            _ if asks_for_health(seen) => Self::Health,
            _ if seen.len() == LOOKED_AT && PREFACE.starts_with(seen) => Self::Http2,
            _ if PREFACE.starts_with(seen) => Self::Unclear,
            _ => Self::Http1,
        }
    }
}

fn asks_for_health(beginning: &[u8]) -> bool {
    let path = [&b"GET "[..], b"HEAD "].iter().find_map(|method| beginning.strip_prefix(*method));
    path.is_some_and(|path| {
        let rest = guard::OPEN.iter().find_map(|open| path.strip_prefix(open.as_bytes()));
        rest.and_then(<[u8]>::first).is_some_and(|end| b" ?".contains(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_known_by_its_preface() {
        assert_eq!(Beginning::of(&PREFACE[..LOOKED_AT]), Beginning::Http2);
        (1..LOOKED_AT).for_each(|length| assert_eq!(Beginning::of(&PREFACE[..length]), Beginning::Unclear));
        for request in [&b"POST /v1/messages"[..LOOKED_AT], b"PRI / HTTP/1.1", b"PRI * HTTP/1.1"] {
            assert_eq!(Beginning::of(request), Beginning::Http1);
        }
        assert_eq!(Beginning::of(b""), Beginning::Nothing);
    }

    #[test]
    fn health_checks_are_known_by_how_they_begin() {
        for path in guard::OPEN {
            for request in
                [format!("GET {path} HTTP/1.1\r\n"), format!("HEAD {path} HTTP"), format!("GET {path}?a=b H")]
            {
                let seen = &request.as_bytes()[..request.len().min(LOOKED_AT)];
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
