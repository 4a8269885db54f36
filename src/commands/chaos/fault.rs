//! Faults: what is done to nodes, and undone.

use std::{fmt, net::IpAddr, time::Duration};

use tokio::time::sleep;

use super::{
    console::Console,
    docker,
    project::{self, ContainerState, Node, Project},
};
use crate::failure::Failure;

/// How often to try to pause a container that Docker cannot freeze in time.
const PAUSE_ATTEMPTS: u32 = 5;
/// How often to try to start a container whose port is taken.
const START_ATTEMPTS: u32 = 20;
/// How long to wait for such a port each time.
const START_PAUSE: Duration = Duration::from_millis(500);

/// A fault of a node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// Disconnected from the network.
    Partition,
    /// Frozen.
    Pause,
    /// Killed, without a goodbye.
    Kill,
    /// Stopped and started again at once.
    Restart,
    /// Loses this percentage of the datagrams that it sends.
    Loss(f64),
    /// Delays the datagrams that it sends by this much.
    Delay(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Partition => "partition",
            Self::Pause => "pause",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Loss(_) => "loss",
            Self::Delay(_) => "delay",
        })
    }
}

impl Fault {
    /// Begins the fault at these nodes. `duration` is only for the message.
    pub(super) async fn begin(
        &self,
        project: &Project,
        nodes: &[Node],
        duration: Option<&str>,
        console: &Console,
    ) -> Result<(), Failure> {
        // Before the fault: a port is published only while its container is on the network.
        let pages = match self {
            Self::Partition | Self::Pause | Self::Kill => project::pages(nodes).await?,
            Self::Restart | Self::Loss(_) | Self::Delay(_) => Vec::new(),
        };
        let words: String = match self {
            Self::Partition => {
                disconnect(project, nodes).await?;
                "off the network".into()
            }
            Self::Pause => {
                pause(project, nodes).await?;
                "frozen".into()
            }
            Self::Kill => {
                project::apply("kill", nodes).await?;
                "killed".into()
            }
            Self::Restart => {
                restart(nodes).await?;
                "restarted".into()
            }
            Self::Loss(percent) => {
                set_faults(&format!("loss={}", (percent * 1e4).round() / 1e6), nodes).await?;
                format!("{percent} % of what is sent is lost")
            }
            Self::Delay(span) => {
                set_faults(&format!("delay={span}"), nodes).await?;
                format!("what is sent is held back for {span}")
            }
        };
        let duration = duration.map(|duration| format!(", for {duration}")).unwrap_or_default();
        let pages = pages.iter().map(|(name, page)| format!("; {name}'s page {page} does not answer until it is back"));
        console.print(&format!("{}: {words}{duration}{}", joined_names(nodes), pages.collect::<String>()));
        Ok(())
    }

    /// Undoes the fault at those of the named nodes that have it.
    pub(super) async fn finish(&self, project: &Project, names: &[String], console: &Console) -> Result<(), Failure> {
        let mut nodes = project.nodes().await?;
        nodes.retain(|node| names.contains(&node.name) && self.affects(node));
        if nodes.is_empty() {
            return Ok(());
        }
        let words = match self {
            Self::Partition => {
                connect(project, &nodes, console).await?;
                "on the network again"
            }
            Self::Pause => {
                project::apply("unpause", &nodes).await?;
                "goes on"
            }
            Self::Kill => {
                start(&nodes).await?;
                "started again"
            }
            Self::Loss(_) | Self::Delay(_) => {
                set_faults("none", &nodes).await?;
                "no faults any more"
            }
            Self::Restart => return Ok(()),
        };
        console.print(&format!("{}: {words}", joined_names(&nodes)));
        Ok(())
    }

    /// Whether the node has this fault, as far as Docker knows.
    fn affects(&self, node: &Node) -> bool {
        match self {
            Self::Partition => !node.attached,
            Self::Pause => node.state == ContainerState::Paused,
            Self::Kill => node.state.has_ended(),
            Self::Loss(_) | Self::Delay(_) => node.state == ContainerState::Running,
            Self::Restart => false,
        }
    }
}

/// Undoes all faults, whoever caused them.
pub(super) async fn heal(project: &Project, console: &Console) -> Result<(), Failure> {
    let nodes = project.nodes().await?;
    for fault in [Fault::Pause, Fault::Partition, Fault::Kill] {
        let affected = nodes.iter().filter(|node| fault.affects(node));
        let names: Vec<_> = affected.map(|node| node.name.clone()).collect();
        if !names.is_empty() {
            fault.finish(project, &names, console).await?;
        }
    }
    // Only now, since a frozen node does not answer.
    let affected = project::faults(&project.nodes().await?).await?;
    let names: Vec<_> = affected.into_iter().map(|(name, _)| name).collect();
    if names.is_empty() { Ok(()) } else { Fault::Loss(0.0).finish(project, &names, console).await }
}

fn joined_names(nodes: &[Node]) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// On a busy host, the kernel may not freeze a container in time: Docker then thaws it again, and says so.
async fn pause(project: &Project, nodes: &[Node]) -> Result<(), Failure> {
    let mut nodes = nodes.to_vec();
    for _ in 1..PAUSE_ATTEMPTS {
        match project::apply("pause", &nodes).await {
            Err(failure) if failure.to_string().contains("unable to freeze") => {}
            done => return done,
        }
        let now = project.nodes().await?;
        nodes.retain(|node| now.iter().any(|it| it.container == node.container && it.state == ContainerState::Running));
        if nodes.is_empty() {
            return Ok(());
        }
    }
    project::apply("pause", &nodes).await
}

async fn disconnect(project: &Project, nodes: &[Node]) -> Result<(), Failure> {
    let network = project.network().await?;
    for node in nodes {
        docker::output(&["network", "disconnect", &network, &node.container]).await?;
    }
    Ok(())
}

/// Connects nodes again. Docker assigns the lowest free address, so nodes that come back in the order of their addresses get
/// their own again. A node that gets another address is restarted, because the other nodes do not know it there.
async fn connect(project: &Project, nodes: &[Node], console: &Console) -> Result<(), Failure> {
    let network = project.network().await?;
    let mut back = Vec::new();
    for node in nodes {
        back.push((node.advertised_address().await?, node));
    }
    back.sort_by_key(|(address, _)| address.as_ref().and_then(|address| address.parse::<IpAddr>().ok()));
    for (address, node) in back {
        let [service, name] = node.aliases();
        let aliases = ["--alias", service, "--alias", name];
        let connect = [&["network", "connect"][..], &aliases, &[&network, &node.container]].concat();
        docker::output(&connect).await?;
        let Some(address) = address else { continue };
        let assigned = node.docker_address().await?;
        if !assigned.is_empty() && assigned != address {
            let name = &node.name;
            console.print(&format!(
                "{name} gets another address from Docker, {assigned} and not {address}: restarted, to learn it"
            ));
            project::apply("restart", std::slice::from_ref(node)).await?;
        }
    }
    Ok(())
}

/// Restarts all nodes at once, since each may take its time to leave.
async fn restart(nodes: &[Node]) -> Result<(), Failure> {
    let outputs = project::each(nodes, |node| vec!["restart".into(), node.container.clone()]).await?;
    let failed = nodes.iter().zip(outputs).filter(|(_, output)| !output.success);
    let (stopped, others): (Vec<_>, Vec<_>) = failed.partition(|(_, output)| is_port_taken(&output.stderr));
    let stopped: Vec<_> = stopped.into_iter().map(|(node, _)| node.clone()).collect();
    if !stopped.is_empty() {
        start(&stopped).await?;
    }
    match others.first() {
        Some((node, output)) => {
            Err(Failure::other(format!("{} was not restarted: {}", node.name, output.stderr.trim())))
        }
        None => Ok(()),
    }
}

fn is_port_taken(message: &str) -> bool {
    ["address already in use", "port is already allocated"].iter().any(|words| message.contains(words))
}

/// Starts nodes. While a node did not run, a connection may have taken the host's port that Docker had chosen for it.
async fn start(nodes: &[Node]) -> Result<(), Failure> {
    for _ in 1..START_ATTEMPTS {
        match project::apply("start", nodes).await {
            Err(failure) if is_port_taken(&failure.to_string()) => sleep(START_PAUSE).await,
            done => return done,
        }
    }
    project::apply("start", nodes).await
}

async fn set_faults(faults: &str, nodes: &[Node]) -> Result<(), Failure> {
    let outputs = project::each(nodes, |node| node.exec(&["faults", faults])).await?;
    for (node, output) in nodes.iter().zip(outputs) {
        if !output.success {
            let why = output.stderr.trim().trim_start_matches("error: ");
            return Err(Failure::other(format!("{} did not take the faults {faults}: {why}", node.name)));
        }
    }
    Ok(())
}
