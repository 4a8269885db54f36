//! The store of one node. Every node reads, writes and watches; nodes with the role `voter` agree.
//!
//! [`Store`] is the whole interface. Behind it:
//!
//! | file | what it does |
//! |---|---|
//! | `client.rs` | finds the leader, and sends a request until it is answered |
//! | `services.rs` | takes other nodes' calls at a voter |
//! | `voter.rs` | a voter: founding, and what it does for a request |
//! | `leader_tasks.rs` | what a leader does by itself: lease expiry, compaction, replacing lost voters |
//! | `change.rs` | membership changes: adding, removing and replacing voters |
//! | `replica.rs` | the state machine that Raft applies entries to, with its watchers |
//! | `watch.rs`, `events.rs`, `save.rs` | streams: watches, machines' events, backups |
//! | `message.rs`, `stream.rs`, `error.rs` | what goes over the wire |
//! | `disk.rs` | where a voter keeps its files: a directory, or memory |
//! | `stats.rs` | what metrics and the status tell |
//!
//! # What can go wrong
//!
//! - *No quorum*: voters agree on nothing. Requests wait, and end with [`StoreError::NoLeader`]. No lease ends meanwhile.
//! - *A quorum is lost for good*: an operator founds another store, from one voter's directory or from a
//!   [backup](crate::backup).
//! - *The leader is lost*: the client sends what the leader had not answered to the next one. It takes effect once, for each
//!   command has an id.
//! - *A voter loses its disk*: it comes back with another id, as another node. The leader gives it the place of its former
//!   self, at the earliest after [`StoreConfig::replace_after`]; or an operator does.
//! - *All voters lose their disks at once*, because they kept everything in memory and all were restarted: they found a new
//!   store, with a new id.
//! - *A disk fails*: the voter stops, and with it its process. A voter whose disk is full takes no writes until there is room,
//!   but still votes and times leases.
//! - *The gossip is wrong about who is there*: nothing depends on it. It only tells where to ask.

mod change;
mod client;
mod clock;
mod config;
mod disk;
mod error;
mod events;
mod former_names;
mod leader_tasks;
mod leases;
mod message;
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "simulations run the very same state"))]
mod replica;
mod save;
mod services;
mod stats;
mod stream;
mod subscribers;
mod voter;
mod watch;

use std::{convert::Infallible, sync::Arc, time::Duration};

use broadcast_session::Sessions;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::{TryRng as _, rngs::SysRng};
use tokio::{select, sync::mpsc, time::timeout};

#[doc(hidden)]
pub use self::former_names::*;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub use self::replica::{Replica, Watcher};
pub use self::{
    change::VoterChange,
    client::VOTER_ROLE,
    clock::since_boot,
    config::{REPLACE_AFTER, REQUEST_TIMEOUT, StoreConfig},
    error::StoreError,
    events::EventStream,
    leases::{LeaseList, LeaseStatus},
    message::{ReadRequest, VoterStatus},
    save::BackupStream,
    stats::StoreStats,
    voter::VoterError,
    watch::WatchStream,
};
use self::{client::Client, error::RefusalReason, leases::LeaseQuery, message::MachineQuery, voter::Voter};
use crate::{
    Error,
    keys::{self, DeleteOutcome, KeyRange, OpOutcome, Put, PutOutcome, Range, RangeOutcome, Txn, Watch},
    machine::{Command, MIN_TTL, Machine, Outcome},
};

/// What the methods of [`Store`] return: a boxed future. Await it.
pub type Operation<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The store, as one node has it. Clones are the same store.
///
/// Requests wait for a leader, at most [`request_timeout`](Self::request_timeout), and go on at the next leader if one is lost.
/// A command takes effect once. If nobody can know whether it did, the error is [`StoreError::Unknown`].
///
/// A request whose future is dropped may take effect all the same. When the last clone is dropped, or the node leaves its
/// cluster, a voter stops and unlocks its directory.
///
/// The futures are boxed, so that Raft is compiled once, with this crate.
///
/// ```no_run
/// # async fn run(store: broadcast_store::Store) -> Result<(), broadcast_store::StoreError> {
/// use broadcast_store::keys::{Put, Range};
///
/// store.put(Put { key: "color".into(), value: "green".into(), ..Put::default() }).await?;
/// let found = store.range(Range::of("color")).await?;
/// assert_eq!(found.kvs[0].value, "green");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    client: Arc<Client>,
    sessions: Sessions,
    voter: Option<Arc<Voter>>,
    request_timeout: Duration,
    /// Its receiver learns when the last clone is dropped.
    _alive: mpsc::Sender<Infallible>,
}

impl Store {
    /// Starts the store of this node. On a voter, Raft runs on the runtime that this is called on: give it one that nothing
    /// else keeps busy, or heartbeats are late and the leader is lost.
    ///
    /// # Errors
    ///
    /// See [`VoterError`]; only on a node that votes.
    ///
    /// ```no_run
    /// # async fn run(sessions: broadcast_session::Sessions) -> Result<(), Box<dyn std::error::Error>> {
    /// use broadcast_store::{Store, StoreConfig};
    ///
    /// let config = StoreConfig::default().voters(["node1", "node2", "node3"]).data("/var/lib/broadcast");
    /// let store = Store::start(&sessions, config).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn start(sessions: &Sessions, config: StoreConfig) -> BoxFuture<'_, Result<Self, VoterError>> {
        Box::pin(async move {
            let StoreConfig { voters, data, replace_after, request_timeout, machines } = config;
            let votes = !voters.is_empty();
            let voter = if votes { Some(Voter::start(sessions, data, machines, voters).await?) } else { None };
            let (alive, mut all_dropped) = mpsc::channel::<Infallible>(1);
            if let Some(voter) = &voter {
                services::serve_all(voter);
                let founder = Arc::clone(voter);
                tokio::spawn(async move { founder.found().await });
                tokio::spawn(leader_tasks::run(Arc::downgrade(voter), replace_after));
                let (voter, mut members) = (Arc::clone(voter), sessions.node().watch_members());
                tokio::spawn(async move {
                    let stopped = async { while members.changed().await.is_ok() {} };
                    select! {
                        _ = all_dropped.recv() => {}
                        () = stopped => {}
                    }
                    voter.stop().await;
                });
            }
            let client = Arc::new(Client::new(sessions.clone(), voter.clone()));
            Ok(Self { client, sessions: sessions.clone(), voter, request_timeout, _alive: alive })
        })
    }

    /// The same store, with requests that wait this long for a leader. See [`StoreConfig::request_timeout`].
    #[must_use]
    pub fn request_timeout(mut self, time: Duration) -> Self {
        self.request_timeout = time;
        self
    }

    /// Reads keys. The read is linearizable: it sees every change that was acknowledged before this was called.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    ///
    /// ```no_run
    /// # async fn run(store: broadcast_store::Store) -> Result<(), broadcast_store::StoreError> {
    /// use broadcast_store::keys::{KeyRange, Range};
    ///
    /// for kv in store.range(Range::in_range(KeyRange::prefix("app/"))).await?.kvs {
    ///     println!("{:?} = {:?}", kv.key, kv.value);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn range(&self, range: Range) -> Operation<'_, RangeOutcome> {
        self.read(range.into())
    }

    /// Reads keys with the options of a [`ReadRequest`]: serializable, or with a limit of bytes.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn read(&self, read: ReadRequest) -> Operation<'_, RangeOutcome> {
        Box::pin(self.client.read(read, self.request_timeout))
    }

    /// Puts a key. See the example at [`Store`].
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn put(&self, put: Put) -> Operation<'_, PutOutcome> {
        Box::pin(async move {
            match self.keys(&keys::KeysCommand::Put(put)).await? {
                keys::KeysOutcome::Put(put) => Ok(put),
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Deletes keys.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    ///
    /// ```no_run
    /// # async fn run(store: broadcast_store::Store) -> Result<(), broadcast_store::StoreError> {
    /// use broadcast_store::keys::{Delete, KeyRange};
    ///
    /// let done = store.delete(Delete { keys: KeyRange::prefix("app/"), prev_kv: false }).await?;
    /// println!("{} keys are gone at revision {}", done.deleted, done.revision);
    /// # Ok(())
    /// # }
    /// ```
    pub fn delete(&self, delete: keys::Delete) -> Operation<'_, DeleteOutcome> {
        Box::pin(async move {
            match self.keys(&keys::KeysCommand::Delete(delete)).await? {
                keys::KeysOutcome::Delete(delete) => Ok(delete),
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Carries out a transaction. Returns the newest revision, whether the comparisons held, and the outcome of each
    /// operation.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    ///
    /// ```no_run
    /// # async fn run(store: broadcast_store::Store) -> Result<(), broadcast_store::StoreError> {
    /// use broadcast_store::keys::{Compare, CompareOp, CompareTarget, KeyRange, Op, Put, Txn};
    ///
    /// // Creates a key, unless it exists.
    /// let absent = Compare { keys: KeyRange::one("color"), op: CompareOp::Equal, target: CompareTarget::Version(0) };
    /// let put = Op::Put(Put { key: "color".into(), value: "green".into(), ..Put::default() });
    /// let (_, created, _) = store.txn(Txn { compare: vec![absent], success: vec![put], failure: vec![] }).await?;
    /// println!("{}", if created { "created" } else { "it exists" });
    /// # Ok(())
    /// # }
    /// ```
    pub fn txn(&self, txn: Txn) -> Operation<'_, (u64, bool, Vec<OpOutcome>)> {
        Box::pin(async move {
            match self.keys(&keys::KeysCommand::Txn(txn)).await? {
                keys::KeysOutcome::Txn { revision, succeeded, responses } => Ok((revision, succeeded, responses)),
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Compacts the history: forgets what was before a revision. Reads and watches from that revision on still work.
    ///
    /// A leader compacts by itself what is older than an hour, or more than a million revisions back.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn compact(&self, revision: u64) -> Operation<'_, ()> {
        Box::pin(async move { self.keys(&keys::KeysCommand::Compact { revision }).await.map(|_| ()) })
    }

    async fn keys(&self, command: &keys::KeysCommand) -> Result<keys::KeysOutcome, StoreError> {
        match self.execute(Command::keys(command)?).await? {
            Outcome::Keys(outcome) => Ok(outcome),
            other => Err(unexpected(&other)),
        }
    }

    /// Watches keys. It asks nobody before [`WatchStream::next`] is called.
    ///
    /// ```no_run
    /// # async fn run(store: broadcast_store::Store) -> Result<(), broadcast_store::StoreError> {
    /// use broadcast_store::keys::{KeyRange, Watch, WatchEvent};
    ///
    /// let mut watch = store.watch(Watch { keys: KeyRange::one("color"), start_revision: 5, ..Watch::default() });
    /// while let Some(event) = watch.next().await? {
    ///     if let WatchEvent::Changes { revision, events } = event {
    ///         println!("revision {revision}: {:?}", events[0].kv.value);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn watch(&self, watch: Watch) -> WatchStream {
        WatchStream::new(Arc::clone(&self.client), self.sessions.clone(), self.voter.clone(), watch)
    }

    /// Watches all keys that begin with a prefix, from now on.
    #[must_use]
    pub fn watch_prefix(&self, prefix: &str) -> WatchStream {
        self.watch(Watch { keys: KeyRange::prefix(prefix.to_owned()), ..Watch::default() })
    }

    /// Grants a lease for at least `ttl`, with a random id. Returns its id and how long it lives.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    ///
    /// ```no_run
    /// # async fn run(store: broadcast_store::Store) -> Result<(), broadcast_store::StoreError> {
    /// use std::time::Duration;
    /// use broadcast_store::keys::Put;
    ///
    /// let (lease, _) = store.grant(Duration::from_secs(10)).await?;
    /// store.put(Put { key: "workers/1".into(), lease, ..Put::default() }).await?;
    /// // Call this again and again; 10 seconds after the last time the key is gone.
    /// let left = store.keep_alive(lease).await?;
    /// assert!(left.is_some(), "the lease has ended");
    /// # Ok(())
    /// # }
    /// ```
    pub fn grant(&self, ttl: Duration) -> Operation<'_, (i64, Duration)> {
        Box::pin(async move {
            let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).max(MIN_TTL);
            loop {
                let random = SysRng.try_next_u64().map_err(|error| StoreError::Stopped(error.to_string()))?;
                // Machines may draw their ids from the numbers above.
                let lease = i64::try_from(random >> 2).expect("62 bits are positive").max(1);
                match self.execute(Command::grant(lease, seconds)).await {
                    Ok(Outcome::Granted { lease, ttl, .. }) => {
                        return Ok((lease, Duration::from_secs(u64::try_from(ttl).unwrap_or_default())));
                    }
                    Err(StoreError::Refused(Error::LeaseExists { .. })) => {}
                    Ok(other) => return Err(unexpected(&other)),
                    Err(error) => return Err(error),
                }
            }
        })
    }

    /// Keeps a lease alive. Returns how long it lives from when this was called, or `None` if it has ended.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn keep_alive(&self, lease: i64) -> Operation<'_, Option<Duration>> {
        Box::pin(self.client.keep_alive(lease, self.request_timeout))
    }

    /// All leases with their time to live, without their keys; linearizable.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn leases(&self) -> Operation<'_, LeaseList> {
        Box::pin(self.client.leases(LeaseQuery::All, self.request_timeout))
    }

    /// One lease with its time to live, and with its keys if `keys` says so; linearizable. The list is empty if it has ended.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn lease(&self, lease: i64, keys: bool) -> Operation<'_, LeaseList> {
        Box::pin(self.client.leases(LeaseQuery::One { lease, keys }, self.request_timeout))
    }

    /// Revokes a lease: ends it, and deletes its keys.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn revoke(&self, lease: i64) -> Operation<'_, ()> {
        Box::pin(async move { self.execute(Command::revoke(lease)).await.map(|_| ()) })
    }

    /// Has any command agreed on and applied, once. The methods above are shorter forms of this.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]. If the state machine refuses the command: [`StoreError::Refused`].
    pub fn execute(&self, command: Command) -> Operation<'_, Outcome> {
        Box::pin(self.client.execute(command, self.request_timeout))
    }

    /// Queries a machine besides users' keys: [`Machine::query`]. It is a linearizable read.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]. If there is no such machine, or it cannot read the question: [`StoreError::NotPossible`].
    pub fn query<'a>(&'a self, machine: &str, question: impl Into<Bytes>) -> Operation<'a, Bytes> {
        let query = MachineQuery { machine: machine.into(), question: question.into() };
        Box::pin(self.client.query(query, self.request_timeout))
    }

    /// Subscribes to the events that a machine [emits](crate::machine::ApplyContext::emit) from now on, at the leader. The stream
    /// ends when another voter leads.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn subscribe<'a>(&'a self, machine: &str) -> Operation<'a, EventStream> {
        let machine = machine.to_owned();
        Box::pin(self.client.subscribe(machine, self.request_timeout))
    }

    /// The id of the store, as a quorum confirmed it last.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn id(&self) -> Operation<'_, u64> {
        Box::pin(self.client.store())
    }

    /// Changes who votes. Returns once the change is complete.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    ///
    /// ```no_run
    /// # async fn run(store: broadcast_store::Store) -> Result<(), broadcast_store::StoreError> {
    /// store.change_voters(broadcast_store::node::VoterChange::Add("node4".into())).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn change_voters(&self, change: VoterChange) -> Operation<'_, ()> {
        Box::pin(self.client.change(change, self.request_timeout.max(Duration::from_secs(60))))
    }

    /// Begins a backup of the whole state: keys with their history, leases, and the other machines. It has every change that was
    /// acknowledged before this was called. See [`backup`](crate::backup).
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn save(&self) -> Operation<'_, BackupStream> {
        Box::pin(self.client.save(self.request_timeout))
    }

    /// The status of each live voter by name, or why it did not answer.
    pub fn status(&self) -> BoxFuture<'_, Vec<(String, Result<VoterStatus, String>)>> {
        Box::pin(async move {
            let mut names = self.client.voters().await;
            names.sort();
            let statuses =
                names.into_iter().map(async |name| match self.voter.as_ref().filter(|voter| voter.name == name) {
                    Some(voter) => (name, Ok(voter.status().await)),
                    None => {
                        let status = voter::fetch_status(&self.sessions, &name).await;
                        (name, status)
                    }
                });
            futures_util::future::join_all(statuses).await
        })
    }

    /// Looks at a machine as this node's voter has it, which may be behind; `None` if this node does not vote, or has no such
    /// machine. No entry is applied meanwhile: be quick.
    pub fn local<M: Machine, T>(&self, look: impl FnOnce(&M) -> T) -> Option<T> {
        self.voter.as_ref()?.raft()?.state().read(|replica, _| replica.state.machine().map(look))
    }

    /// Whether this node is the leader, as far as it knows.
    pub fn leads(&self) -> bool {
        self.voter.as_ref().and_then(|voter| voter.raft()).is_some_and(|raft| raft.basic_status().leads)
    }

    /// The hash of this voter's keys at a revision ([`keys::Keys::hash_at`]), its newest revision, and its compacted one. Equal
    /// voters have equal hashes.
    ///
    /// # Errors
    ///
    /// If this node does not vote: [`StoreError::NotPossible`]. Or the revision is compacted, or in the future.
    pub fn hash(&self, revision: u64) -> Operation<'_, (u32, u64, u64)> {
        Box::pin(async move {
            let why = || "only a voter has all keys, of which a hash can be made; ask one".to_owned();
            let voter = self.voter.as_ref().ok_or_else(|| StoreError::NotPossible { why: why() })?;
            let raft = voter.require_raft().map_err(|reason| StoreError::Stopped(reason.refusal().text))?;
            // A copy: to hash everything takes long, and no entry is applied while the state is locked.
            let copy = raft.state().read(|replica, _| replica.state.copy());
            let hashed = tokio::task::spawn_blocking(move || {
                let keys = copy.keys();
                keys.hash_at(revision).map(|hash| (hash, keys.revision(), keys.compacted()))
            });
            Ok(hashed.await.map_err(|error| StoreError::Stopped(error.to_string()))??)
        })
    }

    /// Transfers leadership from this node to the voter with this id, and waits until that leads.
    ///
    /// # Errors
    ///
    /// If this node does not lead, or that one does not vote: [`StoreError::NotPossible`]. If it does not lead in time:
    /// [`StoreError::NoLeader`].
    pub fn transfer_leadership(&self, to: u64) -> Operation<'_, ()> {
        Box::pin(async move {
            let not_possible = |why: &str| StoreError::NotPossible { why: why.to_owned() };
            let voter = self.voter.as_ref().ok_or_else(|| not_possible("this node does not vote"))?;
            let refused = |reason: RefusalReason| StoreError::NotPossible { why: reason.refusal().text };
            let raft = voter.require_raft().map_err(refused)?;
            raft.read_index().await.map_err(|error| refused(Voter::refusal(&raft, error)))?;
            if !raft.status().voters.contains_key(&to) {
                return Err(not_possible("there is no voter with that id"));
            }
            let mut statuses = raft.watch_status();
            let transfer = async {
                raft.transfer_leadership(to).await.map_err(|error| refused(Voter::refusal(&raft, error)))?;
                while statuses.next().await.is_some_and(|status| status.leader != Some(to)) {}
                Ok(())
            };
            let within = self.request_timeout;
            let late = || StoreError::NoLeader { within, problem: format!("{to:016x} does not come to lead") };
            if raft.status().leader == Some(to) {
                Ok(())
            } else {
                timeout(within, transfer).await.map_err(|_| late())?
            }
        })
    }

    /// What this node counts. It asks nobody, and is quick.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let voter = self.voter.as_ref().map(|voter| (voter.local_status(), voter.stats.syncs()));
        StoreStats { requests: self.client.counters.counts(), voter }
    }

    /// Whether this node votes.
    #[must_use]
    pub fn votes(&self) -> bool {
        self.voter.is_some()
    }

    /// Resolves with the reason when this voter cannot go on. Its process has to end then: what it has written may be lost.
    /// On a node that does not vote it never resolves.
    pub fn failure(&self) -> BoxFuture<'_, String> {
        Box::pin(async move {
            match &self.voter {
                Some(voter) => voter.failure().await,
                None => std::future::pending().await,
            }
        })
    }

    /// Stops this voter; if it leads, it transfers leadership first, so that nobody waits for an election.
    pub fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(voter) = &self.voter {
                voter.transfer_leadership().await;
                voter.stop().await;
            }
        })
    }
}

impl Store {
    /// Renamed.
    #[doc(hidden)]
    #[must_use]
    #[deprecated(note = "renamed to `request_timeout`")]
    pub fn patience(self, time: Duration) -> Self {
        self.request_timeout(time)
    }

    /// Renamed.
    #[doc(hidden)]
    #[must_use]
    #[deprecated(note = "renamed to `stats`")]
    pub fn figures(&self) -> StoreStats {
        self.stats()
    }
}

fn unexpected(outcome: &impl std::fmt::Debug) -> StoreError {
    StoreError::Answer { node: "the store".into(), problem: format!("an outcome of another command: {outcome:?}") }
}
