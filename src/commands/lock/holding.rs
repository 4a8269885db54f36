//! Holding a lock: keeping its session alive, running a command meanwhile, and ending that when the lock is lost.

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use broadcast_lock::message::MAX_PAGE_ENTRIES;
use hyper::{Method, StatusCode};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    super::{
        client::{Call, Client, Trouble},
        look::list,
        supervisor::{BootTime, BootTimer, Exit, Limits, NOT_FOUND, Outcome, PassedSignals, Program, Supervisor},
        tail::encoded,
    },
    ask::Ask,
    keeper::Keeper,
    limits,
    nested::{self, SESSIONS},
    stop::Stop,
    stream::EventStream,
    told::{self, Told},
    waiting::{Grant, NotGranted, Waiting},
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// What the command has in its environment: the lock, its token, and its name with the session behind it.
const NAME: &str = "BROADCAST_LOCK_NAME";
pub(super) const TOKEN: &str = "BROADCAST_LOCK_TOKEN";
pub(super) const KEY: &str = "BROADCAST_LOCK_KEY";
/// The exit code when the lock was lost.
const LOST: u8 = 123;
/// The exit code when this program itself failed, as env(1) and timeout(1) have it.
pub(super) const FAILED: u8 = 125;
/// How long the release may take, and one attempt at it.
const RELEASE: Duration = Duration::from_secs(5);
const RELEASE_ONCE: Duration = Duration::from_secs(2);
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// Waits for a lock, and runs a command while it is held; without one it holds until it is interrupted.
pub(super) async fn run(ask: Ask, program: Option<Program>, args: &ClientArgs) -> Result<ExitCode, Failure> {
    if let Some(program) = program.as_ref().filter(|program| !program.exists()) {
        let name = visible::shown(&program.name.to_string_lossy());
        return Err(Failure::other(format!("{name} cannot be run: there is no such program")).with_code(NOT_FOUND));
    }
    let client = Arc::new(Client::of(args).map_err(|failure| failure.with_code(FAILED))?);
    let program = program.map(|mut program| {
        program.env.extend(args.env());
        program
    });
    let signals = PassedSignals::new().map_err(failed)?;
    let told = Told::new(&ask.names, args.json, program.is_some());
    let result = wait_and_hold(&client, &ask, program, &signals, &told).await;
    told.finish().await;
    result
}

fn failed(error: io::Error) -> Failure {
    Failure::other(error).with_code(FAILED)
}

/// As a shell shows it.
fn ended_by(signal: Signal) -> ExitCode {
    Exit::Signal(u8::try_from(signal as i32).unwrap_or_default()).code().into()
}

async fn wait_and_hold(
    client: &Arc<Client>,
    ask: &Ask,
    program: Option<Program>,
    signals: &PassedSignals,
    told: &Told,
) -> Result<ExitCode, Failure> {
    tokio::select! {
        checked = nested::check(client, ask) => {
            if let Err(failure) = checked {
                told.refused(&failure, &Value::Null);
                return Err(failure.with_code(FAILED));
            }
        }
        signal = signals.next() => return Ok(ended_by(signal.map_err(failed)?.signal)),
    }
    let stop = Stop::new(signals, ask.wait).map_err(failed)?;
    let grant = match Waiting::new(client, ask, told, stop).grant().await {
        Ok(grant) => grant,
        Err(NotGranted::Signal(signal)) => {
            return Ok(ended_by(signal));
        }
        Err(NotGranted::Failed { failure, holders }) => {
            told.refused(&failure, &holders);
            return Err(failure.with_code(FAILED));
        }
    };
    told.granted(&grant.answer);
    let mut holding = Holding::new(client, ask, told, grant);
    let outcome = match program {
        Some(program) => holding.with_command(program, signals).await,
        None => holding.alone(signals).await,
    };
    // Whatever came of it, nobody shall wait for it any longer than needed.
    let released = holding.release(signals).await;
    match outcome.map_err(|error| Failure::other(format!("cannot run the command: {error}")).with_code(FAILED))? {
        Outcome::Ended(exit) => {
            if let Err(problem) = released {
                told.warn(&problem);
            }
            Ok(exit.code().into())
        }
        Outcome::Lost { something_left } => Err(holding.lost_failure(something_left)),
    }
}

/// A lock that is held.
struct Holding<'a> {
    client: &'a Arc<Client>,
    ask: &'a Ask,
    told: &'a Told,
    answer: Value,
    keeper: Keeper,
    /// Gone where its connection broke off, which is no loss.
    stream: Option<EventStream>,
    limits: watch::Sender<Limits>,
    /// Why it is lost, if that was told.
    lost: Option<String>,
    has_command: bool,
}

impl<'a> Holding<'a> {
    fn new(client: &'a Arc<Client>, ask: &'a Ask, told: &'a Told, grant: Grant) -> Self {
        let Grant { answer, keeper, stream } = grant;
        let limits = limits::limits(keeper.deadline(), keeper.ttl);
        let (limits, stream) = (watch::Sender::new(limits), Some(stream));
        Self { client, ask, told, answer, keeper, stream, limits, lost: None, has_command: false }
    }

    async fn with_command(&mut self, mut program: Program, signals: &PassedSignals) -> io::Result<Outcome> {
        self.has_command = true;
        let name = self.ask.names.first().map(String::as_str).unwrap_or_default();
        let session = &self.keeper.session;
        let env = [(NAME, name.to_owned()), (TOKEN, self.token().to_string()), (SESSIONS, nested::with(session))];
        program.env.extend(env.map(|(name, value)| (name, value.into())));
        let key = format!("{name}/{session}");
        let supervised = Supervisor::start(&program, (KEY, &key), signals, *self.limits.borrow())?;
        let supervised = supervised.run(signals, self.limits.subscribe());
        tokio::pin!(supervised);
        tokio::select! {
            biased;
            outcome = &mut supervised => return outcome,
            () = self.watch() => {}
        }
        supervised.await
    }

    /// Holds it until a signal comes.
    async fn alone(&mut self, signals: &PassedSignals) -> io::Result<Outcome> {
        let timer = BootTimer::new()?;
        let mut until = self.limits.subscribe();
        let over = async {
            loop {
                // Whoever relies on it has the rest of its time to notice.
                let ask = until.borrow_and_update().ask;
                if BootTime::now() >= ask {
                    return Ok(Outcome::Lost { something_left: false });
                }
                timer.set(ask)?;
                tokio::select! {
                    biased;
                    fired = timer.fired() => fired?,
                    signal = signals.next() => {
                        let signal = u8::try_from(signal?.signal as i32).unwrap_or_default();
                        return Ok(Outcome::Ended(Exit::Signal(signal)));
                    }
                    Ok(()) = until.changed() => {}
                }
            }
        };
        tokio::pin!(over);
        tokio::select! {
            biased;
            outcome = &mut over => return outcome,
            () = self.watch() => {}
        }
        over.await
    }

    /// Moves the deadline on as the session is kept alive, until the lock is lost.
    async fn watch(&mut self) {
        let (token, ttl) = (self.token(), self.keeper.ttl);
        let reason = tokio::select! {
            reason = move_on(&mut self.keeper, &self.limits) => reason,
            reason = loss(&mut self.stream, self.client, self.ask, token, ttl) => reason,
        };
        self.told.lost(&reason);
        self.limits.send_modify(|limits| *limits = limits::lost(BootTime::now(), ttl, *limits));
        self.lost = Some(reason);
    }

    fn token(&self) -> u64 {
        self.answer["token"].as_u64().unwrap_or_default()
    }

    /// Ends the session, and so gives the lock to the next.
    async fn release(&mut self, signals: &PassedSignals) -> Result<(), String> {
        self.stream = None;
        // What came before the end was for the command.
        while let Ok(Some(_)) = signals.pending() {}
        let path = format!("/v1/sessions/{}", encoded(&self.keeper.session));
        let began = BootTime::now();
        loop {
            let left = self.keeper.deadline().since(BootTime::now());
            let call = Call { method: Method::DELETE, path: &path, has: "session", ..Call::default() };
            // Once it has ended by itself, there is nothing to wait for.
            let trouble = match timeout(left.clamp(RELEASE_PAUSE, RELEASE_ONCE), self.client.call(call)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(Trouble::Problem(answer))) if answer.status == StatusCode::NOT_FOUND => return Ok(()),
                Ok(Err(trouble)) => trouble.to_string(),
                Err(_) => format!("{} did not answer", self.client.node),
            };
            if left.is_zero() || BootTime::now().since(began) >= RELEASE {
                let (names, left) = (told::shown(&self.ask.names), left.as_secs_f64());
                return Err(format!("{names} is not released: {trouble}; it ends by itself within {left:.1} s"));
            }
            tokio::select! {
                () = sleep(RELEASE_PAUSE) => {}
                _ = signals.next() => return Err(format!("interrupted before the release: {trouble}")),
            }
        }
    }

    fn lost_failure(&mut self, something_left: bool) -> Failure {
        let names = self.told.names();
        let reason = self.lost.take().unwrap_or_else(|| {
            let trouble = self.keeper.kept().trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            let reason = format!("no node confirmed in time that its session lives{trouble}");
            self.told.lost_at_last(&reason);
            reason
        });
        let ended = match (self.has_command, something_left) {
            (false, _) => "",
            (true, false) => "; the command was ended",
            (true, true) => {
                "; the command could not be ended: it may not be killed by this user, or hangs in the kernel"
            }
        };
        Failure::other(format!("{names} was lost: {}{ended}", visible::escaped(&reason))).with_code(LOST)
    }
}

/// Moves the deadline on as the session is kept alive; ends when it is no more.
async fn move_on(keeper: &mut Keeper, limits: &watch::Sender<Limits>) -> String {
    while !keeper.kept().is_gone {
        let moved = limits::limits(keeper.deadline(), keeper.ttl);
        limits.send_replace(moved);
        keeper.changed().await;
    }
    "its session has ended".into()
}

/// Waits for the loss of a lock whose session may live on. The stream tells; where that breaks off, it is asked for.
async fn loss(stream: &mut Option<EventStream>, client: &Client, ask: &Ask, token: u64, ttl: Duration) -> String {
    while let Some(events) = stream {
        match events.next().await {
            Ok(event) if event.name == "lost" => {
                let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
                return data["reason"].as_str().unwrap_or("the node does not say why").into();
            }
            Ok(_) => {}
            Err(_) => *stream = None,
        }
    }
    loop {
        for name in &ask.names {
            if timeout(ttl, is_held(client, name, token)).await == Ok(Some(false)) {
                return format!("{name} is held no more");
            }
        }
        sleep(ttl / 3).await;
    }
}

/// Whether it is still held; without an answer nothing is known, and nothing lost.
async fn is_held(client: &Client, name: &str, token: u64) -> Option<bool> {
    let path = format!("/v1/locks/{}", encoded(name));
    match client.call(Call { path: &path, has: "name", ..Call::default() }).await {
        Ok(answer) => {
            let holders: Vec<_> = list(&answer.json["holders"]).collect();
            // Not all of them are listed where there are many: then its session tells.
            let is_whole = holders.len() < MAX_PAGE_ENTRIES as usize;
            match holders.iter().any(|holder| holder["token"] == token) {
                false if !is_whole => None,
                is_held => Some(is_held),
            }
        }
        Err(Trouble::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => Some(false),
        Err(_) => None,
    }
}
