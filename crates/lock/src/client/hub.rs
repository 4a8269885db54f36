//! Telling those who wait.
//!
//! One task of a node follows the machine, as long as somebody of the node waits for a lock or holds one: a voter tells each
//! event once to each node, however many wait there. Whenever the task follows anew, and every few seconds besides, it asks
//! how all the places are that it has somebody for. So what is not told is found out.

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
    message::{Change, Event, MAX_PLACES, PlaceState, Question, decode, encode},
};

/// How many events are kept for who is told only later which place is theirs.
const RECENT: usize = 4096;
/// How often it is asked how places are.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// How long the task goes on when nobody waits or holds any more.
const LINGER: Duration = Duration::from_secs(5);
/// The pause before it follows anew.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Hub {
    store: Store,
    runtime: Handle,
    state: Mutex<State>,
    /// It should be asked how places are, or somebody came.
    look: Notify,
}

#[derive(Debug, Default)]
struct State {
    places: BTreeMap<u64, watch::Sender<Option<Change>>>,
    recent: VecDeque<(u64, Change)>,
    /// How often it has followed anew.
    epoch: u64,
    tickets: usize,
    runs: bool,
}

/// Somebody who may wait or hold.
#[derive(Debug)]
pub(super) struct Ticket {
    hub: Arc<Hub>,
    /// What the epoch was when it began, if the hub followed then.
    epoch: u64,
    place: Option<(u64, watch::Receiver<Option<Change>>)>,
}

impl Hub {
    pub(super) fn new(store: Store) -> Arc<Self> {
        let (state, look) = (Mutex::default(), Notify::new());
        Arc::new(Self { store, runtime: Handle::current(), state, look })
    }

    /// Has something done in the background.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody comes, before it asks for a place: from now on nothing is missed.
    pub(super) fn enter(hub: &Arc<Self>) -> Ticket {
        let mut state = hub.lock();
        state.tickets += 1;
        if !state.runs {
            state.runs = true;
            hub.runtime.spawn(run(Arc::downgrade(hub)));
        }
        Ticket { hub: Arc::clone(hub), epoch: state.epoch, place: None }
    }

    /// Whether nobody needs the task any more, which ends then.
    fn is_unused(&self) -> bool {
        let mut state = self.lock();
        state.runs = state.tickets > 0;
        !state.runs
    }

    /// Tells whoever has a place what is new of it.
    fn see(&self, token: u64, change: Change) {
        // Nobody waits for that.
        if matches!(change, Change::Waits | Change::Proclaimed) {
            return;
        }
        let mut state = self.lock();
        if state.recent.len() == RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back((token, change));
        if let Some(place) = state.places.get(&token) {
            place.send_replace(Some(change));
        }
    }

    /// Asks how all places are.
    async fn ask(&self) {
        let mut from = 0;
        loop {
            let tokens: Vec<u64> = self.lock().places.range(from..).take(MAX_PLACES).map(|(token, _)| *token).collect();
            let Some(last) = tokens.last() else { return };
            from = last + 1;
            let Ok(answer) = self.store.query(NAME, encode(&Question::Places(tokens.clone()))).await else { return };
            let Ok(states) = decode::<Vec<PlaceState>>(&answer) else { return };
            let state = self.lock();
            for (token, now) in tokens.iter().zip(states) {
                let Some(place) = state.places.get(token) else { continue };
                let change = match now {
                    PlaceState::Waits => continue,
                    PlaceState::Held => Change::Granted,
                    PlaceState::Gone => Change::Ended,
                };
                // What was told is more exact.
                place.send_if_modified(|known| {
                    let is_news = match known {
                        None => true,
                        Some(Change::Granted) => change == Change::Ended,
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

/// Follows as long as somebody needs it.
async fn run(hub: Weak<Hub>) {
    loop {
        let Some(hub) = hub.upgrade() else { return };
        match hub.store.subscribe(NAME).await {
            Ok(events) => {
                hub.lock().epoch += 1;
                if follow(&hub, events).await {
                    return;
                }
            }
            Err(error) => {
                debug!(%error, "locks are not followed");
                // Questions may be answered all the same.
                hub.ask().await;
            }
        }
        if hub.is_unused() {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Gives whether nobody needs it any more.
async fn follow(hub: &Hub, mut events: EventStream) -> bool {
    hub.ask().await;
    let mut ask_at = Instant::now() + ASK_EVERY;
    let mut unused_since = None;
    loop {
        select! {
            event = events.next() => {
                let Some(event) = event else { return false };
                match Event::decode(&event) {
                    Ok(event) => hub.see(event.token, event.change),
                    Err(error) => debug!(%error, "an event of locks cannot be read"),
                }
            }
            () = hub.look.notified() => hub.ask().await,
            () = sleep_until(ask_at) => {
                ask_at = Instant::now() + ASK_EVERY;
                hub.ask().await;
            }
        }
        if hub.lock().tickets > 0 {
            unused_since = None;
        } else if unused_since.get_or_insert_with(Instant::now).elapsed() >= LINGER && hub.is_unused() {
            return true;
        }
    }
}

impl Ticket {
    /// That a place is granted, or has ended: at first the last thing that happened, then what does next.
    pub(super) async fn next_change(&mut self, token: u64) -> Change {
        if self.place.is_none() {
            let mut state = self.hub.lock();
            let seen = state.recent.iter().rev().find(|(each, _)| *each == token).map(|(_, change)| *change);
            let (place, mut receiver) = watch::channel(seen);
            receiver.mark_changed();
            state.places.insert(token, place);
            // Since it has asked for its place, something may have happened that was not told here.
            if seen.is_none() && self.epoch != state.epoch {
                self.hub.look.notify_one();
            }
            self.place = Some((token, receiver));
        }
        let (_, changes) = self.place.as_mut().expect("it was just set");
        loop {
            if changes.changed().await.is_err() {
                // The hub has its end of it as long as this ticket is there.
                std::future::pending::<()>().await;
            }
            if let Some(change) = *changes.borrow_and_update() {
                return change;
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.tickets -= 1;
        if let Some((token, _)) = &self.place {
            state.places.remove(token);
        }
    }
}
