//! `broadcast chaos random`: causes random faults, heals them, and checks in the logs that no message is lost.

use std::{process::ExitCode, time::Duration};

use rand::{TryRng as _, rngs::SysRng};

use super::{
    check::{self, NodeLog},
    console::{Abort, Console},
    fault::{self, Fault},
    plan::{FaultPlan, PlannedFault},
    project::{self, ContainerState, Node, Project},
    status,
};
use crate::{commands::output, failure::Failure};

/// How long nodes may take to see each other again, and to receive all messages.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(60);
/// How often to check whether they have.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often to check whether a fault is due to begin or end.
const TICK: Duration = Duration::from_millis(500);
/// The shortest fault before the end of the run.
const SHORTEST_FAULT: Duration = Duration::from_secs(2);
/// How a node logs the number of nodes that it sees.
const NODE_COUNT: &str = "broadcast nodes = ";

/// A random seed of those that the flag takes.
pub(super) fn any_seed() -> u32 {
    SysRng.try_next_u32().unwrap_or_default() % 100_000
}

/// One run.
struct Run<'a> {
    project: &'a Project,
    names: Vec<String>,
    /// Logs count from this time on, in Docker's notation.
    since: String,
    /// How many nodes each node should see. Some may be outside the project.
    cluster_size: u64,
    plan: FaultPlan,
}

pub(super) async fn run(
    project: &Project,
    duration_text: &str,
    time: Duration,
    seed: u32,
    console: &mut Console,
) -> Result<ExitCode, Abort> {
    let nodes = project.nodes().await?;
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
        cluster_size: cluster_size(&nodes).await?,
        plan: FaultPlan::new(names.clone(), seed),
        names,
    };
    output::print_line(&format!("{list}: random for {duration_text}, --seed {seed}"))?;
    let with_impairments = nodes.iter().all(|node| node.takes_faults);
    if !with_impairments {
        output::print_line("without loss and delay: not all were started with BROADCAST_FAULTS=ready")?;
    }
    console.restart();
    let broken = run.break_things(time, with_impairments, console).await;
    if broken.is_ok() {
        console.print("the end: healing what is left");
    }
    fault::heal(project, console).await?;
    broken?;
    run.wait_until_settled(console).await?;
    console.print(&format!("all nodes run and see {} nodes", run.cluster_size));
    run.check(console).await
}

/// The time of the last line that any node has logged.
async fn last_logged(nodes: &[Node]) -> Result<String, Failure> {
    let lines = logs(nodes, &["--timestamps", "--tail", "1"]).await?;
    let times = lines.iter().filter_map(|line| line.split(' ').next());
    Ok(times.max().unwrap_or_default().to_owned())
}

/// How many nodes the first node sees.
async fn cluster_size(nodes: &[Node]) -> Result<u64, Failure> {
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

/// The last number of nodes in a log.
fn seen_last(log: &str) -> Option<u64> {
    let rest = &log[log.rfind(NODE_COUNT)? + NODE_COUNT.len()..];
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

/// The logs of the nodes, in their order.
async fn logs(nodes: &[Node], args: &[&str]) -> Result<Vec<String>, Failure> {
    let command = |node: &Node| [&["logs"], args, &[&node.container]].concat().into_iter().map(str::to_owned).collect();
    Ok(project::each(nodes, command).await?.into_iter().map(|output| output.stdout + &output.stderr).collect())
}

/// Room for one fault at a time. There is one slot for outages, and one for impairments.
#[derive(Default)]
struct Slot {
    fault: Option<(Fault, Vec<String>)>,
    /// When the fault ends, or the next one begins, since the start of the run.
    due: Duration,
}

impl Slot {
    fn affected(&self) -> &[String] {
        self.fault.as_ref().map_or(&[], |(_, names)| names)
    }
}

impl Run<'_> {
    async fn break_things(
        &mut self,
        end: Duration,
        with_impairments: bool,
        console: &mut Console,
    ) -> Result<(), Abort> {
        let mut outage = Slot::default();
        let mut impairment = Slot { due: Duration::from_secs(3), ..Slot::default() };
        while console.elapsed() < end {
            if console.elapsed() >= outage.due {
                if let Some((fault, names)) = outage.fault.take() {
                    self.finish(&fault, &names, &mut outage, console).await?;
                } else if self.unsettled().await?.is_empty()
                    && let Some(choice) = self.plan.outage(impairment.affected())
                    && !self.begin(choice, end, &mut outage, console).await?
                {
                    break;
                }
            }
            if with_impairments && console.elapsed() >= impairment.due {
                if let Some((fault, names)) = impairment.fault.take() {
                    self.finish(&fault, &names, &mut impairment, console).await?;
                } else if let Some(choice) = self.plan.impairment(outage.affected())
                    && !self.begin(choice, end, &mut impairment, console).await?
                {
                    break;
                }
            }
            console.sleep(TICK).await?;
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

    /// Begins a fault. Gives false if there is no time left for it.
    async fn begin(
        &mut self,
        choice: PlannedFault,
        end: Duration,
        slot: &mut Slot,
        console: &Console,
    ) -> Result<bool, Failure> {
        let PlannedFault { fault, nodes: names, time } = choice;
        let time = time.min(end.saturating_sub(console.elapsed()));
        if time < SHORTEST_FAULT {
            return Ok(false);
        }
        let nodes: Vec<_> = self.project.nodes().await?.into_iter().filter(|node| names.contains(&node.name)).collect();
        let is_over_at_once = fault == Fault::Restart;
        let duration = format!("{}s", time.as_secs());
        // If this fails halfway, the healing at the end undoes it.
        fault.begin(self.project, &nodes, (!is_over_at_once).then_some(&duration), console).await?;
        slot.due = console.elapsed() + if is_over_at_once { Duration::ZERO } else { time };
        slot.fault = Some((fault, names));
        Ok(true)
    }

    /// Which nodes do not run, or do not see all others according to their logs.
    async fn unsettled(&self) -> Result<Vec<String>, Failure> {
        let nodes = self.project.nodes().await?;
        let logs = logs(&nodes, &["--since", &self.since]).await?;
        let words = |(node, log): (&Node, &String)| {
            let name = &node.name;
            if node.state != ContainerState::Running {
                return Some(format!("{name} is {}", node.state));
            }
            if !node.attached {
                return Some(format!("{name} is off the network"));
            }
            let seen = seen_last(log).filter(|seen| *seen != self.cluster_size)?;
            Some(format!("{name} sees {seen} of {} nodes", self.cluster_size))
        };
        Ok(nodes.iter().zip(&logs).filter_map(words).collect())
    }

    async fn wait_until_settled(&self, console: &mut Console) -> Result<(), Abort> {
        let deadline = console.elapsed() + RECOVERY_TIMEOUT;
        loop {
            let unsettled = self.unsettled().await?;
            if unsettled.is_empty() {
                return Ok(());
            }
            if console.elapsed() >= deadline {
                return Err(Failure::other(format!(
                    "not all is well {} s later: {}; see broadcast chaos status, and docker compose logs of these nodes",
                    RECOVERY_TIMEOUT.as_secs(),
                    unsettled.join(", ")
                ))
                .into());
            }
            console.sleep(POLL_INTERVAL).await?;
        }
    }

    /// Checks that everything that was sent until now arrives in time.
    async fn check(&self, console: &mut Console) -> Result<ExitCode, Abort> {
        let sent = self.collect().await?;
        let deadline = console.elapsed() + RECOVERY_TIMEOUT;
        loop {
            let received = self.collect().await?;
            let names = self.names.iter().zip(&sent).zip(received);
            let logs: Vec<_> = names
                .map(|((name, sent), received)| NodeLog { name: name.clone(), sent: sent.clone(), received })
                .collect();
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
            console.sleep(POLL_INTERVAL).await?;
        }
    }

    /// The nodes' logs since the start, in the order of their names.
    async fn collect(&self) -> Result<Vec<String>, Failure> {
        logs(&self.project.nodes().await?, &["--since", &self.since]).await
    }
}
