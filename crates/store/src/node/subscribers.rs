//! The subscribers of machines' events, at one voter.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::broadcast::{Receiver, Sender};

/// How many events may wait for a subscriber. One that is further behind is at its end.
const MAX_WAITING: usize = 4096;

/// The channel of each machine that has subscribers, by the machine's name.
#[derive(Debug, Default)]
pub(super) struct EventSubscribers(Mutex<HashMap<String, Sender<Bytes>>>);

impl EventSubscribers {
    /// Gives an event to all subscribers of its machine.
    pub(super) fn publish(&self, machine: &str, event: Bytes) {
        let mut channels = self.lock();
        // Sending fails once there is no subscriber left.
        if channels.get(machine).is_some_and(|channel| channel.send(event).is_err()) {
            channels.remove(machine);
        }
    }

    /// Ends all subscriptions: a snapshot took the place of the state, and the events that led to it are not known.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    /// Subscribes to the events of a machine from now on.
    pub(super) fn subscribe(&self, machine: String) -> Receiver<Bytes> {
        self.lock().entry(machine).or_insert_with(|| Sender::new(MAX_WAITING)).subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Sender<Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
