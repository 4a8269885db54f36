//! A backup of all that the store has, as a stream of bytes: what `broadcast store restore` reads.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, Uri, header},
    response::Response,
};
use broadcast_gateway::{Problem, no_query};
use broadcast_store::StoreError;
use futures_util::stream;

use super::problem::problem;
use crate::store::NodeStore;

/// `GET /v1/store/snapshot`. If it breaks off, so does the connection.
pub(super) async fn save(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let backup = store.run(async |store| store.save().await).await.map_err(problem)?;
    let body = stream::try_unfold(backup, async |mut backup| {
        let piece = backup.next().await?;
        Ok::<_, StoreError>(piece.map(|piece| (piece, backup)))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
