//! Connections in HTTP/1.1.

use std::{error::Error as _, pin::pin, sync::Arc};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{ClientStream, Service};
use crate::{access::ConnectionInfo, transport::BUFFER};

/// Serves a connection to its end, or, without `keep_alive`, one request of it.
pub(super) async fn serve(stream: ClientStream, info: Arc<ConnectionInfo>, mut service: Service, keep_alive: bool) {
    let (responder, peer) = (service.clone(), info.peer);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(keep_alive)
        .header_read_timeout(service.app.config.timeouts.head)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service_fn(move |request| responder.respond(request, &info)));
    let mut served = pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        // The server stops, or is gone.
        _ = service.stopping.changed() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        service.report_error(peer, error.source().and_then(|source| source.downcast_ref()), &error);
    }
}
