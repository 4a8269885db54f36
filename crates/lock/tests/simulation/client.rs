//! Clients of locks: each has one session after the other, takes locks with it in every way, and does with them what
//! holders do, even too late.

use std::time::Duration;

use broadcast_lock::{
    LockSessionConfig, Mode, Refusal,
    machine::{NAME, VERSION},
    message::{AcquireCommand, EntryState, LockCommand, LockOutcome, LockQuery},
};
use broadcast_store::{
    keys::{self, Put},
    machine::{self, QueryContext},
    raft::{ConsensusError, read_index},
};
use openraft::type_config::TypeConfigExt as _;

use crate::{
    history::{ClientBelief, Denial},
    journal::{LOCKS, name},
    keeper::ClientSession,
    network::{C, World},
    register,
    session::{RequestFailure, Session as Requests},
    voter::{Clock, now},
};

/// The lock that protects the register.
const REGISTER: usize = 3;
/// The lock whose holder says something of itself.
const ELECTION: usize = 4;
/// How long anybody waits at most once the faults are over: sessions that nobody keeps alive end, and those before it in
/// the queue hold the lock for a moment.
const PATIENCE: Duration = Duration::from_secs(45);

struct Client {
    world: World,
    voters: u64,
    clock: Clock,
    requests: Requests,
}

/// What becomes of a session after a turn.
#[derive(PartialEq)]
enum SessionFate {
    Continues,
    /// Nobody looks after it any more: the client has gone, or has lost it.
    Abandoned,
}

/// A client's entry in a queue.
struct ClientEntry<'a> {
    session: &'a ClientSession,
    token: u64,
    lock: usize,
    mode: Mode,
}

/// Has one session after the other, until the faults are over.
pub(crate) async fn run(world: World, voters: u64) {
    let offset = Duration::from_secs(world.below(1_000_000));
    let clock = Clock { offset, rate: 990_000 + world.below(20_001) as u32 };
    let requests = Requests::open(world.clone(), voters).await;
    let mut client = Client { world: world.clone(), voters, clock, requests };
    while !world.done() {
        C::sleep(Duration::from_millis(world.below(500))).await;
        if world.chance(40) {
            let lock = world.below(LOCKS.len() as u64) as usize;
            client.execute(LockCommand::ForceRelease { name: name(lock) }).await;
        } else {
            client.session().await;
        }
    }
}

impl Client {
    async fn execute(&mut self, command: LockCommand) -> Option<LockOutcome> {
        let command = machine::Command::machine(NAME, VERSION, command.encode()).expect("it is small");
        match self.requests.execute(command).await? {
            machine::Outcome::Machine(outcome) => Some(postcard::from_bytes(&outcome).expect("an outcome")),
            other => panic!("{other:?} answers a command for locks"),
        }
    }

    /// The state of an entry.
    async fn entry_state(&mut self, token: u64) -> Option<EntryState> {
        let query = postcard::to_allocvec(&LockQuery::EntryStates(vec![token])).expect("it can be written");
        let ask = self.requests.ask(|peer| {
            let query = query.clone();
            async move {
                match read_index(&peer.raft).await {
                    Ok(()) => {}
                    Err(ConsensusError::NotLeader { leader }) => return Err(RequestFailure::NotLeader(leader)),
                    Err(_) => return Err(RequestFailure::Lost),
                }
                let answer = peer.state.read(|replica, _| {
                    let view = QueryContext { leases: replica.state.leases(), left: &|_| None };
                    replica.state.query(NAME, &view, &query)
                });
                Ok(answer.expect("there are locks").expect("it can be read"))
            }
        });
        let states: Vec<EntryState> = postcard::from_bytes(&ask.await?).expect("an answer");
        states.first().copied()
    }

    async fn session(&mut self) {
        let world = self.world.clone();
        let config = LockSessionConfig {
            ttl: 2 + world.below(4) as u32,
            lock_delay: if world.chance(300) { 1 + world.below(2) as u32 } else { 0 },
            release_on_failure: false,
            node: "node1".into(),
            label: String::new(),
            since: 0,
        };
        let session = ClientSession::begin(&world, self.clock, &config);
        // Either by itself, or with its first entry.
        let mut open = world.chance(500).then(|| config.clone());
        if open.is_none() {
            match self.execute(LockCommand::OpenSession { session: session.id, config }).await {
                Some(LockOutcome::Done) => session.keep(self.voters),
                None => return,
                other => return world.fail(format!("{other:?} answers the opening of a session")),
            }
        }
        for _ in 0..1 + world.below(3) {
            if session.left().is_zero() || world.done() {
                break;
            }
            if self.turn(&session, open.take()).await == SessionFate::Abandoned {
                return;
            }
        }
        session.stop();
        self.execute_revoke(session.id).await;
    }

    async fn execute_revoke(&mut self, session: i64) {
        match self.requests.execute(machine::Command::revoke(session)).await {
            None | Some(machine::Outcome::LeaseEnded { .. } | machine::Outcome::Refused(_)) => {}
            other => self.world.fail(format!("{other:?} answers the end of a session")),
        }
    }

    /// Some locks, in some way.
    fn request(&self, session: i64, open: Option<LockSessionConfig>) -> (AcquireCommand, usize) {
        let world = &self.world;
        let lock = world.below(LOCKS.len() as u64) as usize;
        let mode = match world.below(6) {
            _ if lock >= REGISTER => Mode::Exclusive,
            0..2 => Mode::Exclusive,
            2..4 => Mode::Shared,
            _ => Mode::Semaphore { permits: 2 + world.below(2) as u16 },
        };
        let mut names = vec![name(lock)];
        if lock < REGISTER && mode == Mode::Exclusive && world.chance(500) {
            let others = (0..REGISTER).filter(|other| *other != lock && world.chance(600));
            names.extend(others.map(name));
        }
        let waits = world.chance(800);
        (AcquireCommand { session, open, names, mode, waits, value: LOCKS[lock].into(), since: 0 }, lock)
    }

    async fn turn(&mut self, session: &ClientSession, open: Option<LockSessionConfig>) -> SessionFate {
        let world = self.world.clone();
        let opens = open.is_some();
        let (request, lock) = self.request(session.id, open);
        let mode = request.mode;
        let mut outcome = self.execute(LockCommand::Acquire(request.clone())).await;
        if outcome.is_none() && world.chance(500) {
            // It may have been done: then the session has that entry, and gets no other one.
            outcome = self.execute(LockCommand::Acquire(AcquireCommand { open: None, ..request })).await;
        }
        match outcome {
            // If it has an entry all the same, that ends with the session.
            None | Some(LockOutcome::Refused(Refusal::AlreadyQueued { .. })) => SessionFate::Abandoned,
            Some(LockOutcome::Queued { token, granted }) => {
                if opens {
                    session.keep(self.voters);
                }
                let entry = ClientEntry { session, token, lock, mode };
                let (fate, until) = self.wait_and_hold(&entry, granted).await;
                let deadline = session.deadline();
                let until = until.map(|until| until.min(deadline));
                world.lock().history.beliefs.insert(token, ClientBelief { deadline, holds_until: until });
                fate
            }
            Some(LockOutcome::Taken { .. }) if opens => SessionFate::Abandoned,
            Some(LockOutcome::Taken { .. }) => SessionFate::Continues,
            Some(LockOutcome::Refused(Refusal::NoSession { .. })) => {
                if !opens && !session.left().is_zero() {
                    world.lock().history.lost_sessions.push(session.id);
                }
                SessionFate::Abandoned
            }
            other => {
                world.fail(format!("{other:?} answers who asks for a lock"));
                SessionFate::Abandoned
            }
        }
    }

    /// Waits until an entry is granted, and holds the lock; gives until when it took itself for the holder, if it did. The
    /// deadline comes before that.
    async fn wait_and_hold(&mut self, entry: &ClientEntry<'_>, mut granted: bool) -> (SessionFate, Option<Duration>) {
        let (world, session) = (self.world.clone(), entry.session);
        let began = now();
        let limit = world.chance(250).then(|| began + Duration::from_millis(world.below(4000)));
        while !granted {
            if session.left().is_zero() || !world.done() && world.chance(10) {
                return (SessionFate::Abandoned, None);
            }
            if limit.is_some_and(|limit| now() > limit) && !world.done() {
                return (self.release(entry).await, None);
            }
            let calm_since = world.lock().history.calm_since;
            if let Some(since) = calm_since.map(|since| since.max(began))
                && now() > since + PATIENCE
            {
                world.fail(format!("token {} of lock {} still waits, since {since:?}", entry.token, entry.lock));
                return (SessionFate::Abandoned, None);
            }
            if !world.done() && world.chance(10) {
                session.pause(session.beyond_ttl()).await;
            }
            C::sleep(Duration::from_millis(20 + world.below(300))).await;
            match self.entry_state(entry.token).await {
                Some(EntryState::Held) => granted = true,
                Some(EntryState::Gone) => {
                    self.note_denial(entry, "wait");
                    return (SessionFate::Continues, None);
                }
                Some(EntryState::Waiting) | None => {}
            }
        }
        self.hold(entry).await;
        if session.left().is_zero() {
            return (SessionFate::Abandoned, Some(Duration::MAX));
        }
        let until = now();
        match world.below(10) {
            // The client has gone, and its lock goes when the session does.
            0 => (SessionFate::Abandoned, Some(Duration::MAX)),
            1 => {
                session.stop();
                self.execute_revoke(session.id).await;
                (SessionFate::Abandoned, Some(until))
            }
            _ => (self.release(entry).await, Some(until)),
        }
    }

    /// What holders do: write, keep on writing, and now and then do so when they hold it no more.
    async fn hold(&mut self, entry: &ClientEntry<'_>) {
        let (world, session, token) = (self.world.clone(), entry.session, entry.token);
        let until = now() + Duration::from_millis(world.below(if world.done() { 200 } else { 1500 }));
        let reckless = world.chance(200);
        loop {
            if session.left().is_zero() && !reckless || now() > until || world.lock().history.calm_since.is_some() {
                return;
            }
            if world.chance(20) {
                // It goes on as if nothing were.
                session.pause(session.beyond_ttl()).await;
            }
            let command = match world.below(6) {
                0..3 if entry.lock == REGISTER => {
                    if !self.increment(entry).await {
                        return;
                    }
                    continue;
                }
                3 => {
                    let key = format!("fenced/{}", entry.lock);
                    let put = Put { key: key.into(), value: token.to_string().into(), ..Put::default() };
                    LockCommand::FencedWrite {
                        name: name(entry.lock),
                        token,
                        keys: keys::KeysCommand::Put(put).encode(),
                    }
                }
                4 if entry.lock == ELECTION => LockCommand::Proclaim {
                    name: name(entry.lock),
                    session: session.id,
                    token,
                    value: now().as_millis().to_string().into(),
                },
                5 if entry.mode == Mode::Exclusive => LockCommand::RaiseFence { name: name(entry.lock), token },
                _ => {
                    C::sleep(Duration::from_millis(20 + world.below(300))).await;
                    continue;
                }
            };
            match self.execute(command).await {
                Some(LockOutcome::Refused(Refusal::NotHeld { .. })) if entry.mode == Mode::Exclusive => {
                    self.note_denial(entry, "write");
                }
                Some(LockOutcome::Refused(Refusal::StaleToken { .. })) => self.note_denial(entry, "remember its token"),
                _ => {}
            }
        }
    }

    /// Adds one to the register. Whether it may go on.
    async fn increment(&mut self, entry: &ClientEntry<'_>) -> bool {
        let (world, session) = (self.world.clone(), entry.session);
        let Some(value) = register::read(&world, entry.token).await else {
            self.note_denial(entry, "read the register");
            return false;
        };
        if world.chance(50) {
            // The pause that no deadline helps against: it has looked at its clock before.
            session.pause(session.beyond_ttl()).await;
        }
        if world.chance(50) {
            // It takes long, and nobody waits for the answer. So it must not write once more.
            let takes = Duration::from_millis(world.below(12_000));
            drop(C::spawn(register::write(world, entry.token, value + 1, takes)));
            return false;
        }
        let takes = Duration::from_millis(1 + world.below(40));
        let accepted = register::write(world, entry.token, value + 1, takes).await;
        if !accepted {
            self.note_denial(entry, "write the register");
        }
        accepted
    }

    async fn release(&mut self, entry: &ClientEntry<'_>) -> SessionFate {
        let outcome = self
            .execute(LockCommand::Release {
                session: entry.session.id,
                token: entry.token,
                name: Some(name(entry.lock)),
            })
            .await;
        match outcome {
            Some(LockOutcome::Released { .. }) => SessionFate::Continues,
            Some(LockOutcome::Refused(Refusal::NotHeld { .. })) => {
                self.note_denial(entry, "release");
                SessionFate::Continues
            }
            // Whatever became of it, the entry ends with the session.
            _ => SessionFate::Abandoned,
        }
    }

    /// Its entry has gone. Whether it should have is known at the end.
    fn note_denial(&self, entry: &ClientEntry<'_>, what: &'static str) {
        self.world.lock().history.denials.push(Denial { token: entry.token, at: now(), what });
    }
}
