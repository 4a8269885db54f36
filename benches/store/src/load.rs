//! The load, and the measurements under it, which are the same for both systems.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use tokio::time::sleep;

use crate::{
    Outcome,
    locks::{self, Counts, Locks},
    report::{Report, System},
    servers::Servers,
    until,
};

/// How long servers have to settle before they are watched.
const SETTLE: Duration = Duration::from_secs(5);
/// How long one server has to answer, before the next one is asked.
const ATTEMPT: Duration = Duration::from_secs(10);
/// The same, where a leader is killed: what is lost with it is asked for again soon.
const SHORT_ATTEMPT: Duration = Duration::from_millis(100);
/// How long a client puts before the leader is killed, and after it has been answered again.
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(2);
/// How many keys there are.
const KEYS: usize = 10_000;
/// What is put without measuring it.
const EXERCISE: usize = 20_000;
const EXERCISE_CLIENTS: usize = 64;
const EXERCISE_SIZE: usize = 256;

/// A client that puts keys. Its clones share connections, as in one program.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    /// Which server leads, once all servers are there, follow it and are equal.
    fn leader(&self) -> impl Future<Output = Outcome<usize>>;

    /// Puts a key, for this client, and tries as often as that takes.
    fn put(
        &self,
        client: usize,
        key: Bytes,
        value: Bytes,
        attempt: Duration,
    ) -> impl Future<Output = Outcome<()>> + Send;

    /// Gets a key, linearizable, for this client, and tries as often as that takes. Returns the length of its value.
    fn get(&self, client: usize, key: Bytes, attempt: Duration) -> impl Future<Output = Outcome<usize>> + Send;
}

/// How much is put, by whom, and how long servers are watched.
#[derive(Args)]
pub(crate) struct Load {
    /// How long servers at rest are watched, in seconds.
    #[arg(long, default_value_t = 20)]
    rest: u64,
    /// Puts of one client, one after the other.
    #[arg(long, default_value_t = 2000)]
    alone: usize,
    /// Puts of all clients together, and after them as many gets.
    #[arg(long, default_value_t = 40_000)]
    together: usize,
    /// Clients at once.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Connections that they have to each server of etcd. To a voter they have one.
    #[arg(long, default_value_t = 8)]
    pub(crate) connections: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Locks that one client takes and releases, one after the other.
    #[arg(long, default_value_t = 1000)]
    locks_alone: usize,
    /// Locks of all clients together.
    #[arg(long, default_value_t = 20_000)]
    locks_together: usize,
    /// Holders of a lock that are lost in each round.
    #[arg(long, default_value_t = 5)]
    lost_holders: usize,
    /// Leaders that are killed in each round.
    #[arg(long, default_value_t = 3)]
    kills: usize,
}

impl Load {
    /// Measures servers that have just been started, and ends them.
    pub(crate) async fn measure<C: Client + Locks>(
        &self,
        system: System,
        mut servers: Servers,
        client: C,
    ) -> Outcome<Report> {
        until(async || client.leader().await).await?;
        let mut report = Report::new(system);
        sleep(SETTLE).await;
        report.rest_resident = servers.resident()?;
        let (began, cpu) = (Instant::now(), servers.cpu()?);
        sleep(Duration::from_secs(self.rest)).await;
        report.rest_cpu = (servers.cpu()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64() / 3.0;

        // Connections and whatever else is made at the first puts.
        put_all(&client, 1, 100, self.size).await?;
        (report.alone_p50, report.alone_p99) = percentiles(put_all(&client, 1, self.alone, self.size).await?);
        let (began, cpu) = (Instant::now(), servers.cpu()?);
        let latencies = put_all(&client, self.clients, self.together, self.size).await?;
        let count = latencies.len() as f64;
        report.puts_a_second = count / began.elapsed().as_secs_f64();
        report.cpu_a_put = (servers.cpu()? - cpu).as_secs_f64() / count;
        (report.together_p50, report.together_p99) = percentiles(latencies);
        let (began, cpu) = (Instant::now(), servers.cpu()?);
        let latencies = get_all(&client, self.clients, self.together, self.size).await?;
        let count = latencies.len() as f64;
        report.gets_a_second = count / began.elapsed().as_secs_f64();
        report.cpu_a_get = (servers.cpu()? - cpu).as_secs_f64() / count;
        (report.get_p50, report.get_p99) = percentiles(latencies);
        report.loaded_resident = servers.resident()?;

        let counts = Counts {
            alone: self.locks_alone,
            together: self.locks_together,
            clients: self.clients,
            lost: self.lost_holders,
        };
        locks::measure(&client, &servers, counts, &mut report).await?;
        for _ in 0..self.kills {
            report.gaps.push(self.gap(&mut servers, &client).await?);
        }
        servers.stop().await?;
        Ok(report)
    }

    /// The longest time without an answer that a client has whose leader is killed, in seconds.
    async fn gap<C: Client>(&self, servers: &mut Servers, client: &C) -> Outcome<f64> {
        let leader = until(async || client.leader().await).await?;
        let (began, mut answered, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        let (mut killed, mut first) = (false, None::<Instant>);
        let value = Bytes::from(vec![b'v'; self.size]);
        while first.is_none_or(|first| first.elapsed() < AFTER) {
            if !killed && began.elapsed() >= BEFORE {
                killed = true;
                servers.kill(leader)?;
            }
            client.put(0, "bench/gap".into(), value.clone(), SHORT_ATTEMPT).await?;
            longest = longest.max(answered.elapsed());
            answered = Instant::now();
            if killed {
                first.get_or_insert(answered);
            }
        }
        servers.restart(leader).await?;
        until(async || client.leader().await).await?;
        sleep(AFTER).await;
        Ok(longest.as_secs_f64())
    }
}

/// Puts, gets and locks, alone and together, without measuring it.
pub(crate) async fn exercise<C: Client + Locks>(client: &C) -> Outcome<()> {
    until(async || client.leader().await).await?;
    put_all(client, 1, EXERCISE / 10, EXERCISE_SIZE).await?;
    put_all(client, EXERCISE_CLIENTS, EXERCISE, EXERCISE_SIZE).await?;
    get_all(client, EXERCISE_CLIENTS, EXERCISE, EXERCISE_SIZE).await?;
    locks::exercise(client, EXERCISE_CLIENTS, EXERCISE).await
}

/// Has so many clients put so many keys in all, with values of this size; gives how long each took.
async fn put_all<C: Client>(client: &C, clients: usize, puts: usize, size: usize) -> Outcome<Vec<Duration>> {
    let (client, value) = (client.clone(), Bytes::from(vec![b'v'; size]));
    in_parallel(clients, puts, move |number, key| {
        let (client, value) = (client.clone(), value.clone());
        async move { client.put(number, key, value, ATTEMPT).await }
    })
    .await
}

/// Has so many clients get so many keys in all that were put; gives how long each took.
async fn get_all<C: Client>(client: &C, clients: usize, gets: usize, size: usize) -> Outcome<Vec<Duration>> {
    let client = client.clone();
    in_parallel(clients, gets, move |number, key| {
        let client = client.clone();
        async move {
            let length = client.get(number, key, ATTEMPT).await?;
            if length == size { Ok(()) } else { Err(format!("a value has {length} bytes, not {size}").into()) }
        }
    })
    .await
}

/// Has so many clients do this so often in all, each with one key after the other; gives how long each took.
async fn in_parallel<F: Future<Output = Outcome<()>> + Send>(
    clients: usize,
    count: usize,
    work: impl Fn(usize, Bytes) -> F + Clone + Send + 'static,
) -> Outcome<Vec<Duration>> {
    let tasks = (0..clients).map(|number| {
        let work = work.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(count / clients);
            for at in 0..count / clients {
                let key = format!("bench/{:08}", (number * (count / clients) + at) % KEYS);
                let began = Instant::now();
                work(number, key.into()).await?;
                latencies.push(began.elapsed());
            }
            Outcome::Ok(latencies)
        })
    });
    let mut latencies = Vec::with_capacity(count);
    for task in tasks.collect::<Vec<_>>() {
        latencies.extend(task.await??);
    }
    Ok(latencies)
}

/// The median and the 99th percentile, in seconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64();
    (at(0.5), at(0.99))
}
