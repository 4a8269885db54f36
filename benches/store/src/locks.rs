//! Benchmarks of locks, which both systems have: a session or lease for each client, and a lock service of the servers.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::process::Command;

use crate::{Outcome, report::Report, servers::Servers};

/// How long a session lives: longer than all that is measured, so that nobody has to keep it alive.
const TTL: Duration = Duration::from_secs(600);
/// The same of a holder that is lost: the shortest that etcd has.
const LOST_TTL: Duration = Duration::from_secs(2);
/// How many take one lock from each other, and how often each has it.
const WAITERS: usize = 10;
const TURNS: usize = 40;
/// How many commands are run.
const COMMANDS: usize = 40;

/// How many locks are taken.
pub(crate) struct Counts {
    /// By one client alone.
    pub(crate) alone: usize,
    /// By all clients together, and how many they are.
    pub(crate) together: usize,
    pub(crate) clients: usize,
    /// How many holders are lost.
    pub(crate) lost: usize,
}

/// A client that takes locks.
pub(crate) trait Locks: Clone + Send + 'static {
    /// The session or lease that holds locks.
    type Session: Clone + Send + Sync + 'static;
    /// A lock that is held.
    type HeldLock: Send;

    /// Opens a session, for this client.
    fn session(&self, client: usize, ttl: Duration) -> impl Future<Output = Outcome<Self::Session>> + Send;

    /// Takes a lock, and waits for it.
    fn lock(&self, session: &Self::Session, name: &str) -> impl Future<Output = Outcome<Self::HeldLock>> + Send;

    /// Releases it.
    fn unlock(&self, session: &Self::Session, held: Self::HeldLock) -> impl Future<Output = Outcome<()>> + Send;

    /// The command line that runs `true` while it holds a lock.
    fn command(&self, name: &str) -> Command;
}

/// Measures locks, and adds that to a report.
pub(crate) async fn measure<L: Locks>(
    locks: &L,
    servers: &Servers,
    Counts { alone, together, clients, lost }: Counts,
    report: &mut Report,
) -> Outcome<()> {
    pairs(locks, 1, 50).await?;
    report.lock_alone_p50 = median(pairs(locks, 1, alone).await?);
    let (began, cpu) = (Instant::now(), servers.cpu()?);
    let count = pairs(locks, clients, together).await?.len() as f64;
    report.locks_a_second = count / began.elapsed().as_secs_f64();
    report.cpu_a_lock = (servers.cpu()? - cpu).as_secs_f64() / count;
    report.handover_p50 = median(handovers(locks).await?);
    report.command_p50 = median(commands(locks).await?);
    for _ in 0..lost {
        report.lost_holders.push(lost_holder(locks).await?);
    }
    Ok(())
}

/// Takes and releases locks without measuring it: of one client alone, of all together, and one lock of many clients.
pub(crate) async fn exercise<L: Locks>(locks: &L, clients: usize, count: usize) -> Outcome<()> {
    pairs(locks, 1, count / 10).await?;
    pairs(locks, clients, count).await?;
    handovers(locks).await?;
    Ok(())
}

/// How long commands take that hold a lock for nothing.
async fn commands<L: Locks>(locks: &L) -> Outcome<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..COMMANDS {
        let began = Instant::now();
        let done = locks.command("bench/command").output().await?;
        if !done.status.success() {
            return Err(format!("a command fails: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
        times.push(began.elapsed());
    }
    Ok(times)
}

/// How long after the end of a holder's TTL the next one has the lock, in seconds. Nothing is heard of the holder again.
async fn lost_holder<L: Locks>(locks: &L) -> Outcome<f64> {
    let next = locks.session(1, TTL).await?;
    let began = Instant::now();
    let lost = locks.session(0, LOST_TTL).await?;
    let held = locks.lock(&lost, "bench/lost").await?;
    let next_held = locks.lock(&next, "bench/lost").await?;
    let late = began.elapsed().as_secs_f64() - LOST_TTL.as_secs_f64();
    drop(held);
    locks.unlock(&next, next_held).await?;
    Ok(late)
}

/// Has so many clients take and release so many locks in all, each one of its own; gives how long each pair took.
async fn pairs<L: Locks>(locks: &L, clients: usize, count: usize) -> Outcome<Vec<Duration>> {
    let tasks = (0..clients).map(|number| {
        let locks = locks.clone();
        tokio::spawn(async move {
            let (session, name) = (locks.session(number, TTL).await?, format!("bench/own-{number}"));
            let mut times = Vec::with_capacity(count / clients);
            for _ in 0..count / clients {
                let began = Instant::now();
                let held = locks.lock(&session, &name).await?;
                locks.unlock(&session, held).await?;
                times.push(began.elapsed());
            }
            Outcome::Ok(times)
        })
    });
    let mut times = Vec::with_capacity(count);
    for task in tasks.collect::<Vec<_>>() {
        times.extend(task.await??);
    }
    Ok(times)
}

/// How long it takes from the call that releases a lock until the next one knows that it has it.
async fn handovers<L: Locks>(locks: &L) -> Outcome<Vec<Duration>> {
    let released: Arc<Mutex<(Option<Instant>, Vec<Duration>)>> = Arc::default();
    let tasks = (0..WAITERS).map(|number| {
        let (locks, released) = (locks.clone(), Arc::clone(&released));
        tokio::spawn(async move {
            let session = locks.session(number, TTL).await?;
            for _ in 0..TURNS {
                let held = locks.lock(&session, "bench/one").await?;
                {
                    let mut released = released.lock().unwrap_or_else(PoisonError::into_inner);
                    let since = released.0.map(|at| at.elapsed());
                    released.1.extend(since);
                    released.0 = Some(Instant::now());
                }
                locks.unlock(&session, held).await?;
            }
            Outcome::Ok(())
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await??;
    }
    let mut released = released.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut released.1))
}

/// In seconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64)
}
