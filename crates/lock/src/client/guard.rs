//! The guard of a lock: it holds the lock as long as the value lives.

use std::time::Duration;

use broadcast_store::node::since_boot;
use tokio::select;

use super::{AcquireRequest, EnqueueOutcome, LockClient, Owner, Session, Waiter};
use crate::{
    error::LockError,
    message::{LockCommand, LockSessionConfig},
    name::Name,
};

/// A lock that is held. The guard has a session of its own, and keeps it alive. A drop releases the lock in the background;
/// [`release`](Self::release) waits until that is done. See [`LockClient::lock`] for an example.
#[derive(Debug)]
pub struct LockGuard {
    session: Session,
    waiter: Waiter,
    names: Vec<Name>,
}

impl LockGuard {
    pub(super) async fn acquire(
        client: &LockClient,
        config: LockSessionConfig,
        request: impl FnOnce(Owner) -> AcquireRequest,
        within: Option<Duration>,
    ) -> Result<Self, LockError> {
        let ttl = Duration::from_secs(config.ttl.into());
        let request = request(Owner::New(config));
        let names = request.names.clone();
        let sent_at = since_boot();
        let mut waiter = match client.enqueue(request).await? {
            EnqueueOutcome::Queued(waiter) => waiter,
            EnqueueOutcome::Taken(holders) => return Err(LockError::Taken { holders }),
        };
        // From now on the entry ends with the session.
        let session = Session::start(client, waiter.session(), ttl, sent_at + ttl);
        waiter.detach();
        let granted = async {
            select! {
                granted = waiter.granted() => granted,
                () = session.lost() => Err(LockError::SessionEnded { session: session.id() }),
            }
        };
        let granted = match within {
            None => granted.await.map(|()| true),
            Some(within) => {
                tokio::time::timeout(within, granted).await.map_or(Ok(false), |granted| granted.map(|()| true))
            }
        };
        match granted {
            Ok(true) => Ok(Self { session, waiter, names }),
            Ok(false) => {
                session.end().await?;
                Err(LockError::Taken { holders: client.holders(&names).await })
            }
            Err(error) => Err(error),
        }
    }

    /// Its fencing token: greater than that of every holder before.
    pub fn token(&self) -> u64 {
        self.waiter.token
    }

    /// The locks that it holds.
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// Its session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Until when the lock is sure to be held, as time since the machine was started. See [`Session::deadline`].
    pub fn deadline(&self) -> Duration {
        self.session.deadline()
    }

    /// How much longer the lock is sure to be held.
    pub fn left(&self) -> Duration {
        self.session.left()
    }

    /// Waits until the lock is lost: its session was not kept alive until the deadline, or was ended, or somebody took the
    /// lock away. Then stop what the lock is for. Cancel-safe.
    pub async fn lost(&mut self) {
        select! {
            _ = self.waiter.lost() => {}
            () = self.session.lost() => {}
        }
    }

    /// Publishes another value about the holder, as the leader of an election does.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn proclaim(&self, value: impl Into<bytes::Bytes>) -> Result<(), LockError> {
        let command = LockCommand::Proclaim {
            name: self.names[0].clone(),
            session: self.session.id(),
            token: self.waiter.token,
            value: value.into(),
        };
        self.waiter.client.execute(&command).await.map(drop)
    }

    /// Releases the lock, and waits until the voters have agreed on that: then the next one has it.
    ///
    /// # Errors
    ///
    /// See [`LockError`]. The lock is released all the same when its session ends.
    pub async fn release(self) -> Result<(), LockError> {
        self.session.clone().end().await
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // Clones of the session may live on; a session that was ended is not ended twice.
        self.session.end_in_background();
    }
}
