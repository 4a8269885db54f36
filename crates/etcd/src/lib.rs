//! etcd's v3 protocol on the replicated store: whoever speaks to etcd speaks to this.
//!
//! Clients of etcd (`etcdctl`, the client libraries, Patroni) connect to a node's port for etcd and need not know the
//! difference. The store has etcd's data model: keys, revisions, leases, transactions, watches. So this crate translates, and
//! keeps no data of its own. It serves on any node, whether that votes or not.
//!
//! # What it promises
//!
//! - **The protocol of etcd 3.4**: gRPC over HTTP/2, and the same calls in JSON over HTTP/1.1, as etcd's gateway has them
//!   (`POST /v3/kv/put`, `/v3beta/kv/put`).
//! - **etcd's guarantees**: reads and writes are linearizable unless a client asks for `serializable`; a watch sees every
//!   change in order, or is cancelled.
//! - **etcd's errors**: codes and texts that clients compare (`status`).
//! - What etcd has and this has not is answered `Unimplemented`, with the way to do it here.
//!
//! # How it is put together
//!
//! | module | what it has |
//! |---|---|
//! | `routes` | the table of all calls: path, permission, function |
//! | `grpc`, `http` | reading requests and writing responses, in gRPC and in JSON |
//! | [`messages`], `json` | the messages as protocol buffers and as JSON |
//! | `kv`, `lease`, `watch`, `cluster`, `maintenance` | the calls, one module for each service of etcd |
//! | `concurrency` | locks and elections, by the recipe of etcd's client |
//! | `status` | codes and texts of errors |
//!
//! [`Etcd::routes`] gives the routes. The program mounts them on a server of
//! [`broadcast_gateway`], which has the connections, TLS, tokens and limits:
//!
//! ```
//! use broadcast_etcd::{Etcd, Permission};
//! use broadcast_gateway::{RequiredScopes, Routes, Scope};
//!
//! fn routes(etcd: &Etcd) -> Routes {
//!     Routes::undescribed(etcd.routes().into_iter().map(|(path, permission, handler)| match permission {
//!         Permission::Public => (path, RequiredScopes::NONE, handler),
//!         Permission::Read => (path, RequiredScopes::read_only(Scope::Read), handler),
//!         Permission::Write => (path, RequiredScopes::scope(Scope::Publish), handler),
//!         Permission::Lock => (path, RequiredScopes::scope(Scope::Locks), handler),
//!         Permission::Operate => (path, RequiredScopes::scope(Scope::Operate), handler),
//!     }))
//! }
//! ```
//!
//! # One call, from the socket to the answer
//!
//! `etcdctl put greeting hello` sends `/etcdserverpb.KV/Put` over HTTP/2:
//!
//! 1. The gateway accepts the connection, checks the token, and passes the request to the route (see
//!    [`broadcast_gateway`]).
//! 2. The handler that `RouteBuilder::unary` has made reads the one message: `grpc::MessageReader::read_one`. It reserves
//!    memory for it from `grpc::MemoryBudget`, which all calls share.
//! 3. It calls `Etcd::put`. That makes a command of the store from the request (`kv::put`), and hands it to `Etcd::propose`.
//! 4. `Etcd::run` opens the store and runs the command on the store's runtime. The store has the voters agree on it.
//! 5. `kv::put_response` makes etcd's response from the outcome, `Etcd::header` its header, and `grpc::unary_response` the
//!    bytes, with the status in trailers.
//!
//! In JSON, `http::read_messages` and `http::unary_response` take the places of steps 2 and 5. A watch is a stream instead:
//! `Etcd::watch` runs a `WatchServer`, with a task for each watch.
//!
//! # What can go wrong
//!
//! - *No leader*: a call waits for one as long as the store's patience, and then fails with etcd's text. A call with the
//!   metadata `hasleader` fails at once, and its streams end when the leader is lost.
//! - *Watchers that do not read*: a stream holds a few responses, and then the store waits. What history forgets meanwhile is
//!   told as etcd tells it, by cancelling the watch at the compacted revision.
//! - *Keys and leases that are not the user's*: the sessions of locks are leases with ids of their own, and are not seen
//!   here. No call reaches anything but users' keys.

#![deny(missing_docs, unreachable_pub)]

mod cluster;
mod concurrency;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod grpc;
mod http;
mod json;
mod kv;
mod lease;
mod maintenance;
pub mod messages;
mod routes;
mod status;
mod watch;

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use broadcast::Handle;
use broadcast_store::{RuntimeBridge, Store, StoreError};
use futures_util::future::BoxFuture;
use tokio::{
    runtime,
    sync::{OnceCell, watch as latest},
    task::JoinHandle,
    time::{Instant, sleep},
};

pub use crate::routes::{Permission, Route};
use crate::{
    kv::to_i64,
    messages::ResponseHeader,
    status::{Code, Status},
};

/// The port that etcd's clients connect to by default.
pub const DEFAULT_PORT: u16 = 2379;
/// The name of the endpoint that a node announces to others where it serves this without TLS.
pub const ENDPOINT: &str = "etcd";
/// The same, with TLS.
pub const TLS_ENDPOINT: &str = "etcd-tls";

#[doc(hidden)]
#[deprecated(note = "renamed to `Permission`")]
pub type Access = Permission;
#[doc(hidden)]
#[deprecated(note = "renamed to `OpenStore`")]
pub type Open = OpenStore;
#[doc(hidden)]
#[deprecated(note = "renamed to `CheckPassword`")]
pub type LogIn = CheckPassword;
#[doc(hidden)]
#[deprecated(note = "renamed to `LoginOutcome`")]
pub type Login = LoginOutcome;

/// The release of etcd that this follows, and tells clients.
const VERSION: &str = "3.4.23";
/// How often a voter checks whether there is a leader. Another node has no such knowledge of its own.
const LEADER_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How often any other node asks the voters, while a stream waits for the loss of the leader.
const LEADER_QUERY_INTERVAL: Duration = Duration::from_secs(2);

/// Opens the store of the node. Also gives the runtime on which its requests must run.
pub type OpenStore = Arc<dyn Fn() -> BoxFuture<'static, Result<(Store, runtime::Handle), StoreError>> + Send + Sync>;

/// Whether a password is one that logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginOutcome {
    /// Nobody has to log in.
    NotRequired,
    /// It is one of the node's tokens.
    Accepted,
    /// It is not.
    Rejected,
}

/// Checks the password that a client logs in with.
pub type CheckPassword = Arc<dyn Fn(&str) -> LoginOutcome + Send + Sync>;

/// The service: all calls of etcd's protocol. Cheap to clone. The [crate](self) has an example.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    node: Handle,
    open: OpenStore,
    check_password: CheckPassword,
    budget: grpc::MemoryBudget,
    header_values: HeaderValues,
    /// Whether there is a leader, as far as this node knows.
    has_leader: latest::Sender<bool>,
    /// The store, from the first call on. From then on, a task keeps `has_leader` up to date.
    opened: OnceCell<OpenedStore>,
}

/// A store that was opened.
struct OpenedStore {
    store: Store,
    /// The runtime on which its requests must run.
    runtime: runtime::Handle,
    bridge: RuntimeBridge,
}

/// What the header of a response has, as far as this node knows.
#[derive(Debug, Default)]
struct HeaderValues {
    store: AtomicU64,
    term: AtomicU64,
    revision: AtomicU64,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.0.header_values).finish()
    }
}

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Etcd {
    /// Serves the store of `node`, which `open` gives. `check_password` is asked where a client logs in.
    #[must_use]
    pub fn new(node: Handle, open: OpenStore, check_password: CheckPassword) -> Self {
        let (header_values, has_leader) = (HeaderValues::default(), latest::Sender::new(true));
        let budget = grpc::MemoryBudget::default();
        Self(Arc::new(Inner { node, open, check_password, budget, header_values, has_leader, opened: OnceCell::new() }))
    }

    /// The store, once it is there.
    async fn opened(&self) -> Result<&OpenedStore, Status> {
        let open = async || {
            let (store, runtime) = (self.0.open)().await?;
            runtime.spawn(watch_leader(Arc::downgrade(&self.0), store.clone()));
            let bridge = RuntimeBridge::to(&runtime);
            Ok::<_, StoreError>(OpenedStore { store, runtime, bridge })
        };
        Ok(self.0.opened.get_or_try_init(open).await?)
    }

    /// Runs `work` on the store's runtime. A drop of the future ends the work.
    async fn run<T, F>(&self, work: impl FnOnce(Store) -> F + Send + 'static) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let OpenedStore { store, bridge, .. } = self.opened().await?;
        let (store, me) = (store.clone(), self.clone());
        let ended = bridge.run(async move {
            let done = work(store.clone()).await?;
            // After an answer the id of the store is known.
            me.0.header_values.store.store(store.id().await?, Ordering::Relaxed);
            Ok::<_, StoreError>(done)
        });
        let ended = ended.await.unwrap_or_else(|_| Err(StoreError::Stopped("it is about to leave its cluster".into())));
        ended.map_err(Status::from)
    }

    /// The memory that clients' messages may take.
    fn budget(&self) -> &grpc::MemoryBudget {
        &self.0.budget
    }

    /// The header of a response that was made at this revision.
    fn header(&self, revision: u64) -> ResponseHeader {
        let HeaderValues { store, term, revision: newest } = &self.0.header_values;
        newest.fetch_max(revision, Ordering::Relaxed);
        ResponseHeader {
            cluster_id: store.load(Ordering::Relaxed),
            member_id: self.0.node.id().get(),
            revision: to_i64(revision),
            raft_term: term.load(Ordering::Relaxed),
        }
    }

    /// The header of a response without a revision of its own: with the newest revision that this node knows.
    async fn current_header(&self) -> ResponseHeader {
        let seen = self.opened().await.ok().and_then(|opened| opened.store.stats().voter);
        let mine = seen.map_or(0, |(voter, _)| voter.revision);
        let newest = self.0.header_values.revision.fetch_max(mine, Ordering::Relaxed);
        self.header(mine.max(newest))
    }

    /// Fails if there is no leader, as far as this node knows. A voter always knows.
    async fn require_leader(&self) -> Result<(), Status> {
        if let Some((voter, _)) = self.opened().await?.store.stats().voter {
            self.set_leader(voter.term, voter.leader.is_some());
        }
        if *self.0.has_leader.borrow() { Ok(()) } else { Err(status::NO_LEADER) }
    }

    /// Records the term, and whether there is a leader in it.
    fn set_leader(&self, term: u64, has_leader: bool) {
        self.0.header_values.term.fetch_max(term, Ordering::Relaxed);
        self.0.has_leader.send_if_modified(|known| std::mem::replace(known, has_leader) != has_leader);
    }

    /// Waits until there is no leader.
    async fn leader_lost(&self) -> Status {
        let mut changes = self.0.has_leader.subscribe();
        let _ = changes.wait_for(|has_leader| !has_leader).await;
        status::NO_LEADER
    }

    /// The status of a call that asks for something which this does not have.
    fn not_supported(what: &str, instead: &str) -> Status {
        Status::new(Code::Unimplemented, format!("etcdserver: {what} is not served here; {instead}"))
    }
}

/// Keeps the term and the leader up to date, as long as the service is there. A voter knows them; another node asks, while a
/// stream waits for the loss of the leader.
async fn watch_leader(inner: Weak<Inner>, store: Store) {
    let mut asked = None::<Instant>;
    loop {
        let Some(etcd) = inner.upgrade().map(Etcd) else { return };
        let has_leader = *etcd.0.has_leader.borrow();
        let is_due = |at: Instant| {
            !has_leader || (etcd.0.has_leader.receiver_count() > 0 && at.elapsed() >= LEADER_QUERY_INTERVAL)
        };
        if let Some((voter, _)) = store.stats().voter {
            etcd.set_leader(voter.term, voter.leader.is_some());
        } else if asked.is_none_or(is_due) {
            asked = Some(Instant::now());
            let voters = store.status().await;
            let known = voters.iter().filter_map(|(_, status)| status.as_ref().ok()).filter(|status| status.founded);
            let newest = known.max_by_key(|status| (status.leader.is_some(), status.term));
            let (term, has_leader) = newest.map_or((0, false), |status| (status.term, status.leader.is_some()));
            etcd.set_leader(term, has_leader);
        }
        drop(etcd);
        sleep(LEADER_CHECK_INTERVAL).await;
    }
}
