//! Waiting for a lock: one request, whose events tell the place in the queue and the grant. If its connection breaks off
//! before, the place is gone, and it is asked for anew.

use std::{io, sync::Arc, time::Duration};

use hyper::{Method, StatusCode, header};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    super::{
        client::{Answer, Call, Client, Trouble},
        look::{list, word},
        supervisor::{BootTime, BootTimer},
        tail::encoded,
    },
    ask::Ask,
    keeper::Keeper,
    limits::may_start,
    stop::Stop,
    stream::EventStream,
    told::Told,
};
use crate::{failure::Failure, visible};

/// The exit code when it was not granted in time, as timeout(1) has it.
pub(super) const NOT_IN_TIME: u8 = 124;
/// How long a node may wait for a leader before it begins to answer.
const WAITS: Duration = Duration::from_secs(15);
/// What no node makes of a TTL.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// When to ask again, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// How long the end of a session may take that has no lock.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// A lock that was granted.
#[derive(Debug)]
pub(super) struct Grant {
    /// What the node says of it.
    pub(super) answer: Value,
    pub(super) keeper: Keeper,
    /// Tells when it is lost, as long as its connection stands.
    pub(super) stream: EventStream,
}

/// Who waits.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    client: &'a Arc<Client>,
    ask: &'a Ask,
    told: &'a Told,
    stop: Stop<'a>,
    /// The session, once it is known. Until the lock is granted, [`leave`](Self::leave) ends it.
    session: Option<String>,
    /// What keeps it alive.
    keeper: Option<Keeper>,
    /// Who holds the lock instead, if that was told.
    holders: Value,
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum NotGranted {
    /// This signal came.
    Signal(Signal),
    /// It was refused, or not granted in time. These hold it instead, if that was told.
    Failed { failure: Failure, holders: Value },
}

/// Why a request came to nothing.
#[derive(Debug)]
enum Refusal {
    /// So would the next one.
    Final(Failure),
    /// The next one may be granted, if this one had a place already.
    Passing(String),
    /// It has to stop; and what it waited for.
    Stopped(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Final(Failure::other(error))
    }
}

impl<'a> Waiting<'a> {
    pub(super) fn new(client: &'a Arc<Client>, ask: &'a Ask, told: &'a Told, stop: Stop<'a>) -> Self {
        Self { client, ask, told, stop, session: None, keeper: None, holders: Value::Null }
    }

    /// Waits until it is granted. Otherwise, nothing is left behind.
    pub(super) async fn grant(mut self) -> Result<Grant, NotGranted> {
        let granted = self.wait().await;
        if granted.is_err() {
            self.leave().await;
        }
        match (granted, self.stop.signal()) {
            (Ok(grant), _) => Ok(grant),
            (Err(_), Some(signal)) => Err(NotGranted::Signal(signal)),
            (Err(failure), None) => Err(NotGranted::Failed { failure, holders: self.holders }),
        }
    }

    async fn wait(&mut self) -> Result<Grant, Failure> {
        let began = BootTime::now();
        let (mut pause, mut was_queued) = (FIRST_PAUSE, false);
        loop {
            let left = self.ask.wait.map(|wait| wait.saturating_sub(BootTime::now().since(began)));
            let trouble = match self.once(left).await {
                Ok(grant) => return Ok(grant),
                Err(Refusal::Final(failure)) => return Err(failure),
                Err(Refusal::Stopped(trouble)) => return Err(self.late(&trouble)),
                Err(Refusal::Passing(trouble)) => trouble,
            };
            if self.session.is_some() {
                (was_queued, pause) = (true, FIRST_PAUSE);
                self.told.warn(&format!("{trouble}; the place in the queue is gone, asking again"));
            } else if !was_queued {
                return Err(Failure::other(trouble));
            }
            self.leave().await;
            if left.is_some_and(|left| left.is_zero()) {
                return Err(self.late(&trouble));
            }
            tokio::select! {
                () = sleep(pause) => {}
                stopped = self.stop.next() => {
                    stopped.map_err(Failure::other)?;
                    return Err(self.late(&trouble));
                }
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Ends the session, so that nothing waits for it.
    async fn leave(&mut self) {
        self.keeper = None;
        if let Some(session) = self.session.take() {
            let path = format!("/v1/sessions/{}", encoded(&session));
            let call = Call { method: Method::DELETE, path: &path, has: "session", ..Call::default() };
            // Otherwise it ends by itself.
            let _ = timeout(GOOD_BYE, self.client.call(call)).await;
        }
    }

    async fn once(&mut self, wait: Option<Duration>) -> Result<Grant, Refusal> {
        let client = self.client;
        let node = &client.node;
        let body = self.ask.body(wait).to_string().into();
        let headers = &[(header::ACCEPT, "text/event-stream"), (header::CONTENT_TYPE, "application/json")];
        let call = Call { method: Method::POST, path: "/v1/locks", headers, body, waits: WAITS, ..Call::default() };
        let sent = BootTime::now();
        let opening = client.open(call);
        tokio::pin!(opening);
        let response = loop {
            tokio::select! {
                response = &mut opening => break response.map_err(|trouble| self.refusal(trouble))?,
                stopped = self.stop.next() => {
                    stopped?;
                    self.check_stop(|| format!("{node} did not answer"))?;
                }
            }
        };
        let mut stream = EventStream::new(response);
        let timer = BootTimer::new()?;
        let answer = loop {
            if let Some(keeper) = &self.keeper {
                timer.set(keeper.deadline())?;
            }
            let event = tokio::select! {
                event = stream.next() => event.map_err(|problem| self.passing(&problem))?,
                _ = timer.fired() => return Err(self.passing(&self.unconfirmed())),
                () = news(&mut self.keeper) => {
                    self.check_session()?;
                    continue;
                }
                stopped = self.stop.next() => {
                    stopped?;
                    let is_queued = self.session.is_some();
                    self.check_stop(|| match is_queued {
                        true => format!("{node} does not say what became of the place in the queue"),
                        false => format!("the voters gave {node} no answer; see broadcast store status whether one leads"),
                    })?;
                    continue;
                }
            };
            let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
            match &*event.name {
                "queued" => {
                    self.know(&data, sent)?;
                    self.told.queued(&data);
                }
                "granted" => {
                    self.know(&data, sent)?;
                    data["token"].as_u64().ok_or_else(|| self.stranger())?;
                    break data;
                }
                "refused" => {
                    let status =
                        data["status"].as_u64().and_then(|status| StatusCode::from_u16(status.try_into().ok()?).ok());
                    let answer = Answer { status: status.unwrap_or_default(), text: event.data, json: data };
                    return Err(self.refusal(Trouble::Problem(answer)));
                }
                _ => {}
            }
        };
        // Only what was confirmed lately is surely held as long as a command needs to start.
        while let Some(keeper) = self.keeper.as_mut()
            && !may_start(BootTime::now(), keeper.deadline(), keeper.ttl)
        {
            timer.set(keeper.deadline())?;
            tokio::select! {
                () = keeper.changed() => {}
                _ = timer.fired() => return Err(self.passing(&self.unconfirmed())),
                stopped = self.stop.next() => {
                    stopped?;
                    self.check_stop(|| format!("{node} {}", self.unconfirmed()))?;
                }
            }
            if self.keeper.as_mut().is_some_and(|keeper| keeper.kept().is_gone) {
                return Err(self.passing("has ended the session"));
            }
        }
        // From here on nothing is waited for: whoever has the grant ends the session.
        let keeper = self.keeper.take().ok_or_else(|| self.stranger())?;
        self.session = None;
        Ok(Grant { answer, keeper, stream })
    }

    /// Whether it has to stop now: with a signal, once it is known which session to end.
    fn check_stop(&self, waits_for: impl FnOnce() -> String) -> Result<(), Refusal> {
        let is_heard = self.stop.signal().is_some() && self.session.is_some();
        if self.stop.is_over() || is_heard { Err(Refusal::Stopped(waits_for())) } else { Ok(()) }
    }

    /// It was not granted in the time that was given.
    fn late(&self, why: &str) -> Failure {
        let names = self.told.names();
        let within = match self.ask.wait {
            Some(wait) if !wait.is_zero() => format!("within {wait:?}"),
            _ => "at once".into(),
        };
        Failure::other(format!("{names} was not granted {within}: {}", visible::escaped(why))).with_code(NOT_IN_TIME)
    }

    /// Takes note of the session, which is kept alive from now on.
    fn know(&mut self, data: &Value, sent: BootTime) -> Result<(), Refusal> {
        if self.keeper.is_none() {
            let session = data["session"].as_str().ok_or_else(|| self.stranger())?;
            self.session = Some(session.to_owned());
            let ttl = data["ttl"].as_f64().and_then(|ttl| Duration::try_from_secs_f64(ttl).ok());
            let ttl = ttl.filter(|ttl| *ttl >= SHORTEST_TTL).ok_or_else(|| self.stranger())?.min(self.ask.ttl);
            self.keeper = Some(Keeper::start(self.client, session.to_owned(), ttl, sent)?);
        }
        self.check_stop(String::new)
    }

    fn check_session(&mut self) -> Result<(), Refusal> {
        let is_gone = self.keeper.as_mut().is_some_and(|keeper| keeper.kept().is_gone);
        if is_gone { Err(self.ended()) } else { Ok(()) }
    }

    /// The session has ended: because nobody heard of it, or because somebody wanted that.
    fn ended(&self) -> Refusal {
        if self.keeper.as_ref().is_none_or(|keeper| keeper.deadline() <= BootTime::now()) {
            return self.passing(&self.unconfirmed());
        }
        let names = self.told.names();
        Refusal::Final(Failure::other(format!("somebody ended the session that waited for {names}; ask again")))
    }

    /// Why the deadline is over.
    fn unconfirmed(&self) -> String {
        "did not confirm in time that the session lives".into()
    }

    fn passing(&self, problem: &str) -> Refusal {
        Refusal::Passing(format!("{} {problem}", self.client.node))
    }

    fn stranger(&self) -> Refusal {
        let node = &self.client.node;
        Refusal::Final(Failure::other(format!(
            "what {node} tells of a lock has no session, TTL or token; is it a node?"
        )))
    }

    fn refusal(&mut self, trouble: Trouble) -> Refusal {
        match &trouble {
            Trouble::Problem(answer) if answer.status == StatusCode::CONFLICT => {
                let names = self.told.names();
                self.holders = answer.json["holders"].clone();
                let failure = Failure::other(format!("{names} was not granted in time{}", holders(&answer.json)));
                Refusal::Final(failure.with_code(NOT_IN_TIME))
            }
            Trouble::Problem(answer) if answer.status == StatusCode::NOT_FOUND && self.session.is_some() => {
                self.ended()
            }
            Trouble::Problem(answer)
                if !answer.status.is_server_error() && answer.status != StatusCode::TOO_MANY_REQUESTS =>
            {
                Refusal::Final(trouble.into())
            }
            _ => Refusal::Passing(trouble.to_string()),
        }
    }
}

/// Waits for news of the session, if there is one.
async fn news(keeper: &mut Option<Keeper>) {
    match keeper {
        Some(keeper) => keeper.changed().await,
        None => std::future::pending().await,
    }
}

/// Who holds it instead, as a sentence goes on.
fn holders(problem: &Value) -> String {
    let holder = |holder: &Value| {
        let label = holder["label"].as_str().filter(|label| !label.is_empty());
        let label = label.map(|label| format!(" ({})", visible::escaped(label))).unwrap_or_default();
        format!("{}{label}, token {}, since {}", word(&holder["node"]), word(&holder["token"]), word(&holder["since"]))
    };
    let holders: Vec<_> = list(&problem["holders"]).map(holder).collect();
    if holders.is_empty() { String::new() } else { format!("; it is held through {}", holders.join("; and through ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_says_who_holds_it() {
        let problem = json!({"holders": [
            {"name": "a", "session": "1", "token": 12, "node": "node2", "label": "nightly\n", "since": "2026-11-29T20:00:00Z"},
            {"name": "a", "session": "2", "token": 13, "node": "node3", "label": "", "since": "2026-11-29T20:00:01Z"},
        ]});
        assert_eq!(
            holders(&problem),
            "; it is held through node2 (nightly\\n), token 12, since 2026-11-29T20:00:00Z; and through node3, token 13, since \
             2026-11-29T20:00:01Z"
        );
        assert_eq!(holders(&json!({})), "");
    }
}
