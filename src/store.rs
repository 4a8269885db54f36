//! A node's access to the replicated store and its locks.
//!
//! | node | its store |
//! |---|---|
//! | with the role voter | starts with the role, on a thread and a runtime of its own |
//! | without the role | starts at the first request, on the runtime of the caller |
//!
//! So neither HTTP nor gossip holds up Raft, and a node that does not use the store spends nothing on it. A call between nodes
//! is driven by the runtime on which it begins. So all requests of a voter run on the store's own runtime, whoever makes
//! them.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use crate::{
    failed_holders,
    lock_times::{LockTimes, LockTimesRecorder},
};
use broadcast::Handle;
use broadcast_lock::{LockError, LockSessionConfig, Locks, client::session_config};
use broadcast_session::Sessions;
use broadcast_store::{
    RuntimeBridge, Store, StoreConfig, StoreError,
    keys::{Watch, WatchEvent},
    machine::Machines,
    node::StoreStats,
};
use tokio::{
    runtime,
    sync::{OnceCell, mpsc, watch},
    time::{sleep, timeout},
};

/// How long a voter may take to stop and have another one lead. The rest of the 2 seconds is for leaving the cluster.
const STOP_TIMEOUT: Duration = Duration::from_millis(1000);
/// How many events wait for a slow watcher.
const MAX_QUEUED_EVENTS: usize = 16;
/// How often a watch without changes reports its progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);

/// The state machines of voters besides the one for keys.
pub(crate) fn machines() -> Machines {
    Machines::default().with(Locks::machine)
}

/// See the [module](self). Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct NodeStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: Handle,
    sessions: broadcast_session::SessionConfig,
    /// The voters that found the store; empty on a node that does not vote.
    voters: Vec<String>,
    data: Option<PathBuf>,
    /// The store of a node that does not vote, from its first request on.
    client: OnceCell<RunningStore>,
    /// The store of a voter, or why it did not start; nothing before that is known.
    voter: watch::Sender<Option<Result<RunningStore, String>>>,
    /// Tells a voter to stop.
    stop: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
    /// The way to the store's runtime, from the first request on.
    bridge: OnceLock<RuntimeBridge>,
    lock_times: LockTimesRecorder,
}

/// A store that has started.
#[derive(Clone)]
struct RunningStore {
    store: Store,
    locks: broadcast_lock::LockClient,
    runtime: runtime::Handle,
}

impl RunningStore {
    /// A store on the runtime of the caller.
    fn new(store: Store, node: &Handle) -> Self {
        let locks = broadcast_lock::LockClient::new(store.clone(), node.name());
        Self { store, locks, runtime: runtime::Handle::current() }
    }
}

impl fmt::Debug for RunningStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

/// The folder of a voter's store in its data directory.
pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("store")
}

impl NodeStore {
    /// The store of `node`. The node votes if there are `voters`, and keeps its state in a folder of `data`, if there is one.
    pub(crate) fn new(node: Handle, insecure_sessions: bool, voters: Vec<String>, data: Option<&Path>) -> Self {
        let (voter, stop, stopped) = (watch::Sender::new(None), watch::Sender::new(false), watch::Sender::new(false));
        let sessions = broadcast_session::SessionConfig::default().insecure_sessions(insecure_sessions);
        let data = data.map(folder);
        Self(Arc::new(Inner {
            node,
            sessions,
            voters,
            data,
            client: OnceCell::new(),
            voter,
            stop,
            stopped,
            bridge: OnceLock::new(),
            lock_times: LockTimesRecorder::default(),
        }))
    }

    /// Votes until the voter cannot go on, and returns why. Must be called once at most.
    pub(crate) async fn vote(&self) -> String {
        let me = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("store".into()).spawn(move || me.run_voter());
        if let Err(error) = thread {
            let why = format!("the system gives no thread: {error}");
            self.0.voter.send_replace(Some(Err(why.clone())));
            return why;
        }
        match self.0.voter_store().await {
            Ok(running) => running.store.failure().await,
            Err(why) => why,
        }
    }

    /// Stops voting within a second. If this voter leads, it has another one lead first.
    pub(crate) async fn stop(&self) {
        if matches!(&*self.0.voter.borrow(), Some(Ok(_))) {
            self.0.stop.send_replace(true);
            let mut stopped = self.0.stopped.subscribe();
            // A disk may hang.
            let _ = timeout(STOP_TIMEOUT, stopped.wait_for(|stopped| *stopped)).await;
        }
    }

    /// The metrics of the store, if it has started. Asking for them does not start it.
    pub(crate) fn stats(&self) -> Option<StoreStats> {
        let voter = self.0.voter.borrow();
        let voter = voter.as_ref().and_then(|started| started.as_ref().ok());
        self.0.client.get().or(voter).map(|running| running.store.stats())
    }

    /// The store and its runtime, on which all its requests must run.
    pub(crate) async fn running(&self) -> Result<(Store, runtime::Handle), StoreError> {
        let RunningStore { store, runtime, .. } = self.0.running().await?;
        Ok((store, runtime))
    }

    /// Runs `work` on the store's runtime.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Store) -> F + Send + 'static) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.run_on_store(|running| work(running.store)).await
    }

    /// Runs `work` with the client of locks on the store's runtime.
    pub(crate) async fn run_locks<T, F>(
        &self,
        work: impl FnOnce(broadcast_lock::LockClient) -> F + Send + 'static,
    ) -> Result<T, LockError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LockError>> + Send + 'static,
    {
        self.run_on_store(|running| work(running.locks)).await
    }

    /// Runs `work` on the store's runtime, and ends it if the caller goes away.
    async fn run_on_store<T, E, F>(&self, work: impl FnOnce(RunningStore) -> F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let running = self.0.running().await?;
        // From where most requests come: the thread that serves the clients of the HTTP API.
        let bridge = self.0.bridge.get_or_init(|| RuntimeBridge::to(&running.runtime));
        bridge.run(work(running)).await.unwrap_or_else(|_| Err(stopped().into()))
    }

    /// The configuration of a session that is opened through this node now, with the shortest TTL.
    pub(crate) fn session_config(&self) -> LockSessionConfig {
        session_config(self.0.node.name(), Duration::ZERO, "")
    }

    /// Spawns `work` with the client of locks on the store's runtime.
    pub(crate) async fn spawn_locks<F>(
        &self,
        work: impl FnOnce(broadcast_lock::LockClient) -> F + Send + 'static,
    ) -> Result<(), StoreError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let RunningStore { locks, runtime, .. } = self.0.running().await?;
        runtime.spawn(work(locks));
        Ok(())
    }

    /// Looks at the locks as this voter has them, which may be behind. Gives nothing on a node that does not vote.
    pub(crate) fn look_at_locks<T>(&self, look: impl FnOnce(&Locks) -> T) -> Option<T> {
        let voter = self.0.voter.borrow();
        voter.as_ref()?.as_ref().ok()?.store.local(look)
    }

    /// How long locks were waited for and held, while this voter led.
    pub(crate) fn lock_times(&self) -> LockTimes {
        self.0.lock_times.times()
    }

    /// Watches keys of the store with this id, or of any store if that is 0. Each event comes with the store's id. The store
    /// waits for a slow watcher, and keeps nothing for it.
    pub(crate) async fn watch(
        &self,
        store_id: u64,
        watch: Watch,
    ) -> Result<mpsc::Receiver<Result<(u64, WatchEvent), StoreError>>, StoreError> {
        let RunningStore { store, runtime, .. } = self.0.running().await?;
        let (sender, events) = mpsc::channel(MAX_QUEUED_EVENTS);
        runtime.spawn(async move {
            let mut watch = store.watch(watch).of(store_id);
            loop {
                let event = tokio::select! {
                    event = watch.next() => event,
                    () = sleep(PROGRESS_INTERVAL) => {
                        watch.request_progress().await;
                        continue;
                    }
                    () = sender.closed() => return,
                };
                let event = match event {
                    Ok(Some(event)) => Ok((watch.store(), event)),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                let ends = matches!(
                    event,
                    Err(StoreError::Stopped(_)
                        | StoreError::Refused(_)
                        | StoreError::OtherStore { .. }
                        | StoreError::NotPossible { .. })
                );
                if sender.send(event).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(events)
    }
}

impl Inner {
    async fn running(&self) -> Result<RunningStore, StoreError> {
        if !self.voters.is_empty() {
            return self.voter_store().await.map_err(StoreError::Stopped);
        }
        let start = async || {
            let problem = |error: &dyn fmt::Display| StoreError::Stopped(error.to_string());
            let sessions = Sessions::start(&self.node, self.sessions).await.map_err(|error| problem(&error))?;
            let store = Store::start(&sessions, StoreConfig::default()).await.map_err(|error| problem(&error))?;
            Ok(RunningStore::new(store, &self.node))
        };
        self.client.get_or_try_init(start).await.cloned()
    }

    /// The store of a voter, once it has started.
    async fn voter_store(&self) -> Result<RunningStore, String> {
        let mut voter = self.voter.subscribe();
        let started = voter.wait_for(Option::is_some).await.expect("self has the sender");
        started.clone().expect("wait_for ensures it")
    }

    /// Runs a voter, on its own thread.
    fn run_voter(&self) {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(self.voter.send_replace(Some(Err(error.to_string())))),
        };
        runtime.block_on(async {
            let start = async {
                let sessions = Sessions::start(&self.node, self.sessions).await.map_err(|error| error.to_string())?;
                let config = StoreConfig::default().voters(&self.voters).machines(machines());
                let config = self.data.iter().fold(config, StoreConfig::data);
                Store::start(&sessions, config).await.map_err(|error| error.to_string())
            };
            let running = start.await.map(|store| RunningStore::new(store, &self.node));
            self.voter.send_replace(Some(running.clone()));
            let Ok(RunningStore { store, locks, .. }) = running else { return };
            tokio::spawn(failed_holders::release(self.node.clone(), locks.clone()));
            tokio::spawn(self.lock_times.clone().run(locks));
            let mut stop = self.stop.subscribe();
            stop.wait_for(|stop| *stop).await.expect("self has the sender");
            store.stop().await;
        });
        // Does not wait for a sync that hangs.
        runtime.shutdown_background();
        self.stopped.send_replace(true);
    }
}

fn stopped() -> StoreError {
    StoreError::Stopped("it is about to leave its cluster".into())
}
