//! Sessions that keep themselves alive.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broadcast_store::node::since_boot;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::debug;

use super::LockClient;
use crate::{error::LockError, message::LockSessionConfig};

/// How many keep-alives are sent in one time to live.
pub(super) const KEEP_ALIVES_PER_TTL: u32 = 3;
/// The pause after a keep-alive that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often [`Session::lost`] reads the clock: timers stand still while the machine is suspended, the clock goes on.
const CLOCK_INTERVAL: Duration = Duration::from_millis(250);

/// A session that a task keeps alive. It ends when its last clone is dropped. Cheap to clone.
///
/// [`LockClient::session`] opens one for many locks; a [`LockGuard`](super::LockGuard) has one of its own.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: LockClient,
    id: i64,
    deadline: watch::Receiver<Deadline>,
    keep_alives: JoinHandle<()>,
    /// Whether this node has ended it.
    ended: AtomicBool,
}

/// Until when a session is sure to live, by a clock that goes on while the machine is suspended.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Duration,
    /// Whether the session has ended before that.
    ended: bool,
}

impl LockClient {
    /// Opens a session, and keeps it alive.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn session(&self, config: LockSessionConfig) -> Result<Session, LockError> {
        let sent_at = since_boot();
        let ttl = Duration::from_secs(config.ttl.into());
        let id = self.open_session(config).await?;
        Ok(Session::start(self, id, ttl, sent_at + ttl))
    }
}

impl Session {
    /// Keeps a session alive that is sure to live until `deadline`.
    pub(super) fn start(client: &LockClient, id: i64, ttl: Duration, deadline: Duration) -> Self {
        let (sender, deadline) = watch::channel(Deadline { at: deadline, ended: false });
        let keep_alives = tokio::spawn(send_keep_alives(client.clone(), id, ttl, sender));
        Self(Arc::new(Inner { client: client.clone(), id, deadline, keep_alives, ended: AtomicBool::new(false) }))
    }

    /// Its id.
    pub fn id(&self) -> i64 {
        self.0.id
    }

    /// Until when the session is sure to live, as time since the machine was started: the moment at which the last confirmed
    /// keep-alive was sent, plus the time to live. Do not rely on its locks after that.
    pub fn deadline(&self) -> Duration {
        self.0.deadline.borrow().at
    }

    /// How much longer the session is sure to live.
    pub fn left(&self) -> Duration {
        let deadline = *self.0.deadline.borrow();
        if deadline.ended { Duration::ZERO } else { deadline.at.saturating_sub(since_boot()) }
    }

    /// Waits until the session has ended or its deadline has passed: by then all its locks are lost.
    pub async fn lost(&self) {
        let mut deadline = self.0.deadline.clone();
        loop {
            let left = self.left();
            if left.is_zero() {
                return;
            }
            // Whoever wakes after a suspend looks at the clock first.
            if let Ok(Err(_)) = timeout(left.min(CLOCK_INTERVAL), deadline.changed()).await {
                // The task is gone: this node has ended the session.
                return;
            }
        }
    }

    /// Ends the session, and waits until the voters have agreed on that.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn end(self) -> Result<(), LockError> {
        self.0.keep_alives.abort();
        self.0.client.end_session(self.0.id).await?;
        self.0.ended.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the session, and does not wait for it.
    pub(super) fn end_in_background(&self) {
        self.0.end_in_background();
    }
}

impl Inner {
    fn end_in_background(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.keep_alives.abort();
            self.client.give_up(self.id, None);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.end_in_background();
    }
}

/// Sends keep-alives until the session has ended or its deadline has passed.
async fn send_keep_alives(client: LockClient, id: i64, ttl: Duration, deadline: watch::Sender<Deadline>) {
    // A part of the first time to live may have passed before the session was open.
    let left = deadline.borrow().at.saturating_sub(since_boot());
    sleep(left.saturating_sub(ttl - ttl / KEEP_ALIVES_PER_TTL)).await;
    loop {
        let sent_at = since_boot();
        let left = deadline.borrow().at.saturating_sub(sent_at);
        if left.is_zero() {
            deadline.send_modify(|deadline| deadline.ended = true);
            return;
        }
        match timeout(left, client.keep_alive(id)).await {
            Ok(Ok(Some(lives))) => {
                deadline.send_modify(|deadline| deadline.at = sent_at + lives);
                sleep(ttl / KEEP_ALIVES_PER_TTL).await;
            }
            Ok(Ok(None)) => {
                deadline.send_modify(|deadline| deadline.ended = true);
                return;
            }
            Ok(Err(error)) => {
                debug!(%error, "a session is not kept alive yet");
                sleep(RETRY_PAUSE).await;
            }
            Err(_) => {}
        }
    }
}
