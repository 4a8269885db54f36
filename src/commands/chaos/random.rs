//! Breaks things at random, heals them, and checks what came of it.

use std::{process::ExitCode, time::Duration};

use rand::{TryRng as _, rngs::SysRng};

use super::{
    check::{self, Log},
    console::{Console, Ended},
    fault::{self, Fault},
    plan::{Choice, Plan},
    project::{self, Node, Project, State},
    status,
};
use crate::{commands::output, failure::Failure};

/// How long nodes may take until they see each other again, and until all have heard what was sent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether they do.
const TURN: Duration = Duration::from_millis(500);
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(500);
/// What comes less than this before the end is not begun any more.
const SHORTEST: Duration = Duration::from_secs(2);
/// How a node logs how many it sees.
const SEES: &str = "broadcast nodes = ";

/// Any of the seeds that can be given.
pub(super) fn any_seed() -> u32 {
    SysRng.try_next_u32().unwrap_or_default() % 100_000
}

/// A run.
struct Run<'a> {
    project: &'a Project,
    names: Vec<String>,
    /// The time after which the logs are looked at, as Docker has it.
    since: String,
    /// How many nodes each is to see: there may be some outside the project.
    size: u64,
    plan: Plan,
}

pub(super) async fn run(
    project: &Project,
    lasting: &str,
    time: Duration,
    seed: u32,
    console: &mut Console,
) -> Result<ExitCode, Ended> {
    let nodes = project.look().await?;
    let names: Vec<_> = nodes.iter().map(|node| node.name.clone()).collect();
    let list = names.join(" ");
    if nodes.len() < 3 {
        return Err(Failure::other(format!("random needs three nodes, and there are {list}")).into());
    }
    let broken = status::broken(&nodes).await?;
    if !broken.is_empty() {
        return Err(Failure::other(format!(
            "something is broken already ({}): broadcast chaos heal, or wait until they see each other",
            broken.join("; ")
        ))
        .into());
    }
    let mut run = Run {
        project,
        since: last_logged(&nodes).await?,
        size: size(&nodes).await?,
        plan: Plan::new(names.clone(), seed),
        names,
    };
    output::print_line(&format!("{list}: random for {lasting}, --seed {seed}"))?;
    let with_soft = nodes.iter().all(|node| node.takes_faults);
    if !with_soft {
        output::print_line("without loss and delay: not all were started with BROADCAST_FAULTS=ready")?;
    }
    console.restart();
    let broken = run.break_things(time, with_soft, console).await;
    if broken.is_ok() {
        console.say("the end: healing what is left");
    }
    fault::heal(project, console).await?;
    broken?;
    run.wait_until_settled(console).await?;
    console.say(&format!("all nodes run and see {} nodes", run.size));
    run.check(console).await
}

/// When any of them has logged its last line.
async fn last_logged(nodes: &[Node]) -> Result<String, Failure> {
    let lines = logs(nodes, &["--timestamps", "--tail", "1"]).await?;
    let times = lines.iter().filter_map(|line| line.split(' ').next());
    Ok(times.max().unwrap_or_default().to_owned())
}

/// How many nodes the first of these sees.
async fn size(nodes: &[Node]) -> Result<u64, Failure> {
    let first = &nodes[0].name;
    let log = logs(&nodes[..1], &[]).await?;
    let size = seen_last(&log[0]).ok_or_else(|| {
        Failure::other(format!(
            "the log of {first} does not tell what it hears: random judges by logs of the level info (BROADCAST_LOG)"
        ))
    })?;
    if size < nodes.len() as u64 {
        return Err(Failure::other(format!(
            "{first} sees {size} nodes, and there are {}: wait until they have joined",
            nodes.len()
        )));
    }
    Ok(size)
}

/// How many nodes a node has seen last, by its log.
fn seen_last(log: &str) -> Option<u64> {
    let rest = &log[log.rfind(SEES)? + SEES.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

/// What nodes have logged, in their order.
async fn logs(nodes: &[Node], args: &[&str]) -> Result<Vec<String>, Failure> {
    let command = |node: &Node| [&["logs"], args, &[&node.container]].concat().into_iter().map(str::to_owned).collect();
    Ok(project::each(nodes, command).await?.into_iter().map(|printed| printed.stdout + &printed.stderr).collect())
}

/// One of the two kinds of faults there are at a time.
#[derive(Default)]
struct Slot {
    fault: Option<(Fault, Vec<String>)>,
    /// When something is to be done about it, from the beginning.
    due: Duration,
}

impl Slot {
    fn suffering(&self) -> &[String] {
        self.fault.as_ref().map_or(&[], |(_, names)| names)
    }
}

impl Run<'_> {
    async fn break_things(&mut self, end: Duration, with_soft: bool, console: &mut Console) -> Result<(), Ended> {
        let mut hard = Slot::default();
        let mut soft = Slot { due: Duration::from_secs(3), ..Slot::default() };
        while console.elapsed() < end {
            if console.elapsed() >= hard.due {
                if let Some((fault, names)) = hard.fault.take() {
                    self.finish(&fault, &names, &mut hard, console).await?;
                } else if self.unsettled().await?.is_empty()
                    && let Some(choice) = self.plan.hard(soft.suffering())
                    && !self.begin(choice, end, &mut hard, console).await?
                {
                    break;
                }
            }
            if with_soft && console.elapsed() >= soft.due {
                if let Some((fault, names)) = soft.fault.take() {
                    self.finish(&fault, &names, &mut soft, console).await?;
                } else if let Some(choice) = self.plan.soft(hard.suffering())
                    && !self.begin(choice, end, &mut soft, console).await?
                {
                    break;
                }
            }
            console.rest(TICK).await?;
        }
        Ok(())
    }

    async fn finish(
        &mut self,
        fault: &Fault,
        names: &[String],
        slot: &mut Slot,
        console: &Console,
    ) -> Result<(), Failure> {
        fault.finish(self.project, names, console).await?;
        slot.due = console.elapsed() + self.plan.pause();
        Ok(())
    }

    /// Whether there was time left for it.
    async fn begin(
        &mut self,
        choice: Choice,
        end: Duration,
        slot: &mut Slot,
        console: &Console,
    ) -> Result<bool, Failure> {
        let Choice { fault, nodes: names, time } = choice;
        let time = time.min(end.saturating_sub(console.elapsed()));
        if time < SHORTEST {
            return Ok(false);
        }
        let nodes: Vec<_> = self.project.look().await?.into_iter().filter(|node| names.contains(&node.name)).collect();
        let is_over_at_once = fault == Fault::Restart;
        let lasting = format!("{}s", time.as_secs());
        // What goes wrong halfway is healed at the end, with everything else.
        fault.begin(self.project, &nodes, (!is_over_at_once).then_some(&lasting), console).await?;
        slot.due = console.elapsed() + if is_over_at_once { Duration::ZERO } else { time };
        slot.fault = Some((fault, names));
        Ok(true)
    }

    /// Which nodes do not run, or do not see all others, as far as their own logs know.
    async fn unsettled(&self) -> Result<Vec<String>, Failure> {
        let nodes = self.project.look().await?;
        let logs = logs(&nodes, &["--since", &self.since]).await?;
        let words = |(node, log): (&Node, &String)| {
            let name = &node.name;
            if node.state != State::Running {
                return Some(format!("{name} is {}", node.state));
            }
            if !node.attached {
                return Some(format!("{name} is off the network"));
            }
            let seen = seen_last(log).filter(|seen| *seen != self.size)?;
            Some(format!("{name} sees {seen} of {} nodes", self.size))
        };
        Ok(nodes.iter().zip(&logs).filter_map(words).collect())
    }

    async fn wait_until_settled(&self, console: &mut Console) -> Result<(), Ended> {
        let deadline = console.elapsed() + PATIENCE;
        loop {
            let unsettled = self.unsettled().await?;
            if unsettled.is_empty() {
                return Ok(());
            }
            if console.elapsed() >= deadline {
                return Err(Failure::other(format!(
                    "not all is well {} s later: {}; see broadcast chaos status, and docker compose logs of these nodes",
                    PATIENCE.as_secs(),
                    unsettled.join(", ")
                ))
                .into());
            }
            console.rest(TURN).await?;
        }
    }

    /// What was sent until now has to be heard by a while later.
    async fn check(&self, console: &mut Console) -> Result<ExitCode, Ended> {
        let sent = self.collect().await?;
        let deadline = console.elapsed() + PATIENCE;
        loop {
            let heard = self.collect().await?;
            let names = self.names.iter().zip(&sent).zip(heard);
            let logs: Vec<_> =
                names.map(|((name, sent), heard)| Log { name: name.clone(), sent: sent.clone(), heard }).collect();
            let verdict = check::judge(&logs);
            if verdict.is_good() {
                output::print_line(&verdict.to_string())?;
                return Ok(ExitCode::SUCCESS);
            }
            if console.elapsed() >= deadline {
                let folder = check::keep(&logs)?;
                output::print_line(&format!(
                    "{verdict}\nthe nodes' logs are in {folder}; broadcast chaos check {folder} looks at them again"
                ))?;
                return Ok(ExitCode::FAILURE);
            }
            console.rest(TURN).await?;
        }
    }

    /// What the nodes have logged since the start, in the order of their names.
    async fn collect(&self) -> Result<Vec<String>, Failure> {
        logs(&self.project.look().await?, &["--since", &self.since]).await
    }
}
