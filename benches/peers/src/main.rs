//! The systems that this crate is compared with, message brokers and bare sockets, measured as `benches/fanout.rs` measures this
//! crate; and the tables and the picture of all results.
//!
//! `scripts/bench-peers` runs it.

mod brokers;
mod floor;
mod report;

use std::{error::Error, fs, net::SocketAddr, path::PathBuf};

use clap::{Parser, Subcommand};

use self::{brokers::Broker, report::Reports, subscribers::Setup};

#[path = "../../support/measure.rs"]
mod measure;
#[path = "../../support/subscribers.rs"]
mod subscribers;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Parser)]
#[command(about = "Measures message brokers and bare sockets, and compares what was measured")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A message broker that runs already
    Broker {
        #[arg(value_enum)]
        broker: Broker,
        /// Where it listens.
        addr: SocketAddr,
        /// Its process, whose CPU time counts as well.
        #[arg(long)]
        pid: Option<u32>,
        #[command(flatten)]
        setup: Setup,
    },
    /// The floor: bare UDP sockets in one thread
    Floor {
        /// Acknowledge only when all have received.
        #[arg(long)]
        late: bool,
        #[command(flatten)]
        setup: Setup,
    },
    /// Prints the reports in a file, one JSON object a line, as tables in Markdown
    Tables { file: PathBuf },
    /// Prints them as a picture, in SVG
    Picture { file: PathBuf },
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Outcome<()> {
    match Cli::parse().command {
        Command::Broker { broker, addr, pid, setup: Setup { receivers, load, json } } => {
            brokers::measure(broker, addr, pid, receivers, &load).await?.print(json);
        }
        Command::Floor { late, setup: Setup { receivers, load, json } } => {
            floor::measure(late, receivers, &load).await?.print(json);
        }
        Command::Tables { file } => print!("{}", Reports::parse(&fs::read_to_string(file)?)?.tables()),
        Command::Picture { file } => print!("{}", Reports::parse(&fs::read_to_string(file)?)?.picture()),
    }
    Ok(())
}
