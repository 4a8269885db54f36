//! `GET /v1/views`: who believes what of whom. Each member is asked for its own view.
//!
//! A member may answer with anything, and may not exist at all. So one client at a time is served, within one budget: some
//! small views, which are asked for at the same time, and one view as large as views may be. Each is sent in chunks and
//! forgotten. A view that is not small is asked for a second time, alone.
//!
//! Asking costs a connection to each member, so members are asked once a second at most. Until then the last response is given
//! out, and clients that come meanwhile wait for the same one; unless it is too large to be cached.
//!
//! # What can go wrong
//!
//! - *Members that answer slowly, or not at all*, have [`VIEW_TIMEOUT`]; all together have [`TOTAL_TIMEOUT`]. The response says
//!   how many were not asked.
//! - *A client that reads slowly* is cut off after [`READ_TIMEOUT`], so that the next one has its turn.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, Uri, header},
    response::Response,
};
use broadcast::{Handle, Member, RequestError, ViewEntry, ViewError};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio::{
    sync::{OwnedMutexGuard, OwnedSemaphorePermit},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    app::App,
    chunks::{ChunkWriter, chunked_body, push_element, split_envelope},
    cluster::state_name,
    problem::{Problem, json_text_response},
    query,
    view_cache::{CachedViews, LastViews},
};

/// How long a response is given out before members are asked again.
const CACHE_TTL: Duration = Duration::from_secs(1);
/// How long a member may take to answer.
const VIEW_TIMEOUT: Duration = Duration::from_secs(1);
/// How long all members together may take.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client may take to read the response, and how long the next one waits for that.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How many members are asked; the response says how many were not.
pub(crate) const MAX_ASKED: usize = 256;
/// How many members are asked at the same time.
pub(crate) const MAX_CONCURRENT: usize = 16;
/// The largest view that is asked for along with others, in records and in bytes.
pub(crate) const SMALL_VIEW: (usize, usize) = (1024, 256 << 10);
/// The longest response that is cached, in bytes.
const MAX_CACHED: usize = 1 << 20;

/// `GET /v1/views`
pub(super) async fn views(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::reject_any(&uri)?;
    let mut last = timeout(READ_TIMEOUT, Arc::clone(&app.views.last).lock_owned()).await.map_err(|_| {
        let detail = "other clients are reading the views of all members slowly; try again in a moment";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, "1")
    })?;
    if let Some(cached) = last.cached.as_ref().filter(|cached| cached.at.elapsed() < CACHE_TTL) {
        let (cached, count) = (Arc::clone(cached), cached.chunks.len());
        return Ok(views_response(stream::iter(0..count).map(move |i| Ok(cached.chunks[i].clone()))));
    }
    if let Some(at) = last.asked_at {
        sleep_until(at + CACHE_TTL).await;
    }
    *last = LastViews { asked_at: Some(Instant::now()), cached: None };
    let own = app.node.view().await;
    if own.is_empty() {
        return Err(Problem::stopped());
    }
    let cache_permit = Arc::clone(&app.views.permits).try_acquire_owned().ok();
    let (chunks, body) = chunked_body(Instant::now() + READ_TIMEOUT, cache_permit.as_ref().map(|_| MAX_CACHED));
    tokio::spawn(write_and_cache(app, last, own, chunks, cache_permit));
    Ok(views_response(body))
}

fn views_response(text: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    json_text_response(StatusCode::OK, Body::from_stream(text))
}

/// Asks all members, and writes their answers in chunks.
async fn write_and_cache(
    app: Arc<App>,
    mut last: OwnedMutexGuard<LastViews>,
    own: Vec<ViewEntry>,
    mut chunks: ChunkWriter,
    cache_permit: Option<OwnedSemaphorePermit>,
) {
    if write_all(&mut chunks, &app, own).await.is_none() {
        if chunks.is_overdue() {
            app.counts.cut_off("it reads the views of all members too slowly");
        }
    } else if let (Some(chunks), Some(cache_permit)) = (chunks.into_cached(), cache_permit) {
        last.cached = Some(Arc::new(CachedViews { at: Instant::now(), chunks, _permit: cache_permit }));
    }
}

async fn write_all(chunks: &mut ChunkWriter, app: &App, own: Vec<ViewEntry>) -> Option<()> {
    let node = &app.node;
    let until = Instant::now() + TOTAL_TIMEOUT;
    chunks.text = split_envelope(&AllViewsBody { node: node.name(), views: [], not_asked: 0 }).0;
    write_view(chunks, node.name(), &own).await?;
    drop(own);
    let others = node.members().await;
    let others = others.into_iter().filter(|member| member.name != *node.name());
    let count = others.clone().count();
    let others: Vec<_> = others.take(MAX_ASKED).collect();
    let mut asked = 0;
    let mut views = stream::iter(others).map(|member| ViewRequest::begin(node, member)).buffered(MAX_CONCURRENT);
    while let Ok(Some((member, mut view))) = timeout_at(until, views.next()).await {
        if let Err(ViewError::Request(RequestError::TooLarge { .. })) = view {
            view = node.view_of(member.addr, VIEW_TIMEOUT).await;
        }
        let name = member.name.to_string();
        match view {
            Ok(beliefs) => {
                chunks.text.push(',');
                write_view(chunks, &name, &beliefs).await?;
            }
            Err(error) => {
                let error = (app.config.explain)(&error.to_string());
                push_element(&mut chunks.text, &MissingViewJson { of: &name, error });
                chunks.flush().await?;
            }
        }
        asked += 1;
    }
    chunks.text += &split_envelope(&AllViewsBody { node: node.name(), views: [], not_asked: count - asked }).1;
    chunks.finish().await
}

async fn write_view(chunks: &mut ChunkWriter, of: &str, beliefs: &[ViewEntry]) -> Option<()> {
    let (before, after) = split_envelope(&ViewBody { of, members: [] });
    chunks.text += &before;
    for belief in beliefs {
        let (name, state) = (belief.name.to_string(), state_name(belief.state));
        push_element(&mut chunks.text, &BeliefJson { name, state, incarnation: belief.incarnation });
        chunks.flush().await?;
    }
    chunks.text += &after;
    chunks.flush().await
}

/// The views of all members, each written after the other.
#[derive(Serialize)]
struct AllViewsBody<'a> {
    node: &'a str,
    views: [(); 0],
    not_asked: usize,
}

/// The view of a member; its beliefs are written one after the other.
#[derive(Serialize)]
struct ViewBody<'a> {
    of: &'a str,
    members: [(); 0],
}

/// Why there is no view of a member.
#[derive(Serialize)]
struct MissingViewJson<'a> {
    of: &'a str,
    error: String,
}

/// What a member believes of another one.
#[derive(Serialize)]
struct BeliefJson {
    name: String,
    state: &'static str,
    incarnation: u32,
}

type ViewResult = Result<Vec<ViewEntry>, ViewError>;

/// A request to a member. It goes on while the answers of members before it are being sent. A drop cancels it.
struct ViewRequest(JoinHandle<ViewResult>);

impl ViewRequest {
    async fn begin(node: &Handle, member: Member) -> (Member, ViewResult) {
        let (node, addr) = (node.clone(), member.addr);
        let mut asking = Self(tokio::spawn(async move { node.view_within(addr, VIEW_TIMEOUT, SMALL_VIEW).await }));
        let view = (&mut asking.0).await.unwrap_or(Err(ViewError::Stopped));
        (member, view)
    }
}

impl Drop for ViewRequest {
    fn drop(&mut self) {
        self.0.abort();
    }
}
