//! Compares the replicated store with etcd: three servers of each on the same disk, under the same load, in turn.
//!
//! `scripts/bench-store` runs it.

mod crowd;
mod etcd;
mod load;
mod locks;
mod ours;
mod perf;
mod report;
mod servers;

use std::{
    error::Error,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum as _};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use self::{
    load::Load,
    report::{Report, System},
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Measures the replicated store beside etcd", args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts servers, measures them, and appends a report of each round to a file, one JSON object a line
    Run(Run),
    /// Measures our voters with very many sessions, and very many that wait for one lock
    Crowd(Crowd),
    /// Keeps our voters busy through both protocols, without measuring anything
    Exercise(Voters),
    /// Runs etcd's own `etcdctl check perf` with ours and with etcd
    CheckPerf(Servers),
    /// Prints the reports in a file as tables in Markdown
    Tables { file: PathBuf },
}

/// What is compared, and where.
#[derive(Args)]
struct Servers {
    /// The program whose voters are measured.
    #[arg(long)]
    broadcast: PathBuf,
    /// The program `etcd`.
    #[arg(long)]
    etcd: PathBuf,
    /// An empty folder in which servers keep their data.
    #[arg(long)]
    folder: PathBuf,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    servers: Servers,
    /// Where reports go.
    #[arg(long)]
    reports: PathBuf,
    /// How often everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Measure only this one.
    #[arg(long, value_enum)]
    only: Option<System>,
    #[command(flatten)]
    load: Load,
}

/// Our voters alone.
#[derive(Args)]
struct Voters {
    /// The program whose voters are started.
    #[arg(long)]
    broadcast: PathBuf,
    /// An empty folder in which voters keep their data.
    #[arg(long)]
    folder: PathBuf,
}

#[derive(Args)]
struct Crowd {
    #[command(flatten)]
    voters: Voters,
    /// How many sessions there are.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    match Cli::parse().command {
        // Servers end with what has started them, also when that is told to end.
        Command::Run(run) => select! {
            done = run.rounds() => done,
            () = ended() => Err("it was told to end".into()),
        },
        Command::Crowd(Crowd { voters: Voters { broadcast, folder }, count }) => select! {
            done = crowd::measure(&broadcast, &folder, count) => done,
            () = ended() => Err("it was told to end".into()),
        },
        Command::Exercise(Voters { broadcast, folder }) => select! {
            done = exercise(&broadcast, &folder) => done,
            () = ended() => Err("it was told to end".into()),
        },
        Command::CheckPerf(Servers { broadcast, etcd, folder }) => select! {
            done = perf::measure(&broadcast, &etcd, &folder) => done,
            () = ended() => Err("it was told to end".into()),
        },
        Command::Tables { file } => {
            let reports = fs::read_to_string(file)?;
            let reports = reports.lines().map(serde_json::from_str).collect::<Result<Vec<Report>, _>>()?;
            print!("{}", report::tables(&reports));
            Ok(())
        }
    }
}

async fn exercise(program: &Path, folder: &Path) -> Outcome<()> {
    let (servers, voters) = ours::start(program, folder).await?;
    // Nothing asks for etcd's own command line.
    let etcd = etcd::connect(Path::new("etcd"), &voters.etcd_ports, CONNECTIONS)?;
    load::exercise(&voters).await?;
    load::exercise(&etcd).await?;
    servers.stop().await
}

impl Run {
    async fn rounds(&self) -> Outcome<()> {
        let Servers { broadcast, etcd, folder } = &self.servers;
        let mut out = fs::OpenOptions::new().create(true).append(true).open(&self.reports)?;
        for round in 1..=self.rounds {
            for &system in System::value_variants() {
                if self.only.is_some_and(|only| only != system) {
                    continue;
                }
                eprintln!("round {round} of {}: {system}", self.rounds);
                let folder = folder.join(format!("{system}-{round}"));
                let report = match system {
                    System::Broadcast => {
                        let (servers, client) = ours::start(broadcast, &folder).await?;
                        self.load.measure(system, servers, client).await
                    }
                    System::EtcdApi => {
                        let (servers, client) = ours::start(broadcast, &folder).await?;
                        let client = etcd::connect(etcd, &client.etcd_ports, self.load.connections)?;
                        self.load.measure(system, servers, client).await
                    }
                    System::Etcd => {
                        let (servers, client) = etcd::start(etcd, &folder, self.load.connections).await?;
                        self.load.measure(system, servers, client).await
                    }
                };
                fs::remove_dir_all(&folder)?;
                writeln!(out, "{}", serde_json::to_string(&report?)?)?;
            }
        }
        Ok(())
    }
}

/// Resolves when this process is told to end.
async fn ended() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Connections of etcd's clients to each server, where nothing is measured.
const CONNECTIONS: usize = 8;
/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(60);

/// Tries again until it succeeds.
async fn until<T>(mut work: impl AsyncFnMut() -> Outcome<T>) -> Outcome<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        match work().await {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(100)).await,
            done => return done,
        }
    }
}
