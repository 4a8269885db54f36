//! Latency, throughput, reliability and CPU cost of messages to all nodes: on real sockets on loopback, with all nodes in this
//! process.
//!
//! `cargo bench --bench fanout -- --help` explains the settings. `scripts/bench-peers` compares this with other systems, whose
//! clients measure in the same way (`benches/peers`).

use std::{
    error::Error,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use broadcast::{
    Config, Envelope, Handle, Message, Seed, Subscription, start,
    wire::{Keyring, SecretKey},
};
use clap::Parser;
use tokio::{sync::oneshot, task::JoinSet, time};

use self::measure::{Clock, Load, Mode, Report, Run, Tally};

#[path = "support/measure.rs"]
mod measure;

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the nodes may take to find each other, and the last receipts to come.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Parser)]
#[command(about = "Measures how messages reach every node, over real sockets on loopback")]
struct Cli {
    /// Nodes, the senders included.
    #[arg(long, default_value_t = 13)]
    nodes: usize,
    /// Nodes that send, by turns when paced.
    #[arg(long, default_value_t = 1)]
    senders: usize,
    /// Only this [default: one after the other]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Messages of all senders [default: 400 paced, 50000 as a flood]
    #[arg(long)]
    msgs: Option<u64>,
    /// Messages a second, when paced.
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// Bytes of a value, as JSON.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Encrypt, with a key of so many bits.
    #[arg(long, value_name = "BITS")]
    encrypt: Option<usize>,
    /// The cluster's label.
    #[arg(long, default_value = "")]
    label: String,
    /// Threads of the runtime; 1 runs everything on the main thread [default: 1 paced, as the broadcast
    /// program has it; 2 as a flood].
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object for each run.
    #[arg(long)]
    json: bool,
    /// Cargo says it when it runs benchmarks, and not when it runs tests.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    if cli.senders == 0 || cli.senders >= cli.nodes {
        return Err("there must be senders, and fewer than nodes".into());
    }
    for mode in cli.mode.map_or(vec![Mode::Paced, Mode::Flood], |mode| vec![mode]) {
        let msgs = cli.msgs.unwrap_or(match (mode, cli.bench) {
            (Mode::Paced, true) => 400,
            (Mode::Flood, true) => 50_000,
            // A test that it works.
            (_, false) => 50,
        });
        let load = Load { mode, msgs, rate: cli.rate, size: cli.size };
        let threads = cli.threads.unwrap_or(if mode == Mode::Paced { 1 } else { 2 });
        let mut runtime = match threads {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = runtime.worker_threads(threads).enable_all().build()?;
        runtime.block_on(measure(&cli, &load))?.print(cli.json);
    }
    Ok(())
}

async fn measure(cli: &Cli, load: &Load) -> Result<Report, Box<dyn Error>> {
    let keys = cli.encrypt.map(|bits| SecretKey::new(vec![0xA5; bits / 8])).transpose()?;
    let envelope = Envelope { label: cli.label.clone(), keyring: Keyring::new(keys)?, ..Envelope::default() };
    let system = match (cli.encrypt, cli.label.is_empty()) {
        (None, true) => "broadcast".into(),
        (None, false) => "broadcast, labelled".into(),
        (Some(bits), true) => format!("broadcast, AES-{bits}"),
        (Some(bits), false) => format!("broadcast, AES-{bits}, labelled"),
    };
    let nodes = cluster(cli.nodes, &envelope).await?;
    let (clock, delivered) = (Clock::start(), Arc::new(AtomicU64::new(0)));
    let mut receivers = JoinSet::new();
    let mut stops = Vec::new();
    for node in &nodes {
        let (stop, stopped) = oneshot::channel();
        receivers.spawn(receive(node.subscribe(), Tally::new(clock, load.mode, &delivered), stopped));
        stops.push(stop);
    }
    let run = Run::begin(&[]);
    let mut receipts = Vec::new();
    match load.mode {
        Mode::Paced => receipts = pace(&nodes[..cli.senders], load, clock).await?,
        Mode::Flood => {
            let mut floods = JoinSet::new();
            for (sender, node) in nodes[..cli.senders].iter().enumerate() {
                let share = (sender as u64..load.msgs).step_by(cli.senders).count() as u64;
                floods.spawn(flood(node.clone(), sender, share, load.size, clock));
            }
            while let Some(flooded) = floods.join_next().await {
                flooded??;
            }
        }
    }
    let cost = run.end(&delivered, load.msgs * (cli.nodes - 1) as u64).await;
    drop(stops);
    let tallies = receivers.join_all().await;
    let leaving: JoinSet<()> = nodes.into_iter().map(|node| async move { node.leave().await }).collect();
    leaving.join_all().await;
    Ok(Report::new(&system, load, (cli.nodes - 1, cli.senders), cost, tallies, receipts))
}

/// A cluster of so many nodes that all know each other.
async fn cluster(size: usize, envelope: &Envelope) -> Result<Vec<Handle>, Box<dyn Error>> {
    let mut nodes: Vec<Handle> = Vec::new();
    for number in 1..=size {
        let seeds = nodes.first().map(|node| Seed { host: node.addr().ip().to_string(), port: node.addr().port() });
        let config = Config::new(format!("node{number}")).bind(([127, 0, 0, 1], 0).into()).join(seeds);
        nodes.push(start(config.envelope(envelope.clone())).await?);
    }
    let known = async {
        for node in &nodes {
            while node.members().await.len() < size {
                time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    time::timeout(PATIENCE, known).await.map_err(|_| "the nodes do not find each other")?;
    // Remaining gossip about members must not disturb the measurement.
    time::sleep(Duration::from_millis(500)).await;
    Ok(nodes)
}

async fn receive(mut messages: Subscription<Message>, mut tally: Tally, mut stopped: oneshot::Receiver<()>) -> Tally {
    loop {
        tokio::select! {
            biased;
            message = messages.recv() => match message {
                Some(Ok(message)) => tally.record(message.value().trim_matches('"').as_bytes()),
                // What was missed is missing in the count of what was delivered.
                Some(Err(lagged)) => eprintln!("a receiver lost messages: {lagged}"),
                None => return tally,
            },
            _ = &mut stopped => return tally,
        }
    }
}

/// Publishes at the load's rate. Returns how long the receipt of each message took, in nanoseconds.
async fn pace(senders: &[Handle], load: &Load, clock: Clock) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut ticks = time::interval(load.period());
    let mut receipts = JoinSet::new();
    for number in 0..load.msgs {
        ticks.tick().await;
        let sender = number as usize % senders.len();
        let value = clock.stamp(sender, number / senders.len() as u64, load.size.saturating_sub(2));
        let receipt = senders[sender].publish("bench", &value).await?;
        receipts.spawn(receipt.delivered_within(PATIENCE));
    }
    let mut took = Vec::new();
    while let Some(receipt) = receipts.join_next().await {
        took.push(u64::try_from(receipt??.elapsed.as_nanos())?);
    }
    Ok(took)
}

async fn flood(
    node: Handle,
    sender: usize,
    msgs: u64,
    size: usize,
    clock: Clock,
) -> Result<(), broadcast::PublishError> {
    for number in 0..msgs {
        node.publish("bench", &clock.stamp(sender, number, size.saturating_sub(2))).await?;
    }
    Ok(())
}
