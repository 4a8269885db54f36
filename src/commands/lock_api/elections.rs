//! Elections: exclusive locks whose holder, the leader, publishes a value.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use broadcast_gateway::{Problem, json_response, no_query, read_json};
use broadcast_lock::{LockClient, Name, message::LockCommand};
use serde::{Deserialize, Serialize};
use tokio::select;

use super::{
    events::{ClientGone, EventSender, accepts_events, response},
    json::{HolderJson, parse_session},
    locks::find,
    name_in_path,
    problem::problem,
};
use crate::{commands::store_api::json::bytes, store::NodeStore};

/// Nobody leads.
#[derive(Serialize)]
struct VacantBody {}

/// Who leads.
#[derive(Serialize)]
struct LeaderBody {
    name: String,
    #[serde(flatten)]
    leader: HolderJson,
}

/// The body of a change of the leader's value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProclaimRequest {
    session: String,
    token: u64,
    value: Option<String>,
    value_base64: Option<String>,
}

async fn find_leader(store: &NodeStore, name: Name) -> Result<LeaderBody, Problem> {
    let lock = find(store, name.clone()).await?;
    let holder = lock.as_ref().and_then(|lock| lock.holders.first());
    let holder = holder.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format_args!("nobody leads {name}")))?;
    Ok(LeaderBody { name: name.to_string(), leader: HolderJson::new(holder) })
}

/// `GET /v1/elections/NAME`
pub(super) async fn leader(State(store): State<NodeStore>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    no_query(&uri)?;
    let name = name_in_path(uri.path(), "/v1/elections/")?;
    if !accepts_events(&headers) {
        return Ok(json_response(StatusCode::OK, &find_leader(&store, name).await?));
    }
    let (sender, events) = EventSender::new();
    let work = async move |locks: LockClient| {
        // A client that is gone hears nothing more.
        let _ = observe(&locks, &name, &sender).await;
    };
    store.spawn_locks(work).await.map_err(|error| problem(error.into()))?;
    Ok(response(events))
}

/// Sends who leads, now and at each change, until the client is gone.
async fn observe(locks: &LockClient, name: &Name, events: &EventSender) -> Result<(), ClientGone> {
    let mut former = None;
    let mut leaders = locks.observe(name.clone());
    loop {
        let leader = select! {
            leader = leaders.next() => leader,
            () = events.gone() => return Err(ClientGone),
        };
        if former.as_ref() == Some(&leader) {
            continue;
        }
        match &leader {
            Some(holder) => {
                let leader = LeaderBody { name: name.to_string(), leader: HolderJson::new(holder) };
                events.send("leader", &leader).await?;
            }
            None => events.send("vacant", &VacantBody {}).await?,
        }
        former = Some(leader);
    }
}

/// `PUT /v1/elections/NAME`
pub(super) async fn proclaim(State(store): State<NodeStore>, request: Request) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let name = name_in_path(request.uri().path(), "/v1/elections/")?;
    let example = "{\"session\": \"7c3f09a1b2d4e5f6\", \"token\": 12, \"value\": \"10.0.0.7:80\"}";
    let ProclaimRequest { session, token, value, value_base64 } = read_json(request, example).await?;
    let value = bytes("value", value, value_base64)?.unwrap_or_default();
    let command = LockCommand::Proclaim { name: name.clone(), session: parse_session(&session)?, token, value };
    store.run_locks(async move |locks| locks.execute(&command).await).await.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &find_leader(&store, name).await?))
}
