//! A session of a client, kept alive by a task of its own, on the client's own clock.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use broadcast_lock::{LockSessionConfig, message::FIRST_SESSION_ID};
use broadcast_store::raft::{ConsensusError, read_index};
use openraft::{async_runtime::WatchReceiver as _, type_config::TypeConfigExt as _};

use crate::{
    history::SessionRecord,
    network::{C, Peer, World},
    session::{RequestFailure, Session as Requests},
    voter::{Clock, now},
};

/// What a client counts on of a time to live: clocks differ by up to 2 % here, far more than real ones do.
fn least(ttl: Duration) -> Duration {
    ttl * 98 / 100
}

/// A session, until it is dropped; then nobody keeps it alive.
pub(crate) struct ClientSession {
    pub(crate) id: i64,
    world: World,
    clock: Clock,
    ttl: Duration,
    state: Arc<Mutex<State>>,
}

struct State {
    /// By the client's clock.
    deadline: Duration,
    /// It is known to have ended.
    ended: bool,
    /// Nobody keeps it alive any more.
    stopped: bool,
    /// Until then the client does nothing.
    paused_until: Duration,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no panic")
}

impl ClientSession {
    /// A session that is about to be opened.
    pub(crate) fn begin(world: &World, clock: Clock, config: &LockSessionConfig) -> Self {
        let id = FIRST_SESSION_ID + world.below(1 << 56) as i64;
        let ttl = Duration::from_secs(config.ttl.into());
        let lifetime = ttl + Duration::from_secs(config.lock_delay.into());
        world.lock().history.sessions.insert(id, SessionRecord { lifetime, last_keepalive: now() });
        let deadline = clock.now() + least(ttl);
        let state = State { deadline, ended: false, stopped: false, paused_until: Duration::ZERO };
        Self { id, world: world.clone(), clock, ttl, state: Arc::new(Mutex::new(state)) }
    }

    /// It is open: from now on it is kept alive.
    pub(crate) fn keep(&self, voters: u64) {
        let (world, id, clock, ttl) = (self.world.clone(), self.id, self.clock, self.ttl);
        drop(C::spawn(keep(world, voters, id, clock, ttl, self.state.clone())));
    }

    /// How long it is sure to live.
    pub(crate) fn left(&self) -> Duration {
        let state = lock(&self.state);
        if state.ended { Duration::ZERO } else { state.deadline.saturating_sub(self.clock.now()) }
    }

    /// Until when it is sure to live, in the time of the simulation.
    pub(crate) fn deadline(&self) -> Duration {
        (lock(&self.state).deadline - self.clock.offset) * 1_000_000 / self.clock.rate
    }

    /// Nobody keeps it alive any more.
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
    }

    /// The whole client is stopped for so long, and does not know.
    pub(crate) async fn pause(&self, time: Duration) {
        lock(&self.state).paused_until = now() + time;
        C::sleep(time).await;
    }

    /// A time beyond its time to live.
    pub(crate) fn beyond_ttl(&self) -> Duration {
        self.ttl + Duration::from_millis(self.world.below(6000))
    }
}

impl Drop for ClientSession {
    fn drop(&mut self) {
        self.stop();
    }
}

/// As a voter does it.
async fn keep_alive(peer: Peer, session: i64) -> Result<Option<Duration>, RequestFailure> {
    let asked = peer.clock.now();
    match read_index(&peer.raft).await {
        Ok(()) => {}
        Err(ConsensusError::NotLeader { leader }) => return Err(RequestFailure::NotLeader(leader)),
        Err(_) => return Err(RequestFailure::Lost),
    }
    let term = peer.raft.metrics().borrow_watched().current_term;
    peer.state.read(|replica, _| {
        let state = &replica.state;
        let Some((ttl, promised)) = state.leases().ttl(session).zip(state.guaranteed_ttl(session)) else {
            return Ok(None);
        };
        let mut timers = peer.timers.lock().expect("no panic");
        if timers.term() != Some(term) {
            return Err(RequestFailure::NotLeader(None));
        }
        timers.ensure(asked, session, ttl);
        Ok(timers.keep_alive(asked, session).map(|lives| lives.min(Duration::from_secs(promised as u64))))
    })
}

/// Sends keepalives, as the client of a node does.
async fn keep(world: World, voters: u64, id: i64, clock: Clock, ttl: Duration, state: Arc<Mutex<State>>) {
    let mut requests = Requests::new(world.clone(), voters);
    C::sleep(ttl / 3).await;
    loop {
        loop {
            let paused = lock(&state).paused_until.saturating_sub(now());
            if paused.is_zero() {
                break;
            }
            C::sleep(paused).await;
        }
        let (sent, sent_at) = (clock.now(), now());
        let left = {
            let mut state = lock(&state);
            let left = state.deadline.saturating_sub(sent);
            state.ended |= left.is_zero();
            if state.ended || state.stopped {
                return;
            }
            left
        };
        match C::timeout(left, requests.ask(|peer| keep_alive(peer, id))).await {
            Ok(Some(Some(lives))) => {
                lock(&state).deadline = sent + least(lives);
                world.lock().history.note_keepalive(id, sent_at);
                C::sleep(ttl / 3).await;
            }
            Ok(Some(None)) => {
                let mut state = lock(&state);
                if !state.stopped && clock.now() < state.deadline {
                    world.lock().history.lost_sessions.push(id);
                }
                state.ended = true;
                return;
            }
            Ok(None) => C::sleep(Duration::from_millis(200)).await,
            Err(_) => {}
        }
    }
}
