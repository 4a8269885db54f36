//! One publisher and many subscribers at a message broker, each with a connection of its own: measures
//! what `benches/fanout.rs` measures of this crate, in the same way.

use std::{
    error::Error,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use clap::{Parser, ValueEnum};
use futures::StreamExt;
use tokio::{sync::mpsc, task::JoinSet, time};

use self::measure::{Clock, Load, Mode, Report, Run, Tally};

#[path = "../../support/measure.rs"]
mod measure;

/// The subject, or channel, everybody uses.
const SUBJECT: &str = "bench";
/// Messages of a flood that Redis gets at once.
const PIPELINE: u64 = 200;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Clone, Copy, ValueEnum)]
enum Broker {
    Nats,
    Redis,
}

#[derive(Parser)]
#[command(about = "Measures a message broker")]
struct Cli {
    #[arg(value_enum)]
    broker: Broker,
    /// Where it listens.
    addr: SocketAddr,
    /// Its process, whose CPU time counts as well.
    #[arg(long)]
    pid: Option<u32>,
    /// Subscribers.
    #[arg(long, default_value_t = 12)]
    receivers: usize,
    #[command(flatten)]
    load: Load,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Outcome<()> {
    let Cli { broker, addr, pid, receivers, load, json } = Cli::parse();
    let (clock, delivered) = (Clock::start(), Arc::new(AtomicU64::new(0)));
    let (values, mut heard) = (Arc::clone(&delivered), JoinSet::new());
    let (ready, mut subscribed) = mpsc::channel(receivers);
    let (stop, _) = tokio::sync::broadcast::channel::<()>(1);
    for _ in 0..receivers {
        let tally = Tally::new(clock, load.mode, &values);
        let (ready, mut stopped) = (ready.clone(), stop.subscribe());
        heard.spawn(async move {
            let mut tally = tally;
            tokio::select! {
                biased;
                ended = subscribe(broker, addr, &mut tally, &ready) => ended.expect("the subscription holds"),
                _ = stopped.recv() => {}
            }
            tally
        });
    }
    for _ in 0..receivers {
        subscribed.recv().await.ok_or("a subscriber ended")?;
    }
    let pids: Vec<u32> = pid.into_iter().collect();
    let run;
    match broker {
        Broker::Nats => {
            let client = async_nats::connect(addr.to_string()).await?;
            run = Run::begin(&pids);
            let mut ticks = time::interval(load.period());
            for number in 0..load.msgs {
                if load.mode == Mode::Paced {
                    ticks.tick().await;
                }
                client.publish(SUBJECT, clock.stamp(0, number, load.size).into()).await?;
                if load.mode == Mode::Paced {
                    client.flush().await?;
                }
            }
            client.flush().await?;
        }
        Broker::Redis => {
            let client = redis::Client::open(format!("redis://{addr}"))?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            run = Run::begin(&pids);
            let mut ticks = time::interval(load.period());
            let at_once = if load.mode == Mode::Paced { 1 } else { PIPELINE };
            let mut sent = 0;
            while sent < load.msgs {
                if load.mode == Mode::Paced {
                    ticks.tick().await;
                }
                let mut pipeline = redis::pipe();
                for number in sent..load.msgs.min(sent + at_once) {
                    pipeline.cmd("PUBLISH").arg(SUBJECT).arg(clock.stamp(0, number, load.size)).ignore();
                }
                pipeline.query_async::<()>(&mut connection).await?;
                sent += at_once;
            }
        }
    }
    let cost = run.end(&delivered, load.msgs * receivers as u64).await;
    stop.send(())?;
    let tallies = heard.join_all().await;
    let name = match broker {
        Broker::Nats => "NATS",
        Broker::Redis => "Redis pub/sub",
    };
    Report::new(name, &load, (receivers, 1), cost, tallies, Vec::new()).print(json);
    Ok(())
}

/// Subscribes, says so, and hears all there is.
async fn subscribe(broker: Broker, addr: SocketAddr, tally: &mut Tally, ready: &mpsc::Sender<()>) -> Outcome<()> {
    match broker {
        Broker::Nats => {
            // Enough that the client drops nothing in a flood.
            let options = async_nats::ConnectOptions::new().subscription_capacity(1 << 20);
            let client = options.connect(addr.to_string()).await?;
            let mut messages = client.subscribe(SUBJECT).await?;
            client.flush().await?;
            ready.send(()).await?;
            while let Some(message) = messages.next().await {
                tally.record(&message.payload);
            }
        }
        Broker::Redis => {
            let mut subscription = redis::Client::open(format!("redis://{addr}"))?.get_async_pubsub().await?;
            subscription.subscribe(SUBJECT).await?;
            ready.send(()).await?;
            let mut messages = subscription.on_message();
            while let Some(message) = messages.next().await {
                tally.record(message.get_payload_bytes());
            }
        }
    }
    Ok(())
}
