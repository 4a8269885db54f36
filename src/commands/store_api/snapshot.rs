//! A backup of the whole store as a stream of bytes, which `broadcast store restore` reads.

use axum::{extract::State, http::Uri, response::Response};
use broadcast_gateway::{Problem, no_query};
use broadcast_store::StoreError;
use futures_util::stream;

use super::{super::sse::streamed, problem::problem};
use crate::store::NodeStore;

/// `GET /v1/store/snapshot`. If the backup breaks off, so does the connection.
pub(super) async fn save(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let backup = store.run(async |store| store.save().await).await.map_err(problem)?;
    let body = stream::try_unfold(backup, async |mut backup| {
        let piece = backup.next().await?;
        Ok::<_, StoreError>(piece.map(|piece| (piece, backup)))
    });
    Ok(streamed("application/octet-stream", body))
}
