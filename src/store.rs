//! The replicated store, as a node of the program has it.
//!
//! | a node | its store |
//! |---|---|
//! | with the role voter | begins with the role, on a thread and a runtime of its own, so that neither HTTP nor gossip holds up Raft |
//! | without it | begins at the first request, on the runtime of who asks; until then it takes no thread, no task and no memory |
//!
//! Calls between nodes are driven by the runtime that they begin on. So all requests of a voter are carried out on the
//! store's own, whoever asks.

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{
    failed_holders,
    lock_times::{Counted, LockTimes},
};
use broadcast::Handle;
use broadcast_lock::{LockError, LockSessionConfig, Locks, client::session_config};
use broadcast_session::Sessions;
use broadcast_store::{
    Store, StoreConfig, StoreError,
    keys::{Watch, WatchEvent},
    machine::Machines,
    node::StoreStats,
};
use tokio::{
    runtime,
    sync::{OnceCell, mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long a voter may take to stop: it has another one lead first. What is left of 2 seconds is for the good-bye.
const STOP: Duration = Duration::from_millis(1000);
/// Events of a watch that wait for who watches.
const EVENTS: usize = 16;
/// How often a watch that has nothing to tell says how far it is.
const PROGRESS: Duration = Duration::from_secs(15);

/// What voters keep besides users' keys.
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
    /// What a voter is to found the store with; empty on a node that does not vote.
    voters: Vec<String>,
    data: Option<PathBuf>,
    /// The store of a node that does not vote, from its first request on.
    first: OnceCell<Running>,
    /// That of a voter, or why there is none.
    voting: watch::Sender<Option<Result<Running, String>>>,
    /// Tells a voter to stop.
    stop: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
    lock_times: Counted,
}

/// A store that has begun.
#[derive(Clone)]
struct Running {
    store: Store,
    locks: broadcast_lock::LockClient,
    runtime: runtime::Handle,
}

impl Running {
    /// On the runtime that this is called on.
    fn new(store: Store, node: &Handle) -> Self {
        let locks = broadcast_lock::LockClient::new(store.clone(), node.name());
        Self { store, locks, runtime: runtime::Handle::current() }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

/// A task that nobody waits for any more is not carried on.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where a voter keeps its store, in its data directory.
pub(crate) fn folder(data: &Path) -> PathBuf {
    data.join("store")
}

impl NodeStore {
    /// The store of `node`. It votes if there are `voters`, and keeps what it knows in a folder of `data`, if there is one.
    pub(crate) fn new(node: Handle, insecure_sessions: bool, voters: Vec<String>, data: Option<&Path>) -> Self {
        let (voting, stop, stopped) = (watch::Sender::new(None), watch::Sender::new(false), watch::Sender::new(false));
        let sessions = broadcast_session::SessionConfig::default().insecure_sessions(insecure_sessions);
        let data = data.map(folder);
        Self(Arc::new(Inner {
            node,
            sessions,
            voters,
            data,
            first: OnceCell::new(),
            voting,
            stop,
            stopped,
            lock_times: Counted::default(),
        }))
    }

    /// Votes until the voter cannot go on; gives why. To be called once.
    pub(crate) async fn vote(&self) -> String {
        let me = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("store".into()).spawn(move || me.run_voter());
        if let Err(error) = thread {
            let why = format!("the system gives no thread: {error}");
            self.0.voting.send_replace(Some(Err(why.clone())));
            return why;
        }
        match self.0.voting().await {
            Ok(running) => running.store.failure().await,
            Err(why) => why,
        }
    }

    /// Has another voter lead, if this one does, and stops voting; within a second.
    pub(crate) async fn stop(&self) {
        if matches!(&*self.0.voting.borrow(), Some(Ok(_))) {
            self.0.stop.send_replace(true);
            let mut stopped = self.0.stopped.subscribe();
            // A disk that hangs is not waited for.
            let _ = timeout(STOP, stopped.wait_for(|stopped| *stopped)).await;
        }
    }

    /// What is counted, once the store has begun; on a node that does not vote, nothing has it begin but a request.
    pub(crate) fn figures(&self) -> Option<StoreStats> {
        let voting = self.0.voting.borrow();
        let voting = voting.as_ref().and_then(|begun| begun.as_ref().ok());
        self.0.first.get().or(voting).map(|running| running.store.stats())
    }

    /// The store, and where it runs: what is asked of it has to be carried out there.
    pub(crate) async fn running(&self) -> Result<(Store, runtime::Handle), StoreError> {
        let Running { store, runtime, .. } = self.0.running().await?;
        Ok((store, runtime))
    }

    /// Carries out `work` where the store runs.
    pub(crate) async fn run<T, F>(&self, work: impl FnOnce(Store) -> F + Send + 'static) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.carry_out(|running| work(running.store)).await
    }

    /// Carries out `work` with locks, where the store runs.
    pub(crate) async fn run_locks<T, F>(
        &self,
        work: impl FnOnce(broadcast_lock::LockClient) -> F + Send + 'static,
    ) -> Result<T, LockError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, LockError>> + Send + 'static,
    {
        self.carry_out(|running| work(running.locks)).await
    }

    /// Where the store runs; not any more once nobody waits for it.
    async fn carry_out<T, E, F>(&self, work: impl FnOnce(Running) -> F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let running = self.0.running().await?;
        let runtime = running.runtime.clone();
        let mut task = Task(runtime.spawn(work(running)));
        (&mut task.0).await.unwrap_or_else(|_| Err(stopped().into()))
    }

    /// What a session of locks is that was opened through this node now, for the shortest time.
    pub(crate) fn session_config(&self) -> LockSessionConfig {
        session_config(self.0.node.name(), Duration::ZERO, "")
    }

    /// Begins `work` with locks, where the store runs.
    pub(crate) async fn spawn_locks<F>(
        &self,
        work: impl FnOnce(broadcast_lock::LockClient) -> F + Send + 'static,
    ) -> Result<(), StoreError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Running { locks, runtime, .. } = self.0.running().await?;
        runtime.spawn(work(locks));
        Ok(())
    }

    /// The locks as this voter has them, which may be behind; nothing on a node that does not vote.
    pub(crate) fn look_at_locks<T>(&self, look: impl FnOnce(&Locks) -> T) -> Option<T> {
        let voting = self.0.voting.borrow();
        voting.as_ref()?.as_ref().ok()?.store.local(look)
    }

    /// How long locks were waited for and held while this voter led.
    pub(crate) fn lock_times(&self) -> LockTimes {
        self.0.lock_times.times()
    }

    /// Watches keys of the store with this id, or of any, if it is 0; each event comes with the id. Whoever takes the events
    /// slowly has the store wait, and not keep them.
    pub(crate) async fn watch(
        &self,
        of: u64,
        watch: Watch,
    ) -> Result<mpsc::Receiver<Result<(u64, WatchEvent), StoreError>>, StoreError> {
        let Running { store, runtime, .. } = self.0.running().await?;
        let (events, told) = mpsc::channel(EVENTS);
        runtime.spawn(async move {
            let mut watch = store.watch(watch).of(of);
            loop {
                let event = tokio::select! {
                    event = watch.next() => event,
                    () = sleep(PROGRESS) => {
                        watch.request_progress().await;
                        continue;
                    }
                    () = events.closed() => return,
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
                if events.send(event).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(told)
    }
}

impl Inner {
    async fn running(&self) -> Result<Running, StoreError> {
        if !self.voters.is_empty() {
            return self.voting().await.map_err(StoreError::Stopped);
        }
        let begin = async || {
            let problem = |error: &dyn fmt::Display| StoreError::Stopped(error.to_string());
            let sessions = Sessions::start(&self.node, self.sessions).await.map_err(|error| problem(&error))?;
            let store = Store::start(&sessions, StoreConfig::default()).await.map_err(|error| problem(&error))?;
            Ok(Running::new(store, &self.node))
        };
        self.first.get_or_try_init(begin).await.cloned()
    }

    /// The store of a voter, once it has begun.
    async fn voting(&self) -> Result<Running, String> {
        let mut voting = self.voting.subscribe();
        let begun = voting.wait_for(Option::is_some).await.expect("its sender is here");
        begun.clone().expect("it was waited for")
    }

    /// What the thread of a voter does.
    fn run_voter(&self) {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(self.voting.send_replace(Some(Err(error.to_string())))),
        };
        runtime.block_on(async {
            let begin = async {
                let sessions = Sessions::start(&self.node, self.sessions).await.map_err(|error| error.to_string())?;
                let config = StoreConfig::default().voters(&self.voters).machines(machines());
                let config = self.data.iter().fold(config, StoreConfig::data);
                Store::start(&sessions, config).await.map_err(|error| error.to_string())
            };
            let begun = begin.await;
            let running = begun.map(|store| Running::new(store, &self.node));
            self.voting.send_replace(Some(running.clone()));
            let Ok(Running { store, locks, .. }) = running else { return };
            tokio::spawn(failed_holders::release(self.node.clone(), locks.clone()));
            tokio::spawn(self.lock_times.clone().follow(locks));
            let mut stop = self.stop.subscribe();
            stop.wait_for(|stop| *stop).await.expect("its sender is here");
            store.stop().await;
        });
        // A sync that hangs is not waited for.
        runtime.shutdown_background();
        self.stopped.send_replace(true);
    }
}

fn stopped() -> StoreError {
    StoreError::Stopped("it is about to leave its cluster".into())
}
