//! `broadcast demo`: a receiver and some senders in one process, on loopback.
//!
//! The nodes are as real as those of `broadcast node`; only the senders' turns are fixed, evenly over
//! the interval, so that each value is one more than the last. They begin when every node knows all.

use std::{
    future::pending,
    io::{self, IsTerminal as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use broadcast::{Config, Handle, Profile, Seed, start};
use clap::{Args, value_parser};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::sleep,
};

use super::{
    control, lock_api,
    node::{Signals, info},
    output,
    serve::{self, Api},
    store_api,
    timeline::Live,
    unknown,
};
use crate::{
    failure::Failure,
    log,
    roles::{self, Context, Ended, Role, Roles, receiver, sender, voter},
    settings::{
        http::HttpArgs,
        log::{Format, LogArgs},
        node::IntervalArgs,
        values::duration,
    },
    store::NodeStore,
};

/// The first nodes agree on what the store holds, in memory.
const VOTERS: usize = 3;
/// How many nodes can send at most.
const MAX_SENDERS: i64 = 100;

/// Run the whole demo in this terminal: a receiver and some senders, on loopback
///
/// node1 receives; node2, node3 and so on send in turns; and all of them log what they receive. These are real
/// nodes, each with its own sockets, on ports that the system chooses. node1 serves a page that shows the cluster:
/// http://127.0.0.1:8946/
///
/// With --timeline the demo draws who sent and received what, with a column for each node. Warnings then go to
/// standard error, and --log and --log-format have no effect.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast demo\n  \
    broadcast demo --timeline\n  \
    broadcast demo --senders 5 --interval 500ms --for 15s")]
pub(super) struct DemoArgs {
    /// Draw who sent and received what, instead of the log
    #[arg(long)]
    timeline: bool,

    #[arg(
        long,
        value_name = "N",
        default_value_t = 2,
        value_parser = value_parser!(u8).range(1..=MAX_SENDERS),
        help = format!("How many nodes send, 1 to {MAX_SENDERS}")
    )]
    senders: u8,

    #[command(flatten)]
    interval: IntervalArgs,

    /// Stop after this time [default: run until Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    duration: Option<Duration>,

    #[command(flatten)]
    http: HttpArgs,

    #[command(flatten)]
    log: LogArgs,
}

pub(super) async fn run(args: DemoArgs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new().map_err(Failure::other)?;
    // All that the timeline draws is logged as `info`.
    let logged = if args.timeline { "info" } else { &args.log.log };
    let names: Vec<String> = (0..=args.senders).map(|i| format!("node{}", u16::from(i) + 1)).collect();
    if (args.timeline || args.log.log_format == Format::Text) && io::stdout().is_terminal() {
        introduce(names.len());
    }
    let nodes = log::Nodes::Several(names.clone());
    let (mut live, log) = if args.timeline {
        let (live, sink) = Live::new(&names);
        (Some(live), log::start_into(sink, logged, Format::Json, nodes))
    } else {
        (None, log::start(logged, args.log.log_format, nodes))
    };
    let log = log.map_err(Failure::start)?;
    unknown::log("demo", &names[0]);
    let mut served = None;
    let leave_asked = Arc::new(Notify::new());
    let mut api = Some((Api::bind(&serve::Live::read(&args.http, &names[0])?, &names[0])?, log.control));

    let every = args.interval.interval;
    let (all_met, met) = watch::channel(false);
    let mut nodes: Vec<Handle> = Vec::new();
    let mut playing = JoinSet::new();
    let (running, shutdown) = roles::shutdown();
    let voters = &names[..names.len().min(VOTERS)];
    for name in &names {
        let role = if nodes.is_empty() { Role::Receiver } else { Role::Sender };
        let votes = voters.contains(name);
        let roles = if votes { Roles::from(role).with(Role::Voter) } else { role.into() };
        let about = info(None, &roles, api.as_ref().and_then(|(api, _)| api.endpoint()))?;
        let node = start(config(name.clone(), &nodes).info(about)).await?;
        let turn = nodes.len().checked_sub(1).map(|sender| part(every, sender, args.senders));
        let voters = if votes { voters.to_vec() } else { Vec::new() };
        let store = NodeStore::new(node.clone(), false, voters, None);
        let context = Context { node: node.clone(), data: None, store: store.clone(), shutdown: shutdown.clone() };
        if votes {
            playing.spawn(voter::run(context.clone()));
        }
        match turn {
            Some(turn) => playing.spawn(sender::run(context, every, first_turn(met.clone(), turn))),
            None => playing.spawn(receiver::run(context)),
        };
        if let Some((api, log)) = api.take() {
            let routes =
                [control::routes(&node, log, &leave_asked), store_api::routes(&store), lock_api::routes(&store)];
            served = Some(api.serve(&node, routes)?);
        }
        nodes.push(node);
    }

    let mut finished = std::pin::pin!(async {
        match args.duration {
            Some(duration) => sleep(duration).await,
            None => pending().await,
        }
    });
    let meeting = async {
        meet(&nodes).await;
        all_met.send_replace(true);
        pending().await
    };
    let (why, mut outcome) = tokio::select! {
        () = meeting => ("the demo is over", Ok(true)),
        () = &mut finished => ("the time is over", Ok(true)),
        signal = signals.next() => (signal.told(), Ok(true)),
        () = leave_asked.notified() => (control::TOLD_TO_LEAVE, Ok(true)),
        // `broadcast demo | head` has seen enough.
        () = log.closed.notified() => ("nobody reads the log any more", Ok(false)),
        () = output::nobody_reads(), if args.timeline => ("nobody reads the timeline any more", Ok(false)),
        drawn = draw(&mut live) => ("the timeline cannot be drawn", drawn),
    };
    drop(running);
    let leaving = async {
        leave(nodes, playing, why).await;
        if let Some(served) = served {
            served.end().await;
        }
    };
    let goes_on = matches!(outcome, Ok(true));
    let leaving = async {
        let mut leaving = std::pin::pin!(leaving);
        tokio::select! {
            () = &mut leaving => {}
            _ = draw(&mut live), if goes_on => leaving.await,
        }
    };
    let code = signals.good_bye(leaving).await;
    if let Some(live) = live.as_mut().filter(|_| goes_on) {
        log::finish();
        outcome = live.finish().await.map(|()| true);
    }
    outcome.map(|_| code)
}

/// Draws until it cannot go on, if anything is drawn.
async fn draw(live: &mut Option<Live>) -> Result<bool, Failure> {
    match live {
        Some(live) => live.draw().await,
        None => pending().await,
    }
}

fn config(name: String, earlier: &[Handle]) -> Config {
    let seeds = earlier.iter().map(Handle::addr).map(|addr| Seed { host: addr.ip().to_string(), port: addr.port() });
    Config::new(name).bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).join(seeds).profile(Profile::Local)
}

/// The senders' turns, evenly over the interval.
fn part(every: Duration, sender: usize, senders: u8) -> Duration {
    every.mul_f64(sender as f64 / f64::from(senders))
}

async fn first_turn(mut met: watch::Receiver<bool>, turn: Duration) {
    let all_met = met.wait_for(|met| *met).await.is_ok();
    if all_met { sleep(turn).await } else { pending().await }
}

/// Waits until every node knows all the others.
async fn meet(nodes: &[Handle]) {
    for node in nodes {
        let mut events = node.events();
        while node.members().await.len() < nodes.len() {
            if events.recv().await.is_none() {
                return;
            }
        }
    }
}

/// The senders leave first, so that node1 can tell of it.
async fn leave(nodes: Vec<Handle>, mut playing: JoinSet<Ended>, why: &'static str) {
    let leave = move |node: Handle| async move {
        roles::leaving(node.name(), why);
        node.leave().await;
    };
    let mut nodes = nodes.into_iter();
    let receiver = nodes.next();
    let mut leaving: JoinSet<()> = nodes.map(leave).collect();
    while leaving.join_next().await.is_some() {}
    if let Some(receiver) = receiver {
        leave(receiver).await;
    }
    while playing.join_next().await.is_some() {}
}

fn introduce(nodes: usize) {
    let senders = match nodes {
        2 => "node2 sends".into(),
        3 => "node2 and node3 send in turns".into(),
        last => format!("node2 to node{last} send in turns"),
    };
    // Nobody reads it: so be it.
    let _ = writeln!(
        io::stdout(),
        "{senders}; watch every value arrive at all the others, node1 included. Ctrl-C stops the demo."
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_evenly() {
        let turns = |senders: u8| {
            (0..usize::from(senders)).map(|i| part(Duration::from_secs(3), i, senders).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(turns(1), [0]);
        assert_eq!(turns(2), [0, 1500]);
        assert_eq!(turns(3), [0, 1000, 2000]);
    }
}
