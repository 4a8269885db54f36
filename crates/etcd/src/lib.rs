//! etcd's v3 protocol on a replicated store: whoever speaks to etcd speaks to this.
//!
//! The store's data model is etcd's, so this is a matter of form: [`messages`] as they are on the wire, gRPC's frames
//! (`grpc`), the same in JSON (`json`, `http`), codes and texts that clients compare (`status`), and the calls themselves:
//! `kv`, `lease`, `watch`, `cluster`, `maintenance`, and locks and elections (`recipe`). It runs on any node, whether that votes or not.
//!
//! The calls are offered as routes ([`Etcd::routes`]), each with what a caller needs to be let in. Who mounts them speaks
//! HTTP/2 and HTTP/1.1, and sees to connections, tokens and their limits.
//!
//! # What can go wrong
//!
//! - *No leader*: a call waits for one as long as the store's patience, and fails with etcd's text. One that says
//!   `hasleader` fails at once, and its streams end.
//! - *Watchers that do not read*: a stream holds a few answers, and then the store waits; what history forgets meanwhile is
//!   told as etcd tells it, by cancelling the watch at the revision that is compacted.
//! - *What is ours*: leases of lock sessions have ids of their own, and are none here; no call names anything but users'
//!   keys.

#![deny(missing_docs, unreachable_pub)]

mod cluster;
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
mod recipe;
mod routes;
mod status;
mod watch;

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use broadcast::Handle;
use broadcast_store::{Store, StoreError};
use futures_util::future::BoxFuture;
use tokio::{
    runtime,
    sync::watch as latest,
    task::JoinHandle,
    time::{Instant, sleep},
};

pub use crate::routes::{Access, Route};
use crate::{
    kv::signed,
    messages::ResponseHeader,
    status::{Code, Status},
};

/// The port that etcd's clients look for.
pub const DEFAULT_PORT: u16 = 2379;
/// The service that a node tells others it has, if it serves this plainly; and by TLS.
pub const ENDPOINT: &str = "etcd";
/// See [`ENDPOINT`].
pub const TLS_ENDPOINT: &str = "etcd-tls";

/// The release of etcd that this does as.
const VERSION: &str = "3.4.23";
/// How often a voter looks whether there is a leader; and how often any other node asks, while a stream wants to know.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Gives the store of the node, and the runtime that its requests have to be carried out on.
pub type Open = Arc<dyn Fn() -> BoxFuture<'static, Result<(Store, runtime::Handle), StoreError>> + Send + Sync>;

/// What a user's password opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nobody has to log in.
    NotNeeded,
    /// It is a token of the node.
    Known,
    /// It is none.
    Unknown,
}

/// Tells what a password opens.
pub type LogIn = Arc<dyn Fn(&str) -> Login + Send + Sync>;

/// See the [crate](self). Cheap to clone.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    node: Handle,
    open: Open,
    log_in: LogIn,
    room: grpc::Room,
    known: Known,
    /// Whether there is a leader, as far as is known.
    led: latest::Sender<bool>,
    /// Set once somebody looks after it.
    looked_after: OnceLock<()>,
}

/// What answers tell besides what was asked.
#[derive(Debug, Default)]
struct Known {
    store: AtomicU64,
    term: AtomicU64,
    revision: AtomicU64,
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Etcd").field(&self.0.known).finish()
    }
}

/// A task that nobody waits for any more is not carried on.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Etcd {
    /// The store of `node`, which `open` gives.
    #[must_use]
    pub fn new(node: Handle, open: Open, log_in: LogIn) -> Self {
        let (known, led) = (Known::default(), latest::Sender::new(true));
        let room = grpc::Room::default();
        Self(Arc::new(Inner { node, open, log_in, room, known, led, looked_after: OnceLock::new() }))
    }

    /// The store, and where its requests are carried out.
    async fn open(&self) -> Result<(Store, runtime::Handle), Status> {
        let (store, runtime) = (self.0.open)().await?;
        if self.0.looked_after.set(()).is_ok() {
            runtime.spawn(look_after(Arc::downgrade(&self.0), store.clone()));
        }
        Ok((store, runtime))
    }

    /// Carries out `work` where the store runs; not any more once nobody waits for it.
    async fn run<T, F>(&self, work: impl FnOnce(Store) -> F + Send + 'static) -> Result<T, Status>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (store, runtime) = self.open().await?;
        let me = self.clone();
        let mut task = Task(runtime.spawn(async move {
            let done = work(store.clone()).await?;
            // Whoever has answered has said of which store.
            me.0.known.store.store(store.id().await?, Ordering::Relaxed);
            Ok::<_, StoreError>(done)
        }));
        let ended = (&mut task.0).await;
        let ended = ended.unwrap_or_else(|_| Err(StoreError::Stopped("it is about to leave its cluster".into())));
        ended.map_err(Status::from)
    }

    /// Room for what clients send.
    fn room(&self) -> &grpc::Room {
        &self.0.room
    }

    /// What an answer begins with that was found at this revision.
    fn header(&self, revision: u64) -> ResponseHeader {
        let Known { store, term, revision: newest } = &self.0.known;
        newest.fetch_max(revision, Ordering::Relaxed);
        ResponseHeader {
            cluster_id: store.load(Ordering::Relaxed),
            member_id: self.0.node.id().get(),
            revision: signed(revision),
            raft_term: term.load(Ordering::Relaxed),
        }
    }

    /// The same, of an answer that has no revision of its own: the newest that this node knows.
    async fn header_now(&self) -> ResponseHeader {
        let seen = self.open().await.ok().and_then(|(store, _)| store.stats().voter);
        let mine = seen.map_or(0, |(voter, _)| voter.revision);
        let newest = self.0.known.revision.fetch_max(mine, Ordering::Relaxed);
        self.header(mine.max(newest))
    }

    /// Fails if nobody leads, as far as is known: a voter knows it at any time.
    async fn need_leader(&self) -> Result<(), Status> {
        let (store, _) = self.open().await?;
        if let Some((voter, _)) = store.stats().voter {
            self.see(voter.term, voter.leader.is_some());
        }
        if *self.0.led.borrow() { Ok(()) } else { Err(status::NO_LEADER) }
    }

    /// This is how it is now.
    fn see(&self, term: u64, is_led: bool) {
        self.0.known.term.fetch_max(term, Ordering::Relaxed);
        self.0.led.send_if_modified(|led| std::mem::replace(led, is_led) != is_led);
    }

    /// Resolves when nobody leads.
    async fn no_leader(&self) -> Status {
        let mut led = self.0.led.subscribe();
        let _ = led.wait_for(|led| !led).await;
        status::NO_LEADER
    }

    /// What a call has not, in words.
    fn missing(what: &str, instead: &str) -> Status {
        Status::new(Code::Unimplemented, format!("etcdserver: {what} is not served here; {instead}"))
    }
}

/// Sees who leads, as long as somebody serves this. A voter knows it; any other node asks, while somebody wants to know.
async fn look_after(inner: Weak<Inner>, store: Store) {
    let mut asked = None::<Instant>;
    loop {
        let Some(etcd) = inner.upgrade().map(Etcd) else { return };
        let is_led = *etcd.0.led.borrow();
        let is_due = |at: Instant| !is_led || (etcd.0.led.receiver_count() > 0 && at.elapsed() >= ASK_EVERY);
        if let Some((voter, _)) = store.stats().voter {
            etcd.see(voter.term, voter.leader.is_some());
        } else if asked.is_none_or(is_due) {
            asked = Some(Instant::now());
            let voters = store.status().await;
            let known = voters.iter().filter_map(|(_, told)| told.as_ref().ok()).filter(|told| told.founded);
            let best = known.max_by_key(|told| (told.leader.is_some(), told.term));
            let (term, is_led) = best.map_or((0, false), |told| (told.term, told.leader.is_some()));
            etcd.see(term, is_led);
        }
        drop(etcd);
        sleep(LOOK_EVERY).await;
    }
}
