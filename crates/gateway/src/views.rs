//! Who believes what of whom: each member's view, asked of itself.
//!
//! A member may answer with anything, and there may be members that do not exist. So one client at a time is
//! answered, and what that holds is the budget of all: some views that are small, asked for at the same time, and one
//! that is as large as views may be. Each is told in pieces and forgotten. A view that turns out not to be small is
//! asked for a second time, alone.
//!
//! Asking costs a connection to each member, so that they are asked once a second at most. What was answered is given out
//! for so long, and those who ask meanwhile wait for the same answers; unless they are large, which nobody keeps.
//!
//! # What can go wrong
//!
//! - *Members that answer slowly, or not at all*, have [`PATIENCE`]; all together [`ASKING`]. Who was not asked is told
//!   by number.
//! - *A client that reads slowly* is cut off after [`TURN`], so that the next one has its turn.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
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
    look::state,
    pieces::{Pieces, around, pieces, push},
    problem::Problem,
    query,
    recent_views::{Kept, Recent},
};

/// For how long answers are given out, and nobody is asked again.
const FRESH: Duration = Duration::from_secs(1);
/// How long a member may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// For how long members are asked.
const ASKING: Duration = Duration::from_secs(20);
/// How long a client may take to read it all, from when it has its turn; and how long another waits for that.
const TURN: Duration = Duration::from_secs(30);
/// Members asked at most; how many were not is told.
pub(crate) const MOST: usize = 256;
/// Members asked at the same time.
pub(crate) const AT_ONCE: usize = 16;
/// The largest view that is asked for along with others, in records and in bytes.
pub(crate) const SMALL: (usize, usize) = (1024, 256 << 10);
/// The longest text that is kept for a second, in bytes.
const KEPT: usize = 1 << 20;

/// `GET /v1/views`
pub(super) async fn views(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let mut last = timeout(TURN, Arc::clone(&app.views.last).lock_owned()).await.map_err(|_| {
        let detail = "other clients are reading the views of all members slowly; try again in a moment";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, "1")
    })?;
    if let Some(kept) = last.kept.as_ref().filter(|kept| kept.at.elapsed() < FRESH) {
        let (kept, count) = (Arc::clone(kept), kept.pieces.len());
        return Ok(answer(stream::iter(0..count).map(move |i| Ok(kept.pieces[i].clone()))));
    }
    if let Some(at) = last.asked_at {
        sleep_until(at + FRESH).await;
    }
    *last = Recent { asked_at: Some(Instant::now()), kept: None };
    let own = app.node.view().await;
    if own.is_empty() {
        return Err(Problem::stopped());
    }
    let room = Arc::clone(&app.views.room).try_acquire_owned().ok();
    let (pieces, body) = pieces(Instant::now() + TURN, room.as_ref().map(|_| KEPT));
    tokio::spawn(tell(app, last, own, pieces, room));
    Ok(answer(body))
}

fn answer(text: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(text)).into_response()
}

/// Asks all, and tells what they answer, piece by piece.
async fn tell(
    app: Arc<App>,
    mut last: OwnedMutexGuard<Recent>,
    own: Vec<ViewEntry>,
    mut pieces: Pieces,
    room: Option<OwnedSemaphorePermit>,
) {
    if tell_all(&mut pieces, &app, own).await.is_none() {
        if pieces.is_late() {
            app.counts.cut_off("it reads the views of all members too slowly");
        }
    } else if let (Some(pieces), Some(room)) = (pieces.into_kept(), room) {
        last.kept = Some(Arc::new(Kept { at: Instant::now(), pieces, _room: room }));
    }
}

async fn tell_all(pieces: &mut Pieces, app: &App, own: Vec<ViewEntry>) -> Option<()> {
    let node = &app.node;
    let until = Instant::now() + ASKING;
    pieces.text = around(&AllViews { node: node.name(), views: [], not_asked: 0 }).0;
    tell_view(pieces, node.name(), &own).await?;
    drop(own);
    let others = node.members().await;
    let others = others.into_iter().filter(|member| member.name != *node.name());
    let count = others.clone().count();
    let others: Vec<_> = others.take(MOST).collect();
    let mut asked = 0;
    let mut views = stream::iter(others).map(|member| Asking::begin(node, member)).buffered(AT_ONCE);
    while let Ok(Some((member, mut view))) = timeout_at(until, views.next()).await {
        if let Err(ViewError::Request(RequestError::TooLarge { .. })) = view {
            view = node.view_of(member.addr, PATIENCE).await;
        }
        let name = member.name.to_string();
        match view {
            Ok(beliefs) => {
                pieces.text.push(',');
                tell_view(pieces, &name, &beliefs).await?;
            }
            Err(error) => {
                let error = (app.config.explain)(&error.to_string());
                push(&mut pieces.text, &NoView { of: &name, error });
                pieces.flush().await?;
            }
        }
        asked += 1;
    }
    pieces.text += &around(&AllViews { node: node.name(), views: [], not_asked: count - asked }).1;
    pieces.finish().await
}

async fn tell_view(pieces: &mut Pieces, of: &str, beliefs: &[ViewEntry]) -> Option<()> {
    let (before, after) = around(&ViewOf { of, members: [] });
    pieces.text += &before;
    for belief in beliefs {
        let (name, state) = (belief.name.to_string(), state(belief.state));
        push(&mut pieces.text, &BeliefOf { name, state, incarnation: belief.incarnation });
        pieces.flush().await?;
    }
    pieces.text += &after;
    pieces.flush().await
}

/// What all members believe of each other, each view written after the other.
#[derive(Serialize)]
struct AllViews<'a> {
    node: &'a str,
    views: [(); 0],
    not_asked: usize,
}

/// What a member believes, of each member after the other.
#[derive(Serialize)]
struct ViewOf<'a> {
    of: &'a str,
    members: [(); 0],
}

/// Why there is no view of a member.
#[derive(Serialize)]
struct NoView<'a> {
    of: &'a str,
    error: String,
}

/// What is believed of a member.
#[derive(Serialize)]
struct BeliefOf {
    name: String,
    state: &'static str,
    incarnation: u32,
}

type View = Result<Vec<ViewEntry>, ViewError>;

/// A member that is being asked, however long its answer then waits to be told. Given up when it is dropped.
struct Asking(JoinHandle<View>);

impl Asking {
    async fn begin(node: &Handle, member: Member) -> (Member, View) {
        let (node, addr) = (node.clone(), member.addr);
        let mut asking = Self(tokio::spawn(async move { node.view_within(addr, PATIENCE, SMALL).await }));
        let view = (&mut asking.0).await.unwrap_or(Err(ViewError::Stopped));
        (member, view)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}
