//! How this node sees its cluster, and whether it is well.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    App,
    problem::{self, Problem},
};
use crate::{Handle, MemberState, Overview, Position, Seen};

/// `GET /healthz`
pub(super) async fn healthz(State(app): State<Arc<App>>) -> Response {
    let members = app.node.members().await.len();
    let (status, word) =
        if members > 0 { (StatusCode::OK, "alive") } else { (StatusCode::SERVICE_UNAVAILABLE, "stopped") };
    problem::answer(status, &json!({ "status": word, "members": members }))
}

/// `GET /readyz`
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let Overview { joined, leaving, members, .. } = app.node.overview().await;
    let word = match () {
        () if members.is_empty() => "stopped",
        () if leaving => "leaving",
        () if !joined => "joining",
        () if app.settled.get().is_none() => "settling",
        () => "ready",
    };
    let status = if word == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let live = members.iter().filter(|seen| seen.member.state.is_live()).count();
    problem::answer(status, &json!({ "status": word, "members": live }))
}

/// `GET /v1/members`
pub(super) async fn members(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let text = members_text(&app.node).await.ok_or_else(Problem::stopped)?;
    Ok(([("content-type", "application/json")], Body::from(text)).into_response())
}

/// The same, as JSON; nothing when the node has stopped.
pub(super) async fn members_text(node: &Handle) -> Option<Bytes> {
    let members = node.overview().await.members;
    let all: Vec<_> = members.iter().enumerate().map(|(i, seen)| member(seen, i == 0)).collect();
    let text = || json!({ "node": node.name(), "members": all }).to_string().into();
    (!all.is_empty()).then(text)
}

fn member(seen: &Seen, is_self: bool) -> Value {
    let Seen { member, acknowledges, lag, .. } = seen;
    let meta = std::str::from_utf8(&member.meta);
    let mut object = json!({
        "name": member.name.to_string(),
        "self": is_self,
        "state": state(member.state),
        "kind": if *acknowledges { "broadcast" } else { "memberlist" },
        "addr": member.addr.to_string(),
        "incarnation": member.incarnation,
        "meta": meta.ok().filter(|meta| !meta.is_empty()),
        "rtt_ms": member.rtt.map(|rtt| rtt.as_micros() as f64 / 1000.0),
        "lag": lag,
    });
    if meta.is_err() {
        object["meta_base64"] = BASE64_STANDARD.encode(&member.meta).into();
    }
    object
}

/// The word for what is believed of a member.
pub(super) fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Dead => "dead",
        MemberState::Left => "left",
    }
}

/// `GET /v1/cluster`
pub(super) async fn cluster(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let Overview { joined, leaving, members, positions, .. } = app.node.overview().await;
    let me = &members.first().ok_or_else(Problem::stopped)?.member;
    let metrics = app.node.metrics().await;
    let gauges = metrics.gauges;
    let origin = |position: &Position| {
        let Position { origin, epoch, next, end, floor, retained } = position;
        let origin = origin.to_string();
        json!({ "origin": origin, "epoch": epoch, "next": next, "end": end, "floor": floor, "retained": retained })
    };
    let value = json!({
        "node": app.node.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "addr": me.addr.to_string(),
        "joined": joined,
        "settled": app.settled.get().is_some(),
        "leaving": leaving,
        "incarnation": me.incarnation,
        "health_score": gauges.health_score,
        "members": {
            "alive": gauges.alive, "suspect": gauges.suspect, "dead": gauges.dead, "left": gauges.left,
        },
        "queues": {
            "gossip": gauges.queued,
            "plain_messages": gauges.queued_messages,
            "streams": gauges.streams,
            "stream_bytes": gauges.stream_bytes,
            "retained": positions.iter().map(|position| position.retained).sum::<usize>(),
        },
        "origins": positions.iter().map(origin).collect::<Vec<_>>(),
    });
    Ok(problem::answer(StatusCode::OK, &value))
}

/// What takes no query is asked without one.
pub(super) fn no_query(uri: &Uri) -> Result<(), Problem> {
    match uri.query().unwrap_or_default() {
        "" => Ok(()),
        query => {
            Err(Problem::bad_request(format_args!("{:?} takes no query, and was asked with {query:?}", uri.path())))
        }
    }
}
