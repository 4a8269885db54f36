//! The store of one node: every node reads, writes and watches; those with the role `voter` agree.
//!
//! # Who is asked
//!
//! A node that does not vote finds voters by gossip (their role), asks one, and is told who leads. It remembers that, and
//! asks again when it is no longer so; an election takes a second, and requests wait that long. What is read is as new as
//! the question (read index), unless any voter's state will do. See [`Store`].
//!
//! # What can go wrong
//!
//! - *No quorum*: nothing is agreed on. Requests wait, and end with [`StoreError::NoLeader`]. Leases do not end meanwhile.
//! - *A quorum is lost for good*: an operator founds another store, with what one voter has, or a
//!   [backup](crate::backup).
//! - *The leader is lost*: what it had not answered is asked of the next one, and done once, as requests have ids.
//! - *A voter loses its disk*: it comes back with another id, as another node. The leader puts it in its place, at the
//!   earliest 5 minutes after its former self was gone; or an operator does.
//! - *All voters lose their disks at once* (they have none, and all were restarted): they found a new store, with a new id.
//! - *A disk fails*: the voter stops, and with it its process. A full one takes no more writes until there is room; votes
//!   and leases go on.
//! - *The gossip is wrong about who is there*: nothing is decided by it. It tells where to ask.

mod change;
mod client;
mod clock;
mod error;
mod events;
mod figures;
mod followers;
mod lead;
mod leases;
mod message;
mod place;
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "simulations run the very same state"))]
mod replica;
mod save;
mod services;
mod stream;
mod voter;
mod watch;

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use broadcast_session::Sessions;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::{TryRng as _, rngs::SysRng};
use tokio::{select, sync::mpsc, time::timeout};

#[cfg(feature = "sim")]
#[doc(hidden)]
pub use self::replica::{Replica, Watcher};
pub use self::{
    change::Change,
    client::ROLE,
    clock::since_boot,
    error::StoreError,
    events::EventStream,
    figures::Figures,
    leases::{FoundLeases, LeaseStatus},
    message::{Read, VoterStatus},
    save::BackupStream,
    voter::VoterError,
    watch::WatchStream,
};
use self::{client::Client, error::Said, leases::LeaseQuery, message::Query, voter::Voter};
use crate::{
    Error,
    keys::{self, DeleteOutcome, KeyRange, OpOutcome, Put, PutOutcome, Range, RangeOutcome, Txn, Watch},
    machine::{Command, MIN_TTL, Machine, Machines, Outcome},
};

/// How long a node of a voter's name, with an empty disk, waits before it takes the place of its former self.
pub const REPLACE_AFTER: Duration = Duration::from_secs(300);
/// How long requests wait for a leader, unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a node takes part.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The names of the voters that found the store together, on a node that votes. With more of them more may fail, and
    /// each agreement takes longer: three bear the loss of one, five that of two. Empty on a node that does not vote.
    pub voters: Vec<String>,
    /// Where a voter keeps the log and snapshots. Without it they are in memory, and a voter that is restarted is another.
    pub data: Option<PathBuf>,
    /// How long a voter that lost its disk is waited for before a new node takes its place. Shorter, and a disk that is
    /// only slow to come back is given up; longer, and the next failure may find too few.
    pub replace_after: Duration,
    /// How long requests wait for a leader.
    pub patience: Duration,
    /// What a voter keeps besides users' keys.
    pub machines: Machines,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            voters: Vec::new(),
            data: None,
            replace_after: REPLACE_AFTER,
            patience: PATIENCE,
            machines: Machines::default(),
        }
    }
}

impl Config {
    /// A node that votes, as one of these.
    #[must_use]
    pub fn voters(mut self, voters: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.voters = voters.into_iter().map(Into::into).collect();
        self
    }

    /// A voter that keeps what it knows there.
    #[must_use]
    pub fn data(mut self, path: impl Into<PathBuf>) -> Self {
        self.data = Some(path.into());
        self
    }

    /// A voter that keeps these besides users' keys.
    #[must_use]
    pub fn machines(mut self, machines: Machines) -> Self {
        self.machines = machines;
        self
    }

    /// How long a voter that lost its disk is waited for.
    #[must_use]
    pub fn replace_after(mut self, time: Duration) -> Self {
        self.replace_after = time;
        self
    }
}

/// An operation of the store, for who awaits it.
pub type Operation<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The store, as one node has it. Cheap to clone.
///
/// What these methods give is boxed, so that Raft is compiled with this crate, and not once more with each that uses it.
///
/// A request that is dropped may be carried out all the same. When the last of these is dropped, or the node leaves, a voter
/// stops, and lets its folder go.
#[derive(Clone, Debug)]
pub struct Store {
    client: Arc<Client>,
    sessions: Sessions,
    voter: Option<Arc<Voter>>,
    patience: Duration,
    /// Closed when nobody has the store any more.
    _kept: mpsc::Sender<Infallible>,
}

impl Store {
    /// Begins to take part. On a voter, Raft runs on the runtime that this is called on: give it one that nothing else
    /// keeps busy.
    ///
    /// # Errors
    ///
    /// See [`VoterError`]; only on a node that votes.
    pub fn start(sessions: &Sessions, config: Config) -> BoxFuture<'_, Result<Self, VoterError>> {
        Box::pin(async move {
            let Config { voters, data, replace_after, patience, machines } = config;
            let votes = !voters.is_empty();
            let voter = if votes { Some(Voter::start(sessions, data, machines, voters).await?) } else { None };
            let (kept, mut gone) = mpsc::channel::<Infallible>(1);
            if let Some(voter) = &voter {
                services::serve(voter);
                let founder = Arc::clone(voter);
                tokio::spawn(async move { founder.found().await });
                tokio::spawn(lead::lead(Arc::downgrade(voter), replace_after));
                let (voter, mut members) = (Arc::clone(voter), sessions.node().watch_members());
                tokio::spawn(async move {
                    let stopped = async { while members.changed().await.is_ok() {} };
                    select! {
                        _ = gone.recv() => {}
                        () = stopped => {}
                    }
                    voter.stop().await;
                });
            }
            let client = Arc::new(Client::new(sessions.clone(), voter.clone()));
            Ok(Self { client, sessions: sessions.clone(), voter, patience, _kept: kept })
        })
    }

    /// The same, with requests that wait so long for a leader.
    #[must_use]
    pub fn patience(mut self, time: Duration) -> Self {
        self.patience = time;
        self
    }

    /// Reads keys, as they were when this was called, or later.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn range(&self, range: Range) -> Operation<'_, RangeOutcome> {
        self.read(range.into())
    }

    /// Reads keys, within bounds.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn read(&self, read: Read) -> Operation<'_, RangeOutcome> {
        Box::pin(self.client.read(read, self.patience))
    }

    /// Puts a key.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn put(&self, put: Put) -> Operation<'_, PutOutcome> {
        Box::pin(async move {
            match self.keys(&keys::Command::Put(put)).await? {
                keys::Outcome::Put(put) => Ok(put),
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Deletes keys.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn delete(&self, delete: keys::Delete) -> Operation<'_, DeleteOutcome> {
        Box::pin(async move {
            match self.keys(&keys::Command::Delete(delete)).await? {
                keys::Outcome::Delete(delete) => Ok(delete),
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Carries out a transaction; gives the newest revision, whether the comparisons held, and what became of each
    /// operation.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn txn(&self, txn: Txn) -> Operation<'_, (u64, bool, Vec<OpOutcome>)> {
        Box::pin(async move {
            match self.keys(&keys::Command::Txn(txn)).await? {
                keys::Outcome::Txn { revision, succeeded, responses } => Ok((revision, succeeded, responses)),
                other => Err(unexpected(&other)),
            }
        })
    }

    /// Forgets what was before a revision.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn compact(&self, revision: u64) -> Operation<'_, ()> {
        Box::pin(async move { self.keys(&keys::Command::Compact { revision }).await.map(|_| ()) })
    }

    async fn keys(&self, command: &keys::Command) -> Result<keys::Outcome, StoreError> {
        match self.execute(Command::keys(command)?).await? {
            Outcome::Keys(outcome) => Ok(outcome),
            other => Err(unexpected(&other)),
        }
    }

    /// Watches keys.
    #[must_use]
    pub fn watch(&self, watch: Watch) -> WatchStream {
        WatchStream::new(Arc::clone(&self.client), self.sessions.clone(), self.voter.clone(), watch)
    }

    /// Watches keys of which all begin so, from now on.
    #[must_use]
    pub fn watch_prefix(&self, prefix: &str) -> WatchStream {
        self.watch(Watch { keys: KeyRange::prefix(prefix.to_owned()), ..Watch::default() })
    }

    /// Grants a lease of at least so long, with a random id; gives its id, and how long it lives.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn grant(&self, ttl: Duration) -> Operation<'_, (i64, Duration)> {
        Box::pin(async move {
            let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX).max(MIN_TTL);
            loop {
                let random = SysRng.try_next_u64().map_err(|error| StoreError::Stopped(error.to_string()))?;
                // Below what another machine may draw its own from.
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

    /// Has a lease run anew; gives how long it lives from when this was called, or `None` if it is not there any more.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn keep_alive(&self, lease: i64) -> Operation<'_, Option<Duration>> {
        Box::pin(self.client.keep_alive(lease, self.patience))
    }

    /// How each lease is, as they were when this was called, or later; without their keys.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn leases(&self) -> Operation<'_, FoundLeases> {
        Box::pin(self.client.leases(LeaseQuery::All, self.patience))
    }

    /// How one lease is, and its keys if they are wanted. There is none in the answer if it is not there.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn lease(&self, lease: i64, keys: bool) -> Operation<'_, FoundLeases> {
        Box::pin(self.client.leases(LeaseQuery::One { lease, keys }, self.patience))
    }

    /// Ends a lease, and deletes its keys.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn revoke(&self, lease: i64) -> Operation<'_, ()> {
        Box::pin(async move { self.execute(Command::revoke(lease)).await.map(|_| ()) })
    }

    /// Has any command carried out, once.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]. What the state refuses is [`StoreError::Refused`].
    pub fn execute(&self, command: Command) -> Operation<'_, Outcome> {
        Box::pin(self.client.execute(command, self.patience))
    }

    /// Has a machine besides users' keys answer a question, as it was when this was called, or later.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]. There is no such machine, or it cannot read the question: [`StoreError::NotPossible`].
    pub fn query<'a>(&'a self, machine: &str, question: impl Into<Bytes>) -> Operation<'a, Bytes> {
        let query = Query { machine: machine.into(), question: question.into() };
        Box::pin(self.client.query(query, self.patience))
    }

    /// Follows a machine: what it tells from now on, at the voter that leads. It ends when another one does.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn follow<'a>(&'a self, machine: &str) -> Operation<'a, EventStream> {
        let machine = machine.to_owned();
        Box::pin(self.client.follow(machine, self.patience))
    }

    /// The store that there is, as a quorum has said last: its id.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn id(&self) -> Operation<'_, u64> {
        Box::pin(self.client.store())
    }

    /// Changes who votes.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn change_voters(&self, change: Change) -> Operation<'_, ()> {
        Box::pin(self.client.change(change, self.patience.max(Duration::from_secs(60))))
    }

    /// Begins a backup of all that was agreed on when this was called: keys with their history, leases, and what other
    /// machines have. See [`backup`](crate::backup).
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub fn save(&self) -> Operation<'_, BackupStream> {
        Box::pin(self.client.save(self.patience))
    }

    /// How each voter is that has that role and is live; in words, why one does not say.
    pub fn status(&self) -> BoxFuture<'_, Vec<(String, Result<VoterStatus, String>)>> {
        Box::pin(async move {
            let mut names = self.client.voters().await;
            names.sort();
            let asked =
                names.into_iter().map(async |name| match self.voter.as_ref().filter(|voter| voter.name == name) {
                    Some(voter) => (name, Ok(voter.status().await)),
                    None => {
                        let status = voter::ask(&self.sessions, &name).await;
                        (name, status)
                    }
                });
            futures_util::future::join_all(asked).await
        })
    }

    /// Looks at a machine besides users' keys, as this voter has it, which may be behind; nothing on a node that does not
    /// vote, or has no such machine. Nothing is applied meanwhile, so be short.
    pub fn local<M: Machine, T>(&self, look: impl FnOnce(&M) -> T) -> Option<T> {
        self.voter.as_ref()?.raft()?.state().read(|replica, _| replica.state.machine().map(look))
    }

    /// Whether this node votes and leads.
    pub fn leads(&self) -> bool {
        self.voter.as_ref().and_then(|voter| voter.raft()).is_some_and(|raft| raft.standing().leads)
    }

    /// The hash of the keys at a revision as this voter has them ([`keys::Keys::hash_at`]), its newest revision, and the one
    /// that it was compacted at.
    ///
    /// # Errors
    ///
    /// This node does not vote: [`StoreError::NotPossible`]. Or the revision is compacted, or yet to come.
    pub fn hash(&self, revision: u64) -> Operation<'_, (u32, u64, u64)> {
        Box::pin(async move {
            let why = || "only a voter has all keys, of which a hash can be made; ask one".to_owned();
            let voter = self.voter.as_ref().ok_or_else(|| StoreError::NotPossible { why: why() })?;
            let raft = voter.need().map_err(|said| StoreError::Stopped(said.refusal().text))?;
            // It takes as long as reading everything: commands are not to wait meanwhile.
            let copy = raft.state().read(|replica, _| replica.state.copy());
            let hashed = tokio::task::spawn_blocking(move || {
                let keys = copy.keys();
                keys.hash_at(revision).map(|hash| (hash, keys.revision(), keys.compacted()))
            });
            Ok(hashed.await.map_err(|error| StoreError::Stopped(error.to_string()))??)
        })
    }

    /// Has the voter with this id lead, in place of this node, and waits until it does.
    ///
    /// # Errors
    ///
    /// This node does not lead, or that one does not vote: [`StoreError::NotPossible`]. It does not come to lead in time:
    /// [`StoreError::NoLeader`].
    pub fn hand_over(&self, to: u64) -> Operation<'_, ()> {
        Box::pin(async move {
            let not_possible = |why: &str| StoreError::NotPossible { why: why.to_owned() };
            let voter = self.voter.as_ref().ok_or_else(|| not_possible("this node does not vote"))?;
            let said = |said: Said| StoreError::NotPossible { why: said.refusal().text };
            let raft = voter.need().map_err(said)?;
            raft.confirm().await.map_err(|error| said(Voter::said(&raft, error)))?;
            if !raft.view().voters.contains_key(&to) {
                return Err(not_possible("there is no voter with that id"));
            }
            let mut views = raft.watch();
            let handed = async {
                raft.hand_over(to).await.map_err(|error| said(Voter::said(&raft, error)))?;
                while views.next().await.is_some_and(|view| view.leader != Some(to)) {}
                Ok(())
            };
            let within = self.patience;
            let late = || StoreError::NoLeader { within, problem: format!("{to:016x} does not come to lead") };
            if raft.view().leader == Some(to) { Ok(()) } else { timeout(within, handed).await.map_err(|_| late())? }
        })
    }

    /// What this node counts. It asks nobody, and takes microseconds.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let voter = self.voter.as_ref().map(|voter| (voter.seen(), voter.figures.syncs()));
        Figures { requests: self.client.ended.counts(), voter }
    }

    /// Whether this node votes.
    #[must_use]
    pub fn votes(&self) -> bool {
        self.voter.is_some()
    }

    /// Resolves when this voter cannot go on, with the reason: its process has to end, as what it has written may be lost.
    /// Never on a node that does not vote.
    pub fn failure(&self) -> BoxFuture<'_, String> {
        Box::pin(async move {
            match &self.voter {
                Some(voter) => voter.failure().await,
                None => std::future::pending().await,
            }
        })
    }

    /// Has another voter lead, if this one does, and stops voting.
    pub fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(voter) = &self.voter {
                voter.hand_over().await;
                voter.stop().await;
            }
        })
    }
}

fn unexpected(outcome: &impl std::fmt::Debug) -> StoreError {
    StoreError::Answer { node: "the store".into(), problem: format!("an outcome of another command: {outcome:?}") }
}
