//! Finding who leads, and asking until there is an answer.
//!
//! A request that changes something has an id: the client's, which the store gave it, and a number. So it is sent again, to
//! whoever leads then, until it is answered, and done once. If the store has forgotten the client in the meantime, it is not
//! known whether the request was done, and that is what the caller is told.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use broadcast::MemberState;
use broadcast_session::{CallError, Sessions};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::{
    change::{self, Change},
    error::{Said, StoreError},
    events::{EventStream, Here},
    figures::{self, Operation},
    leases::{FoundLeases, LeaseQuery},
    message::{
        self, CHANGE, EVENTS, EXECUTE, KEEP_ALIVE, LEASES, QUERY, Query, READ, Read, SAVE, read_found, split_store,
        with_store, write_read,
    },
    save::BackupStream,
    stream::{Ended, Stream},
    voter::Voter,
};
use crate::{
    Error,
    keys::{Range, RangeOutcome},
    machine::{self, Command, Outcome, RequestId},
};

/// The role by which voters are found.
pub const ROLE: &str = "voter";
/// How long one voter has to answer, before the next one is asked.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long a read may take, and a change of voters.
const LONGEST_READ: Duration = Duration::from_secs(60);
const LONGEST_CHANGE: Duration = Duration::from_secs(90);
/// How long it may take to find out which store there is, before that is tried again.
const CONFIRM: Duration = Duration::from_secs(1);
/// The pause before voters are asked once more, at first and at most.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Client {
    sessions: Sessions,
    voter: Option<Arc<Voter>>,
    /// Who led last, as far as is known.
    leader: Mutex<Option<String>>,
    requests: Mutex<Requests>,
    /// The store that answered last; 0 before the first answer.
    known: AtomicU64,
    /// How many requests have ended.
    pub(super) ended: figures::Requests,
    opening: tokio::sync::Mutex<()>,
}

/// What this client has asked for.
#[derive(Debug, Default)]
struct Requests {
    /// The id that the store gave it.
    client: Option<u64>,
    next: u64,
    /// Those that were not answered yet.
    waiting: BTreeSet<u64>,
}

impl Requests {
    fn begin(&mut self, client: u64) -> RequestId {
        self.next += 1;
        self.waiting.insert(self.next);
        let answered_below = self.waiting.first().copied().unwrap_or(self.next);
        RequestId { client, serial: self.next, answered_below }
    }
}

/// A request that may be sent again, as long as this is kept.
struct Waiting<'a> {
    client: &'a Client,
    request: RequestId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut requests = self.client.lock();
        // Numbers begin anew with another id.
        if requests.client == Some(self.request.client) {
            requests.waiting.remove(&self.request.serial);
        }
    }
}

/// A request, which a voter may be asked for more than once.
#[derive(Clone, Debug)]
enum Ask {
    Execute(Bytes),
    Read(Read),
    KeepAlive(i64),
    Leases(LeaseQuery),
    Query(Query),
    Change(Change),
}

impl Ask {
    /// How long one voter has to answer, before the next one is asked.
    fn patience(&self) -> Duration {
        match self {
            Self::Execute(_) | Self::KeepAlive(_) | Self::Query(_) => ATTEMPT,
            Self::Read(_) | Self::Leases(_) => LONGEST_READ,
            Self::Change(_) => LONGEST_CHANGE,
        }
    }
}

impl Client {
    pub(super) fn new(sessions: Sessions, voter: Option<Arc<Voter>>) -> Self {
        Self {
            sessions,
            voter,
            leader: Mutex::default(),
            requests: Mutex::default(),
            known: AtomicU64::new(0),
            ended: figures::Requests::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// Has a command carried out, once.
    pub(super) async fn execute(&self, command: Command, within: Duration) -> Result<Outcome, StoreError> {
        let operation = if command.needs().0 == machine::NAME { Operation::Lease } else { Operation::Write };
        self.ended.ended(operation, self.execute_once(command, within).await)
    }

    async fn execute_once(&self, command: Command, within: Duration) -> Result<Outcome, StoreError> {
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut sent = false;
        loop {
            let client = self.client_id(left()).await?;
            let request = {
                let mut requests = self.lock();
                // Another request may have found out that the store does not know this id any more.
                if requests.client != Some(client) {
                    continue;
                }
                requests.begin(client)
            };
            // The caller may give up in the middle.
            let waiting = Waiting { client: self, request };
            let outcome = self.send(command.clone().of(waiting.request), within, left()).await;
            drop(waiting);
            match outcome {
                // The store has forgotten this client, or is another one. If nobody was asked before, nothing was done.
                Ok((Outcome::Refused(Error::UnknownClient { .. }), first)) => {
                    let mut requests = self.lock();
                    if requests.client == Some(client) {
                        requests.client = None;
                    }
                    if !first || sent {
                        return Err(StoreError::Unknown {
                            problem: "the store does not know this client any more".into(),
                        });
                    }
                    sent = true;
                }
                Ok((Outcome::Refused(error @ (Error::RequestForgotten { .. } | Error::AlreadyApplied { .. })), _)) => {
                    return Err(StoreError::Unknown { problem: error.to_string() });
                }
                Ok((Outcome::Refused(error), _)) => return Err(error.into()),
                Ok((outcome, _)) => return Ok(outcome),
                // Nobody of the former store has got it.
                Err(StoreError::OtherStore { .. }) if !sent => sent = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives also whether the first voter that got the request answered it.
    async fn send(&self, command: Command, within: Duration, left: Duration) -> Result<(Outcome, bool), StoreError> {
        let (answer, node, first) = self.ask(&Ask::Execute(command.encode().into()), within, left).await?;
        let outcome =
            Outcome::decode(&answer).map_err(|problem| StoreError::Answer { node, problem: problem.to_string() })?;
        Ok((outcome, first))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn client_id(&self, left: Duration) -> Result<u64, StoreError> {
        if let Some(client) = self.lock().client {
            return Ok(client);
        }
        let _one = self.opening.lock().await;
        if let Some(client) = self.lock().client {
            return Ok(client);
        }
        // Opened twice, one of them is never used, and forgotten one day.
        let (outcome, _) = self.send(Command::open_client(), left, left).await?;
        let Outcome::Client { client } = outcome else {
            let problem = format!("{outcome:?} for a client");
            return Err(StoreError::Answer { node: "the store".into(), problem });
        };
        *self.lock() = Requests { client: Some(client), ..Requests::default() };
        Ok(client)
    }

    pub(super) async fn read(&self, read: Read, within: Duration) -> Result<RangeOutcome, StoreError> {
        let operation = if read.serializable { Operation::ReadSerializable } else { Operation::Read };
        self.ended.ended(operation, self.find(read, within).await)
    }

    async fn find(&self, read: Read, within: Duration) -> Result<RangeOutcome, StoreError> {
        // Any voter's own state will do, so that of this node first.
        if read.serializable
            && let Some(voter) = &self.voter
            && voter.same_store(self.known.load(Ordering::Relaxed)).is_ok()
            && let Ok(found) = voter.read(&read).await
        {
            return Ok(found);
        }
        let (answer, node, _) = self.ask(&Ask::Read(read), within, within).await?;
        read_found(&answer).map_err(|problem| StoreError::Answer { node, problem: problem.to_string() })
    }

    /// Has a lease run anew; `None` if there is none.
    pub(super) async fn keep_alive(&self, lease: i64, within: Duration) -> Result<Option<Duration>, StoreError> {
        self.ended.ended(Operation::KeepAlive, self.ask_to_keep(lease, within).await)
    }

    async fn ask_to_keep(&self, lease: i64, within: Duration) -> Result<Option<Duration>, StoreError> {
        let (answer, node, _) = self.ask(&Ask::KeepAlive(lease), within, within).await?;
        let ttl = <[u8; 8]>::try_from(&*answer).map(i64::from_be_bytes);
        let ttl = ttl.map_err(|_| StoreError::Answer { node, problem: "no time to live".into() })?;
        Ok(u64::try_from(ttl).ok().filter(|ttl| *ttl > 0).map(Duration::from_secs))
    }

    /// Looks at leases.
    pub(super) async fn leases(&self, query: LeaseQuery, within: Duration) -> Result<FoundLeases, StoreError> {
        let asked = self.ask(&Ask::Leases(query), within, within).await;
        let (answer, node, _) = self.ended.ended(Operation::Read, asked)?;
        postcard::from_bytes(&answer).map_err(|problem| StoreError::Answer { node, problem: problem.to_string() })
    }

    /// Has a machine answer a question.
    pub(super) async fn query(&self, query: Query, within: Duration) -> Result<Bytes, StoreError> {
        let answered = self.ask(&Ask::Query(query), within, within).await;
        self.ended.ended(Operation::Read, answered.map(|(answer, ..)| answer))
    }

    pub(super) async fn change(&self, change: Change, within: Duration) -> Result<(), StoreError> {
        let changed = self.ask(&Ask::Change(change), within, within).await;
        self.ended.ended(Operation::Voters, changed.map(|_| ()))
    }

    /// Begins a backup, on the voter that leads.
    pub(super) async fn save(&self, within: Duration) -> Result<BackupStream, StoreError> {
        self.at_leader(within, |name| Box::pin(async move { self.save_at(&name).await })).await
    }

    /// Follows a machine, at the voter that leads.
    pub(super) async fn follow(&self, machine: String, within: Duration) -> Result<EventStream, StoreError> {
        let machine = &machine;
        self.at_leader(within, |name| Box::pin(async move { self.follow_at(&name, machine).await })).await
    }

    /// Begins something that only the voter that leads does.
    async fn at_leader<'a, T>(
        &self,
        within: Duration,
        begin: impl Fn(String) -> BoxFuture<'a, Result<T, Failed>>,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Whoever answers a read leads, now or a moment ago.
            let (_, name, _) = self.ask(&look(), within, left).await?;
            let problem = match begin(name.clone()).await {
                Ok(begun) => return Ok(begun),
                Err(Failed::Said(Said::Busy)) => return Err(StoreError::Busy { node: name }),
                Err(Failed::Said(Said::NotPossible(why))) => return Err(StoreError::NotPossible { why }),
                Err(Failed::Said(said)) => format!("{name}: {}", said.refusal().text),
                Err(Failed::Call(error)) => error.to_string(),
            };
            self.set_leader(None);
            if Instant::now() + PAUSE >= deadline {
                return Err(StoreError::NoLeader { within, problem });
            }
            sleep(PAUSE).await;
        }
    }

    async fn follow_at(&self, name: &str, machine: &str) -> Result<EventStream, Failed> {
        if let Some(voter) = self.voter.as_ref().filter(|voter| voter.name == name) {
            return Ok(EventStream::here(Here::follow(voter, machine)?));
        }
        let query = Query { machine: machine.into(), question: Bytes::new() };
        let question = with_store(self.known.load(Ordering::Relaxed), &written(&query));
        let begun = timeout(ATTEMPT, Stream::open(&self.sessions, name, EVENTS, question)).await;
        match begun.map_err(|_| CallError::Deadline { to: name.into(), within: ATTEMPT })? {
            Ok((_, stream)) => Ok(EventStream::there(stream)),
            Err(Ended::Call(error)) => Err(error.into()),
            Err(Ended::Broken(problem)) => Err(CallError::Broken { to: name.into(), problem }.into()),
        }
    }

    async fn save_at(&self, name: &str) -> Result<BackupStream, Failed> {
        if let Some(voter) = self.voter.as_ref().filter(|voter| voter.name == name) {
            return Ok(BackupStream::here(voter.save().await?));
        }
        let call = self.sessions.open(name, SAVE, None).await?;
        let question = with_store(self.known.load(Ordering::Relaxed), &[]);
        let begun = timeout(ATTEMPT, call.finish(question)).await;
        let answered = begun.map_err(|_| CallError::Deadline { to: name.into(), within: ATTEMPT })??;
        Ok(BackupStream::there(name.into(), answered))
    }

    /// The names of all voters that are live, the one that led last first, and this node before the others.
    pub(super) async fn voters(&self) -> Vec<String> {
        let node = self.sessions.node();
        let overview = node.overview().await;
        let votes = |info: &broadcast::NodeInfo| info.roles.iter().any(|role| role == ROLE);
        let seen = overview.members.iter().filter(|seen| seen.member.state != MemberState::Dead);
        let mut voters: Vec<String> = seen
            .filter(|seen| seen.info.as_ref().is_some_and(votes))
            .map(|seen| seen.member.name.to_string())
            .collect();
        if self.voter.is_some() && !voters.iter().any(|name| name == node.name()) {
            voters.push(node.name().into());
        }
        let leader = self.leader();
        voters.sort_by_key(|name| (leader.as_ref() != Some(name), name != node.name()));
        voters
    }

    fn leader(&self) -> Option<String> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_leader(&self, name: Option<String>) {
        *self.leader.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// Asks voters until one answers who leads, for so long as is `left`. Gives the answer, whose it is, and whether
    /// nobody got the request before.
    async fn ask(&self, ask: &Ask, within: Duration, left: Duration) -> Result<(Bytes, String, bool), StoreError> {
        let deadline = Instant::now() + left;
        let mut pause = PAUSE;
        let mut problem = String::from("none was asked");
        let mut first = true;
        // Who could not be reached last. Others say that it leads until they elect another one.
        let mut lost = None::<String>;
        loop {
            let store = self.known.load(Ordering::Relaxed);
            let mut voters = match self.leader() {
                // It is asked without looking for others.
                Some(leader) => vec![leader],
                None => self.voters().await,
            };
            voters.sort_by_key(|name| lost.as_ref() == Some(name));
            if voters.is_empty() && self.sessions.node().has_stopped() {
                return Err(StoreError::Stopped("the node has left its cluster".into()));
            }
            for name in &voters {
                let left = deadline.saturating_duration_since(Instant::now());
                let answered = timeout(left.min(ask.patience()), self.ask_one(name, ask, store)).await;
                let said = match answered {
                    Ok(Ok((of, answer))) => {
                        if !matches!(ask, Ask::Read(Read { serializable: true, .. })) {
                            self.known.store(of, Ordering::Relaxed);
                        }
                        self.set_leader(Some(name.clone()));
                        return Ok((answer, name.clone(), first));
                    }
                    Ok(Err(Failed::Said(Said::Refused(error)))) => return Err(error.into()),
                    Ok(Err(Failed::Said(Said::NotPossible(why)))) => return Err(StoreError::NotPossible { why }),
                    Ok(Err(Failed::Said(Said::Full))) if first => return Err(StoreError::DiskFull),
                    Ok(Err(Failed::Said(Said::OtherStore(now)))) if self.confirms(name, now).await => {
                        let mut requests = self.lock();
                        let had = requests.client.take().is_some();
                        drop(requests);
                        match ask {
                            // It names a client of the former one.
                            Ask::Execute(_) if !first => {
                                return Err(StoreError::Unknown {
                                    problem: "the store has been founded anew since".into(),
                                });
                            }
                            Ask::Execute(_) if had => return Err(StoreError::OtherStore { now }),
                            _ => {}
                        }
                        problem = "the store has been founded anew".into();
                        self.set_leader(Some(name.clone()));
                        break;
                    }
                    Ok(Err(Failed::Said(Said::OtherStore(now)))) => {
                        format!("{name} is of another store, {now:016x}, that no quorum is of")
                    }
                    Ok(Err(Failed::Said(Said::NotLeader(Some(leader))))) if lost.as_ref() == Some(&leader) => {
                        format!("{name} follows {leader}, which cannot be reached")
                    }
                    Ok(Err(Failed::Said(Said::NotLeader(Some(leader))))) if leader != *name => {
                        self.set_leader(Some(leader));
                        problem = format!("{name} does not lead");
                        break;
                    }
                    Ok(Err(Failed::Said(said))) => {
                        // Whoever stops, or loses its quorum, may have said it to others before.
                        first &= !matches!(said, Said::Unknown | Said::Stopped(_) | Said::NoQuorum | Said::Full);
                        format!("{name}: {}", said.refusal().text)
                    }
                    Ok(Err(Failed::Call(error))) => {
                        first &= !error.has_begun();
                        lost = Some(name.clone());
                        error.to_string()
                    }
                    Err(_) => {
                        first = false;
                        format!("{name} does not answer")
                    }
                };
                problem = said;
                self.set_leader(None);
            }
            if Instant::now() + pause >= deadline {
                return Err(match (first, voters.is_empty()) {
                    (true, true) => StoreError::NoVoters,
                    (false, _) if matches!(ask, Ask::Execute(_) | Ask::Change(_)) => StoreError::Unknown { problem },
                    _ => StoreError::NoLeader { within, problem },
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The store that there is, as a quorum has said last.
    pub(super) async fn store(&self) -> Result<u64, StoreError> {
        match self.known.load(Ordering::Relaxed) {
            0 => self.confirm_store().await,
            known => Ok(known),
        }
    }

    /// The store that there is, as a quorum says now.
    pub(super) async fn confirm_store(&self) -> Result<u64, StoreError> {
        self.ask(&look(), CONFIRM, CONFIRM).await?;
        Ok(self.known.load(Ordering::Relaxed))
    }

    /// Whether a quorum is of the store that this voter says it is of; then that is the one that there is. A voter of a
    /// former one may be there yet, and says so as well.
    async fn confirms(&self, name: &str, now: u64) -> bool {
        let asked = timeout(ATTEMPT, self.ask_one(name, &look(), now)).await;
        let confirmed = matches!(asked, Ok(Ok((of, _))) if of == now);
        if confirmed {
            self.known.store(now, Ordering::Relaxed);
        }
        confirmed
    }

    /// Gives the store that answers, and the answer.
    async fn ask_one(&self, name: &str, ask: &Ask, store: u64) -> Result<(u64, Bytes), Failed> {
        if let Some(voter) = self.voter.as_ref().filter(|voter| voter.name == name) {
            let mine = voter.same_store(store)?;
            let answer = match ask {
                Ask::Execute(command) => voter.request(command.clone()).await?,
                Ask::Read(read) => message::write_found(&voter.read(read).await?),
                Ask::Query(query) => voter.query(query).await?,
                Ask::KeepAlive(lease) => voter.keep_alive(*lease).await?.to_be_bytes().to_vec().into(),
                Ask::Leases(query) => written(&voter.leases(query).await?).into(),
                Ask::Change(change) => change::detached(voter, change.clone()).await.map(|()| Bytes::new())?,
            };
            return Ok((mine, answer));
        }
        let (method, body) = match ask {
            Ask::Execute(command) => (EXECUTE, with_store(store, command)),
            Ask::Read(read) => return self.ask_for_long(name, READ, with_store(store, &write_read(read))).await,
            Ask::Leases(query) => return self.ask_for_long(name, LEASES, with_store(store, &written(query))).await,
            Ask::KeepAlive(lease) => (KEEP_ALIVE, with_store(store, &lease.to_be_bytes())),
            Ask::Query(query) => (QUERY, with_store(store, &written(query))),
            Ask::Change(change) => (CHANGE, with_store(store, &written(change))),
        };
        split(name, &self.sessions.call(name, method, body, ask.patience()).await?)
    }

    /// Asks for what may be long. Once the answer begins it may take all the time that there is.
    async fn ask_for_long(&self, name: &str, method: &'static str, question: Bytes) -> Result<(u64, Bytes), Failed> {
        let mut call = self.sessions.open(name, method, None).await?;
        call.outgoing.send(Bytes::new()).await.map_err(|error| broken(name, &error))?;
        let begun = timeout(ATTEMPT, call.finish(question)).await;
        let mut answered = begun.map_err(|_| CallError::Deadline { to: name.into(), within: ATTEMPT })??;
        let answer = answered.incoming.all(MAX_FOUND).await.map_err(|error| broken(name, &error))?;
        split(name, &answer)
    }
}

fn written(message: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(message).expect("memory takes all there is")
}

/// A read that finds nothing, and takes a quorum.
fn look() -> Ask {
    Ask::Read(Range::of("\0").into())
}

fn split(name: &str, answer: &Bytes) -> Result<(u64, Bytes), Failed> {
    let cut = || CallError::Broken { to: name.into(), problem: "its answer is cut".into() };
    split_store(answer).ok_or_else(|| cut().into())
}

/// The longest answer to a read, in bytes.
const MAX_FOUND: usize = 512 << 20;

fn broken(name: &str, error: &broadcast_session::BodyError) -> CallError {
    CallError::Broken { to: name.into(), problem: error.to_string() }
}

enum Failed {
    Said(Said),
    Call(CallError),
}

impl From<Said> for Failed {
    fn from(said: Said) -> Self {
        Self::Said(said)
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { refusal, .. } => Self::Said(Said::read(&refusal)),
            other => Self::Call(other),
        }
    }
}
