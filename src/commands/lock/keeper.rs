//! Keeps a session alive: a keepalive every third of its TTL, and quickly again where one fails.
//!
//! A keepalive that takes long is not given up: it still counts from when it was sent. Another one is sent beside it, in
//! case its connection is dead.

use std::{io, sync::Arc, time::Duration};

use hyper::{Method, StatusCode};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    super::{
        client::{Answer, Call, Client, Trouble},
        supervisor::{BootTime, BootTimer},
    },
    limits::deadline,
};

/// How many keepalives are on their way at most.
const AT_ONCE: usize = 4;
/// When to try again at the latest.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is known of the session.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    /// When that was sent which a node confirmed last.
    pub(super) sent: BootTime,
    /// Why nothing was confirmed since.
    pub(super) trouble: Option<String>,
    /// Set once it has ended.
    pub(super) is_gone: bool,
}

/// Keeps one session alive until this is dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) session: String,
    pub(super) ttl: Duration,
    kept: watch::Receiver<Kept>,
    task: AbortHandle,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Of a session that was opened by what was sent then.
    pub(super) fn start(client: &Arc<Client>, session: String, ttl: Duration, sent: BootTime) -> io::Result<Self> {
        let (sender, kept) = watch::channel(Kept { sent, trouble: None, is_gone: false });
        let timer = BootTimer::new()?;
        let task = tokio::spawn(keep(Arc::clone(client), session.clone(), ttl, sender, timer)).abort_handle();
        Ok(Self { session, ttl, kept, task })
    }

    pub(super) fn kept(&mut self) -> Kept {
        self.kept.borrow_and_update().clone()
    }

    /// Until when the session surely lives.
    pub(super) fn deadline(&self) -> BootTime {
        deadline(self.kept.borrow().sent, self.ttl)
    }

    /// Waits for news of it.
    pub(super) async fn changed(&mut self) {
        if self.kept.changed().await.is_err() {
            // It has ended, and that was told.
            std::future::pending().await
        }
    }
}

/// What came of a keepalive.
struct Attempt {
    sent: BootTime,
    answer: Result<Answer, Trouble>,
}

async fn keep(client: Arc<Client>, session: String, ttl: Duration, kept: watch::Sender<Kept>, timer: BootTimer) {
    let path: Arc<str> = format!("/v1/sessions/{session}").into();
    let every = ttl / 3;
    let pause = (ttl / 12).min(LONGEST_PAUSE);
    let mut attempts = JoinSet::new();
    let mut next = kept.borrow().sent + every;
    // By the same clock as the deadline: a machine that wakes up may be just in time.
    while timer.set(next).is_ok() {
        tokio::select! {
            Some(Ok(Attempt { sent, answer })) = attempts.join_next() => match answer {
                Ok(_) => {
                    kept.send_modify(|kept| {
                        kept.sent = kept.sent.max(sent);
                        kept.trouble = None;
                    });
                    next = kept.borrow().sent + every;
                }
                Err(Trouble::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => {
                    kept.send_modify(|kept| kept.is_gone = true);
                    return;
                }
                Err(trouble) => {
                    kept.send_modify(|kept| kept.trouble = Some(trouble.to_string()));
                    next = next.min(BootTime::now() + pause);
                }
            },
            Ok(()) = timer.fired() => {
                next = BootTime::now() + pause * 2;
                if attempts.len() < AT_ONCE {
                    attempts.spawn(attempt(Arc::clone(&client), Arc::clone(&path), ttl));
                }
            }
        }
    }
}

async fn attempt(client: Arc<Client>, path: Arc<str>, ttl: Duration) -> Attempt {
    let sent = BootTime::now();
    let call = Call { method: Method::PUT, path: &path, has: "session", ..Call::default() };
    // What is answered later than that is of no use.
    let answer = timeout(ttl, client.call(call)).await;
    let late = |_| Err(Trouble::Silent(format!("{} did not answer within {ttl:?}; see the node's log", client.node)));
    Attempt { sent, answer: answer.unwrap_or_else(late) }
}
