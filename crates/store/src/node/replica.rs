//! The replicated state as a voter has it: what Raft applies entries to, with its watchers and subscribers.

use std::{
    collections::HashMap,
    io::{self, BufReader, BufWriter, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::subscribers::EventSubscribers;
use crate::{
    Error,
    keys::{Keys, Watch, WatchEvent, WatchHub, WatchId, WatchPoll},
    machine::{Command, LogId, Machines, State},
    raft::{CommittedEntry, EntryContent, EntryError, MAX_SNAPSHOT, ReplicatedState, SharedState},
};

/// How many watchers a voter takes.
const MAX_WATCHERS: usize = 1 << 17;

/// A voter's copy of the replicated state. Raft calls it through [`ReplicatedState`].
#[derive(Debug)]
pub struct Replica {
    /// What is equal on all voters.
    pub state: State,
    machines: Machines,
    watchers: Arc<Watchers>,
    subscribers: Arc<EventSubscribers>,
}

/// The watchers of keys at this voter. Lock the state before the hub: a hub must never see keys that change meanwhile.
#[derive(Debug)]
pub(super) struct Watchers {
    hub: Mutex<WatchHub>,
    wake: Mutex<HashMap<WatchId, Arc<Notify>>>,
}

impl Watchers {
    fn new(keys: &Keys) -> Self {
        Self { hub: Mutex::new(WatchHub::new(MAX_WATCHERS, keys)), wake: Mutex::default() }
    }

    fn hub(&self) -> MutexGuard<'_, WatchHub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, ids: &[WatchId]) {
        if ids.is_empty() {
            return;
        }
        let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        ids.iter().filter_map(|id| wake.get(id)).for_each(|notify| notify.notify_one());
    }

    pub(super) fn count(&self) -> usize {
        self.hub().len()
    }
}

impl Replica {
    /// The empty state, with these machines.
    pub fn new(machines: Machines) -> Self {
        let state = State::with(machines.make());
        Self { watchers: Arc::new(Watchers::new(state.keys())), subscribers: Arc::default(), state, machines }
    }

    pub(super) fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    pub(super) fn subscribers(&self) -> &EventSubscribers {
        &self.subscribers
    }
}

impl ReplicatedState for Replica {
    type Copy = State;

    fn apply(&mut self, entry: CommittedEntry<'_>) -> Result<Bytes, EntryError> {
        let EntryContent::Command(command) = entry.input else { return Ok(Bytes::new()) };
        let stop = |stop: crate::ApplyError| EntryError(stop.to_string());
        let command = Command::decode(command).map_err(stop)?;
        let outcome = self.state.apply(LogId { index: entry.index, term: entry.term }, &command).map_err(stop)?;
        let woken = self.watchers.hub().observe(self.state.keys());
        self.watchers.wake(&woken);
        for (machine, event) in self.state.take_events() {
            self.subscribers.publish(machine, event);
        }
        Ok(outcome.encode().into())
    }

    fn copy(&self) -> State {
        self.state.copy()
    }

    fn write(copy: State, out: &mut dyn Write) -> io::Result<()> {
        let mut out = BufWriter::new(out);
        copy.write_snapshot(&mut out)?;
        out.flush()
    }

    fn empty(&self) -> Self {
        Self::new(self.machines.clone())
    }

    fn read(self, input: &mut dyn Read) -> io::Result<Self> {
        let state = State::read_snapshot(self.machines.make(), &mut BufReader::new(input), MAX_SNAPSHOT);
        let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        Ok(Self { watchers: Arc::new(Watchers::new(state.keys())), state, ..self })
    }

    fn succeed(&mut self, former: &Self) {
        (self.watchers, self.subscribers) = (Arc::clone(&former.watchers), Arc::clone(&former.subscribers));
        self.subscribers.close();
        let woken = self.watchers.hub().observe_snapshot(self.state.keys());
        self.watchers.wake(&woken);
    }
}

/// A watcher at this voter. Its drop cancels the watch.
#[derive(Debug)]
pub struct Watcher {
    state: SharedState<Replica>,
    watchers: Arc<Watchers>,
    id: WatchId,
    notify: Arc<Notify>,
}

impl Watcher {
    /// Begins a watch. Also returns the newest revision at that moment.
    pub fn begin(state: &SharedState<Replica>, watch: Watch) -> Result<(Self, u64), Error> {
        state.read(|replica, _| {
            let keys = replica.state.keys();
            let id = replica.watchers.hub().watch(watch, keys)?;
            let (watchers, notify) = (Arc::clone(&replica.watchers), Arc::new(Notify::new()));
            watchers.wake.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&notify));
            Ok((Self { state: state.clone(), watchers, id, notify }, keys.revision()))
        })
    }

    /// The next event; waits until there is one.
    pub async fn next(&mut self) -> WatchEvent {
        loop {
            let polled = self.state.read(|replica, _| self.watchers.hub().poll(self.id, replica.state.keys()));
            match polled {
                WatchPoll::Ready(event) => return event,
                WatchPoll::Again => tokio::task::yield_now().await,
                WatchPoll::Idle => self.notify.notified().await,
            }
        }
    }

    /// Requests a progress event, which comes after all changes so far.
    pub(super) fn request_progress(&self) {
        self.state.read(|_, _| self.watchers.hub().request_progress(self.id));
        self.notify.notify_one();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.wake.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.state.read(|_, _| self.watchers.hub().cancel(self.id));
    }
}
