//! Those who follow what machines tell, at one voter.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::broadcast::{Receiver, Sender};

/// Events that wait for one who follows, at most.
const WAITING: usize = 4096;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Followers(Mutex<HashMap<String, Sender<Bytes>>>);

impl Followers {
    /// Whoever follows this machine is told this.
    pub(super) fn tell(&self, machine: &str, event: Bytes) {
        let mut followed = self.lock();
        // Whoever has not left hears it.
        if followed.get(machine).is_some_and(|each| each.send(event).is_err()) {
            followed.remove(machine);
        }
    }

    /// There is another state: what led to it was not told.
    pub(super) fn end(&self) {
        self.lock().clear();
    }

    /// What this machine tells from now on.
    pub(super) fn follow(&self, machine: String) -> Receiver<Bytes> {
        self.lock().entry(machine).or_insert_with(|| Sender::new(WAITING)).subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sender<Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
