//! Accepting connections: health first, whatever the load.
//!
//! Two threads serve. This one accepts, and looks at the first letters of each connection, without taking them. Who
//! asks for the node's health is answered here, and then the connection is closed; every other connection is handed
//! to the other thread, with its thousands who follow or ask for something large. So a health check waits for the work
//! of nobody but the node.
//!
//! Nor does it wait for a place: when there are no more than [`Config::max_connections`](super::Config), so many
//! ([`SPARE`]) more are let in for a moment, to say what they want, and all but health checks are refused.
//!
//! # What can go wrong
//!
//! - *A head that comes in pieces*, or a health check on a connection that has asked for something else before, is
//!   served like all others: well, but not first.
//! - *Connections that say nothing* have the time for a head ([`Times`](super::Times)); those in a spare place
//!   [`SPARE_TIME`]. Whoever opens as many as there are spare places in each such time, with all other places taken,
//!   keeps health checks out.

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

use super::{app::App, connection, guard};

/// How long the last answers may take once the node has stopped.
const GOOD_BYE: Duration = Duration::from_secs(1);
/// Connections beyond the limit that may say what they want; more are closed without a word.
pub(crate) const SPARE: usize = 256;
/// How long each of those may take, all in all.
const SPARE_TIME: Duration = Duration::from_secs(2);
/// How long to rest when the system has no more connections to give.
const REST: Duration = Duration::from_millis(50);
/// The longest beginning of a request that shows what is wanted: a method, a path, and what ends it.
const BEGINNING: usize = "HEAD /healthz ".len();

/// What all connections are served with.
#[derive(Clone)]
struct Service {
    app: Arc<App>,
    router: Router,
    stopping: watch::Receiver<()>,
    others: runtime::Handle,
}

/// A connection that counts, as long as it lasts.
struct Place {
    app: Arc<App>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(app: &Arc<App>, permit: OwnedSemaphorePermit) -> Self {
        app.counts.connections.fetch_add(1, Ordering::Relaxed);
        Self { app: Arc::clone(app), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.app.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Health,
    Other,
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
    let [places, spare] = [app.config.max_connections, SPARE].map(|count| Arc::new(Semaphore::new(count)));
    let (stop, stopping) = watch::channel(());
    let service = Service { app, router, stopping, others };
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
        let app = &service.app;
        if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
            tokio::spawn(service.clone().admit(stream, peer, Place::new(app, permit)));
        } else if let Ok(permit) = Arc::clone(&spare).try_acquire_owned() {
            let beyond = service.clone().beyond(stream, peer);
            tokio::spawn(async move {
                let _ = timeout(SPARE_TIME, beyond).await;
                drop(permit);
            });
        } else {
            app.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
    drop((listener, service));
    let _ = stop.send(());
    // Ends when the last connection has.
    let _ = timeout(GOOD_BYE, stop.closed()).await;
}

impl Service {
    /// Serves a connection that has a place.
    async fn admit(self, stream: TcpStream, peer: SocketAddr, place: Place) {
        let head = self.app.config.times.head;
        match timeout(head, wanted(&stream)).await {
            Ok(Ok(Wanted::Health)) => self.answer_one(stream, peer).await,
            Ok(Ok(Wanted::Other)) => {
                // The other thread has an own way to wait for it.
                let Ok(stream) = stream.into_std() else { return };
                let others = self.others.clone();
                others.spawn(async move {
                    let _place = place;
                    let Ok(stream) = TcpStream::from_std(stream) else { return };
                    connection::serve(stream, peer, &self.app, self.router, self.stopping, true).await;
                });
            }
            Ok(Ok(Wanted::Nothing)) => {}
            Ok(Err(error)) => debug!(%peer, %error, "an HTTP connection broke"),
            Err(_) => debug!(%peer, "an HTTP connection said nothing for {head:?}"),
        }
    }

    /// Serves a connection that has none.
    async fn beyond(self, stream: TcpStream, peer: SocketAddr) {
        // Who says nothing is refused as well, while there is time for that.
        if let Ok(Ok(Wanted::Health)) = timeout(SPARE_TIME / 2, wanted(&stream)).await {
            self.answer_one(stream, peer).await;
        } else {
            self.app.counts.refused.fetch_add(1, Ordering::Relaxed);
            // Whoever does not read it has not missed much.
            let _ = connection::refuse(stream).await;
        }
    }

    async fn answer_one(self, stream: TcpStream, peer: SocketAddr) {
        connection::serve(stream, peer, &self.app, self.router, self.stopping, false).await;
    }
}

/// Looks at what comes first, and leaves it there.
async fn wanted(stream: &TcpStream) -> io::Result<Wanted> {
    let mut beginning = [0; BEGINNING];
    let length = stream.peek(&mut beginning).await?;
    Ok(match length {
        0 => Wanted::Nothing,
        _ if asks_for_health(&beginning[..length]) => Wanted::Health,
        _ => Wanted::Other,
    })
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
    fn health_checks_are_known_by_how_they_begin() {
        for path in guard::OPEN {
            for request in
                [format!("GET {path} HTTP/1.1\r\n"), format!("HEAD {path} HTTP"), format!("GET {path}?a=b H")]
            {
                let seen = &request.as_bytes()[..request.len().min(BEGINNING)];
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
