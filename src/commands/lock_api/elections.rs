//! Elections: exclusive locks whose holder says something about itself.

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
    events::{Gone, Told, accepts_events, stream},
    json::{Place, session},
    locks::find,
    named,
    problem::problem,
};
use crate::{commands::store_api::json::bytes, store::NodeStore};

#[derive(Serialize)]
struct Vacant {}

#[derive(Serialize)]
struct Leader {
    name: String,
    #[serde(flatten)]
    place: Place,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Proclaimed {
    session: String,
    token: u64,
    value: Option<String>,
    value_base64: Option<String>,
}

async fn look(store: &NodeStore, name: Name) -> Result<Leader, Problem> {
    let lock = find(store, name.clone()).await?;
    let holder = lock.as_ref().and_then(|lock| lock.holders.first());
    let holder = holder.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format_args!("nobody leads {name}")))?;
    Ok(Leader { name: name.to_string(), place: Place::of(holder) })
}

/// `GET /v1/elections/NAME`
pub(super) async fn leader(State(store): State<NodeStore>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    no_query(&uri)?;
    let name = named(uri.path(), "/v1/elections/")?;
    if !accepts_events(&headers) {
        return Ok(json_response(StatusCode::OK, &look(&store, name).await?));
    }
    let (told, events) = Told::new();
    let work = async move |locks: LockClient| {
        // Whoever has gone is not told.
        let _ = observe(&locks, &name, &told).await;
    };
    store.spawn_locks(work).await.map_err(|error| problem(error.into()))?;
    Ok(stream(events))
}

/// Tells who leads, now and whenever that changes, until nobody listens.
async fn observe(locks: &LockClient, name: &Name, told: &Told) -> Result<(), Gone> {
    let mut former = None;
    let mut leaders = locks.observe(name.clone());
    loop {
        let leader = select! {
            leader = leaders.next() => leader,
            () = told.gone() => return Err(Gone),
        };
        if former.as_ref() == Some(&leader) {
            continue;
        }
        match &leader {
            Some(holder) => {
                let leader = Leader { name: name.to_string(), place: Place::of(holder) };
                told.tell("leader", &leader).await?;
            }
            None => told.tell("vacant", &Vacant {}).await?,
        }
        former = Some(leader);
    }
}

/// `PUT /v1/elections/NAME`
pub(super) async fn proclaim(State(store): State<NodeStore>, request: Request) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let name = named(request.uri().path(), "/v1/elections/")?;
    let example = "{\"session\": \"7c3f09a1b2d4e5f6\", \"token\": 12, \"value\": \"10.0.0.7:80\"}";
    let Proclaimed { session: of, token, value, value_base64 } = read_json(request, example).await?;
    let value = bytes("value", value, value_base64)?.unwrap_or_default();
    let command = LockCommand::Proclaim { name: name.clone(), session: session(&of)?, token, value };
    store.run_locks(async move |locks| locks.execute(&command).await).await.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &look(&store, name).await?))
}
