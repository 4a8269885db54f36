//! Holds a lock: keeps its session alive, runs a command meanwhile, and ends the command if the lock is lost.

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
        client::{ApiClient, ApiRequest, ClientError, url_encoded},
        supervisor::{
            BootTime, BootTimer, CommandOutcome, Deadlines, ExitStatus, ForwardedSignals, NOT_FOUND, Program,
            Supervisor,
        },
        table::items,
    },
    deadlines,
    keep_alive::KeepAlive,
    nested::{self, SESSIONS},
    progress::{self, Progress},
    request::LockRequest,
    stop::StopCondition,
    stream::EventStream,
    waiter::{AcquireError, Grant, Waiter},
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// Variables for the command: the lock's name, its fencing token, and name/session.
const NAME: &str = "BROADCAST_LOCK_NAME";
pub(super) const TOKEN: &str = "BROADCAST_LOCK_TOKEN";
pub(super) const KEY: &str = "BROADCAST_LOCK_KEY";
/// The exit code if the lock was lost.
const LOST: u8 = 123;
/// The exit code if this program itself failed, as in env(1) and timeout(1).
pub(super) const FAILED: u8 = 125;
/// How long to try to release the lock, and how long each try may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
const RELEASE_TRY: Duration = Duration::from_secs(2);
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// Waits for the lock, and runs a command while it is held. Without a command, holds the lock until a signal comes.
pub(super) async fn run(
    request: LockRequest,
    program: Option<Program>,
    args: &ClientArgs,
) -> Result<ExitCode, Failure> {
    if let Some(program) = program.as_ref().filter(|program| !program.exists()) {
        let name = visible::quote(&program.name.to_string_lossy());
        return Err(Failure::other(format!("{name} cannot be run: there is no such program")).with_code(NOT_FOUND));
    }
    let client = Arc::new(ApiClient::new(args).map_err(|failure| failure.with_code(FAILED))?);
    let program = program.map(|mut program| {
        program.env.extend(args.env());
        program
    });
    let signals = ForwardedSignals::new().map_err(failed)?;
    let progress = Progress::new(&request.names, args.json, program.is_some());
    let result = wait_and_hold(&client, &request, program, &signals, &progress).await;
    progress.finish().await;
    result
}

fn failed(error: io::Error) -> Failure {
    Failure::other(error).with_code(FAILED)
}

/// The exit code of a program that the signal ended.
fn ended_by(signal: Signal) -> ExitCode {
    ExitStatus::Signal(u8::try_from(signal as i32).unwrap_or_default()).code().into()
}

async fn wait_and_hold(
    client: &Arc<ApiClient>,
    request: &LockRequest,
    program: Option<Program>,
    signals: &ForwardedSignals,
    progress: &Progress,
) -> Result<ExitCode, Failure> {
    tokio::select! {
        checked = nested::check(client, request) => {
            if let Err(failure) = checked {
                progress.refused(&failure, &Value::Null);
                return Err(failure.with_code(FAILED));
            }
        }
        signal = signals.next() => return Ok(ended_by(signal.map_err(failed)?.signal)),
    }
    let stop = StopCondition::new(signals, request.wait).map_err(failed)?;
    let grant = match Waiter::new(client, request, progress, stop).acquire().await {
        Ok(grant) => grant,
        Err(AcquireError::Signal(signal)) => {
            return Ok(ended_by(signal));
        }
        Err(AcquireError::Failed { failure, holders }) => {
            progress.refused(&failure, &holders);
            return Err(failure.with_code(FAILED));
        }
    };
    progress.granted(&grant.answer);
    let mut held = HeldLock::new(client, request, progress, grant);
    let outcome = match program {
        Some(program) => held.run_command(program, signals).await,
        None => held.wait_for_signal(signals).await,
    };
    // Whatever the outcome, others must not wait longer than needed.
    let released = held.release(signals).await;
    match outcome.map_err(|error| Failure::other(format!("cannot run the command: {error}")).with_code(FAILED))? {
        CommandOutcome::Ended(exit) => {
            if let Err(problem) = released {
                progress.warn(&problem);
            }
            Ok(exit.code().into())
        }
        CommandOutcome::Lost { something_left } => Err(held.loss_failure(something_left)),
    }
}

/// A lock while it is held.
struct HeldLock<'a> {
    client: &'a Arc<ApiClient>,
    request: &'a LockRequest,
    progress: &'a Progress,
    answer: Value,
    keep_alive: KeepAlive,
    /// The events of the request; none once the connection broke off, which does not mean a loss.
    stream: Option<EventStream>,
    deadlines: watch::Sender<Deadlines>,
    /// Why the lock is lost, if a node says so.
    loss: Option<String>,
    has_command: bool,
}

impl<'a> HeldLock<'a> {
    fn new(client: &'a Arc<ApiClient>, request: &'a LockRequest, progress: &'a Progress, grant: Grant) -> Self {
        let Grant { answer, keep_alive, stream } = grant;
        let deadlines = deadlines::before(keep_alive.deadline(), keep_alive.ttl);
        let (deadlines, stream) = (watch::Sender::new(deadlines), Some(stream));
        Self { client, request, progress, answer, keep_alive, stream, deadlines, loss: None, has_command: false }
    }

    async fn run_command(&mut self, mut program: Program, signals: &ForwardedSignals) -> io::Result<CommandOutcome> {
        self.has_command = true;
        let name = self.request.names.first().map(String::as_str).unwrap_or_default();
        let session = &self.keep_alive.session;
        let env = [(NAME, name.to_owned()), (TOKEN, self.token().to_string()), (SESSIONS, nested::with(session))];
        program.env.extend(env.map(|(name, value)| (name, value.into())));
        let key = format!("{name}/{session}");
        let supervised = Supervisor::start(&program, (KEY, &key), signals, *self.deadlines.borrow())?;
        let supervised = supervised.run(signals, self.deadlines.subscribe());
        tokio::pin!(supervised);
        tokio::select! {
            biased;
            outcome = &mut supervised => return outcome,
            () = self.watch() => {}
        }
        supervised.await
    }

    /// Holds the lock until a signal comes.
    async fn wait_for_signal(&mut self, signals: &ForwardedSignals) -> io::Result<CommandOutcome> {
        let timer = BootTimer::new()?;
        let mut deadlines = self.deadlines.subscribe();
        let over = async {
            loop {
                // Whoever relies on the lock has the time until it expires to notice.
                let end = deadlines.borrow_and_update().terminate;
                if BootTime::now() >= end {
                    return Ok(CommandOutcome::Lost { something_left: false });
                }
                timer.set(end)?;
                tokio::select! {
                    biased;
                    fired = timer.fired() => fired?,
                    signal = signals.next() => {
                        let signal = u8::try_from(signal?.signal as i32).unwrap_or_default();
                        return Ok(CommandOutcome::Ended(ExitStatus::Signal(signal)));
                    }
                    Ok(()) = deadlines.changed() => {}
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

    /// Moves the deadlines on while the session is kept alive; returns once the lock is lost.
    async fn watch(&mut self) {
        let (token, ttl) = (self.token(), self.keep_alive.ttl);
        let reason = tokio::select! {
            reason = extend(&mut self.keep_alive, &self.deadlines) => reason,
            reason = wait_for_loss(&mut self.stream, self.client, self.request, token, ttl) => reason,
        };
        self.progress.lost(&reason);
        self.deadlines.send_modify(|planned| *planned = deadlines::after_loss(BootTime::now(), ttl, *planned));
        self.loss = Some(reason);
    }

    fn token(&self) -> u64 {
        self.answer["token"].as_u64().unwrap_or_default()
    }

    /// Ends the session, which gives the lock to the next waiter.
    async fn release(&mut self, signals: &ForwardedSignals) -> Result<(), String> {
        self.stream = None;
        // Signals that came before the end were for the command.
        while let Ok(Some(_)) = signals.pending() {}
        let path = format!("/v1/sessions/{}", url_encoded(&self.keep_alive.session));
        let began = BootTime::now();
        loop {
            let left = self.keep_alive.deadline().since(BootTime::now());
            let request =
                ApiRequest { method: Method::DELETE, path: &path, expects: "session", ..ApiRequest::default() };
            // After the session's deadline, there is nothing left to release.
            let error = match timeout(left.clamp(RELEASE_PAUSE, RELEASE_TRY), self.client.call(request)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(ClientError::Problem(answer))) if answer.status == StatusCode::NOT_FOUND => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{} did not answer", self.client.node),
            };
            if left.is_zero() || BootTime::now().since(began) >= RELEASE_TIMEOUT {
                let (names, left) = (progress::joined(&self.request.names), left.as_secs_f64());
                return Err(format!("{names} is not released: {error}; it ends by itself within {left:.1} s"));
            }
            tokio::select! {
                () = sleep(RELEASE_PAUSE) => {}
                _ = signals.next() => return Err(format!("interrupted before the release: {error}")),
            }
        }
    }

    fn loss_failure(&mut self, something_left: bool) -> Failure {
        let names = self.progress.names();
        let reason = self.loss.take().unwrap_or_else(|| {
            let error = self.keep_alive.state().error.map(|error| format!(": {error}")).unwrap_or_default();
            let reason = format!("no node confirmed in time that its session lives{error}");
            self.progress.lost_after_end(&reason);
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

/// Moves the deadlines on while the session is kept alive; returns why it ended.
async fn extend(keep_alive: &mut KeepAlive, deadlines: &watch::Sender<Deadlines>) -> String {
    while !keep_alive.state().has_ended {
        deadlines.send_replace(deadlines::before(keep_alive.deadline(), keep_alive.ttl));
        keep_alive.changed().await;
    }
    "its session has ended".into()
}

/// Waits until the lock is lost, though its session may live on. The stream says so; once that broke off, nodes are asked.
async fn wait_for_loss(
    stream: &mut Option<EventStream>,
    client: &ApiClient,
    request: &LockRequest,
    token: u64,
    ttl: Duration,
) -> String {
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
        for name in &request.names {
            if timeout(ttl, is_held(client, name, token)).await == Ok(Some(false)) {
                return format!("{name} is held no more");
            }
        }
        sleep(ttl / 3).await;
    }
}

/// Whether the lock is still held with this token; nothing, if no node can tell.
async fn is_held(client: &ApiClient, name: &str, token: u64) -> Option<bool> {
    let path = format!("/v1/locks/{}", url_encoded(name));
    match client.call(ApiRequest { path: &path, expects: "name", ..ApiRequest::default() }).await {
        Ok(answer) => {
            let holders: Vec<_> = items(&answer.json["holders"]).collect();
            // A long list is cut off; then only the session tells.
            let is_complete = holders.len() < MAX_PAGE_ENTRIES as usize;
            match holders.iter().any(|holder| holder["token"] == token) {
                false if !is_complete => None,
                is_held => Some(is_held),
            }
        }
        Err(ClientError::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => Some(false),
        Err(_) => None,
    }
}
