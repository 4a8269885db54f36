//! The client: what a node does with locks. It asks through the store, whichever voter leads.
//!
//! [`LockClient::lock`] and [`LockClient::campaign`] are all that most programs need: they give a [`LockGuard`], which keeps
//! its session alive and releases the lock when it is dropped. The other functions are the parts of that, for programs that
//! keep sessions alive themselves, as the HTTP API does for its clients.
//!
//! One lock, from the call to the grant:
//!
//! 1. [`LockClient::lock`] draws a session id and calls [`LockClient::enqueue`], which sends one
//!    [`LockCommand::Acquire`]. That opens the session and puts an entry into the lock's queue, or neither.
//! 2. The command comes back with the entry's token, and says whether it was granted at once. The [`Waiter`] stands for the
//!    entry from now on.
//! 3. [`Waiter::granted`] waits. The node's notifier (`notifier`) follows the events of the machine, once for all waiters of
//!    the node, and wakes this one.
//! 4. [`Session`] sends keep-alives beside that, and knows until when the lock is sure to be held.
//! 5. [`LockGuard::release`], or a drop, ends the session. The same command grants the lock to whoever is next.

mod guard;
mod notifier;
mod observe;
mod session;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use broadcast_store::{Store, StoreError, keys, machine};
use bytes::Bytes;
use rand::{TryRng as _, rngs::SysRng};
use serde::de::DeserializeOwned;
use tokio::{select, sync::oneshot, time::sleep};

use self::notifier::{EntrySubscription, Notifier};
use crate::{
    error::LockError,
    machine::{NAME, VERSION},
    message::{
        self, AcquireCommand, EntryChange, Holder, LockCommand, LockOutcome, LockQuery, LockSessionConfig, MAX_TTL,
        MIN_TTL, Mode, decode, encode,
    },
    name::Name,
    refusal::Refusal,
};

pub use guard::LockGuard;
pub use observe::LeaderObserver;
pub use session::Session;

/// The time to live of a session, unless another one is asked for.
pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

/// How often the client tries to give something up while nobody answers.
const GIVE_UP_TRIES: u32 = 300;
/// The pause between two such tries.
const GIVE_UP_PAUSE: Duration = Duration::from_secs(1);

/// A node's client of the lock service. Cheap to clone.
///
/// ```no_run
/// # async fn example(store: broadcast_store::Store) -> Result<(), broadcast_lock::LockError> {
/// use broadcast_lock::LockClient;
///
/// let locks = LockClient::new(store, "node1");
/// let mut guard = locks.lock("jobs/nightly").await?;
/// let token = guard.token();
/// tokio::select! {
///     () = guard.lost() => println!("lost: stop at once"),
///     () = work(token) => guard.release().await?,
/// }
/// # Ok(())
/// # }
/// # async fn work(token: u64) {}
/// ```
#[derive(Clone, Debug)]
pub struct LockClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    node: String,
    notifier: Arc<Notifier>,
}

/// The session that a request acquires locks for.
#[derive(Clone, Debug)]
pub enum Owner {
    /// A session that exists.
    Session(i64),
    /// A new session, which the same command opens.
    New(LockSessionConfig),
}

/// A request for a lock, or for several at once. See [`LockClient::enqueue`].
#[derive(Clone, Debug)]
pub struct AcquireRequest {
    /// The session that acquires them.
    pub owner: Owner,
    /// The locks.
    pub names: Vec<Name>,
    /// How they are to be held.
    pub mode: Mode,
    /// What the holder publishes about itself; in an election, the leader's value.
    pub value: Bytes,
    /// Whether the request waits for others. If not, it is granted now or not at all.
    pub waits: bool,
}

impl AcquireRequest {
    /// Asks for exclusive locks, and waits for them.
    pub fn new(owner: Owner, names: impl IntoIterator<Item = Name>) -> Self {
        let names = names.into_iter().collect();
        Self { owner, names, mode: Mode::Exclusive, value: Bytes::new(), waits: true }
    }
}

/// The result of [`LockClient::enqueue`].
#[derive(Debug)]
pub enum EnqueueOutcome {
    /// The request is in the queue; it may have been granted at once.
    Queued(Waiter),
    /// The request does not wait, and these hold the lock.
    Taken(Vec<Holder>),
}

/// An entry in the queue of a lock: it waits, and then holds the lock. A drop gives the entry up, granted or not, unless it
/// was [detached](Self::detach).
#[derive(Debug)]
pub struct Waiter {
    client: LockClient,
    session: i64,
    token: u64,
    /// Whether the session was opened with the entry, and ends with it.
    own_session: bool,
    granted: bool,
    /// Whether giving the entry up is somebody else's business.
    detached: bool,
    subscription: EntrySubscription,
}

impl LockClient {
    /// A client of the locks in `store`, for the node of that name. Call this on the runtime that the store runs on.
    pub fn new(store: Store, node: impl Into<String>) -> Self {
        let notifier = Notifier::new(store.clone());
        Self(Arc::new(Inner { store, node: node.into(), notifier }))
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// The configuration of a session that this node opens. `ttl` is rounded up to seconds; `label` is for people.
    pub fn session_config(&self, ttl: Duration, label: &str) -> LockSessionConfig {
        session_config(&self.0.node, ttl, label)
    }

    /// Carries out a command, exactly once.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn execute(&self, command: &LockCommand) -> Result<LockOutcome, LockError> {
        command.check()?;
        let command = machine::Command::machine(NAME, VERSION, command.encode()).map_err(StoreError::from)?;
        let outcome = match self.0.store.execute(command).await? {
            machine::Outcome::Machine(outcome) => outcome,
            other => return Err(LockError::UnexpectedAnswer(format!("{other:?}"))),
        };
        match decode_answer(&outcome)? {
            LockOutcome::Refused(refusal) => Err(refusal.into()),
            outcome => Ok(outcome),
        }
    }

    /// Asks the leader. Each [`LockQuery`] says of what type its answer is.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn query<T: DeserializeOwned>(&self, query: &LockQuery) -> Result<T, LockError> {
        decode_answer(&self.0.store.query(NAME, encode(query)).await?)
    }

    /// Opens a session and gives its id. The caller keeps it alive, by [`keep_alive`](Self::keep_alive);
    /// [`session`](Self::session) opens one that keeps itself alive.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn open_session(&self, config: LockSessionConfig) -> Result<i64, LockError> {
        loop {
            let session = random_session_id()?;
            match self.execute(&LockCommand::OpenSession { session, config: config.clone() }).await {
                Ok(_) => return Ok(session),
                Err(LockError::Refused(Refusal::SessionExists { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Keeps a session alive. Gives its time to live, counted from the moment of this call, or `None` if it has ended.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn keep_alive(&self, session: i64) -> Result<Option<Duration>, StoreError> {
        self.0.store.keep_alive(session).await
    }

    /// Ends a session, with all that it holds and waits for.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoSession`], and those of the store.
    pub async fn end_session(&self, session: i64) -> Result<(), LockError> {
        self.execute(&LockCommand::EndSession { session }).await.map(drop)
    }

    /// Puts a request into the queue of its lock, or of each of its locks.
    ///
    /// A drop of the future is safe: the entry is then given up as soon as it is there.
    ///
    /// # Errors
    ///
    /// See [`LockError`]. If the store does not know what became of the command, the entry may be there all the same. A
    /// session that the request opens ends then; for another one, query what it holds.
    pub async fn enqueue(&self, request: AcquireRequest) -> Result<EnqueueOutcome, LockError> {
        let (answer, answered) = oneshot::channel();
        let client = self.clone();
        // In a task of its own: the caller may go while the voters are asked.
        self.0.notifier.spawn(async move { drop(answer.send(client.send_acquire(request).await)) });
        answered.await.unwrap_or_else(|_| Err(StoreError::Stopped("its runtime has ended".into()).into()))
    }

    async fn send_acquire(&self, request: AcquireRequest) -> Result<EnqueueOutcome, LockError> {
        let AcquireRequest { owner, names, mode, value, waits } = request;
        let subscription = Notifier::subscribe(&self.0.notifier);
        loop {
            let (session, open) = match &owner {
                Owner::Session(session) => (*session, None),
                Owner::New(config) => (random_session_id()?, Some(config.clone())),
            };
            let own_session = open.is_some();
            let (names, value, since) = (names.clone(), value.clone(), unix_millis());
            let acquire = AcquireCommand { session, open, names, mode, waits, value, since };
            match self.execute(&LockCommand::Acquire(acquire)).await {
                Ok(LockOutcome::Queued { token, granted }) => {
                    let (client, detached) = (self.clone(), false);
                    let waiter = Waiter { client, session, token, own_session, granted, detached, subscription };
                    return Ok(EnqueueOutcome::Queued(waiter));
                }
                Ok(LockOutcome::Taken { holders }) => return Ok(EnqueueOutcome::Taken(holders)),
                Ok(other) => return Err(LockError::UnexpectedAnswer(format!("{other:?}"))),
                Err(LockError::Refused(Refusal::SessionExists { .. })) if own_session => {}
                Err(error @ LockError::Refused(_)) => return Err(error),
                Err(error) => {
                    // The session may have been opened.
                    if own_session {
                        self.give_up(session, None);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Gives up an entry in the background, or ends a session: tries until somebody answers, or until the session must have
    /// ended by itself.
    fn give_up(&self, session: i64, token: Option<u64>) {
        let client = self.clone();
        self.0.notifier.spawn(async move {
            for _ in 0..GIVE_UP_TRIES {
                let given_up = match token {
                    Some(token) => client.release(session, token).await,
                    None => client.end_session(session).await,
                };
                if matches!(given_up, Ok(()) | Err(LockError::Refused(_))) {
                    return;
                }
                sleep(GIVE_UP_PAUSE).await;
            }
        });
    }

    /// Acquires a lock, and waits for it no longer than `within`. If the request opens a session, that is kept alive until
    /// the grant, and by the caller after it.
    ///
    /// # Errors
    ///
    /// [`LockError::Taken`] if others hold it longer than that; see [`LockError`].
    pub async fn acquire(&self, request: AcquireRequest, within: Option<Duration>) -> Result<Waiter, LockError> {
        let names = request.names.clone();
        let own_ttl = match &request.owner {
            Owner::Session(_) => None,
            Owner::New(config) => Some(Duration::from_secs(config.ttl.into())),
        };
        let mut waiter = match self.enqueue(request).await? {
            EnqueueOutcome::Queued(waiter) => waiter,
            EnqueueOutcome::Taken(holders) => return Err(LockError::Taken { holders }),
        };
        let session = waiter.session;
        let keep_alive = async {
            let Some(ttl) = own_ttl else { return std::future::pending().await };
            loop {
                sleep(ttl / session::KEEP_ALIVES_PER_TTL).await;
                // One that fails leaves time for the next.
                let _ = self.keep_alive(session).await;
            }
        };
        let timed_out = async {
            match within {
                Some(within) => sleep(within).await,
                None => std::future::pending().await,
            }
        };
        let granted = select! {
            biased;
            granted = waiter.granted() => Some(granted),
            () = keep_alive => None,
            () = timed_out => None,
        };
        if let Some(granted) = granted {
            return granted.map(|()| waiter);
        }
        waiter.give_up().await?;
        Err(LockError::Taken { holders: self.holders(&names).await })
    }

    /// Who holds these locks, for a message to people; empty if that cannot be found out.
    pub async fn holders(&self, names: &[Name]) -> Vec<Holder> {
        self.query(&LockQuery::Holders(names.into())).await.unwrap_or_default()
    }

    /// Releases a lock that a session holds, or takes it out of the queue.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotHeld`]; see [`LockError`].
    pub async fn release(&self, session: i64, token: u64) -> Result<(), LockError> {
        self.execute(&LockCommand::Release { session, token, name: None }).await.map(drop)
    }

    /// Takes an exclusive lock, however long that takes. The guard has a session of its own, and keeps it alive.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn lock(&self, name: &str) -> Result<LockGuard, LockError> {
        let name = Name::new(name)?;
        self.lock_with(self.session_config(DEFAULT_TTL, ""), |owner| AcquireRequest::new(owner, [name]), None).await
    }

    /// As [`lock`](Self::lock), for any request, and for no longer than `within`.
    ///
    /// ```no_run
    /// # async fn example(locks: broadcast_lock::LockClient) -> Result<(), broadcast_lock::LockError> {
    /// use std::time::Duration;
    ///
    /// use broadcast_lock::{Mode, Name, client::AcquireRequest};
    ///
    /// // One of three permits, within five seconds. Its session survives 30 s without a keep-alive.
    /// let name = Name::new("uploads")?;
    /// let config = locks.session_config(Duration::from_secs(30), "upload");
    /// let request = |owner| AcquireRequest { mode: Mode::Semaphore { permits: 3 }, ..AcquireRequest::new(owner, [name]) };
    /// let permit = locks.lock_with(config, request, Some(Duration::from_secs(5))).await?;
    /// # permit.release().await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn lock_with(
        &self,
        config: LockSessionConfig,
        request: impl FnOnce(Owner) -> AcquireRequest,
        within: Option<Duration>,
    ) -> Result<LockGuard, LockError> {
        LockGuard::acquire(self, config, request, within).await
    }

    /// Campaigns in an election, and waits until it is won. The leader holds an exclusive lock, and publishes `value`.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn campaign(&self, name: &str, value: impl Into<Bytes>) -> Result<LockGuard, LockError> {
        let (name, value) = (Name::new(name)?, value.into());
        let request = |owner| AcquireRequest { value, ..AcquireRequest::new(owner, [name]) };
        self.lock_with(self.session_config(DEFAULT_TTL, ""), request, None).await
    }

    /// Carries out a command for users' keys, if the entry with this token still holds that exclusive lock.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotHeld`]; what the keys refuse is [`StoreError::Refused`].
    pub async fn fenced_write(
        &self,
        name: Name,
        token: u64,
        command: &keys::KeysCommand,
    ) -> Result<keys::KeysOutcome, LockError> {
        command.check().map_err(StoreError::from)?;
        match self.execute(&LockCommand::FencedWrite { name, token, keys: command.encode() }).await? {
            LockOutcome::Keys(outcome) => match machine::Outcome::decode(&outcome) {
                Ok(machine::Outcome::Keys(outcome)) => Ok(outcome),
                Ok(machine::Outcome::Refused(error)) => Err(StoreError::from(error).into()),
                other => Err(LockError::UnexpectedAnswer(format!("{other:?}"))),
            },
            other => Err(LockError::UnexpectedAnswer(format!("{other:?}"))),
        }
    }

    /// Raises the fence of a resource outside the store to this token. For resources that cannot compare tokens themselves.
    ///
    /// # Errors
    ///
    /// [`Refusal::StaleToken`] if the fence has seen a higher token: then leave the resource alone.
    pub async fn raise_fence(&self, name: Name, token: u64) -> Result<(), LockError> {
        self.execute(&LockCommand::RaiseFence { name, token }).await.map(drop)
    }
}

impl Waiter {
    /// The id of its session.
    pub fn session(&self) -> i64 {
        self.session
    }

    /// Its fencing token.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether the lock is granted, as far as this waiter was told.
    pub fn is_granted(&self) -> bool {
        self.granted
    }

    /// Waits until the lock is granted. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`LockError::SessionEnded`] if its session has ended.
    pub async fn granted(&mut self) -> Result<(), LockError> {
        if self.granted {
            return Ok(());
        }
        match self.subscription.next_change(self.token).await {
            EntryChange::Granted => {
                self.granted = true;
                Ok(())
            }
            _ => Err(LockError::SessionEnded { session: self.session }),
        }
    }

    /// Waits until the lock is lost: its session has ended, or somebody took the lock away. Resolves as it happens if this
    /// node reaches the voters; rely on a deadline besides. Cancel-safe.
    pub async fn lost(&mut self) -> EntryChange {
        loop {
            match self.subscription.next_change(self.token).await {
                EntryChange::Granted => {}
                change => return change,
            }
        }
    }

    /// Gives the entry up.
    ///
    /// # Errors
    ///
    /// See [`LockError`]. The client then tries again in the background.
    pub async fn give_up(mut self) -> Result<(), LockError> {
        let given_up = match self.own_session {
            true => self.client.end_session(self.session).await,
            false => self.client.release(self.session, self.token).await,
        };
        // A refusal means that the entry is gone already.
        self.detached = matches!(given_up, Ok(()) | Err(LockError::Refused(_)));
        if self.detached { Ok(()) } else { given_up }
    }

    /// Leaves the entry in the queue when this is dropped. Gives the session and the token, with which somebody else gives
    /// it up.
    pub fn detach(&mut self) -> (i64, u64) {
        self.detached = true;
        (self.session, self.token)
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if !self.detached {
            self.client.give_up(self.session, (!self.own_session).then_some(self.token));
        }
    }
}

/// As [`LockClient::session_config`], for a node of any name.
pub fn session_config(node: &str, ttl: Duration, label: &str) -> LockSessionConfig {
    LockSessionConfig {
        ttl: whole_seconds(ttl).clamp(MIN_TTL, MAX_TTL),
        lock_delay: 0,
        release_on_failure: false,
        node: node.into(),
        label: label.into(),
        since: unix_millis(),
    }
}

fn decode_answer<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, LockError> {
    decode(bytes).map_err(|error| LockError::UnexpectedAnswer(error.to_string()))
}

fn random_session_id() -> Result<i64, LockError> {
    let random = SysRng.try_next_u64().map_err(|error| StoreError::Stopped(error.to_string()))?;
    Ok(i64::try_from(random >> 8).expect("56 bits are positive") | message::FIRST_SESSION_ID)
}

/// The time to show: milliseconds since 1970.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Rounded up.
fn whole_seconds(time: Duration) -> u32 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
