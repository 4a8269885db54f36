//! `broadcast demo`: a receiver and some senders in one process, on loopback.
//!
//! The nodes are as real as those of `broadcast node`. Only the senders' turns are fixed: they are spread evenly over the
//! interval, so that each value is one more than the last, and they begin once every node knows all others.

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
    control,
    http_api::{HttpApi, ServeConfig},
    lock_api,
    node::node_info,
    output,
    signals::StopSignals,
    store_api,
    timeline::LivePicture,
    unknown_settings,
};
use crate::{
    failure::Failure,
    log,
    roles::{self, Context, Role, RoleResult, Roles, receiver, sender, voter},
    settings::{
        http::HttpArgs,
        log::{Format, LogArgs},
        node::IntervalArgs,
        values::duration,
    },
    store::NodeStore,
};

/// How many nodes vote, the first ones. They keep the store in memory.
const VOTERS: usize = 3;
/// The most nodes that can send.
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
    let mut signals = StopSignals::new().map_err(Failure::other)?;
    // The timeline draws what is logged as `info`.
    let filter = if args.timeline { "info" } else { &args.log.log };
    let names: Vec<String> = (0..=args.senders).map(|i| format!("node{}", u16::from(i) + 1)).collect();
    if (args.timeline || args.log.log_format == Format::Text) && io::stdout().is_terminal() {
        introduce(names.len());
    }
    let nodes = log::Nodes::Several(names.clone());
    let (mut picture, log) = if args.timeline {
        let (picture, sink) = LivePicture::new(&names);
        (Some(picture), log::start_into(sink, filter, Format::Json, nodes))
    } else {
        (None, log::start(filter, args.log.log_format, nodes))
    };
    let log = log.map_err(Failure::start)?;
    unknown_settings::log("demo", &names[0]);
    let mut http_thread = None;
    let leave_request = Arc::new(Notify::new());
    let mut api = Some((HttpApi::bind(&ServeConfig::read(&args.http, &names[0])?, &names[0])?, log.control));

    let every = args.interval.interval;
    let (all_met, met) = watch::channel(false);
    let mut nodes: Vec<Handle> = Vec::new();
    let mut running_roles = JoinSet::new();
    let (shutdown_guard, shutdown) = roles::shutdown();
    let voters = &names[..names.len().min(VOTERS)];
    for name in &names {
        let role = if nodes.is_empty() { Role::Receiver } else { Role::Sender };
        let votes = voters.contains(name);
        let roles = if votes { Roles::from(role).with(Role::Voter) } else { role.into() };
        let info = node_info(None, &roles, api.as_ref().and_then(|(api, _)| api.endpoint()))?;
        let node = start(config(name.clone(), &nodes).info(info)).await?;
        let turn = nodes.len().checked_sub(1).map(|sender| turn_offset(every, sender, args.senders));
        let voters = if votes { voters.to_vec() } else { Vec::new() };
        let store = NodeStore::new(node.clone(), false, voters, None);
        let context = Context { node: node.clone(), data: None, store: store.clone(), shutdown: shutdown.clone() };
        if votes {
            running_roles.spawn(voter::run(context.clone()));
        }
        match turn {
            Some(turn) => running_roles.spawn(sender::run(context, every, first_turn(met.clone(), turn))),
            None => running_roles.spawn(receiver::run(context)),
        };
        if let Some((api, log)) = api.take() {
            let routes =
                [control::routes(&node, log, &leave_request), store_api::routes(&store), lock_api::routes(&store)];
            http_thread = Some(api.serve(&node, routes)?);
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
        signal = signals.next() => (signal.reason(), Ok(true)),
        () = leave_request.notified() => (control::TOLD_TO_LEAVE, Ok(true)),
        // As in `broadcast demo | head`.
        () = log.closed.notified() => ("nobody reads the log any more", Ok(false)),
        () = output::nobody_reads(), if args.timeline => ("nobody reads the timeline any more", Ok(false)),
        drawn = draw(&mut picture) => ("the timeline cannot be drawn", drawn),
    };
    drop(shutdown_guard);
    let leaving = async {
        leave(nodes, running_roles, why).await;
        if let Some(http_thread) = http_thread {
            http_thread.join().await;
        }
    };
    let goes_on = matches!(outcome, Ok(true));
    let leaving = async {
        let mut leaving = std::pin::pin!(leaving);
        tokio::select! {
            () = &mut leaving => {}
            _ = draw(&mut picture), if goes_on => leaving.await,
        }
    };
    let code = signals.while_leaving(leaving).await;
    if let Some(picture) = picture.as_mut().filter(|_| goes_on) {
        log::finish();
        outcome = picture.finish().await.map(|()| true);
    }
    outcome.map(|_| code)
}

/// Draws the picture until nobody looks any more. Without a picture it never ends.
async fn draw(picture: &mut Option<LivePicture>) -> Result<bool, Failure> {
    match picture {
        Some(picture) => picture.draw().await,
        None => pending().await,
    }
}

fn config(name: String, earlier: &[Handle]) -> Config {
    let seeds = earlier.iter().map(Handle::addr).map(|addr| Seed { host: addr.ip().to_string(), port: addr.port() });
    Config::new(name).bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).join(seeds).profile(Profile::Local)
}

/// When in the interval a sender sends: turns are spread evenly.
fn turn_offset(every: Duration, sender: usize, senders: u8) -> Duration {
    every.mul_f64(sender as f64 / f64::from(senders))
}

async fn first_turn(mut met: watch::Receiver<bool>, turn: Duration) {
    let all_met = met.wait_for(|met| *met).await.is_ok();
    if all_met { sleep(turn).await } else { pending().await }
}

/// Waits until every node knows all others.
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

/// The senders leave first, so that node1 can log it.
async fn leave(nodes: Vec<Handle>, mut running_roles: JoinSet<RoleResult>, why: &'static str) {
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
    while running_roles.join_next().await.is_some() {}
}

fn introduce(nodes: usize) {
    let senders = match nodes {
        2 => "node2 sends".into(),
        3 => "node2 and node3 send in turns".into(),
        last => format!("node2 to node{last} send in turns"),
    };
    // The demo runs even if nobody reads this.
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
            (0..usize::from(senders))
                .map(|i| turn_offset(Duration::from_secs(3), i, senders).as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(turns(1), [0]);
        assert_eq!(turns(2), [0, 1500]);
        assert_eq!(turns(3), [0, 1000, 2000]);
    }
}
