//! The cluster as this node sees it, and the node's health.
//!
//! Handlers ask the node by the `status_cache`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{StatusCode, Uri, header},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use broadcast::{Health, MemberOverview, MemberState, Overview, Reach, StreamPosition};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::{
    app::App,
    chunks::{ChunkWriter, chunked_body, push_element, split_envelope},
    problem::{Problem, json_response, json_text_response},
    query,
    status_cache::NodeStatus,
};

/// About how many bytes a list of members may have to be written at once. A longer one is written in chunks.
const MAX_AT_ONCE: usize = 64 << 10;
/// How long a client may take to read a longer one, and how long the next client waits for its turn.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of a health check.
#[derive(Serialize)]
pub(super) struct HealthBody {
    status: &'static str,
    members: usize,
    #[serde(skip)]
    pub(super) is_well: bool,
}

impl HealthBody {
    fn response(&self) -> Response {
        json_response(if self.is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, self)
    }
}

/// `GET /healthz` and `GET /livez`
pub(super) async fn healthz(State(app): State<Arc<App>>) -> Response {
    liveness(&app).await.response()
}

/// `GET /readyz`
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    readiness(&app).await.response()
}

/// Whether the node runs.
pub(super) async fn liveness(app: &App) -> HealthBody {
    // Not the overview: health checks would wait for those who look at the cluster.
    let members = app.node.health().await.map_or(0, |health| health.members);
    let is_well = members > 0;
    HealthBody { status: if is_well { "alive" } else { "stopped" }, members, is_well }
}

/// Whether the node has joined, and its members have settled.
pub(super) async fn readiness(app: &App) -> HealthBody {
    let health = app.node.health().await;
    let status = match health {
        None => "stopped",
        Some(Health { leaving: true, .. }) => "leaving",
        Some(Health { joined: false, .. }) => "joining",
        Some(_) if app.settled.get().is_none() => "settling",
        Some(_) => "ready",
    };
    HealthBody { status, members: health.map_or(0, |health| health.members), is_well: status == "ready" }
}

/// `GET /v1/members`
pub(super) async fn members(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::reject_any(&uri)?;
    let now = app.look().await;
    if now.overview.members.is_empty() {
        return Err(Problem::stopped());
    }
    let (text, left_out) = members_up_to(app.node.name(), &now, MAX_AT_ONCE);
    if left_out == 0 {
        return Ok(json_text_response(StatusCode::OK, text));
    }
    // Whoever waits for a turn holds no memory.
    drop((now, text));
    let turn = timeout(READ_TIMEOUT, Arc::clone(&app.long_responses.0).acquire_owned()).await.map_err(|_| {
        let detail = "other clients are reading the list of members slowly; try again in a moment";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, "1")
    })?;
    let (mut chunks, body) = chunked_body(Instant::now() + READ_TIMEOUT, None);
    tokio::spawn(async move {
        if write_members(&mut chunks, &app).await.is_none() && chunks.is_overdue() {
            app.counts.cut_off("it reads the members too slowly");
        }
        drop(turn);
    });
    Ok(json_text_response(StatusCode::OK, Body::from_stream(body)))
}

async fn write_members(chunks: &mut ChunkWriter, app: &App) -> Option<()> {
    let now = app.look().await;
    let (before, after) = split_envelope(&MembersBody::of(app.node.name()));
    chunks.text = before;
    for (place, seen) in now.overview.members.iter().enumerate() {
        push_element(&mut chunks.text, &MemberJson::new(seen, place == 0));
        chunks.flush().await?;
    }
    chunks.text += &after;
    chunks.finish().await
}

/// The members as JSON, as many as fit into about `most` bytes; `None` when the node has stopped.
pub(super) async fn members_json(app: &App, most: usize) -> Option<String> {
    let now = app.look().await;
    (!now.overview.members.is_empty()).then(|| members_up_to(app.node.name(), &now, most).0)
}

/// As many members as fit into about `most` bytes, and how many are left out.
fn members_up_to(node: &str, now: &NodeStatus, most: usize) -> (String, usize) {
    let members = &now.overview.members;
    let (mut text, _) = split_envelope(&MembersBody::of(node));
    let mut told = 0;
    for seen in members {
        if text.len() >= most {
            break;
        }
        push_element(&mut text, &MemberJson::new(seen, told == 0));
        told += 1;
    }
    let left_out = members.len() - told;
    let (_, after) =
        split_envelope(&MembersBody { not_told: (left_out > 0).then_some(left_out), ..MembersBody::of(node) });
    (text + &after, left_out)
}

/// A list of members; the elements are written one after the other.
#[derive(Serialize)]
struct MembersBody<'a> {
    node: &'a str,
    members: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    not_told: Option<usize>,
}

impl<'a> MembersBody<'a> {
    fn of(node: &'a str) -> Self {
        Self { node, members: [], not_told: None }
    }
}

/// A member, as this node sees it.
#[derive(Serialize)]
struct MemberJson<'a> {
    name: String,
    #[serde(rename = "self")]
    is_self: bool,
    state: &'static str,
    kind: &'static str,
    addr: SocketAddr,
    incarnation: u32,
    meta: Option<&'a str>,
    rtt_ms: Option<f64>,
    lag: Option<u64>,
    loose: bool,
    reach: &'static str,
    max_datagram: Option<usize>,
    id: Option<String>,
    roles: Option<&'a [String]>,
    endpoints: Option<BTreeMap<&'a str, SocketAddr>>,
    /// Set for metadata that is not text.
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_base64: Option<String>,
}

impl<'a> MemberJson<'a> {
    /// The node's first member is itself.
    fn new(seen: &'a MemberOverview, is_self: bool) -> Self {
        let MemberOverview { member, acknowledges, lag, loose, reach, .. } = seen;
        let meta = std::str::from_utf8(&member.meta);
        let (reach, max_datagram) = match reach {
            Reach::Datagrams => ("udp", None),
            Reach::SmallDatagrams(max) => ("small-udp", Some(*max)),
            Reach::Streams => ("tcp", None),
        };
        Self {
            name: member.name.to_string(),
            is_self,
            state: state_name(member.state),
            kind: if *acknowledges { "broadcast" } else { "memberlist" },
            addr: member.addr,
            incarnation: member.incarnation,
            meta: meta.ok().filter(|meta| !meta.is_empty()),
            rtt_ms: member.rtt.map(|rtt| rtt.as_micros() as f64 / 1000.0),
            lag: *lag,
            loose: *loose,
            reach,
            max_datagram,
            id: seen.info.as_ref().map(|info| info.id.to_string()),
            roles: seen.info.as_ref().map(|info| &info.roles[..]),
            endpoints: seen.info.as_ref().map(|_| seen.endpoints().collect()),
            meta_base64: meta.is_err().then(|| BASE64_STANDARD.encode(&member.meta)),
        }
    }
}

/// The name of a member's state.
pub(super) fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "alive",
        MemberState::Suspect => "suspect",
        MemberState::Dead => "dead",
        MemberState::Left => "left",
    }
}

/// The node, and its cluster.
#[derive(Serialize)]
struct ClusterBody<'a> {
    node: &'a str,
    version: &'static str,
    addr: SocketAddr,
    id: Option<String>,
    roles: Option<&'a [String]>,
    joined: bool,
    settled: bool,
    leaving: bool,
    incarnation: u32,
    health_score: u32,
    loose: Vec<String>,
    members: MemberCountsJson,
    queues: QueuesJson,
    origins: Vec<OriginJson>,
}

/// How many members are in each state.
#[derive(Serialize)]
struct MemberCountsJson {
    alive: usize,
    suspect: usize,
    dead: usize,
    left: usize,
}

/// How much waits in this node, and how much it keeps.
#[derive(Serialize)]
struct QueuesJson {
    gossip: usize,
    plain_messages: usize,
    streams: usize,
    stream_bytes: usize,
    retained: usize,
}

/// How far this node is with the messages of an origin.
#[derive(Serialize)]
struct OriginJson {
    origin: String,
    epoch: u64,
    next: u64,
    end: u64,
    floor: u64,
    retained: usize,
}

impl From<&StreamPosition> for OriginJson {
    fn from(position: &StreamPosition) -> Self {
        let StreamPosition { origin, epoch, next, end, floor, retained } = position;
        let (epoch, next, end, floor, retained) = (*epoch, *next, *end, *floor, *retained);
        Self { origin: origin.to_string(), epoch, next, end, floor, retained }
    }
}

/// `GET /v1/cluster`
pub(super) async fn cluster(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, Problem> {
    query::reject_any(&uri)?;
    let now = app.look().await;
    let Overview { joined, leaving, members, positions, .. } = &now.overview;
    let myself = members.first().ok_or_else(Problem::stopped)?;
    let (me, info) = (&myself.member, myself.info.as_ref());
    let gauges = now.metrics.gauges;
    let cluster = ClusterBody {
        node: app.node.name(),
        version: env!("CARGO_PKG_VERSION"),
        addr: me.addr,
        id: info.map(|info| info.id.to_string()),
        roles: info.map(|info| &info.roles[..]),
        joined: *joined,
        settled: app.settled.get().is_some(),
        leaving: *leaving,
        incarnation: me.incarnation,
        health_score: gauges.health_score,
        loose: members.iter().filter(|seen| seen.loose).map(|seen| seen.member.name.to_string()).collect(),
        members: MemberCountsJson {
            alive: gauges.alive,
            suspect: gauges.suspect,
            dead: gauges.dead,
            left: gauges.left,
        },
        queues: QueuesJson {
            gossip: gauges.queued,
            plain_messages: gauges.queued_messages,
            streams: gauges.streams,
            stream_bytes: gauges.stream_bytes,
            retained: positions.iter().map(|position| position.retained).sum(),
        },
        origins: positions.iter().map(OriginJson::from).collect(),
    };
    Ok(json_response(StatusCode::OK, &cluster))
}
