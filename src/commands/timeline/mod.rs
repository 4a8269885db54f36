//! `broadcast timeline` and `broadcast demo --timeline`: draws who sent and received which message, in causal order, with a
//! column for each node.
//!
//! ```text
//!                                        | node2 says                             | node3 says
//! ---------------------------------------|----------------------------------------|---------------------------------------
//!                                        | send broadcast msg: key=k value=0      |
//! received broadcast msg: key=k value=0  |                                        | received broadcast msg: key=k value=0
//! ```
//!
//! # Input
//!
//! - *Log lines* ([`logs`], [`line`]) of one node or several, as text or JSON, with whatever Compose and others put before
//!   them. A line says what happened at the node that logged it. Text does not identify a message, so receptions are matched
//!   by key and value, one after the other. JSON has the message's id and its sender.
//! - *Running nodes* ([`nodes`]), over HTTP. A node reports what it sent and received, and which members have acknowledged
//!   that. Each node to ask is named on the command line. A member that is not asked has a column all the same: with
//!   `acknowledged`, if it has acknowledged the message, and with its sendings in parentheses, which the message itself
//!   proves. The header says that others report this. Such a column does not show whether a sending or an acknowledgement
//!   came first.
//! - *The demo's own log* ([`live`]), which is parsed like any other log.
//!
//! A reception that nobody reported is not drawn.
//!
//! # Processing
//!
//! [`history`] puts collected entries into an order in which they can have happened. [`order`] makes rows of them, without a
//! clock, input or output of its own. [`layout`] fits the rows to a width, and [`draw`] does all of this as entries come. All
//! memory is bounded. Texts of others are made safe to print as they come in ([`entry`]).

mod draw;
mod entry;
#[cfg(test)]
mod fuzzing;
mod history;
mod layout;
mod line;
mod live;
mod logs;
mod nodes;
mod order;
mod screen;

use std::{
    env,
    ffi::OsString,
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

pub(super) use self::live::LivePicture;
use self::{
    draw::{Drawing, Input},
    nodes::FollowedNodes,
    screen::Screen,
};
use super::{client::ApiClient, output, signals::StopSignals, tail};
use crate::{
    failure::Failure,
    settings::{
        NOT_TEXT,
        client::{NODE, NodeUrl},
        http::TokenArgs,
        tls::ClientTlsArgs,
    },
    visible::quote,
};

/// How many inputs may wait to be drawn.
const MAX_QUEUED: usize = 4096;
/// How long the end of the program waits for a slow reader of the picture.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// Draw who sent and received which message, in causal order, with a column for each node
///
/// It reads the nodes' logs from FILES or standard input, as text or JSON, with or without the names that docker
/// compose puts before each line. With --node it follows running nodes, until Ctrl-C.
///
/// A message has one row where it was sent, and below that one row where it was received. A message is always sent
/// above where it is received, and what a node did first is always above what it did later. Where this leaves the
/// order open, the sender's Lamport clock decides, and then the time. If a node receives a message more than a
/// second later than others, it gets a row of its own.
///
/// Give --node once for each running node that you want to ask. About the other members, the picture shows only
/// what these nodes know: "acknowledged" if the member has confirmed a message, and in parentheses what it has
/// sent. It never shows a reception that nobody reported.
///
/// The picture is as wide as the terminal. Without a terminal, the variable COLUMNS sets the width; without that,
/// it is as wide as necessary. NO_COLOR turns off colours.
///
/// Exit codes: 0, everything was drawn; 1, a log or a node could not be read, or there was nothing to draw; 2,
/// wrong usage; 130, Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    docker compose logs --no-log-prefix | broadcast timeline\n  \
    docker compose logs -f | broadcast timeline\n  \
    broadcast timeline node1.log node2.log node3.log\n  \
    broadcast timeline --node http://127.0.0.1:8946\n  \
    broadcast timeline --node http://10.0.0.1:8946 --node http://10.0.0.2:8946 --last 100\n\n\
    Without anything to read, it follows the node at BROADCAST_NODE, or at http://127.0.0.1:8946.\n\
    See it live, without a cluster: broadcast demo --timeline")]
pub(super) struct TimelineArgs {
    /// Logs to draw; - is standard input. If a log is in several files, give the oldest first
    #[arg(value_name = "FILES", conflicts_with = "node")]
    files: Vec<PathBuf>,

    /// A running node to follow: where it serves its HTTP API; repeat this for each node
    #[arg(long, value_name = "URL")]
    node: Vec<NodeUrl>,

    /// Begin with the last N messages that each node keeps
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = tail::last)]
    last: u32,

    #[command(flatten)]
    token: TokenArgs,

    #[command(flatten)]
    tls: ClientTlsArgs,
}

pub(super) async fn run(args: TimelineArgs) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::new().map_err(Failure::other)?;
    let (sender, inputs) = mpsc::channel(MAX_QUEUED);
    let mut picture = Picture { drawing: Drawing::new(Screen::stdout()), inputs };
    let reads_logs = !args.files.is_empty() || args.node.is_empty() && !io::stdin().is_terminal();
    let outcome = if reads_logs {
        let mut read = logs::read(&args.files, sender)?;
        let code = tokio::select! {
            drawn = picture.draw() => drawn.map(|_| ExitCode::SUCCESS)?,
            code = signals.exit_code() => code,
            () = output::nobody_reads() => return Ok(ExitCode::SUCCESS),
        };
        // There is no result yet if a signal came, or if nobody reads the picture.
        if let Ok(read) = read.try_recv() {
            read?;
        }
        Ok(code)
    } else {
        let clients = clients(&args)?;
        tokio::select! {
            failure = follow(clients, args.last, sender) => Err(failure),
            drawn = picture.draw() => drawn.map(|_| ExitCode::SUCCESS),
            code = signals.exit_code() => Ok(code),
            () = output::nobody_reads() => return Ok(ExitCode::SUCCESS),
        }
    };
    let entries = picture.finish().await?;
    let code = outcome?;
    if reads_logs && entries == 0 && code == ExitCode::SUCCESS {
        return Err(Failure::other(
            "there is nothing to draw: no line says \"send broadcast msg\" or \"received broadcast msg\" as a node logs it \
             with BROADCAST_LOG=info; pipe in what the nodes log, or follow a node with --node",
        ));
    }
    Ok(code)
}

/// A client for each node to ask.
fn clients(args: &TimelineArgs) -> Result<Vec<ApiClient>, Failure> {
    let mut nodes: Vec<NodeUrl> = Vec::new();
    for node in &args.node {
        if !nodes.contains(node) {
            nodes.push(node.clone());
        }
    }
    if nodes.is_empty() {
        let node = env::var_os(NODE).filter(|node| !node.is_empty());
        nodes.push(match node.map(OsString::into_string) {
            Some(Ok(node)) => node
                .parse()
                .map_err(|problem| Failure::usage(format!("{NODE} (--node) = {}: {problem}", quote(&node))))?,
            Some(Err(_)) => return Err(Failure::usage(format!("{NODE} (--node) {NOT_TEXT}"))),
            None => NodeUrl::default(),
        });
    }
    nodes.into_iter().map(|node| ApiClient::with_token(node, &args.token, &args.tls)).collect()
}

/// Follows all nodes until one cannot be followed.
async fn follow(clients: Vec<ApiClient>, last: u32, inputs: mpsc::Sender<Input>) -> Failure {
    let followed = Arc::new(FollowedNodes::new(clients.len()));
    let mut following = JoinSet::new();
    for client in clients {
        following.spawn(nodes::follow(client, last, Arc::clone(&followed), inputs.clone()));
    }
    match following.join_next().await {
        Some(Ok(failure)) => failure,
        Some(Err(error)) => Failure::other(error),
        None => Failure::other("there is no node to follow"),
    }
}

/// A drawing and its inputs.
struct Picture {
    drawing: Drawing,
    inputs: mpsc::Receiver<Input>,
}

impl Picture {
    /// Draws until there is no more input, or nobody looks.
    async fn draw(&mut self) -> Result<bool, Failure> {
        self.drawing.run(&mut self.inputs).await
    }

    /// Draws what has come so far, but does not wait long for a slow reader. Gives the number of entries.
    async fn finish(&mut self) -> Result<u64, Failure> {
        self.inputs.close();
        let last =
            async { if self.drawing.run(&mut self.inputs).await? { self.drawing.finish().await } else { Ok(1) } };
        timeout(FLUSH_TIMEOUT, last).await.unwrap_or(Ok(1))
    }
}
