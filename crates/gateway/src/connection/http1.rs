//! A connection in HTTP/1.1.

use std::{error::Error as _, net::SocketAddr, pin::pin};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};

use super::{BUFFER, Service, patient::Patient};

/// Serves one, to its end; or one request of it.
pub(super) async fn serve(stream: Patient, peer: SocketAddr, mut service: Service, keep_alive: bool) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(keep_alive)
        .header_read_timeout(service.app.config.times.head)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.router.clone()));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        // The server has gone, or says so.
        _ = service.stopping.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        service.report(peer, error.source().and_then(|source| source.downcast_ref()), &error);
    }
}
