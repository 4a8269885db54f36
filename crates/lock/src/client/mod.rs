//! Locks, as one node has them: through the store, at whatever voter leads.

mod guard;
mod hub;
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

use self::hub::{Hub, Ticket};
use crate::{
    error::LockError,
    machine::{NAME, VERSION},
    message::{
        self, Acquire, Change, Command, Holder, MAX_TTL, MIN_TTL, Mode, Outcome, Question, SessionConfig, decode,
        encode,
    },
    name::Name,
    refusal::Refusal,
};

pub use guard::Guard;
pub use observe::Leaders;
pub use session::Session;

/// The time to live of a session, unless another one is asked for.
pub const TTL: Duration = Duration::from_secs(10);

/// How often something is given up that nobody answers to, and how long after each other.
const GIVE_UP_TRIES: u32 = 300;
const GIVE_UP_AGAIN: Duration = Duration::from_secs(1);

/// What a node does with locks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    node: String,
    hub: Arc<Hub>,
}

/// Whose a place is to be.
#[derive(Clone, Debug)]
pub enum Owner {
    /// A session that there is.
    Session(i64),
    /// A new one, which is opened in the same command.
    New(SessionConfig),
}

/// A place to ask for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whose it is to be.
    pub owner: Owner,
    /// The locks.
    pub names: Vec<Name>,
    /// How.
    pub mode: Mode,
    /// What the holder says of itself.
    pub value: Bytes,
    /// Whether it waits for others; if not, it is granted now or not at all.
    pub waits: bool,
}

impl Request {
    /// An exclusive lock, however long it takes.
    pub fn new(owner: Owner, names: impl IntoIterator<Item = Name>) -> Self {
        let names = names.into_iter().collect();
        Self { owner, names, mode: Mode::Exclusive, value: Bytes::new(), waits: true }
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Placed {
    /// It has a place, which may be granted.
    Place(Place),
    /// It does not wait, and these hold the lock.
    Taken(Vec<Holder>),
}

/// A place in the queue of a lock. When it is dropped it is given up, granted or not, unless it is [kept](Self::keep).
#[derive(Debug)]
pub struct Place {
    client: Client,
    session: i64,
    token: u64,
    /// Whether the session was opened with it, and ends with it.
    own_session: bool,
    granted: bool,
    /// Whether somebody else gives it up.
    kept: bool,
    ticket: Ticket,
}

impl Client {
    /// Locks of this store, for the node of that name. It is to be called on the runtime that the store runs on.
    pub fn new(store: Store, node: impl Into<String>) -> Self {
        let hub = Hub::new(store.clone());
        Self(Arc::new(Inner { store, node: node.into(), hub }))
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// What a session of this node is to be: it lives for this long, rounded up to seconds, and is for that.
    pub fn config(&self, ttl: Duration, label: &str) -> SessionConfig {
        session_config(&self.0.node, ttl, label)
    }

    /// Has a command carried out, once.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn execute(&self, command: &Command) -> Result<Outcome, LockError> {
        command.check()?;
        let command = machine::Command::machine(NAME, VERSION, command.encode()).map_err(StoreError::from)?;
        let outcome = match self.0.store.execute(command).await? {
            machine::Outcome::Machine(outcome) => outcome,
            other => return Err(LockError::Answer(format!("{other:?}"))),
        };
        match read(&outcome)? {
            Outcome::Refused(refusal) => Err(refusal.into()),
            outcome => Ok(outcome),
        }
    }

    /// Asks something. What the answer is, [`Question`] says.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn ask<T: DeserializeOwned>(&self, question: &Question) -> Result<T, LockError> {
        read(&self.0.store.query(NAME, encode(question)).await?)
    }

    /// Opens a session that nobody keeps alive but who calls [`keep_alive`](Self::keep_alive); gives its id.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn open(&self, config: SessionConfig) -> Result<i64, LockError> {
        loop {
            let session = random()?;
            match self.execute(&Command::Open { session, config: config.clone() }).await {
                Ok(_) => return Ok(session),
                Err(LockError::Refused(Refusal::SessionExists { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Has a session live on; gives for how long, from when this was called, or `None` if it has ended.
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
    pub async fn end(&self, session: i64) -> Result<(), LockError> {
        self.execute(&Command::End { session }).await.map(drop)
    }

    /// Takes a place in the queue of a lock, or of several.
    ///
    /// # Errors
    ///
    /// See [`LockError`]. If the store does not tell what became of it, the place may have been taken all the same. A session
    /// that was to be opened with it ends then; of another one, see what it holds.
    ///
    /// When this is dropped, the place is given up as soon as it is taken.
    pub async fn place(&self, request: Request) -> Result<Placed, LockError> {
        let (answer, answered) = oneshot::channel();
        let client = self.clone();
        // Whoever waits for it may go while the voters are asked.
        self.0.hub.spawn(async move { drop(answer.send(client.take_place(request).await)) });
        answered.await.unwrap_or_else(|_| Err(StoreError::Stopped("its runtime has ended".into()).into()))
    }

    async fn take_place(&self, request: Request) -> Result<Placed, LockError> {
        let Request { owner, names, mode, value, waits } = request;
        let ticket = Hub::enter(&self.0.hub);
        loop {
            let (session, open) = match &owner {
                Owner::Session(session) => (*session, None),
                Owner::New(config) => (random()?, Some(config.clone())),
            };
            let own_session = open.is_some();
            let acquire =
                Acquire { session, open, names: names.clone(), mode, waits, value: value.clone(), since: now() };
            match self.execute(&Command::Acquire(acquire)).await {
                Ok(Outcome::Placed { token, granted }) => {
                    let (client, kept) = (self.clone(), false);
                    return Ok(Placed::Place(Place { client, session, token, own_session, granted, kept, ticket }));
                }
                Ok(Outcome::Taken { holders }) => return Ok(Placed::Taken(holders)),
                Ok(other) => return Err(LockError::Answer(format!("{other:?}"))),
                Err(LockError::Refused(Refusal::SessionExists { .. })) if own_session => {}
                Err(error @ LockError::Refused(_)) => return Err(error),
                Err(error) => {
                    // It may have been opened.
                    if own_session {
                        self.give_up(session, None);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Has a place given up in the background, or a session ended: until that is answered, or the session must have ended by
    /// itself if nobody keeps it alive.
    fn give_up(&self, session: i64, token: Option<u64>) {
        let client = self.clone();
        self.0.hub.spawn(async move {
            for _ in 0..GIVE_UP_TRIES {
                let given_up = match token {
                    Some(token) => client.release(session, token).await,
                    None => client.end(session).await,
                };
                if matches!(given_up, Ok(()) | Err(LockError::Refused(_))) {
                    return;
                }
                sleep(GIVE_UP_AGAIN).await;
            }
        });
    }

    /// Takes a lock for a session, and waits for it as long as is given. A session that is opened with it is kept alive
    /// until it is granted.
    ///
    /// # Errors
    ///
    /// [`LockError::Taken`] if others hold it longer than that; see [`LockError`].
    pub async fn acquire(&self, request: Request, within: Option<Duration>) -> Result<Place, LockError> {
        let names = request.names.clone();
        let own_ttl = match &request.owner {
            Owner::Session(_) => None,
            Owner::New(config) => Some(Duration::from_secs(config.ttl.into())),
        };
        let mut place = match self.place(request).await? {
            Placed::Place(place) => place,
            Placed::Taken(holders) => return Err(LockError::Taken { holders }),
        };
        let session = place.session;
        let kept = async {
            let Some(ttl) = own_ttl else { return std::future::pending().await };
            loop {
                sleep(ttl / session::PARTS).await;
                // It is tried again in time.
                let _ = self.keep_alive(session).await;
            }
        };
        let late = async {
            match within {
                Some(within) => sleep(within).await,
                None => std::future::pending().await,
            }
        };
        let granted = select! {
            biased;
            granted = place.granted() => Some(granted),
            () = kept => None,
            () = late => None,
        };
        if let Some(granted) = granted {
            return granted.map(|()| place);
        }
        place.give_up().await?;
        Err(LockError::Taken { holders: self.holders(&names).await })
    }

    /// Who holds these locks, as far as that can be found out, to be told.
    pub async fn holders(&self, names: &[Name]) -> Vec<Holder> {
        self.ask(&Question::Holders(names.into())).await.unwrap_or_default()
    }

    /// Gives up a place of a session.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotHeld`]; see [`LockError`].
    pub async fn release(&self, session: i64, token: u64) -> Result<(), LockError> {
        self.execute(&Command::Release { session, token, name: None }).await.map(drop)
    }

    /// Takes an exclusive lock, with a session of its own that is kept alive as long as the guard is.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn lock(&self, name: &str) -> Result<Guard, LockError> {
        let name = Name::new(name)?;
        self.hold(self.config(TTL, ""), |owner| Request::new(owner, [name]), None).await
    }

    /// The same, for whatever request; it waits as long as is given.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn hold(
        &self,
        config: SessionConfig,
        request: impl FnOnce(Owner) -> Request,
        within: Option<Duration>,
    ) -> Result<Guard, LockError> {
        Guard::take(self, config, request, within).await
    }

    /// Stands for an election, and waits until it is won: takes an exclusive lock whose holder says this of itself.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn elect(&self, name: &str, value: impl Into<Bytes>) -> Result<Guard, LockError> {
        let (name, value) = (Name::new(name)?, value.into());
        let request = |owner| Request { value, ..Request::new(owner, [name]) };
        self.hold(self.config(TTL, ""), request, None).await
    }

    /// Carries out a command for users' keys, if this very place still holds that exclusive lock.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotHeld`]; what the keys refuse is [`StoreError::Refused`].
    pub async fn fenced(
        &self,
        name: Name,
        token: u64,
        command: &keys::KeysCommand,
    ) -> Result<keys::KeysOutcome, LockError> {
        command.check().map_err(StoreError::from)?;
        match self.execute(&Command::Fenced { name, token, keys: command.encode() }).await? {
            Outcome::Keys(outcome) => match machine::Outcome::decode(&outcome) {
                Ok(machine::Outcome::Keys(outcome)) => Ok(outcome),
                Ok(machine::Outcome::Refused(error)) => Err(StoreError::from(error).into()),
                other => Err(LockError::Answer(format!("{other:?}"))),
            },
            other => Err(LockError::Answer(format!("{other:?}"))),
        }
    }

    /// Remembers a token of a resource outside, which cannot compare tokens itself.
    ///
    /// # Errors
    ///
    /// [`Refusal::Fenced`] if a higher one was seen: then leave the resource alone.
    pub async fn fence(&self, name: Name, token: u64) -> Result<(), LockError> {
        self.execute(&Command::Fence { name, token }).await.map(drop)
    }
}

impl Place {
    /// Its session.
    pub fn session(&self) -> i64 {
        self.session
    }

    /// Its token.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Whether it is granted.
    pub fn is_granted(&self) -> bool {
        self.granted
    }

    /// Waits until it is granted. Drop-safe.
    ///
    /// # Errors
    ///
    /// [`LockError::Ended`] if its session has ended.
    pub async fn granted(&mut self) -> Result<(), LockError> {
        if self.granted {
            return Ok(());
        }
        match self.ticket.next_change(self.token).await {
            Change::Granted => {
                self.granted = true;
                Ok(())
            }
            _ => Err(LockError::Ended { session: self.session }),
        }
    }

    /// Waits until it is lost: its session has ended, or somebody else took the lock away. It is told as it happens, if
    /// this node can reach the voters; whoever counts on it has a deadline besides. Drop-safe.
    pub async fn lost(&mut self) -> Change {
        loop {
            match self.ticket.next_change(self.token).await {
                Change::Granted => {}
                change => return change,
            }
        }
    }

    /// Gives it up.
    ///
    /// # Errors
    ///
    /// See [`LockError`]. It is tried again in the background then.
    pub async fn give_up(mut self) -> Result<(), LockError> {
        let given_up = match self.own_session {
            true => self.client.end(self.session).await,
            false => self.client.release(self.session, self.token).await,
        };
        // What is there no more was given up, too.
        self.kept = matches!(given_up, Ok(()) | Err(LockError::Refused(_)));
        if self.kept { Ok(()) } else { given_up }
    }

    /// From now on, whoever has its token and its session gives it up.
    pub fn keep(&mut self) -> (i64, u64) {
        self.kept = true;
        (self.session, self.token)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            self.client.give_up(self.session, (!self.own_session).then_some(self.token));
        }
    }
}

/// The same as [`Client::config`], for the node of that name.
pub fn session_config(node: &str, ttl: Duration, label: &str) -> SessionConfig {
    SessionConfig {
        ttl: seconds(ttl).clamp(MIN_TTL, MAX_TTL),
        lock_delay: 0,
        release_on_failure: false,
        node: node.into(),
        label: label.into(),
        since: now(),
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, LockError> {
    decode(bytes).map_err(|error| LockError::Answer(error.to_string()))
}

/// An id for a session.
fn random() -> Result<i64, LockError> {
    let random = SysRng.try_next_u64().map_err(|error| StoreError::Stopped(error.to_string()))?;
    Ok(i64::try_from(random >> 8).expect("56 bits are positive") | message::SESSION)
}

/// Milliseconds since 1970, to be shown.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(time: Duration) -> u32 {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
