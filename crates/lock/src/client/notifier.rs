//! The notifier: wakes the waiters of a node.
//!
//! One task for each node follows the machine's events, as long as somebody on the node waits for a lock or holds one. So a
//! voter sends each event once to each node, however many wait there. Events may be lost: whenever the task begins to
//! follow anew, and every few seconds besides, it queries the state of all entries that somebody here waits for.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use broadcast_store::{Store, node::EventStream};
use tokio::{
    runtime::Handle,
    select,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::debug;

use crate::{
    machine::NAME,
    message::{EntryChange, EntryState, LockEvent, LockQuery, MAX_ENTRIES_PER_QUERY, decode, encode},
};

/// How many events are kept for waiters that learn their token only after them.
const MAX_RECENT_EVENTS: usize = 4096;
/// How often the states of all entries are queried.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// How long the task goes on without a subscription: another one often comes soon.
const LINGER: Duration = Duration::from_secs(5);
/// The pause before the task follows anew.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Notifier {
    store: Store,
    runtime: Handle,
    state: Mutex<State>,
    /// Asks the task to query all states now.
    poll_now: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By token: the last change of each entry that somebody waits for or holds.
    entries: BTreeMap<u64, watch::Sender<Option<EntryChange>>>,
    recent: VecDeque<(u64, EntryChange)>,
    /// How often the task has begun to follow.
    epoch: u64,
    subscriptions: usize,
    is_running: bool,
}

/// What one waiter listens with.
#[derive(Debug)]
pub(super) struct EntrySubscription {
    notifier: Arc<Notifier>,
    /// The epoch at its beginning. If it has changed since, events may have been missed.
    epoch: u64,
    entry: Option<(u64, watch::Receiver<Option<EntryChange>>)>,
}

impl Notifier {
    pub(super) fn new(store: Store) -> Arc<Self> {
        let (state, poll_now) = (Mutex::default(), Notify::new());
        Arc::new(Self { store, runtime: Handle::current(), state, poll_now })
    }

    /// Runs something in the background, on the store's runtime.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call this before the request is sent: from then on no event is missed.
    pub(super) fn subscribe(notifier: &Arc<Self>) -> EntrySubscription {
        let mut state = notifier.lock();
        state.subscriptions += 1;
        if !state.is_running {
            state.is_running = true;
            notifier.runtime.spawn(run(Arc::downgrade(notifier)));
        }
        EntrySubscription { notifier: Arc::clone(notifier), epoch: state.epoch, entry: None }
    }

    /// Whether nobody needs the task any more. If so, it counts as ended from then on.
    fn stop_if_unused(&self) -> bool {
        let mut state = self.lock();
        state.is_running = state.subscriptions > 0;
        !state.is_running
    }

    /// Passes a change on to the waiter whose entry it is about.
    fn dispatch(&self, token: u64, change: EntryChange) {
        // Nobody waits for these.
        if matches!(change, EntryChange::Queued | EntryChange::Proclaimed) {
            return;
        }
        let mut state = self.lock();
        if state.recent.len() == MAX_RECENT_EVENTS {
            state.recent.pop_front();
        }
        state.recent.push_back((token, change));
        if let Some(entry) = state.entries.get(&token) {
            entry.send_replace(Some(change));
        }
    }

    /// Queries the states of all entries.
    async fn poll(&self) {
        let mut from = 0;
        loop {
            let tokens: Vec<u64> =
                self.lock().entries.range(from..).take(MAX_ENTRIES_PER_QUERY).map(|(token, _)| *token).collect();
            let Some(last) = tokens.last() else { return };
            from = last + 1;
            let query = encode(&LockQuery::EntryStates(tokens.clone()));
            let Ok(answer) = self.store.query(NAME, query).await else { return };
            let Ok(states) = decode::<Vec<EntryState>>(&answer) else { return };
            let state = self.lock();
            for (token, now) in tokens.iter().zip(states) {
                let Some(entry) = state.entries.get(token) else { continue };
                let change = match now {
                    EntryState::Waiting => continue,
                    EntryState::Held => EntryChange::Granted,
                    EntryState::Gone => EntryChange::Ended,
                };
                // An event says more exactly how an entry ended.
                entry.send_if_modified(|known| {
                    let is_news = match known {
                        None => true,
                        Some(EntryChange::Granted) => change == EntryChange::Ended,
                        Some(_) => false,
                    };
                    if is_news {
                        *known = Some(change);
                    }
                    is_news
                });
            }
        }
    }
}

/// Follows the machine as long as somebody needs it.
async fn run(notifier: Weak<Notifier>) {
    loop {
        let Some(notifier) = notifier.upgrade() else { return };
        match notifier.store.subscribe(NAME).await {
            Ok(events) => {
                notifier.lock().epoch += 1;
                if follow(&notifier, events).await {
                    return;
                }
            }
            Err(error) => {
                debug!(%error, "locks are not followed");
                // Queries may be answered all the same.
                notifier.poll().await;
            }
        }
        if notifier.stop_if_unused() {
            return;
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// Follows until the stream ends (`false`), or nobody needs it any more (`true`).
async fn follow(notifier: &Notifier, mut events: EventStream) -> bool {
    notifier.poll().await;
    let mut poll_at = Instant::now() + POLL_INTERVAL;
    let mut unused_since = None;
    loop {
        select! {
            event = events.next() => {
                let Some(event) = event else { return false };
                match LockEvent::decode(&event) {
                    Ok(event) => notifier.dispatch(event.token, event.change),
                    Err(error) => debug!(%error, "an event of locks cannot be read"),
                }
            }
            () = notifier.poll_now.notified() => notifier.poll().await,
            () = sleep_until(poll_at) => {
                poll_at = Instant::now() + POLL_INTERVAL;
                notifier.poll().await;
            }
        }
        if notifier.lock().subscriptions > 0 {
            unused_since = None;
        } else if unused_since.get_or_insert_with(Instant::now).elapsed() >= LINGER && notifier.stop_if_unused() {
            return true;
        }
    }
}

impl EntrySubscription {
    /// The next change of the entry with this token: a grant, or its end. The first call gives the last one that happened.
    pub(super) async fn next_change(&mut self, token: u64) -> EntryChange {
        if self.entry.is_none() {
            let mut state = self.notifier.lock();
            let seen = state.recent.iter().rev().find(|(each, _)| *each == token).map(|(_, change)| *change);
            let (entry, mut receiver) = watch::channel(seen);
            receiver.mark_changed();
            state.entries.insert(token, entry);
            // The task has begun anew since the request was sent: an event may have come in between.
            if seen.is_none() && self.epoch != state.epoch {
                self.notifier.poll_now.notify_one();
            }
            self.entry = Some((token, receiver));
        }
        let (_, changes) = self.entry.as_mut().expect("it was just set");
        loop {
            if changes.changed().await.is_err() {
                // The notifier keeps its end as long as this subscription is there.
                std::future::pending::<()>().await;
            }
            if let Some(change) = *changes.borrow_and_update() {
                return change;
            }
        }
    }
}

impl Drop for EntrySubscription {
    fn drop(&mut self) {
        let mut state = self.notifier.lock();
        state.subscriptions -= 1;
        if let Some((token, _)) = &self.entry {
            state.entries.remove(token);
        }
    }
}
