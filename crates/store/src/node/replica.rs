//! The state that a voter has, with those who watch it.

use std::{
    collections::HashMap,
    io::{self, BufReader, BufWriter, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::followers::Followers;
use crate::{
    Error,
    keys::{Keys, Poll, Watch, WatchEvent, WatchHub, WatchId},
    machine::{At, Command, Machines, State},
    raft::{Applied, Input, MAX_SNAPSHOT, Replicated, Shared, Stop},
};

/// Watchers of one voter.
const WATCHERS: usize = 1 << 17;

/// See the [module](self).
#[derive(Debug)]
pub struct Replica {
    /// What all voters have alike.
    pub state: State,
    machines: Machines,
    watchers: Arc<Watchers>,
    followers: Arc<Followers>,
}

/// Those who watch keys. The hub is only used while the state cannot change: the state is locked first.
#[derive(Debug)]
pub(super) struct Watchers {
    hub: Mutex<WatchHub>,
    wake: Mutex<HashMap<WatchId, Arc<Notify>>>,
}

impl Watchers {
    fn new(keys: &Keys) -> Self {
        Self { hub: Mutex::new(WatchHub::new(WATCHERS, keys)), wake: Mutex::default() }
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
    /// An empty one with these machines.
    pub fn new(machines: Machines) -> Self {
        let state = State::with(machines.make());
        Self { watchers: Arc::new(Watchers::new(state.keys())), followers: Arc::default(), state, machines }
    }

    pub(super) fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    pub(super) fn followers(&self) -> &Followers {
        &self.followers
    }
}

impl Replicated for Replica {
    type Copy = State;

    fn apply(&mut self, entry: Applied<'_>) -> Result<Bytes, Stop> {
        let Input::Command(command) = entry.input else { return Ok(Bytes::new()) };
        let stop = |stop: crate::Stop| Stop(stop.to_string());
        let command = Command::decode(command).map_err(stop)?;
        let outcome = self.state.apply(At { index: entry.index, term: entry.term }, &command).map_err(stop)?;
        let woken = self.watchers.hub().applied(self.state.keys());
        self.watchers.wake(&woken);
        for (machine, event) in self.state.take_told() {
            self.followers.tell(machine, event);
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
        (self.watchers, self.followers) = (Arc::clone(&former.watchers), Arc::clone(&former.followers));
        self.followers.end();
        let woken = self.watchers.hub().installed(self.state.keys());
        self.watchers.wake(&woken);
    }
}

/// One who watches, until it is dropped.
#[derive(Debug)]
pub struct Watcher {
    state: Shared<Replica>,
    watchers: Arc<Watchers>,
    id: WatchId,
    notify: Arc<Notify>,
}

impl Watcher {
    /// Begins to watch; gives also the newest revision at that time.
    pub fn begin(state: &Shared<Replica>, watch: Watch) -> Result<(Self, u64), Error> {
        state.read(|replica, _| {
            let keys = replica.state.keys();
            let id = replica.watchers.hub().watch(watch, keys)?;
            let (watchers, notify) = (Arc::clone(&replica.watchers), Arc::new(Notify::new()));
            watchers.wake.lock().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&notify));
            Ok((Self { state: state.clone(), watchers, id, notify }, keys.revision()))
        })
    }

    /// What there is to tell now, or later.
    pub async fn next(&mut self) -> WatchEvent {
        loop {
            let polled = self.state.read(|replica, _| self.watchers.hub().poll(self.id, replica.state.keys()));
            match polled {
                Poll::Ready(event) => return event,
                Poll::Again => tokio::task::yield_now().await,
                Poll::Idle => self.notify.notified().await,
            }
        }
    }

    /// Has it told how far it is, once it is there.
    pub(super) fn ask_progress(&self) {
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
