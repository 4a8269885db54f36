//! `broadcast chaos status`: what is broken, and which nodes do not see all others.

use std::collections::BTreeMap;

use serde_json::Value;

use super::project::{self, ContainerState, Node, Project};
use crate::{commands::output, failure::Failure};

/// A line for each node with a problem.
pub(super) async fn broken(nodes: &[Node]) -> Result<Vec<String>, Failure> {
    let reachable: Vec<_> = nodes.iter().filter(|node| node.is_reachable()).collect();
    // Asks now: the result of Docker's own health check may be half a minute old.
    let (seen, faults) = tokio::try_join!(
        project::each(reachable.iter().copied(), |node| node.exec(&["health", "--json"])),
        project::faults(nodes)
    )?;
    let seen: BTreeMap<_, Value> = reachable
        .iter()
        .zip(seen)
        .map(|(node, output)| (node.name.as_str(), serde_json::from_str(&output.stdout).unwrap_or_default()))
        .collect();
    let faults: BTreeMap<_, _> = faults.into_iter().collect();
    let line = |node: &Node| {
        let mut words = Vec::new();
        if node.state != ContainerState::Running {
            words.push(node.state.to_string());
        }
        if !node.attached {
            words.push("off the network".into());
        }
        if let Some(health) = seen.get(node.name.as_str()) {
            if health["joined"] == false {
                words.push("unhealthy: it has not joined".into());
            }
            match health["members"].as_u64() {
                None => words.push("unhealthy: it does not answer (broadcast health)".into()),
                Some(members) if members < reachable.len() as u64 => {
                    words.push(format!("sees only {members} of the {} nodes that run", reachable.len()));
                }
                Some(_) => {}
            }
        }
        words.extend(faults.get(&node.name).cloned());
        (!words.is_empty()).then(|| format!("{}: {}", node.name, words.join(", ")))
    };
    Ok(nodes.iter().filter_map(line).collect())
}

pub(super) async fn print(project: &Project) -> Result<(), Failure> {
    let nodes = project.nodes().await?;
    let broken = broken(&nodes).await?;
    if broken.is_empty() {
        return output::print_line(&format!("all {} nodes are well", nodes.len()));
    }
    output::print_line(&broken.join("\n"))
}
