//! What a voter does for other nodes that call it.

use std::{fmt::Display, future::Future, pin::Pin, sync::Arc};

use broadcast_session::{Identity, OutgoingBody, Refusal, Request, Response};
use bytes::Bytes;
use tokio::time::Instant;

use super::{
    change,
    client::ROLE,
    error::Said,
    events::Here,
    message::{self, CHANGE, EVENTS, EXECUTE, JOIN, KEEP_ALIVE, LEASES, QUERY, Query, READ, SAVE, VOTER, WATCH},
    replica::Watcher,
    stream::framed,
    voter::{Raft, Voter},
};
use crate::{
    keys::WatchEvent,
    machine::MAX_COMMAND,
    raft::{MAX_MESSAGE, RAFT, SNAPSHOT},
};

/// The longest request for a change of voters, in bytes: two names.
const MAX_CHANGE: usize = 1024;

/// The longest question about leases, in bytes.
const MAX_LEASE_QUERY: usize = 32;

type Answered = Result<Response, Refusal>;

impl From<Said> for Refusal {
    fn from(said: Said) -> Self {
        said.refusal()
    }
}

/// A refusal in words alone.
fn refuse(why: impl Display) -> Refusal {
    Refusal::new(0, why.to_string())
}

/// Has a voter answer others from now on, as long as somebody has it.
pub(super) fn serve(voter: &Arc<Voter>) {
    // No other call is to hold up what voters agree with.
    voter.sessions.serve_isolated(RAFT, by(voter, raft));
    voter.sessions.serve_isolated(SNAPSHOT, by(voter, snapshot));
    on(voter, EXECUTE, execute);
    on(voter, READ, read);
    on(voter, KEEP_ALIVE, keep_alive);
    on(voter, LEASES, leases);
    on(voter, SAVE, save);
    on(voter, WATCH, watch);
    on(voter, QUERY, query);
    on(voter, EVENTS, events);
    on(voter, VOTER, status);
    on(voter, JOIN, join);
    on(voter, CHANGE, change_voters);
}

fn on<F>(voter: &Arc<Voter>, method: &str, service: impl Fn(Arc<Voter>, Request) -> F + Send + Sync + 'static)
where
    F: Future<Output = Answered> + Send + 'static,
{
    voter.sessions.serve(method, by(voter, service));
}

/// A service of this voter, as long as somebody has it.
fn by<F>(
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
                None => Err(Said::Stopped("it has stopped".into()).into()),
            }
        })
    }
}

/// The store that a question is about, and the rest of it. It is not read where there is no store.
async fn question(me: &Voter, request: &mut Request, max: usize) -> Result<(u64, Bytes), Refusal> {
    me.need()?;
    let asked = request.bytes(max + 8).await.map_err(refuse)?;
    message::split_store(&asked).ok_or_else(|| refuse("a question about no store"))
}

/// Raft, for who takes part in it. Whoever may vote by now, as far as anybody knows, is one: a voter that was away for long
/// has to listen to a leader that it has never heard of.
async fn raft_for(me: &Voter, caller: &Identity) -> Result<Raft, Refusal> {
    let raft = me.need()?;
    if raft.knows(caller.id.get()) {
        return Ok(raft);
    }
    let name = caller.name.to_string();
    if me.configured.contains(&name) {
        return Ok(raft);
    }
    let info = me.sessions.node().info_of(&caller.name).await;
    if info.is_some_and(|info| info.roles.iter().any(|role| role == ROLE)) {
        return Ok(raft);
    }
    Err(refuse(format_args!("{name} is no voter")))
}

async fn raft(me: Arc<Voter>, mut request: Request) -> Answered {
    let raft = raft_for(&me, &request.caller).await?;
    let message = request.bytes(MAX_MESSAGE).await.map_err(refuse)?;
    let caller = request.caller.id.get();
    let answer = raft.answer(caller, &message).await.map_err(refuse)?;
    me.figures.heard(caller, Instant::now());
    Ok(answer.into())
}

async fn snapshot(me: Arc<Voter>, mut request: Request) -> Answered {
    let raft = raft_for(&me, &request.caller).await?;
    Ok(raft.install(request.caller.id.get(), &mut request.body).await.map_err(refuse)?.into())
}

async fn execute(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, command) = question(&me, &mut request, MAX_COMMAND).await?;
    let mine = me.same_store(store)?;
    Ok(message::with_store(mine, &me.request(command).await?).into())
}

async fn read(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, asked) = question(&me, &mut request, MAX_COMMAND).await?;
    let mine = me.same_store(store)?;
    let found = me.read(&message::read_read(&asked).map_err(refuse)?).await?;
    Ok(long(mine, move || message::write_found(&found)))
}

/// An answer that may be long: it goes no faster than it is taken, and is written when it counts as held.
fn long(store: u64, write: impl FnOnce() -> Bytes + Send + 'static) -> Response {
    Response::stream(async move |outgoing| drop(outgoing.end(message::with_store(store, &write())).await))
}

async fn leases(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, asked) = question(&me, &mut request, MAX_LEASE_QUERY).await?;
    let mine = me.same_store(store)?;
    let found = me.leases(&postcard::from_bytes(&asked).map_err(refuse)?).await?;
    Ok(long(mine, move || postcard::to_allocvec(&found).expect("memory takes all there is").into()))
}

async fn keep_alive(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, lease) = question(&me, &mut request, 16).await?;
    let mine = me.same_store(store)?;
    let lease = i64::from_be_bytes((*lease).try_into().map_err(|_| refuse("no lease"))?);
    Ok(message::with_store(mine, &me.keep_alive(lease).await?.to_be_bytes()).into())
}

async fn save(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, _) = question(&me, &mut request, 0).await?;
    me.same_store(store)?;
    let mut pieces = me.save().await?;
    Ok(Response::stream(async move |mut outgoing: OutgoingBody| {
        // Dropped before its end, the answer is broken off.
        while let Ok(piece) = pieces.next().await {
            let Some(piece) = piece else { return drop(outgoing.end(Bytes::new()).await) };
            if outgoing.send(piece).await.is_err() {
                return;
            }
        }
    }))
}

async fn watch(me: Arc<Voter>, mut request: Request) -> Answered {
    // The first piece says what; the caller's end of the stream stays open as long as it watches.
    let asked = request.body.next().await.ok().flatten().unwrap_or_default();
    let (store, asked) = message::split_store(&asked).ok_or_else(|| refuse("no store"))?;
    let mine = me.same_store(store)?;
    let (watcher, revision) = me.watch(message::read_watch(&asked).map_err(refuse)?)?;
    let begun = message::with_store(mine, &message::write_event(&WatchEvent::Progress { revision }));
    Ok(Response::stream(async move |mut outgoing: OutgoingBody| {
        if outgoing.send(begun).await.is_ok() {
            tell(watcher, request, outgoing).await;
        }
    }))
}

/// Tells a watcher of another node what there is to tell, until that node wants no more.
async fn tell(mut watcher: Watcher, mut request: Request, mut outgoing: OutgoingBody) {
    loop {
        let event = tokio::select! {
            event = watcher.next() => event,
            // Any further piece asks how far the watcher is; the end is the end.
            asked = request.body.next() => match asked {
                Ok(Some(_)) => {
                    watcher.ask_progress();
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

fn read_query(bytes: &[u8]) -> Result<Query, Refusal> {
    postcard::from_bytes(bytes).map_err(refuse)
}

async fn query(me: Arc<Voter>, mut request: Request) -> Answered {
    let (store, asked) = question(&me, &mut request, MAX_COMMAND).await?;
    let mine = me.same_store(store)?;
    Ok(message::with_store(mine, &me.query(&read_query(&asked)?).await?).into())
}

async fn events(me: Arc<Voter>, mut request: Request) -> Answered {
    // As with a watch, the caller's end of the stream stays open as long as it follows.
    let asked = request.body.next().await.ok().flatten().unwrap_or_default();
    let (store, asked) = message::split_store(&asked).ok_or_else(|| refuse("no store"))?;
    let mine = me.same_store(store)?;
    let events = Here::follow(&me, &read_query(&asked)?.machine)?;
    Ok(Response::stream(async move |mut outgoing: OutgoingBody| {
        if outgoing.send(message::with_store(mine, &[])).await.is_ok() {
            tell_events(events, request, outgoing).await;
        }
    }))
}

/// Tells another node what a machine tells, until that node wants no more.
async fn tell_events(mut events: Here, mut request: Request, mut outgoing: OutgoingBody) {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = request.body.next() => return,
        };
        let Some(event) = event else { return drop(outgoing.end(Bytes::new()).await) };
        if outgoing.send(framed(&event)).await.is_err() {
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
    // A caller that gives up must not leave it half done.
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
    let (store, asked) = question(&me, &mut request, MAX_CHANGE).await?;
    let mine = me.same_store(store)?;
    change::detached(&me, postcard::from_bytes(&asked).map_err(refuse)?).await?;
    Ok(message::with_store(mine, &[]).into())
}
