//! A lock that is held as long as a value is.

use std::time::Duration;

use broadcast_store::node::since_boot;
use tokio::select;

use super::{Client, Owner, Place, Placed, Request, Session};
use crate::{error::LockError, message::SessionConfig, name::Name};

/// A lock that is held. It has a session of its own, which is kept alive. Dropped, the lock is released in the background;
/// [`release`](Self::release) waits for that.
#[derive(Debug)]
pub struct Guard {
    session: Session,
    place: Place,
    names: Vec<Name>,
}

impl Guard {
    pub(super) async fn take(
        client: &Client,
        config: SessionConfig,
        request: impl FnOnce(Owner) -> Request,
        within: Option<Duration>,
    ) -> Result<Self, LockError> {
        let ttl = Duration::from_secs(config.ttl.into());
        let request = request(Owner::New(config));
        let names = request.names.clone();
        let began = since_boot();
        let mut place = match client.place(request).await? {
            Placed::Place(place) => place,
            Placed::Taken(holders) => return Err(LockError::Taken { holders }),
        };
        // The place ends with the session from now on.
        let session = Session::keep(client, place.session(), ttl, began + ttl);
        place.keep();
        let granted = async {
            select! {
                granted = place.granted() => granted,
                () = session.lost() => Err(LockError::Ended { session: session.id() }),
            }
        };
        let granted = match within {
            None => granted.await.map(|()| true),
            Some(within) => {
                tokio::time::timeout(within, granted).await.map_or(Ok(false), |granted| granted.map(|()| true))
            }
        };
        match granted {
            Ok(true) => Ok(Self { session, place, names }),
            Ok(false) => {
                session.end().await?;
                Err(LockError::Taken { holders: client.holders(&names).await })
            }
            Err(error) => Err(error),
        }
    }

    /// Its fencing token: greater than that of every holder before.
    pub fn token(&self) -> u64 {
        self.place.token
    }

    /// The locks.
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

    /// How long it is sure to be held from now on.
    pub fn left(&self) -> Duration {
        self.session.left()
    }

    /// Resolves when it is lost: nobody could keep its session alive until its deadline, the session was ended, or the lock
    /// was taken away. Then stop what the lock is for. Drop-safe.
    pub async fn lost(&mut self) {
        select! {
            _ = self.place.lost() => {}
            () = self.session.lost() => {}
        }
    }

    /// Says something else of itself, as the winner of an election does.
    ///
    /// # Errors
    ///
    /// See [`LockError`].
    pub async fn proclaim(&self, value: impl Into<bytes::Bytes>) -> Result<(), LockError> {
        let command = crate::message::Command::Proclaim {
            name: self.names[0].clone(),
            session: self.session.id(),
            token: self.place.token,
            value: value.into(),
        };
        self.place.client.execute(&command).await.map(drop)
    }

    /// Releases it, and waits until that is agreed on: then the next one has it.
    ///
    /// # Errors
    ///
    /// See [`LockError`]. It is released all the same when its session ends.
    pub async fn release(self) -> Result<(), LockError> {
        self.session.clone().end().await
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Others may have its session, too. One that was ended is not ended once more.
        self.session.end_in_background();
    }
}
