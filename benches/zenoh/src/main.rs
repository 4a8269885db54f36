//! Zenoh peers, one publisher and many subscribers, without a router: measured as `benches/fanout.rs` measures this crate.
//!
//! Each subscriber has a session and a TCP connection of its own to the publisher, so that each message takes one hop.

use std::{
    error::Error,
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use clap::Parser;
use futures::stream;
use tokio::time;
use zenoh::{Config, Session, handlers::FifoChannel, qos::CongestionControl};

use self::{
    measure::{Clock, Mode, Report, Run},
    subscribers::{Setup, Subscribers},
};

#[path = "../../support/measure.rs"]
mod measure;
#[path = "../../support/subscribers.rs"]
mod subscribers;

/// The key that everybody uses.
const KEY: &str = "bench";
/// Enough that no subscriber holds back or drops a flood.
const CAPACITY: usize = 1 << 20;
/// What is published until every subscriber has heard it. It is no stamped value.
const HELLO: &str = "hello";
/// How long the peers may take to find each other.
const PATIENCE: Duration = Duration::from_secs(20);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Measures peers of Zenoh")]
struct Cli {
    #[command(flatten)]
    setup: Setup,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Outcome<()> {
    let Setup { receivers, load, json } = Cli::parse().setup;
    // Zenoh does not tell which port it was given, so it is told a free one.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let publishing = session("listen", "connect", port).await?;
    let publisher = publishing
        .declare_publisher(KEY)
        .congestion_control(CongestionControl::Block)
        // At once, and not with what may come after it.
        .express(load.mode == Mode::Paced)
        .await?;

    let clock = Clock::start();
    let mut subscribers = Subscribers::new(clock, load.mode);
    let greeted = Arc::new(AtomicUsize::new(0));
    for _ in 0..receivers {
        let session = session("connect", "listen", port).await?;
        let subscriber = session.declare_subscriber(KEY).with(FifoChannel::new(CAPACITY)).await?;
        let messages = stream::unfold((subscriber, session), |(subscriber, session)| async move {
            let sample = subscriber.recv_async().await.ok()?;
            Some((sample, (subscriber, session)))
        });
        let greeted = Arc::clone(&greeted);
        let mut is_greeted = false;
        subscribers.add(messages, move |tally, sample| {
            let value = sample.payload().to_bytes();
            if *value == *HELLO.as_bytes() {
                greeted.fetch_add(usize::from(!is_greeted), Ordering::Relaxed);
                is_greeted = true;
            } else {
                tally.record(&value);
            }
        });
    }
    let greeting = async {
        while greeted.load(Ordering::Relaxed) < receivers {
            publisher.put(HELLO).await?;
            time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, zenoh::Error>(())
    };
    time::timeout(PATIENCE, greeting).await.map_err(|_| "the peers do not find each other")??;

    let run = Run::begin(&[]);
    let mut ticks = time::interval(load.period());
    for number in 0..load.msgs {
        if load.mode == Mode::Paced {
            ticks.tick().await;
        }
        publisher.put(clock.stamp(0, number, load.size)).await?;
    }
    let cost = run.end(&subscribers.delivered, load.msgs * receivers as u64).await;
    let tallies = subscribers.stop().await;
    Report::new("Zenoh 1.10, peers", &load, (receivers, 1), cost, tallies, Vec::new()).print(json);
    Ok(())
}

/// A peer that meets nobody but at that port, where it does one of the two: `listen`, `connect`.
async fn session(does: &str, does_not: &str, port: u16) -> Outcome<Session> {
    let mut config = Config::default();
    for (key, value) in [
        ("mode", r#""peer""#.to_owned()),
        ("scouting/multicast/enabled", "false".to_owned()),
        ("scouting/gossip/enabled", "false".to_owned()),
        (&format!("{does_not}/endpoints"), "[]".to_owned()),
        (&format!("{does}/endpoints"), format!(r#"["tcp/127.0.0.1:{port}"]"#)),
    ] {
        config.insert_json5(key, &value)?;
    }
    zenoh::open(config).await
}
