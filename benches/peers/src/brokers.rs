//! Message brokers: one publisher and many subscribers, each with a connection of its own.

use std::net::SocketAddr;

use clap::ValueEnum;
use tokio::time;

use super::{
    Outcome,
    measure::{Clock, Load, Mode, Report, Run},
    subscribers::Subscribers,
};

/// The subject, or channel, everybody uses.
const SUBJECT: &str = "bench";
/// Messages of a flood that Redis gets at once.
const PIPELINE: u64 = 200;
/// Enough that NATS' client drops nothing in a flood.
const CAPACITY: usize = 1 << 20;

#[derive(Clone, Copy, ValueEnum)]
pub enum Broker {
    Nats,
    Redis,
}

/// `pid` is the broker's process.
pub async fn measure(
    broker: Broker,
    addr: SocketAddr,
    pid: Option<u32>,
    receivers: usize,
    load: &Load,
) -> Outcome<Report> {
    let clock = Clock::start();
    let mut subscribers = Subscribers::new(clock, load.mode);
    for _ in 0..receivers {
        match broker {
            Broker::Nats => {
                let client =
                    async_nats::ConnectOptions::new().subscription_capacity(CAPACITY).connect(addr.to_string()).await?;
                let messages = client.subscribe(SUBJECT).await?;
                client.flush().await?;
                subscribers.add(messages, move |tally, message| {
                    // The connection lasts as long as its client.
                    let _ = &client;
                    tally.record(&message.payload);
                });
            }
            Broker::Redis => {
                let mut subscription = redis::Client::open(format!("redis://{addr}"))?.get_async_pubsub().await?;
                subscription.subscribe(SUBJECT).await?;
                let (sink, messages) = subscription.split();
                subscribers.add(messages, move |tally, message| {
                    // So does this one.
                    let _ = &sink;
                    tally.record(message.get_payload_bytes());
                });
            }
        }
    }
    let pids: Vec<u32> = pid.into_iter().collect();
    let run = match broker {
        Broker::Nats => nats(addr, &pids, load, clock).await?,
        Broker::Redis => redis(addr, &pids, load, clock).await?,
    };
    let cost = run.end(&subscribers.delivered, load.msgs * receivers as u64).await;
    let tallies = subscribers.stop().await;
    let name = match broker {
        Broker::Nats => "NATS",
        Broker::Redis => "Redis pub/sub",
    };
    Ok(Report::new(name, load, (receivers, 1), cost, tallies, Vec::new()))
}

async fn nats(addr: SocketAddr, pids: &[u32], load: &Load, clock: Clock) -> Outcome<Run> {
    let client = async_nats::connect(addr.to_string()).await?;
    let run = Run::begin(pids);
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
    Ok(run)
}

async fn redis(addr: SocketAddr, pids: &[u32], load: &Load, clock: Clock) -> Outcome<Run> {
    let mut connection = redis::Client::open(format!("redis://{addr}"))?.get_multiplexed_async_connection().await?;
    let run = Run::begin(pids);
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
    Ok(run)
}
