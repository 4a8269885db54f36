//! `broadcast chaos`: breaks a running compose project on purpose, heals it, and checks that no message is lost.
//!
//! Docker alone knows what is broken, so there is no state to lose: each command looks at the containers again. A command
//! undoes what it has begun, whatever ends it.

mod check;
mod console;
mod docker;
mod fault;
mod plan;
mod project;
mod random;
mod status;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use broadcast::Faults;
use clap::{Args, Subcommand};

use self::{
    console::{Abort, Console},
    fault::Fault,
    project::{ContainerState, Node, Project},
};
use crate::failure::Failure;

/// Break a running Docker Compose project on purpose, and check that every message arrives nevertheless
///
/// It uses Docker, and the nodes' own faults; the containers need no extra privileges for this. NAME is the name of a
/// node, like node2 or sender-4. DURATION is like 20s or 2m. A fault ends after this time, or with Ctrl-C; without a
/// DURATION it stays until `heal`. A node can have either loss or delay, and only if it was started with
/// BROADCAST_FAULTS=ready.
///
/// Exit codes: 0, it was done; 1, it could not be, or a message is missing or arrived twice; 2, wrong usage; 129, 130 or
/// 143, a signal (what it had begun is undone).
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        broadcast chaos partition node2 20s\n  \
        broadcast chaos loss node3 30%\n  \
        broadcast chaos heal\n  \
        broadcast chaos random 2m --seed 7"
)]
pub(super) struct ChaosArgs {
    /// The compose project [default: the one that compose uses here, see COMPOSE_PROJECT_NAME]
    #[arg(short = 'p', long = "project-name", value_name = "PROJECT", global = true)]
    project: Option<String>,

    /// Its compose file; several are merged, as compose does [default: the one that compose finds here]
    #[arg(short = 'f', long = "file", value_name = "FILE", global = true, value_parser = parse_readable_file)]
    files: Vec<PathBuf>,

    #[command(subcommand)]
    command: ChaosCommand,
}

#[derive(Debug, Subcommand)]
enum ChaosCommand {
    /// Disconnect each of the nodes from the network (docker network disconnect)
    Partition(NodesArgs),
    /// Freeze nodes (docker pause)
    Pause(NodesArgs),
    /// Lose this share of the datagrams that a node sends
    #[command(after_help = "Example:\n  broadcast chaos loss node3 30% 20s")]
    Loss {
        /// Name of the node
        #[arg(value_parser = parse_node)]
        name: String,
        /// The share, from 0% to 100%
        #[arg(value_parser = parse_percent)]
        percent: f64,
        /// How long, like 20s or 2m [default: until `heal`]
        #[arg(value_parser = parse_duration)]
        duration: Option<FaultDuration>,
    },
    /// Delay the datagrams that a node sends
    #[command(after_help = "Examples:\n  \
        broadcast chaos delay node3 20ms\n  \
        broadcast chaos delay node3 5ms..50ms 1m")]
    Delay {
        /// Name of the node
        #[arg(value_parser = parse_node)]
        name: String,
        /// How long, like 20ms, or 5ms..50ms, which also reorders them; at most 60s
        #[arg(value_parser = parse_delay)]
        span: String,
        /// For how long, like 20s or 2m [default: until `heal`]
        #[arg(value_parser = parse_duration)]
        duration: Option<FaultDuration>,
    },
    /// End nodes at once; they say no goodbye (docker kill)
    Kill(NodesArgs),
    /// Stop nodes and start them again; start nodes that were killed
    Restart {
        /// Names of the nodes
        #[arg(required = true, value_name = "NAME", value_parser = parse_node)]
        names: Vec<String>,
    },
    /// Undo all faults, no matter who caused them, and start all nodes that have ended
    Heal,
    /// Print what is broken, and which nodes are unhealthy or do not see all running nodes
    Status,
    /// Break things at random, heal them, wait until all nodes are well, and check in the nodes' own logs that each node
    /// that survived has each message once
    ///
    /// It never breaks all nodes at the same time, and kills at most a third of them. It exits with 1 if a message is
    /// missing or arrived twice, and says which.
    #[command(after_help = "Example:\n  broadcast chaos random 2m --seed 7")]
    Random {
        /// For how long, like 30s or 2m
        #[arg(value_parser = parse_duration)]
        duration: FaultDuration,
        /// Repeats the choices of the run that printed it [default: a random one]
        #[arg(long, value_name = "N", value_parser = parse_seed)]
        seed: Option<u32>,
    },
    /// Check the logs that `random` kept when something was wrong
    Check {
        /// The folder, with NAME.sent and NAME.log of each node
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct NodesArgs {
    /// Names of the nodes; the last may be for how long, like 20s or 2m [default: until `heal`]
    #[arg(required = true, value_name = "NAME|DURATION", value_parser = parse_name_or_duration)]
    names: Vec<NameOrDuration>,
}

/// An argument that may be a name or a duration.
#[derive(Clone, Debug)]
enum NameOrDuration {
    Name(String),
    Duration(FaultDuration),
}

/// How long a fault lasts, as it was written and as a time.
#[derive(Clone, Debug)]
struct FaultDuration {
    text: String,
    time: Duration,
}

/// A usage error that refers to the help of the command.
fn misuse(fault: &Fault, problem: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("{problem}; see broadcast chaos {fault} --help"))
}

const NO_DURATION: &str = "not a duration; write minutes and seconds with their unit, like 20s, 2m or 1m30s";
const NEITHER: &str = "neither a node nor a duration: write minutes and seconds with their unit, like 20s or 2m";

fn parse_duration(text: &str) -> Result<FaultDuration, String> {
    let (minutes, rest) = text.split_once('m').map_or((None, text), |(minutes, rest)| (Some(minutes), rest));
    let seconds = if rest.is_empty() { None } else { Some(rest.strip_suffix('s').ok_or(NO_DURATION)?) };
    let number = |part: Option<&str>| match part {
        None => Some(0),
        Some(digits) if (1..=5).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_digit()) => {
            digits.parse::<u32>().ok()
        }
        Some(_) => None,
    };
    match (number(minutes), number(seconds)) {
        (Some(minutes), Some(seconds)) if !text.is_empty() => {
            Ok(FaultDuration { text: text.into(), time: Duration::from_secs((minutes * 60 + seconds).into()) })
        }
        _ => Err(NO_DURATION.into()),
    }
}

fn parse_node(text: &str) -> Result<String, String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    // As long as the name of a host, at most.
    if text.len() <= 255 && text.starts_with(is_word) && text.chars().all(|c| is_word(c) || c == '.' || c == '-') {
        Ok(text.into())
    } else {
        Err("not the name of a node; `docker compose ps` lists the containers".into())
    }
}

fn parse_name_or_duration(text: &str) -> Result<NameOrDuration, String> {
    parse_duration(text).map(NameOrDuration::Duration).or_else(|_| parse_node(text).map(NameOrDuration::Name))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let is_plain = number.starts_with(|c: char| c.is_ascii_digit()) && !number.contains(['e', 'E']);
    let share = number.parse().ok().filter(|share| is_plain && (0.0..=100.0).contains(share));
    share.ok_or_else(|| "not a share; write one from 0% to 100%, like 30%".into())
}

/// Checks a delay as a node does.
fn parse_delay(text: &str) -> Result<String, String> {
    let faults = format!("delay={text}").parse::<Faults>();
    let is_delay = !text.contains(',') && faults.is_ok();
    is_delay.then(|| text.into()).ok_or_else(|| {
        "not a delay; write one of at most 60s, like 20ms, or the shortest and the longest, like 5ms..50ms".into()
    })
}

fn parse_seed(text: &str) -> Result<u32, String> {
    let seed = text.parse().ok().filter(|seed| *seed <= 99_999);
    seed.ok_or_else(|| "not a seed; write a number of up to five digits".into())
}

fn parse_readable_file(text: &str) -> Result<PathBuf, String> {
    std::fs::File::open(text).map_err(|error| format!("cannot read this compose file: {error}"))?;
    Ok(text.into())
}

pub(super) async fn run(args: ChaosArgs) -> Result<ExitCode, Failure> {
    if let ChaosCommand::Check { folder } = &args.command {
        return check::folder(folder);
    }
    let mut console = Console::new().map_err(Failure::other)?;
    let project = Project::find(args.project, &args.files).await?;
    let done = match args.command {
        ChaosCommand::Partition(nodes) => inject_at_nodes(&project, Fault::Partition, nodes, &mut console).await,
        ChaosCommand::Pause(nodes) => inject_at_nodes(&project, Fault::Pause, nodes, &mut console).await,
        ChaosCommand::Kill(nodes) => inject_at_nodes(&project, Fault::Kill, nodes, &mut console).await,
        ChaosCommand::Restart { names } => inject(&project, &Fault::Restart, &names, None, &mut console).await,
        ChaosCommand::Loss { name, percent, duration } => {
            inject(&project, &Fault::Loss(percent), &[name], duration, &mut console).await
        }
        ChaosCommand::Delay { name, span, duration } => {
            inject(&project, &Fault::Delay(span), &[name], duration, &mut console).await
        }
        ChaosCommand::Heal => fault::heal(&project, &console).await.map_err(Abort::from),
        ChaosCommand::Status => status::print(&project).await.map_err(Abort::from),
        ChaosCommand::Random { duration, seed } => {
            let seed = seed.unwrap_or_else(random::any_seed);
            return console::outcome(random::run(&project, &duration.text, duration.time, seed, &mut console).await);
        }
        ChaosCommand::Check { .. } => unreachable!("it needs no project"),
    };
    console::outcome(done.map(|()| ExitCode::SUCCESS))
}

/// Causes a fault at several nodes. The last argument may be a duration.
async fn inject_at_nodes(
    project: &Project,
    fault: Fault,
    NodesArgs { names: mut words }: NodesArgs,
    console: &mut Console,
) -> Result<(), Abort> {
    let duration = match words.pop() {
        Some(NameOrDuration::Duration(duration)) => Some(duration),
        last => {
            words.extend(last);
            None
        }
    };
    let names = words.into_iter().map(|word| match word {
        NameOrDuration::Name(name) => name,
        // A node may have a name like that.
        NameOrDuration::Duration(duration) => duration.text,
    });
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        let duration = duration.map(|duration| duration.text).unwrap_or_default();
        return Err(misuse(&fault, format!("{fault} needs the name of a node before the duration {duration}")).into());
    }
    inject(project, &fault, &names, duration, console).await
}

/// Causes a fault; with a duration, waits that long and undoes it.
async fn inject(
    project: &Project,
    fault: &Fault,
    names: &[String],
    duration: Option<FaultDuration>,
    console: &mut Console,
) -> Result<(), Abort> {
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            return Err(misuse(fault, format!("{name} is named twice")).into());
        }
    }
    let nodes = find_nodes(&project.nodes().await?, names, fault)?;
    nodes.iter().try_for_each(|node| check_possible(node, fault))?;
    let paused: Vec<_> = nodes.iter().filter(|node| node.state == ContainerState::Paused).cloned().collect();
    if !paused.is_empty() {
        project::apply("unpause", &paused).await?;
    }
    let Some(duration) = duration else { return Ok(fault.begin(project, &nodes, None, console).await?) };
    let done = async {
        fault.begin(project, &nodes, Some(&duration.text), console).await?;
        console.sleep(duration.time).await
    };
    let done = done.await;
    fault.finish(project, names, console).await?;
    done
}

/// Finds the nodes with these names.
fn find_nodes(nodes: &[Node], names: &[String], fault: &Fault) -> Result<Vec<Node>, Failure> {
    let find = |name: &String| {
        let found = nodes.iter().find(|node| node.name == *name).cloned();
        found.ok_or_else(|| {
            if looks_like_a_duration(name) {
                return misuse(fault, format!("{name} is {NEITHER}"));
            }
            let known: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
            Failure::other(format!("no node is named {name}: there are {}", known.join(" ")))
        })
    };
    names.iter().map(find).collect()
}

/// Whether a name is a number, perhaps with a unit of time.
fn looks_like_a_duration(name: &str) -> bool {
    let unit = name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    name.starts_with(|c: char| c.is_ascii_digit()) && ["", "ms", "h", "sec", "min"].contains(&unit)
}

/// Fails if the node cannot have the fault now.
fn check_possible(node: &Node, fault: &Fault) -> Result<(), Failure> {
    let name = &node.name;
    if *fault != Fault::Restart && node.state != ContainerState::Running {
        return Err(Failure::other(format!("{name} is {}: broadcast chaos heal", node.state)));
    }
    if *fault == Fault::Partition && !node.attached {
        return Err(Failure::other(format!("{name} is off the network already: broadcast chaos heal")));
    }
    if matches!(fault, Fault::Loss(_) | Fault::Delay(_)) && !node.takes_faults {
        return Err(Failure::other(format!("{name} takes no faults: start the project with BROADCAST_FAULTS=ready")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_minutes_and_seconds() {
        for (text, seconds) in [("20s", 20), ("2m", 120), ("1m30s", 90), ("0s", 0), ("00100s", 100)] {
            assert_eq!(parse_duration(text).map(|duration| duration.time.as_secs()), Ok(seconds), "{text}");
        }
        for text in ["", "20", "s", "m", "1ms", "500ms", "1s2m", "1h", "-1s", "+1s", "123456s", "1.5s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_at_most_all() {
        for (text, share) in [("30%", 30.0), ("0", 0.0), ("100%", 100.0), ("2.5%", 2.5)] {
            assert_eq!(parse_percent(text), Ok(share), "{text}");
        }
        for text in ["130%", "%", "", "-1%", "+1", "nan", "inf", ".5", "1e1%", "30%%", "30 %"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_delay_is_what_a_node_takes() {
        for text in ["20ms", "5ms..50ms", "60s"] {
            assert_eq!(parse_delay(text).as_deref(), Ok(text));
        }
        for text in ["foo", "", "50ms..5ms", "5ms..61s", "5ms..50ms,loss=1", "20"] {
            assert!(parse_delay(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_word_may_be_a_duration() {
        for name in ["node2", "sender-4", "_a.b"] {
            assert!(matches!(parse_name_or_duration(name), Ok(NameOrDuration::Name(is)) if is == name));
        }
        assert!(matches!(parse_name_or_duration("20s"), Ok(NameOrDuration::Duration(_))));
        for text in ["", "*", "-x", "a b", "a/b", &"a".repeat(256)] {
            assert!(parse_name_or_duration(text).is_err(), "{text}");
        }
        for text in ["20", "500ms", "1.5h", "20sec"] {
            assert!(looks_like_a_duration(text), "{text}");
        }
        assert!(!looks_like_a_duration("node2") && !looks_like_a_duration("2nd"));
    }
}
