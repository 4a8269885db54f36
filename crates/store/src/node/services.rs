//! The calls that a voter serves to other nodes. Their names are in `message.rs` and [`crate::raft`].

use std::{fmt::Display, future::Future, pin::Pin, sync::Arc};

use broadcast_session::{Identity, OutgoingBody, Refusal, Request, Response};
use bytes::Bytes;
use tokio::time::Instant;

use super::{
    change,
    client::VOTER_ROLE,
    error::RefusalReason,
    events::LocalEvents,
    message::{self, CHANGE, EVENTS, EXECUTE, JOIN, KEEP_ALIVE, LEASES, MachineQuery, QUERY, READ, SAVE, VOTER, WATCH},
    replica::Watcher,
    stream::frame,
    voter::{Raft, Voter},
};
use crate::{
    keys::WatchEvent,
    machine::MAX_COMMAND,
    raft::{MAX_MESSAGE, RAFT, SNAPSHOT},
};

/// The longest request for a change of voters, in bytes: two names.
const MAX_CHANGE: usize = 1024;

/// The longest query for leases, in bytes.
const MAX_LEASE_QUERY: usize = 32;

type Answered = Result<Response, Refusal>;

impl From<RefusalReason> for Refusal {
    fn from(reason: RefusalReason) -> Self {
        reason.refusal()
    }
}

/// A refusal in words alone.
fn refuse(why: impl Display) -> Refusal {
    Refusal::new(0, why.to_string())
}

/// Serves all calls of a voter, as long as it is not dropped.
pub(super) fn serve_all(voter: &Arc<Voter>) {
    // On their own sessions: other calls must not hold up Raft.
    voter.sessions.serve_isolated(RAFT, handler(voter, raft));
    voter.sessions.serve_isolated(SNAPSHOT, handler(voter, snapshot));
    serve(voter, EXECUTE, execute);
    serve(voter, READ, read);
    serve(voter, KEEP_ALIVE, keep_alive);
    serve(voter, LEASES, leases);
    serve(voter, SAVE, save);
    serve(voter, WATCH, watch);
    serve(voter, QUERY, query);
    serve(voter, EVENTS, events);
    serve(voter, VOTER, status);
    serve(voter, JOIN, join);
    serve(voter, CHANGE, change_voters);
}

fn serve<F>(voter: &Arc<Voter>, method: &str, service: impl Fn(Arc<Voter>, Request) -> F + Send + Sync + 'static)
where
    F: Future<Output = Answered> + Send + 'static,
{
    voter.sessions.serve(method, handler(voter, service));
}

/// A handler that answers for this voter, as long as it is not dropped.
fn handler<F>(
    voter: &Arc<Voter>,
    service: impl Fn(Arc<Voter>, Request) -> F + Send + Sync + 'static,
) -> impl Fn(Request) -> Pin<Box<dyn Future<Output = Answered> + Send>> + Send + Sync + 'static
where
    F: Future<Output = Answered> + Send + 'static,
{
    let me = Arc::downgrade(voter);
    move |request| {
        let answer = me.upgrade().map(|me| service(me, request));
        Box::pin(async move {
            match answer {
                Some(answer) => answer.await,
                None => Err(RefusalReason::Stopped("it has stopped".into()).into()),
            }
        })
    }
}

/// Reads a request: the id of the store that it is about, and the rest. A voter without a store does not read it.
async fn read_question(me: &Voter, request: &mut Request, max: usize) -> Result<(u64, Bytes), Refusal> {
    me.require_raft()?;
    let asked = request.bytes(max + 8).await.map_err(refuse)?;
    message::split_store(&asked).ok_or_else(|| refuse("a question about no store"))
}

/// Raft, if the caller may take part in it: a member, a configured voter, or a node with the role. A voter that was away for
/// long has to listen to a leader that it has never heard of.
async fn raft_for(me: &Voter, caller: &Identity) -> Result<Raft, Refusal> {
    let raft = me.require_raft()?;
    if raft.is_member(caller.id.get()) {
        return Ok(raft);
    }
    let name = caller.name.to_string();
    if me.configured.contains(&name) {
        return Ok(raft);
    }
    let info = me.sessions.node().info_of(&caller.name).await;
    if info.is_some_and(|info| info.roles.iter().any(|role| role == VOTER_ROLE)) {
        return Ok(raft);
    }
    Err(refuse(format_args!("{name} is no voter")))
}

async fn raft(me: Arc<Voter>, mut request: Request) -> Answered {
    let raft = raft_for(&me, &request.caller).await?;
    let message = request.bytes(MAX_MESSAGE).await.map_err(refuse)?;
    let caller = request.caller.id.get();
    let answer = raft.handle_message(caller, &message).await.map_err(refuse)?;
    me.stats.heard(caller, Instant::now());
    Ok(answer.into())
}

async fn snapshot(me: Arc<Voter>, mut request: Request) -> Answered {
    let raft = raft_for(&me, &request.caller).await?;
    Ok(raft.receive_snapshot(request.caller.id.get(), &mut request.body).await.map_err(refuse)?.into())
}

async fn execute(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, command) = read_question(&me, &mut request, MAX_COMMAND).await?;
    let mine = me.check_store(store)?;
    Ok(message::with_store(mine, &me.execute_for_client(command).await?).into())
}

async fn read(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, asked) = read_question(&me, &mut request, MAX_COMMAND).await?;
    let mine = me.check_store(store)?;
    let found = me.read(&message::read_read_request(&asked).map_err(refuse)?).await?;
    Ok(long(mine, move || message::write_range_outcome(&found)))
}

/// An answer that may be long: it goes no faster than it is taken, and is written when it counts as held.
fn long(store: u64, write: impl FnOnce() -> Bytes + Send + 'static) -> Response {
    Response::stream(async move |outgoing| drop(outgoing.end(message::with_store(store, &write())).await))
}

async fn leases(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, asked) = read_question(&me, &mut request, MAX_LEASE_QUERY).await?;
    let mine = me.check_store(store)?;
    let found = me.leases(&postcard::from_bytes(&asked).map_err(refuse)?).await?;
    Ok(long(mine, move || postcard::to_allocvec(&found).expect("memory takes all there is").into()))
}

async fn keep_alive(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, lease) = read_question(&me, &mut request, 16).await?;
    let mine = me.check_store(store)?;
    let lease = i64::from_be_bytes((*lease).try_into().map_err(|_| refuse("no lease"))?);
    Ok(message::with_store(mine, &me.keep_alive(lease).await?.to_be_bytes()).into())
}

async fn save(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, _) = read_question(&me, &mut request, 0).await?;
    me.check_store(store)?;
    let mut pieces = me.save().await?;
    Ok(Response::stream(async move |mut outgoing: OutgoingBody| {
        // An answer that is dropped before its end is an error for the reader.
        while let Ok(piece) = pieces.next().await {
            let Some(piece) = piece else { return drop(outgoing.end(Bytes::new()).await) };
            if outgoing.send(piece).await.is_err() {
                return;
            }
        }
    }))
}

async fn watch(me: Arc<Voter>, mut request: Request) -> Answered {
    // The first piece has the watch. The caller keeps its end of the stream open as long as it watches.
    let asked = request.body.next().await.ok().flatten().unwrap_or_default();
    let (store, asked) = message::split_store(&asked).ok_or_else(|| refuse("no store"))?;
    let mine = me.check_store(store)?;
    let (watcher, revision) = me.watch(message::read_watch(&asked).map_err(refuse)?)?;
    let begun = message::with_store(mine, &message::write_event(&WatchEvent::Progress { revision }));
    Ok(Response::stream(async move |mut outgoing: OutgoingBody| {
        if outgoing.send(begun).await.is_ok() {
            stream_watch(watcher, request, outgoing).await;
        }
    }))
}

/// Sends a watcher's events to another node, until that node ends the stream.
async fn stream_watch(mut watcher: Watcher, mut request: Request, mut outgoing: OutgoingBody) {
    loop {
        let event = tokio::select! {
            event = watcher.next() => event,
            // Any further piece requests progress.
            asked = request.body.next() => match asked {
                Ok(Some(_)) => {
                    watcher.request_progress();
                    continue;
                }
                _ => return,
            },
        };
        let ended = matches!(event, WatchEvent::Cancelled(_));
        if outgoing.send(message::write_event(&event)).await.is_err() {
            return;
        }
        if ended {
            return drop(outgoing.end(Bytes::new()).await);
        }
    }
}

fn read_query(bytes: &[u8]) -> Result<MachineQuery, Refusal> {
    postcard::from_bytes(bytes).map_err(refuse)
}

async fn query(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, asked) = read_question(&me, &mut request, MAX_COMMAND).await?;
    let mine = me.check_store(store)?;
    Ok(message::with_store(mine, &me.query(&read_query(&asked)?).await?).into())
}

async fn events(me: Arc<Voter>, mut request: Request) -> Answered {
    // As with a watch, the caller keeps its end of the stream open.
    let asked = request.body.next().await.ok().flatten().unwrap_or_default();
    let (store, asked) = message::split_store(&asked).ok_or_else(|| refuse("no store"))?;
    let mine = me.check_store(store)?;
    let events = LocalEvents::subscribe(&me, &read_query(&asked)?.machine)?;
    Ok(Response::stream(async move |mut outgoing: OutgoingBody| {
        if outgoing.send(message::with_store(mine, &[])).await.is_ok() {
            stream_events(events, request, outgoing).await;
        }
    }))
}

/// Sends a machine's events to another node, until that node ends the stream.
async fn stream_events(mut events: LocalEvents, mut request: Request, mut outgoing: OutgoingBody) {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = request.body.next() => return,
        };
        let Some(event) = event else { return drop(outgoing.end(Bytes::new()).await) };
        if outgoing.send(frame(&event)).await.is_err() {
            return;
        }
    }
}

async fn status(me: Arc<Voter>, _: Request) -> Answered {
    Ok(serde_json::to_vec(&me.status().await).map_err(refuse)?.into())
}

async fn join(me: Arc<Voter>, mut request: Request) -> Answered {
    let cluster = request.bytes(8).await.map_err(refuse)?;
    let cluster = u64::from_be_bytes((*cluster).try_into().map_err(|_| refuse("no cluster"))?);
    let from = request.caller.name.to_string();
    // The founder, or a leader: a voter of the same list, or one of the cluster.
    if !me.configured.contains(&from) {
        return Err(refuse(format_args!("{from} is none of the voters {}", me.configured.join(", "))));
    }
    // On a task: a caller that gives up must not leave the join half done.
    let joining = Arc::clone(&me);
    let joined = tokio::spawn(async move { joining.join(cluster).await });
    joined.await.map_err(refuse)?.map_err(refuse)?;
    match me.raft().map(|raft| raft.ids().cluster) {
        Some(mine) if mine == cluster => Ok(me.id.to_be_bytes().to_vec().into()),
        Some(mine) => Err(refuse(format_args!("it is of another store, {mine:016x}"))),
        None => Err(refuse("it is about to join")),
    }
}

async fn change_voters(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, asked) = read_question(&me, &mut request, MAX_CHANGE).await?;
    let mine = me.check_store(store)?;
    change::carry_out_detached(&me, postcard::from_bytes(&asked).map_err(refuse)?).await?;
    Ok(message::with_store(mine, &[]).into())
}
