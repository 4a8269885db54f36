//! How this node sees its cluster, and whether it is well.
//!
//! The node is asked once at a time, however many ask here: those who come while it is asked share the next
//! answer.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use broadcast::{Health, MemberState, Metrics, Overview, Position, Reach, Seen};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, timeout},
};

use super::{
    App,
    pieces::{Pieces, pieces},
    problem::{self, Problem},
    query,
};

/// The longest text of members that is made at once, about, in bytes.
const SHORT: usize = 64 << 10;
/// Clients that are told more than that at the same time: each may hold all that the node knows of its members.
pub(crate) const LONG_ANSWERS: usize = 4;
/// How long such a client may take to read it all, and another one wait.
const TURN: Duration = Duration::from_secs(30);

/// The right to be told a long answer.
#[derive(Debug)]
pub(super) struct LongAnswers(Arc<Semaphore>);

impl LongAnswers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LONG_ANSWERS)))
    }
}

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
    let members = app.node.health().await.map_or(0, |health| health.members);
    let (status, word) =
        if members > 0 { (StatusCode::OK, "alive") } else { (StatusCode::SERVICE_UNAVAILABLE, "stopped") };
    problem::answer(status, &json!({ "status": word, "members": members }))
}

/// `GET /readyz`
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let health = app.node.health().await;
    let word = match health {
        None => "stopped",
        Some(Health { leaving: true, .. }) => "leaving",
        Some(Health { joined: false, .. }) => "joining",
        Some(_) if app.settled.get().is_none() => "settling",
        Some(_) => "ready",
    };
    let members = health.map_or(0, |health| health.members);
    let status = if word == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    problem::answer(status, &json!({ "status": word, "members": members }))
}

/// `GET /v1/members`
pub(super) async fn members(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::none(&uri)?;
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    let now = app.look().await;
    if now.overview.members.is_empty() {
        return Err(Problem::stopped());
    }
    let (text, left_out) = members_within(app.node.name(), &now, SHORT);
    if left_out == 0 {
        return Ok((content_type, text + "}").into_response());
    }
    // Whoever waits holds nothing.
    drop((now, text));
    let turn = timeout(TURN, Arc::clone(&app.long_answers.0).acquire_owned()).await.map_err(|_| {
        let detail = "other clients are reading the list of members slowly; try again in a moment";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, "1")
    })?;
    let (mut pieces, body) = pieces(Instant::now() + TURN, None);
    tokio::spawn(async move {
        if tell_members(&mut pieces, &app).await.is_none() && pieces.is_late() {
            app.counts.cut_off("it reads the members too slowly");
        }
        drop(turn);
    });
    Ok((content_type, Body::from_stream(body)).into_response())
}

async fn tell_members(pieces: &mut Pieces, app: &App) -> Option<()> {
    let now = app.look().await;
    pieces.text = members_start(app.node.name());
    for (i, seen) in now.overview.members.iter().enumerate() {
        push_member(&mut pieces.text, i, seen);
        pieces.flush().await?;
    }
    pieces.text += "]}";
    pieces.finish().await
}

/// The members as JSON, as many as a text of about so many bytes has; nothing when the node has stopped.
pub(super) async fn members_text(app: &App, most: usize) -> Option<String> {
    let now = app.look().await;
    let (text, left_out) = members_within(app.node.name(), &now, most);
    let left_out = if left_out > 0 { format!(",\"not_told\":{left_out}}}") } else { "}".into() };
    (!now.overview.members.is_empty()).then(|| text + &left_out)
}

/// An object that is not closed, with as many members as go into about so many bytes; and how many are left out.
fn members_within(node: &str, now: &Now, most: usize) -> (String, usize) {
    let (mut text, members) = (members_start(node), &now.overview.members);
    let mut told = 0;
    for seen in members {
        if text.len() >= most {
            break;
        }
        push_member(&mut text, told, seen);
        told += 1;
    }
    (text + "]", members.len() - told)
}

fn members_start(node: &str) -> String {
    format!("{{\"node\":{},\"members\":[", quoted(node))
}

/// The first is the node itself.
fn push_member(text: &mut String, place: usize, seen: &Seen) {
    if place > 0 {
        text.push(',');
    }
    let _ = write!(text, "{}", member(seen, place == 0));
}

pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text always serialises")
}

fn member(seen: &Seen, is_self: bool) -> Value {
    let Seen { member, acknowledges, lag, loose, reach, .. } = seen;
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
    let info = seen.info.as_ref();
    object["id"] = info.map(|info| info.id.to_string()).into();
    object["roles"] = info.map(|info| info.roles.clone()).into();
    object["endpoints"] = info.map(|_| endpoints(seen)).into();
    if meta.is_err() {
        object["meta_base64"] = BASE64_STANDARD.encode(&member.meta).into();
    }
    object
}

/// Where clients reach what a member serves, by service.
fn endpoints(seen: &Seen) -> Value {
    seen.endpoints().map(|(service, addr)| (service.to_owned(), Value::from(addr.to_string()))).collect()
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
    let myself = members.first().ok_or_else(Problem::stopped)?;
    let (me, info) = (&myself.member, myself.info.as_ref());
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
        "id": info.map(|info| info.id.to_string()),
        "roles": info.map(|info| &info.roles),
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
