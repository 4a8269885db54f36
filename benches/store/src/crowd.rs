//! The cost of very many sessions, and of very many waiters for one lock, for this project's voters.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use broadcast_lock::{
    Name,
    client::{AcquireRequest, EnqueueOutcome, Owner, Session},
};
use tokio::{task::JoinSet, time::sleep};

use crate::{Outcome, load::Client as _, ours, servers::Servers, until};

/// What sessions have that are kept alive.
const TTL: Duration = Duration::from_secs(60);
/// How long voters have to settle, and how long they are watched.
const SETTLE: Duration = Duration::from_secs(10);
const WATCH: Duration = Duration::from_secs(60);
/// How many are opened, or wait, at once.
const AT_ONCE: usize = 256;
/// How many get the lock, one after the other.
const TURNS: usize = 200;

fn mib(servers: &Servers) -> Outcome<f64> {
    let most = servers.resident()?.into_iter().max().unwrap_or_default();
    Ok(most as f64 / f64::from(1 << 20))
}

/// Prints it as a table in Markdown.
pub(crate) async fn measure(program: &Path, folder: &Path, count: usize) -> Outcome<()> {
    let (servers, client) = ours::start(program, folder).await?;
    until(async || client.leader().await).await?;
    sleep(SETTLE).await;
    let at_rest = mib(&servers)?;

    let (began, mut opening, mut sessions) = (Instant::now(), JoinSet::new(), Vec::<Session>::new());
    for _ in 0..count {
        let locks = client.locks.clone();
        opening.spawn(async move { locks.session(locks.session_config(TTL, "crowd")).await });
        if opening.len() == AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            sessions.push(opened??);
        }
    }
    while let Some(opened) = opening.join_next().await {
        sessions.push(opened??);
    }
    let opened = count as f64 / began.elapsed().as_secs_f64();
    sleep(SETTLE).await;
    let with_sessions = mib(&servers)?;
    let (began, cpu) = (Instant::now(), servers.cpu()?);
    sleep(WATCH).await;
    let cpu = (servers.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();

    let name = Name::new("crowd")?;
    let (began, mut asking, mut waiters) = (Instant::now(), JoinSet::new(), Vec::new());
    for session in &sessions {
        let request = AcquireRequest::new(Owner::Session(session.id()), [name.clone()]);
        let locks = client.locks.clone();
        asking.spawn(async move { locks.enqueue(request).await });
        if asking.len() == AT_ONCE
            && let Some(placed) = asking.join_next().await
        {
            waiters.push(placed??);
        }
    }
    while let Some(placed) = asking.join_next().await {
        waiters.push(placed??);
    }
    let queued = count as f64 / began.elapsed().as_secs_f64();
    let mut waiters: Vec<_> = waiters
        .into_iter()
        .map(|placed| match placed {
            EnqueueOutcome::Queued(waiter) => Ok(waiter),
            EnqueueOutcome::Taken(_) => Err("a place was asked for"),
        })
        .collect::<Result<_, _>>()?;
    sleep(SETTLE).await;
    let with_waiters = mib(&servers)?;
    // Whoever came first is last here.
    waiters.sort_unstable_by_key(|waiter| std::cmp::Reverse(waiter.token()));
    let mut handovers = Vec::new();
    let mut holder = waiters.pop().ok_or("nobody waits")?;
    holder.granted().await?;
    for _ in 0..TURNS.min(waiters.len()) {
        let began = Instant::now();
        holder.give_up().await?;
        holder = waiters.pop().ok_or("nobody waits")?;
        holder.granted().await?;
        handovers.push(began.elapsed());
    }
    handovers.sort_unstable();
    let handover = handovers.get(handovers.len() / 2).map_or(0.0, Duration::as_secs_f64);
    let lost = sessions.iter().filter(|session| session.left().is_zero()).count();

    println!("| of {count} sessions with a TTL of {} s, on three voters | |\n|---|---|", TTL.as_secs());
    println!("| opened a second | {opened:.0} |");
    println!("| keepalives a second | {:.0} |", count as f64 * 3.0 / TTL.as_secs_f64());
    println!("| CPU of all voters for these, of a core | {:.1} % |", cpu * 100.0);
    println!("| memory of a voter before, MiB | {at_rest:.1} |");
    println!("| with the sessions | {with_sessions:.1} |");
    println!("| with all of them waiting for one lock | {with_waiters:.1} |");
    println!("| queued a second | {queued:.0} |");
    println!("| from one holder to the next, p50, ms | {:.2} |", handover * 1e3);
    println!("| sessions that were lost | {lost} |");
    // Nobody has to give up all of them one by one.
    waiters.iter_mut().for_each(|waiter| _ = waiter.detach());
    holder.detach();
    servers.stop().await
}
