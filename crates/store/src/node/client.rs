//! A node's client of the store: it finds the leader, and sends a request until it is answered.
//!
//! # Finding the leader
//!
//! The client asks the voter that led last. If it knows none, it asks all live members with the role [`VOTER_ROLE`], one after
//! the other. A voter that does not lead names the leader, and the client asks that one next. An election takes about a second;
//! the client pauses and tries again until the caller's time is over. A node that votes asks its own voter without a call.
//!
//! # Each command takes effect once
//!
//! A command has a [`RequestId`]: the id that the store gave this client, and a serial number. The client may send it again to
//! the next leader, and the state machine still applies it once (see [`crate::machine`]). This is the scheme of client sessions
//! in chapter 6.3 of the Raft dissertation. If the store has forgotten the client in the meantime, nobody knows whether the
//! command was applied, and the caller gets [`StoreError::Unknown`].
//!
//! # Which store
//!
//! Each message carries the id of the store that it is about. If voters lost all they had and founded another store, they
//! refuse a request for the former one. One voter's word is not enough: the client believes it after a *quorum probe*, a read
//! that finds nothing and that only a leader with a quorum answers.

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
    change::{self, VoterChange},
    error::{AttemptError, RefusalReason, StoreError},
    events::{EventStream, LocalEvents},
    leases::{LeaseList, LeaseQuery},
    message::{
        self, CHANGE, EVENTS, EXECUTE, KEEP_ALIVE, LEASES, MachineQuery, QUERY, READ, ReadRequest, SAVE,
        read_range_outcome, split_store, with_store, write_read_request,
    },
    save::BackupStream,
    stats::{self, RequestKind},
    stream::{RemoteStream, RemoteStreamError},
    voter::Voter,
};
use crate::{
    Error,
    keys::{Range, RangeOutcome},
    machine::{self, Command, Outcome, RequestId},
};

/// The role that voters have in the gossip. Other nodes find them by it.
pub const VOTER_ROLE: &str = "voter";
/// How long one voter has to answer before the client asks the next one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// The same for a read, which may be long, and for a change of voters.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a quorum probe may take before the client tries it again.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The first and the longest pause before the client asks all voters again.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Client {
    sessions: Sessions,
    voter: Option<Arc<Voter>>,
    /// The voter that led last, as far as this node knows.
    leader: Mutex<Option<String>>,
    requests: Mutex<RequestIds>,
    /// The id of the store that answered last; 0 before the first answer.
    known_store: AtomicU64,
    /// Counts the requests that have ended.
    pub(super) counters: stats::RequestCounters,
    /// Held while the client asks for its id, so that it asks once.
    opening: tokio::sync::Mutex<()>,
}

/// The ids of this client's requests.
#[derive(Debug, Default)]
struct RequestIds {
    /// The id that the store gave this client.
    client: Option<u64>,
    last_serial: u64,
    /// The serials of the requests that have no answer yet.
    waiting: BTreeSet<u64>,
}

impl RequestIds {
    fn begin(&mut self, client: u64) -> RequestId {
        self.last_serial += 1;
        self.waiting.insert(self.last_serial);
        let answered_below = self.waiting.first().copied().unwrap_or(self.last_serial);
        RequestId { client, serial: self.last_serial, answered_below }
    }
}

/// A request without an answer. The state machine keeps its outcome until this is dropped.
struct PendingRequest<'a> {
    client: &'a Client,
    request: RequestId,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        let mut requests = self.client.lock();
        // Under another client id the serials begin at 1 again.
        if requests.client == Some(self.request.client) {
            requests.waiting.remove(&self.request.serial);
        }
    }
}

/// What a node asks of the leader. The client may send it more than once.
#[derive(Clone, Debug)]
enum VoterRequest {
    Execute(Bytes),
    Read(ReadRequest),
    KeepAlive(i64),
    Leases(LeaseQuery),
    Query(MachineQuery),
    Change(VoterChange),
}

impl VoterRequest {
    /// How long one voter has to answer before the client asks the next one.
    fn timeout(&self) -> Duration {
        match self {
            Self::Execute(_) | Self::KeepAlive(_) | Self::Query(_) => ATTEMPT_TIMEOUT,
            Self::Read(_) | Self::Leases(_) => READ_TIMEOUT,
            Self::Change(_) => CHANGE_TIMEOUT,
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
            known_store: AtomicU64::new(0),
            counters: stats::RequestCounters::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// Has a command agreed on and applied, once.
    pub(super) async fn execute(&self, command: Command, within: Duration) -> Result<Outcome, StoreError> {
        let operation =
            if command.required_version().0 == machine::NAME { RequestKind::Lease } else { RequestKind::Write };
        self.counters.count(operation, self.execute_once(command, within).await)
    }

    async fn execute_once(&self, command: Command, within: Duration) -> Result<Outcome, StoreError> {
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        // Whether a first attempt failed because the store did not know this client.
        let mut retried = false;
        loop {
            let client = self.client_id(left()).await?;
            let request = {
                let mut requests = self.lock();
                // Another request may have learned meanwhile that the store has forgotten this client.
                if requests.client != Some(client) {
                    continue;
                }
                requests.begin(client)
            };
            // Its drop forgets the request, also if the caller drops this future.
            let pending = PendingRequest { client: self, request };
            let outcome = self.send(command.clone().of(pending.request), within, left()).await;
            drop(pending);
            match outcome {
                // The store has forgotten this client, or is another store. If the first voter says so, nothing was done.
                Ok((Outcome::Refused(Error::UnknownClient { .. }), first)) => {
                    let mut requests = self.lock();
                    if requests.client == Some(client) {
                        requests.client = None;
                    }
                    if !first || retried {
                        return Err(StoreError::Unknown {
                            problem: "the store does not know this client any more".into(),
                        });
                    }
                    retried = true;
                }
                Ok((Outcome::Refused(error @ (Error::RequestForgotten { .. } | Error::AlreadyApplied { .. })), _)) => {
                    return Err(StoreError::Unknown { problem: error.to_string() });
                }
                Ok((Outcome::Refused(error), _)) => return Err(error.into()),
                Ok((outcome, _)) => return Ok(outcome),
                // No voter of the former store got the command.
                Err(StoreError::OtherStore { .. }) if !retried => retried = true,
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a command. Also returns whether the first voter that got it answered it.
    async fn send(&self, command: Command, within: Duration, left: Duration) -> Result<(Outcome, bool), StoreError> {
        let (answer, node, first) = self.request(&VoterRequest::Execute(command.encode().into()), within, left).await?;
        let outcome =
            Outcome::decode(&answer).map_err(|problem| StoreError::Answer { node, problem: problem.to_string() })?;
        Ok((outcome, first))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, RequestIds> {
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
        // If a retry opens two clients, the store forgets the unused one in time.
        let (outcome, _) = self.send(Command::open_client(), left, left).await?;
        let Outcome::Client { client } = outcome else {
            let problem = format!("{outcome:?} for a client");
            return Err(StoreError::Answer { node: "the store".into(), problem });
        };
        *self.lock() = RequestIds { client: Some(client), ..RequestIds::default() };
        Ok(client)
    }

    pub(super) async fn read(&self, read: ReadRequest, within: Duration) -> Result<RangeOutcome, StoreError> {
        let operation = if read.serializable { RequestKind::ReadSerializable } else { RequestKind::Read };
        self.counters.count(operation, self.read_uncounted(read, within).await)
    }

    async fn read_uncounted(&self, read: ReadRequest, within: Duration) -> Result<RangeOutcome, StoreError> {
        // Any voter's state will do: this node's own is the nearest.
        if read.serializable
            && let Some(voter) = &self.voter
            && voter.check_store(self.known_store.load(Ordering::Relaxed)).is_ok()
            && let Ok(found) = voter.read(&read).await
        {
            return Ok(found);
        }
        let (answer, node, _) = self.request(&VoterRequest::Read(read), within, within).await?;
        read_range_outcome(&answer).map_err(|problem| StoreError::Answer { node, problem: problem.to_string() })
    }

    /// Keeps a lease alive; `None` if there is no such lease.
    pub(super) async fn keep_alive(&self, lease: i64, within: Duration) -> Result<Option<Duration>, StoreError> {
        self.counters.count(RequestKind::KeepAlive, self.keep_alive_uncounted(lease, within).await)
    }

    async fn keep_alive_uncounted(&self, lease: i64, within: Duration) -> Result<Option<Duration>, StoreError> {
        let (answer, node, _) = self.request(&VoterRequest::KeepAlive(lease), within, within).await?;
        let ttl = <[u8; 8]>::try_from(&*answer).map(i64::from_be_bytes);
        let ttl = ttl.map_err(|_| StoreError::Answer { node, problem: "no time to live".into() })?;
        Ok(u64::try_from(ttl).ok().filter(|ttl| *ttl > 0).map(Duration::from_secs))
    }

    /// Looks at leases.
    pub(super) async fn leases(&self, query: LeaseQuery, within: Duration) -> Result<LeaseList, StoreError> {
        let asked = self.request(&VoterRequest::Leases(query), within, within).await;
        let (answer, node, _) = self.counters.count(RequestKind::Read, asked)?;
        postcard::from_bytes(&answer).map_err(|problem| StoreError::Answer { node, problem: problem.to_string() })
    }

    /// Queries a machine of the state.
    pub(super) async fn query(&self, query: MachineQuery, within: Duration) -> Result<Bytes, StoreError> {
        let answered = self.request(&VoterRequest::Query(query), within, within).await;
        self.counters.count(RequestKind::Read, answered.map(|(answer, ..)| answer))
    }

    pub(super) async fn change(&self, change: VoterChange, within: Duration) -> Result<(), StoreError> {
        let changed = self.request(&VoterRequest::Change(change), within, within).await;
        self.counters.count(RequestKind::Voters, changed.map(|_| ()))
    }

    /// Begins a backup at the leader.
    pub(super) async fn save(&self, within: Duration) -> Result<BackupStream, StoreError> {
        self.open_at_leader(within, |name| Box::pin(async move { self.save_at(&name).await })).await
    }

    /// Subscribes to a machine's events at the leader.
    pub(super) async fn subscribe(&self, machine: String, within: Duration) -> Result<EventStream, StoreError> {
        let machine = &machine;
        self.open_at_leader(within, |name| Box::pin(async move { self.subscribe_at(&name, machine).await })).await
    }

    /// Opens a stream that only the leader serves.
    async fn open_at_leader<'a, T>(
        &self,
        within: Duration,
        begin: impl Fn(String) -> BoxFuture<'a, Result<T, AttemptError>>,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // The voter that answers a quorum probe leads now, or led a moment ago.
            let (_, name, _) = self.request(&quorum_probe(), within, left).await?;
            let problem = match begin(name.clone()).await {
                Ok(begun) => return Ok(begun),
                Err(AttemptError::Refused(RefusalReason::Busy)) => return Err(StoreError::Busy { node: name }),
                Err(AttemptError::Refused(RefusalReason::NotPossible(why))) => {
                    return Err(StoreError::NotPossible { why });
                }
                Err(AttemptError::Refused(reason)) => format!("{name}: {}", reason.refusal().text),
                Err(AttemptError::Call(error)) => error.to_string(),
            };
            self.set_leader(None);
            if Instant::now() + PAUSE >= deadline {
                return Err(StoreError::NoLeader { within, problem });
            }
            sleep(PAUSE).await;
        }
    }

    async fn subscribe_at(&self, name: &str, machine: &str) -> Result<EventStream, AttemptError> {
        if let Some(voter) = self.voter.as_ref().filter(|voter| voter.name == name) {
            return Ok(EventStream::local(LocalEvents::subscribe(voter, machine)?));
        }
        let query = MachineQuery { machine: machine.into(), question: Bytes::new() };
        let question = with_store(self.known_store.load(Ordering::Relaxed), &to_postcard(&query));
        let begun = timeout(ATTEMPT_TIMEOUT, RemoteStream::open(&self.sessions, name, EVENTS, question)).await;
        match begun.map_err(|_| CallError::Deadline { to: name.into(), within: ATTEMPT_TIMEOUT })? {
            Ok((_, stream)) => Ok(EventStream::remote(stream)),
            Err(RemoteStreamError::Call(error)) => Err(error.into()),
            Err(RemoteStreamError::Broken(problem)) => Err(CallError::Broken { to: name.into(), problem }.into()),
        }
    }

    async fn save_at(&self, name: &str) -> Result<BackupStream, AttemptError> {
        if let Some(voter) = self.voter.as_ref().filter(|voter| voter.name == name) {
            return Ok(BackupStream::local(voter.save().await?));
        }
        let call = self.sessions.open(name, SAVE, None).await?;
        let question = with_store(self.known_store.load(Ordering::Relaxed), &[]);
        let begun = timeout(ATTEMPT_TIMEOUT, call.finish(question)).await;
        let answered = begun.map_err(|_| CallError::Deadline { to: name.into(), within: ATTEMPT_TIMEOUT })??;
        Ok(BackupStream::remote(name.into(), answered))
    }

    /// The names of all live voters: the one that led last first, then this node, then the others.
    pub(super) async fn voters(&self) -> Vec<String> {
        let node = self.sessions.node();
        let overview = node.overview().await;
        let votes = |info: &broadcast::NodeInfo| info.roles.iter().any(|role| role == VOTER_ROLE);
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

    /// Sends a request until the leader answers it, or the time that is `left` is over. Returns the answer, the voter's name,
    /// and whether no other voter can have acted on the request before: only then is a refusal certain.
    async fn request(
        &self,
        request: &VoterRequest,
        within: Duration,
        left: Duration,
    ) -> Result<(Bytes, String, bool), StoreError> {
        let deadline = Instant::now() + left;
        let mut pause = PAUSE;
        let mut problem = String::from("none was asked");
        let mut first = true;
        // The voter that could not be reached last. Followers still name it until they elect another leader.
        let mut unreachable = None::<String>;
        loop {
            let store = self.known_store.load(Ordering::Relaxed);
            let mut voters = match self.leader() {
                // No need to look for others.
                Some(leader) => vec![leader],
                None => self.voters().await,
            };
            voters.sort_by_key(|name| unreachable.as_ref() == Some(name));
            if voters.is_empty() && self.sessions.node().has_stopped() {
                return Err(StoreError::Stopped("the node has left its cluster".into()));
            }
            for name in &voters {
                let left = deadline.saturating_duration_since(Instant::now());
                let answered = timeout(left.min(request.timeout()), self.request_one(name, request, store)).await;
                let failure = match answered {
                    Ok(Ok((of, answer))) => {
                        if !matches!(request, VoterRequest::Read(ReadRequest { serializable: true, .. })) {
                            self.known_store.store(of, Ordering::Relaxed);
                        }
                        self.set_leader(Some(name.clone()));
                        return Ok((answer, name.clone(), first));
                    }
                    Ok(Err(AttemptError::Refused(RefusalReason::State(error)))) => return Err(error.into()),
                    Ok(Err(AttemptError::Refused(RefusalReason::NotPossible(why)))) => {
                        return Err(StoreError::NotPossible { why });
                    }
                    Ok(Err(AttemptError::Refused(RefusalReason::Full))) if first => return Err(StoreError::DiskFull),
                    Ok(Err(AttemptError::Refused(RefusalReason::OtherStore(now))))
                        if self.quorum_confirms(name, now).await =>
                    {
                        let mut requests = self.lock();
                        let had = requests.client.take().is_some();
                        drop(requests);
                        match request {
                            // The command names a client of the former store.
                            VoterRequest::Execute(_) if !first => {
                                return Err(StoreError::Unknown {
                                    problem: "the store has been founded anew since".into(),
                                });
                            }
                            VoterRequest::Execute(_) if had => return Err(StoreError::OtherStore { now }),
                            _ => {}
                        }
                        problem = "the store has been founded anew".into();
                        self.set_leader(Some(name.clone()));
                        break;
                    }
                    Ok(Err(AttemptError::Refused(RefusalReason::OtherStore(now)))) => {
                        format!("{name} is of another store, {now:016x}, that no quorum is of")
                    }
                    Ok(Err(AttemptError::Refused(RefusalReason::NotLeader(Some(leader)))))
                        if unreachable.as_ref() == Some(&leader) =>
                    {
                        format!("{name} follows {leader}, which cannot be reached")
                    }
                    Ok(Err(AttemptError::Refused(RefusalReason::NotLeader(Some(leader))))) if leader != *name => {
                        self.set_leader(Some(leader));
                        problem = format!("{name} does not lead");
                        break;
                    }
                    Ok(Err(AttemptError::Refused(reason))) => {
                        // A voter that stops or loses its quorum may have replicated the command before.
                        first &= !matches!(
                            reason,
                            RefusalReason::Unknown
                                | RefusalReason::Stopped(_)
                                | RefusalReason::NoQuorum
                                | RefusalReason::Full
                        );
                        format!("{name}: {}", reason.refusal().text)
                    }
                    Ok(Err(AttemptError::Call(error))) => {
                        first &= !error.has_begun();
                        unreachable = Some(name.clone());
                        error.to_string()
                    }
                    Err(_) => {
                        first = false;
                        format!("{name} does not answer")
                    }
                };
                problem = failure;
                self.set_leader(None);
            }
            if Instant::now() + pause >= deadline {
                return Err(match (first, voters.is_empty()) {
                    (true, true) => StoreError::NoVoters,
                    (false, _) if matches!(request, VoterRequest::Execute(_) | VoterRequest::Change(_)) => {
                        StoreError::Unknown { problem }
                    }
                    _ => StoreError::NoLeader { within, problem },
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The id of the current store, as a quorum confirmed it last.
    pub(super) async fn store(&self) -> Result<u64, StoreError> {
        match self.known_store.load(Ordering::Relaxed) {
            0 => self.probe_store().await,
            known => Ok(known),
        }
    }

    /// The id of the current store, as a quorum confirms it now.
    pub(super) async fn probe_store(&self) -> Result<u64, StoreError> {
        self.request(&quorum_probe(), PROBE_TIMEOUT, PROBE_TIMEOUT).await?;
        Ok(self.known_store.load(Ordering::Relaxed))
    }

    /// Whether a quorum is of the store that this voter names; then it is the current one. A lone voter of a former store may
    /// still run, and names that.
    async fn quorum_confirms(&self, name: &str, now: u64) -> bool {
        let asked = timeout(ATTEMPT_TIMEOUT, self.request_one(name, &quorum_probe(), now)).await;
        let confirmed = matches!(asked, Ok(Ok((of, _))) if of == now);
        if confirmed {
            self.known_store.store(now, Ordering::Relaxed);
        }
        confirmed
    }

    /// Sends a request to one voter. Returns the id of its store, and the answer.
    async fn request_one(&self, name: &str, request: &VoterRequest, store: u64) -> Result<(u64, Bytes), AttemptError> {
        if let Some(voter) = self.voter.as_ref().filter(|voter| voter.name == name) {
            let mine = voter.check_store(store)?;
            let answer = match request {
                VoterRequest::Execute(command) => voter.execute_for_client(command.clone()).await?,
                VoterRequest::Read(read) => message::write_range_outcome(&voter.read(read).await?),
                VoterRequest::Query(query) => voter.query(query).await?,
                VoterRequest::KeepAlive(lease) => voter.keep_alive(*lease).await?.to_be_bytes().to_vec().into(),
                VoterRequest::Leases(query) => to_postcard(&voter.leases(query).await?).into(),
                VoterRequest::Change(change) => {
                    change::carry_out_detached(voter, change.clone()).await.map(|()| Bytes::new())?
                }
            };
            return Ok((mine, answer));
        }
        let (method, body) = match request {
            VoterRequest::Execute(command) => (EXECUTE, with_store(store, command)),
            VoterRequest::Read(read) => {
                return self.request_streamed(name, READ, with_store(store, &write_read_request(read))).await;
            }
            VoterRequest::Leases(query) => {
                return self.request_streamed(name, LEASES, with_store(store, &to_postcard(query))).await;
            }
            VoterRequest::KeepAlive(lease) => (KEEP_ALIVE, with_store(store, &lease.to_be_bytes())),
            VoterRequest::Query(query) => (QUERY, with_store(store, &to_postcard(query))),
            VoterRequest::Change(change) => (CHANGE, with_store(store, &to_postcard(change))),
        };
        split_answer(name, &self.sessions.call(name, method, body, request.timeout()).await?)
    }

    /// Sends a request whose answer may be long. Once the answer has begun, only the caller's own timeout ends it.
    async fn request_streamed(
        &self,
        name: &str,
        method: &'static str,
        question: Bytes,
    ) -> Result<(u64, Bytes), AttemptError> {
        let mut call = self.sessions.open(name, method, None).await?;
        call.outgoing.send(Bytes::new()).await.map_err(|error| broken(name, &error))?;
        let begun = timeout(ATTEMPT_TIMEOUT, call.finish(question)).await;
        let mut answered = begun.map_err(|_| CallError::Deadline { to: name.into(), within: ATTEMPT_TIMEOUT })??;
        let answer = answered.incoming.all(MAX_ANSWER).await.map_err(|error| broken(name, &error))?;
        split_answer(name, &answer)
    }
}

fn to_postcard(message: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(message).expect("memory takes all there is")
}

/// A linearizable read that finds nothing: only a leader that a quorum confirms answers it.
fn quorum_probe() -> VoterRequest {
    VoterRequest::Read(Range::of("\0").into())
}

fn split_answer(name: &str, answer: &Bytes) -> Result<(u64, Bytes), AttemptError> {
    let cut = || CallError::Broken { to: name.into(), problem: "its answer is cut".into() };
    split_store(answer).ok_or_else(|| cut().into())
}

/// The longest answer to a read, in bytes.
const MAX_ANSWER: usize = 512 << 20;

fn broken(name: &str, error: &broadcast_session::BodyError) -> CallError {
    CallError::Broken { to: name.into(), problem: error.to_string() }
}
