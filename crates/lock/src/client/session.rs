//! A session that is kept alive.

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

use super::Client;
use crate::{error::LockError, message::SessionConfig};

/// Into how many parts of its time to live a session is kept alive.
pub(super) const PARTS: u32 = 3;
/// The pause before a keepalive that failed is sent again.
const AGAIN: Duration = Duration::from_millis(200);
/// How often the clock is read that goes on in suspend, which timers do not run by.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A session that is kept alive as long as this is there, and ended when it is dropped. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    client: Client,
    id: i64,
    deadline: watch::Receiver<Deadline>,
    keeper: JoinHandle<()>,
    /// Whether it was ended here.
    ended: AtomicBool,
}

/// How long a session is sure to live, by the clock that goes on in suspend.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    at: Duration,
    /// It has ended before that.
    ended: bool,
}

impl Client {
    /// Opens a session, and keeps it alive.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn session(&self, config: SessionConfig) -> Result<Session, LockError> {
        let began = since_boot();
        let ttl = Duration::from_secs(config.ttl.into());
        let id = self.open(config).await?;
        Ok(Session::keep(self, id, ttl, began + ttl))
    }
}

impl Session {
    /// Keeps one alive that lives until then.
    pub(super) fn keep(client: &Client, id: i64, ttl: Duration, at: Duration) -> Self {
        let (told, deadline) = watch::channel(Deadline { at, ended: false });
        let keeper = tokio::spawn(keep(client.clone(), id, ttl, told));
        Self(Arc::new(Kept { client: client.clone(), id, deadline, keeper, ended: AtomicBool::new(false) }))
    }

    /// Its id.
    pub fn id(&self) -> i64 {
        self.0.id
    }

    /// Until when it is sure to live, as time since the machine was started: before the last keepalive that was confirmed
    /// was sent, plus its time to live. Whatever it holds must not be relied on after that.
    pub fn deadline(&self) -> Duration {
        self.0.deadline.borrow().at
    }

    /// How long it is sure to live from now on.
    pub fn left(&self) -> Duration {
        let deadline = *self.0.deadline.borrow();
        if deadline.ended { Duration::ZERO } else { deadline.at.saturating_sub(since_boot()) }
    }

    /// Resolves when it has ended, or its deadline has passed: by then everything that it held is lost.
    pub async fn lost(&self) {
        let mut deadline = self.0.deadline.clone();
        loop {
            let left = self.left();
            if left.is_zero() {
                return;
            }
            // Whoever sleeps with the machine looks at the clock first.
            if let Ok(Err(_)) = timeout(left.min(LOOK_EVERY), deadline.changed()).await {
                // Nobody keeps it alive any more: it was ended here.
                return;
            }
        }
    }

    /// Ends it, and waits until that is agreed on.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn end(self) -> Result<(), LockError> {
        self.0.keeper.abort();
        self.0.client.end(self.0.id).await?;
        self.0.ended.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends it, without waiting for that.
    pub(super) fn end_in_background(&self) {
        self.0.end_in_background();
    }
}

impl Kept {
    fn end_in_background(&self) {
        if !self.ended.swap(true, Ordering::Relaxed) {
            self.keeper.abort();
            self.client.give_up(self.id, None);
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.end_in_background();
    }
}

/// Sends keepalives until the session has ended, or its deadline has passed.
async fn keep(client: Client, id: i64, ttl: Duration, told: watch::Sender<Deadline>) {
    // To open it may have taken long.
    let left = told.borrow().at.saturating_sub(since_boot());
    sleep(left.saturating_sub(ttl - ttl / PARTS)).await;
    loop {
        let sent = since_boot();
        let left = told.borrow().at.saturating_sub(sent);
        if left.is_zero() {
            told.send_modify(|deadline| deadline.ended = true);
            return;
        }
        match timeout(left, client.keep_alive(id)).await {
            Ok(Ok(Some(lives))) => {
                told.send_modify(|deadline| deadline.at = sent + lives);
                sleep(ttl / PARTS).await;
            }
            Ok(Ok(None)) => {
                told.send_modify(|deadline| deadline.ended = true);
                return;
            }
            Ok(Err(error)) => {
                debug!(%error, "a session is not kept alive yet");
                sleep(AGAIN).await;
            }
            Err(_) => {}
        }
    }
}
