//! What is done to nodes, and undone.

use std::{fmt, net::IpAddr, time::Duration};

use tokio::time::sleep;

use super::{
    console::Console,
    docker,
    project::{self, Node, Project, State},
};
use crate::failure::Failure;

/// How often Docker is asked to pause containers that it cannot freeze at once.
const PAUSE_ATTEMPTS: u32 = 5;
/// How often it is asked to start containers whose ports it cannot get at once.
const START_ATTEMPTS: u32 = 20;
/// How long it waits for such a port each time.
const START_PAUSE: Duration = Duration::from_millis(500);

/// What a node can suffer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    /// It is off the network.
    Partition,
    /// It is frozen.
    Pause,
    /// It was ended without a word.
    Kill,
    /// It is stopped and started again, at once.
    Restart,
    /// Of the datagrams it sends, so many in a hundred are lost.
    Loss(f64),
    /// They are held back for so long.
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
    /// Does it to these nodes.
    pub(super) async fn begin(
        &self,
        project: &Project,
        nodes: &[Node],
        lasting: Option<&str>,
        console: &Console,
    ) -> Result<(), Failure> {
        // Asked before: a port is published only while its container is on the network.
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
        let lasting = lasting.map(|span| format!(", for {span}")).unwrap_or_default();
        let pages = pages.iter().map(|(name, page)| format!("; {name}'s page {page} does not answer until it is back"));
        console.say(&format!("{}: {words}{lasting}{}", names(nodes), pages.collect::<String>()));
        Ok(())
    }

    /// Undoes it, for those of these nodes that suffer from it.
    pub(super) async fn finish(&self, project: &Project, of: &[String], console: &Console) -> Result<(), Failure> {
        let mut nodes = project.look().await?;
        nodes.retain(|node| of.contains(&node.name) && self.is_suffered(node));
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
        console.say(&format!("{}: {words}", names(&nodes)));
        Ok(())
    }

    fn is_suffered(&self, node: &Node) -> bool {
        match self {
            Self::Partition => !node.attached,
            Self::Pause => node.state == State::Paused,
            Self::Kill => node.state.has_ended(),
            Self::Loss(_) | Self::Delay(_) => node.state == State::Running,
            Self::Restart => false,
        }
    }
}

/// Undoes everything, whoever did it.
pub(super) async fn heal(project: &Project, console: &Console) -> Result<(), Failure> {
    let nodes = project.look().await?;
    for fault in [Fault::Pause, Fault::Partition, Fault::Kill] {
        let suffer = nodes.iter().filter(|node| fault.is_suffered(node));
        let names: Vec<_> = suffer.map(|node| node.name.clone()).collect();
        if !names.is_empty() {
            fault.finish(project, &names, console).await?;
        }
    }
    // Who was frozen can be asked only now.
    let suffer = project::faults(&project.look().await?).await?;
    let names: Vec<_> = suffer.into_iter().map(|(name, _)| name).collect();
    if names.is_empty() { Ok(()) } else { Fault::Loss(0.0).finish(project, &names, console).await }
}

fn names(nodes: &[Node]) -> String {
    nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// On a busy host the kernel may not get to freeze a container in time: Docker then thaws it again, and says so.
async fn pause(project: &Project, nodes: &[Node]) -> Result<(), Failure> {
    let mut nodes = nodes.to_vec();
    for _ in 1..PAUSE_ATTEMPTS {
        match project::apply("pause", &nodes).await {
            Err(failure) if failure.to_string().contains("unable to freeze") => {}
            done => return done,
        }
        let now = project.look().await?;
        nodes.retain(|node| now.iter().any(|it| it.container == node.container && it.state == State::Running));
        if nodes.is_empty() {
            return Ok(());
        }
    }
    project::apply("pause", &nodes).await
}

async fn disconnect(project: &Project, nodes: &[Node]) -> Result<(), Failure> {
    let network = project.network().await?;
    for node in nodes {
        docker::need(&["network", "disconnect", &network, &node.container]).await?;
    }
    Ok(())
}

/// Docker gives the lowest address that is free, so nodes that come back in the order of their addresses get their own
/// ones again. One that gets another is not what the others know: it begins a new life.
async fn connect(project: &Project, nodes: &[Node], console: &Console) -> Result<(), Failure> {
    let network = project.network().await?;
    let mut back = Vec::new();
    for node in nodes {
        back.push((node.told_address().await?, node));
    }
    back.sort_by_key(|(address, _)| address.as_ref().and_then(|address| address.parse::<IpAddr>().ok()));
    for (address, node) in back {
        let [service, name] = node.aliases();
        let aliases = ["--alias", service, "--alias", name];
        let connect = [&["network", "connect"][..], &aliases, &[&network, &node.container]].concat();
        docker::need(&connect).await?;
        let Some(address) = address else { continue };
        let given = node.given_address().await?;
        if !given.is_empty() && given != address {
            let name = &node.name;
            console.say(&format!(
                "{name} gets another address from Docker, {given} and not {address}: restarted, to learn it"
            ));
            project::apply("restart", std::slice::from_ref(node)).await?;
        }
    }
    Ok(())
}

/// All at once: each may take its time to say good-bye.
async fn restart(nodes: &[Node]) -> Result<(), Failure> {
    let printed = project::each(nodes, |node| vec!["restart".into(), node.container.clone()]).await?;
    let failed = nodes.iter().zip(printed).filter(|(_, printed)| !printed.good);
    let (stopped, others): (Vec<_>, Vec<_>) = failed.partition(|(_, printed)| is_port_taken(&printed.stderr));
    let stopped: Vec<_> = stopped.into_iter().map(|(node, _)| node.clone()).collect();
    if !stopped.is_empty() {
        start(&stopped).await?;
    }
    match others.first() {
        Some((node, printed)) => {
            Err(Failure::other(format!("{} was not restarted: {}", node.name, printed.stderr.trim())))
        }
        None => Ok(()),
    }
}

fn is_port_taken(said: &str) -> bool {
    ["address already in use", "port is already allocated"].iter().any(|words| said.contains(words))
}

/// While a node did not run, some connection may have taken the port of the host that Docker had chosen for it.
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
    let printed = project::each(nodes, |node| node.exec(&["faults", faults])).await?;
    for (node, printed) in nodes.iter().zip(printed) {
        if !printed.good {
            let why = printed.stderr.trim().trim_start_matches("error: ");
            return Err(Failure::other(format!("{} did not take the faults {faults}: {why}", node.name)));
        }
    }
    Ok(())
}
