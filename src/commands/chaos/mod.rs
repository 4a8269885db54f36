//! `broadcast chaos`: breaks a running compose project on purpose, heals it, and checks what it bears.
//!
//! Docker alone knows what is broken, so there is no state to lose: each command looks at the containers anew. What a
//! command has begun it undoes, whatever ends it.

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
    console::{Console, Ended},
    fault::Fault,
    project::{Node, Project, State},
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
    #[arg(short = 'f', long = "file", value_name = "FILE", global = true, value_parser = readable)]
    files: Vec<PathBuf>,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Disconnect each of the nodes from the network (docker network disconnect)
    Partition(Nodes),
    /// Freeze nodes (docker pause)
    Pause(Nodes),
    /// Lose this share of the datagrams that a node sends
    #[command(after_help = "Example:\n  broadcast chaos loss node3 30% 20s")]
    Loss {
        /// Name of the node
        #[arg(value_parser = node)]
        name: String,
        /// The share, from 0% to 100%
        #[arg(value_parser = percent)]
        percent: f64,
        /// How long, like 20s or 2m [default: until `heal`]
        #[arg(value_parser = lasting)]
        duration: Option<Lasting>,
    },
    /// Delay the datagrams that a node sends
    #[command(after_help = "Examples:\n  \
        broadcast chaos delay node3 20ms\n  \
        broadcast chaos delay node3 5ms..50ms 1m")]
    Delay {
        /// Name of the node
        #[arg(value_parser = node)]
        name: String,
        /// How long, like 20ms, or 5ms..50ms, which also reorders them; at most 60s
        #[arg(value_parser = delay)]
        span: String,
        /// For how long, like 20s or 2m [default: until `heal`]
        #[arg(value_parser = lasting)]
        duration: Option<Lasting>,
    },
    /// End nodes at once; they say no goodbye (docker kill)
    Kill(Nodes),
    /// Stop nodes and start them again; start nodes that were killed
    Restart {
        /// Names of the nodes
        #[arg(required = true, value_name = "NAME", value_parser = node)]
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
        #[arg(value_parser = lasting)]
        duration: Lasting,
        /// Repeats the choices of the run that printed it [default: a random one]
        #[arg(long, value_name = "N", value_parser = seed)]
        seed: Option<u32>,
    },
    /// Check the logs that `random` kept when something was wrong
    Check {
        /// The folder, with NAME.sent and NAME.log of each node
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Nodes {
    /// Names of the nodes; the last may be for how long, like 20s or 2m [default: until `heal`]
    #[arg(required = true, value_name = "NAME|DURATION", value_parser = node_or_lasting)]
    names: Vec<Word>,
}

/// What stands where both can.
#[derive(Clone, Debug)]
enum Word {
    Name(String),
    Lasting(Lasting),
}

/// How long a fault stays: as it was written, and what that is.
#[derive(Clone, Debug)]
struct Lasting {
    text: String,
    time: Duration,
}

/// What refers to the help of what was asked for, and cannot be.
fn misuse(fault: &Fault, what: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("{what}; see broadcast chaos {fault} --help"))
}

const NO_DURATION: &str = "not a duration; write minutes and seconds with their unit, like 20s, 2m or 1m30s";
const NEITHER: &str = "neither a node nor a duration: write minutes and seconds with their unit, like 20s or 2m";

fn lasting(text: &str) -> Result<Lasting, String> {
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
            Ok(Lasting { text: text.into(), time: Duration::from_secs((minutes * 60 + seconds).into()) })
        }
        _ => Err(NO_DURATION.into()),
    }
}

fn node(text: &str) -> Result<String, String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    // As long as the name of a host, at most.
    if text.len() <= 255 && text.starts_with(is_word) && text.chars().all(|c| is_word(c) || c == '.' || c == '-') {
        Ok(text.into())
    } else {
        Err("not the name of a node; `docker compose ps` lists the containers".into())
    }
}

fn node_or_lasting(text: &str) -> Result<Word, String> {
    lasting(text).map(Word::Lasting).or_else(|_| node(text).map(Word::Name))
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let is_plain = number.starts_with(|c: char| c.is_ascii_digit()) && !number.contains(['e', 'E']);
    let share = number.parse().ok().filter(|share| is_plain && (0.0..=100.0).contains(share));
    share.ok_or_else(|| "not a share; write one from 0% to 100%, like 30%".into())
}

/// Whatever a node takes for a delay.
fn delay(text: &str) -> Result<String, String> {
    let faults = format!("delay={text}").parse::<Faults>();
    let is_delay = !text.contains(',') && faults.is_ok();
    is_delay.then(|| text.into()).ok_or_else(|| {
        "not a delay; write one of at most 60s, like 20ms, or the shortest and the longest, like 5ms..50ms".into()
    })
}

fn seed(text: &str) -> Result<u32, String> {
    let seed = text.parse().ok().filter(|seed| *seed <= 99_999);
    seed.ok_or_else(|| "not a seed; write a number of up to five digits".into())
}

fn readable(text: &str) -> Result<PathBuf, String> {
    std::fs::File::open(text).map_err(|error| format!("cannot read this compose file: {error}"))?;
    Ok(text.into())
}

pub(super) async fn run(args: ChaosArgs) -> Result<ExitCode, Failure> {
    if let Verb::Check { folder } = &args.verb {
        return check::folder(folder);
    }
    let mut console = Console::new().map_err(Failure::other)?;
    let project = Project::find(args.project, &args.files).await?;
    let done = match args.verb {
        Verb::Partition(nodes) => several(&project, Fault::Partition, nodes, &mut console).await,
        Verb::Pause(nodes) => several(&project, Fault::Pause, nodes, &mut console).await,
        Verb::Kill(nodes) => several(&project, Fault::Kill, nodes, &mut console).await,
        Verb::Restart { names } => once(&project, &Fault::Restart, &names, None, &mut console).await,
        Verb::Loss { name, percent, duration } => {
            once(&project, &Fault::Loss(percent), &[name], duration, &mut console).await
        }
        Verb::Delay { name, span, duration } => {
            once(&project, &Fault::Delay(span), &[name], duration, &mut console).await
        }
        Verb::Heal => fault::heal(&project, &console).await.map_err(Ended::from),
        Verb::Status => status::print(&project).await.map_err(Ended::from),
        Verb::Random { duration, seed } => {
            let seed = seed.unwrap_or_else(random::any_seed);
            return console::outcome(random::run(&project, &duration.text, duration.time, seed, &mut console).await);
        }
        Verb::Check { .. } => unreachable!("it needs no project"),
    };
    console::outcome(done.map(|()| ExitCode::SUCCESS))
}

/// Breaks one thing; the last of the words may say for how long.
async fn several(
    project: &Project,
    fault: Fault,
    Nodes { names: mut words }: Nodes,
    console: &mut Console,
) -> Result<(), Ended> {
    let lasting = match words.pop() {
        Some(Word::Lasting(lasting)) => Some(lasting),
        last => {
            words.extend(last);
            None
        }
    };
    let names = words.into_iter().map(|word| match word {
        Word::Name(name) => name,
        // A node may have such a name.
        Word::Lasting(lasting) => lasting.text,
    });
    let names: Vec<_> = names.collect();
    if names.is_empty() {
        let lasting = lasting.map(|lasting| lasting.text).unwrap_or_default();
        return Err(misuse(&fault, format!("{fault} needs the name of a node before the duration {lasting}")).into());
    }
    once(project, &fault, &names, lasting, console).await
}

/// Breaks one thing; with a duration, for so long.
async fn once(
    project: &Project,
    fault: &Fault,
    names: &[String],
    lasting: Option<Lasting>,
    console: &mut Console,
) -> Result<(), Ended> {
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            return Err(misuse(fault, format!("{name} is named twice")).into());
        }
    }
    let nodes = named(&project.look().await?, names, fault)?;
    nodes.iter().try_for_each(|node| can_have(node, fault))?;
    let paused: Vec<_> = nodes.iter().filter(|node| node.state == State::Paused).cloned().collect();
    if !paused.is_empty() {
        project::apply("unpause", &paused).await?;
    }
    let Some(lasting) = lasting else { return Ok(fault.begin(project, &nodes, None, console).await?) };
    let done = async {
        fault.begin(project, &nodes, Some(&lasting.text), console).await?;
        console.rest(lasting.time).await
    };
    let done = done.await;
    fault.finish(project, names, console).await?;
    done
}

/// The nodes of these names.
fn named(nodes: &[Node], names: &[String], fault: &Fault) -> Result<Vec<Node>, Failure> {
    let find = |name: &String| {
        let found = nodes.iter().find(|node| node.name == *name).cloned();
        found.ok_or_else(|| {
            if looks_like_a_duration(name) {
                return misuse(fault, format!("{name} is {NEITHER}"));
            }
            let there: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
            Failure::other(format!("no node is named {name}: there are {}", there.join(" ")))
        })
    };
    names.iter().map(find).collect()
}

/// Whether it is a number, perhaps with a unit of time.
fn looks_like_a_duration(name: &str) -> bool {
    let unit = name.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    name.starts_with(|c: char| c.is_ascii_digit()) && ["", "ms", "h", "sec", "min"].contains(&unit)
}

fn can_have(node: &Node, fault: &Fault) -> Result<(), Failure> {
    let name = &node.name;
    if *fault != Fault::Restart && node.state != State::Running {
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
            assert_eq!(lasting(text).map(|lasting| lasting.time.as_secs()), Ok(seconds), "{text}");
        }
        for text in ["", "20", "s", "m", "1ms", "500ms", "1s2m", "1h", "-1s", "+1s", "123456s", "1.5s"] {
            assert!(lasting(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_at_most_all() {
        for (text, share) in [("30%", 30.0), ("0", 0.0), ("100%", 100.0), ("2.5%", 2.5)] {
            assert_eq!(percent(text), Ok(share), "{text}");
        }
        for text in ["130%", "%", "", "-1%", "+1", "nan", "inf", ".5", "1e1%", "30%%", "30 %"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_delay_is_what_a_node_takes() {
        for text in ["20ms", "5ms..50ms", "60s"] {
            assert_eq!(delay(text).as_deref(), Ok(text));
        }
        for text in ["foo", "", "50ms..5ms", "5ms..61s", "5ms..50ms,loss=1", "20"] {
            assert!(delay(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_last_word_may_be_a_duration() {
        for name in ["node2", "sender-4", "_a.b"] {
            assert!(matches!(node_or_lasting(name), Ok(Word::Name(is)) if is == name));
        }
        assert!(matches!(node_or_lasting("20s"), Ok(Word::Lasting(_))));
        for text in ["", "*", "-x", "a b", "a/b", &"a".repeat(256)] {
            assert!(node_or_lasting(text).is_err(), "{text}");
        }
        for text in ["20", "500ms", "1.5h", "20sec"] {
            assert!(looks_like_a_duration(text), "{text}");
        }
        assert!(!looks_like_a_duration("node2") && !looks_like_a_duration("2nd"));
    }
}
