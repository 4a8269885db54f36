//! How this node sees its cluster, and whether it is well.
//!
//! The node is asked once at a time, however many ask here: those who come while it is asked share the next
//! answer.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};

use super::{
    App,
    problem::{self, Problem},
    query,
};
use crate::{MemberState, Metrics, Overview, Position, Reach, Readiness, Seen};

/// What the node has answered last, and when it was asked.
#[derive(Debug, Default)]
pub(super) struct Last(Mutex<Option<(Instant, Arc<Now>)>>);

/// How a node is, and its cluster.
#[derive(Debug)]
pub(super) struct Now {
    pub(super) overview: Overview,
    pub(super) metrics: Metrics,
}

impl App {
    /// How the node is now.
    pub(super) async fn look(&self) -> Arc<Now> {
        let come = Instant::now();
        let mut last = self.last.0.lock().await;
        match &*last {
            Some((asked, now)) if *asked > come => Arc::clone(now),
            _ => {
                let asked = Instant::now();
                let (overview, metrics) = (self.node.overview().await, self.node.metrics().await);
                let now = Arc::new(Now { overview, metrics });
                *last = Some((asked, Arc::clone(&now)));
                now
            }
        }
    }
}

/// `GET /healthz` and `GET /livez`
pub(super) async fn healthz(State(app): State<Arc<App>>) -> Response {
    // Not the overview, which those who look at the cluster share, and wait for.
    let members = app.node.readiness().await.map_or(0, |readiness| readiness.live);
    let (status, word) =
        if members > 0 { (StatusCode::OK, "alive") } else { (StatusCode::SERVICE_UNAVAILABLE, "stopped") };
    problem::answer(status, &json!({ "status": word, "members": members }))
}

/// `GET /readyz`
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let readiness = app.node.readiness().await;
    let word = match readiness {
        None => "stopped",
        Some(Readiness { leaving: true, .. }) => "leaving",
        Some(Readiness { joined: false, .. }) => "joining",
        Some(_) if app.settled.get().is_none() => "settling",
        Some(_) => "ready",
    };
    let members = readiness.map_or(0, |readiness| readiness.live);
    let status = if word == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    problem::answer(status, &json!({ "status": word, "members": members }))
}

/// `GET /v1/members`
pub(super) async fn members(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let text = members_text(&app).await.ok_or_else(Problem::stopped)?;
    Ok(([("content-type", "application/json")], Body::from(text)).into_response())
}

/// The same, as JSON; nothing when the node has stopped.
pub(super) async fn members_text(app: &App) -> Option<String> {
    let now = app.look().await;
    let all: Vec<_> = now.overview.members.iter().enumerate().map(|(i, seen)| member(seen, i == 0)).collect();
    let text = || json!({ "node": app.node.name(), "members": all }).to_string();
    (!all.is_empty()).then(text)
}

fn member(seen: &Seen, is_self: bool) -> Value {
    let Seen { member, acknowledges, lag, loose, reach } = seen;
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
        "loose": loose,
        "reach": match reach {
            Reach::Datagrams => "udp",
            Reach::SmallDatagrams(_) => "small-udp",
            Reach::Streams => "tcp",
        },
        "max_datagram": match reach {
            Reach::SmallDatagrams(max) => Some(max),
            _ => None,
        },
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
    query::none(&uri)?;
    let now = app.look().await;
    let Overview { joined, leaving, members, positions, .. } = &now.overview;
    let me = &members.first().ok_or_else(Problem::stopped)?.member;
    let gauges = now.metrics.gauges;
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
        "loose": members.iter().filter(|seen| seen.loose).map(|seen| seen.member.name.to_string()).collect::<Vec<_>>(),
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
