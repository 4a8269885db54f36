//! What is broken, and who does not see all others.

use std::collections::BTreeMap;

use serde_json::Value;

use super::project::{self, Node, Project, State};
use crate::{commands::output, failure::Failure};

/// What nodes suffer from, a line each; none if all are well.
pub(super) async fn broken(nodes: &[Node]) -> Result<Vec<String>, Failure> {
    let there: Vec<_> = nodes.iter().filter(|node| node.is_there()).collect();
    // What Docker's health check asks, which may be half a minute old.
    let (seen, faults) = tokio::try_join!(
        project::each(there.iter().copied(), |node| node.exec(&["health", "--json"])),
        project::faults(nodes)
    )?;
    let seen: BTreeMap<_, Value> = there
        .iter()
        .zip(seen)
        .map(|(node, printed)| (node.name.as_str(), serde_json::from_str(&printed.stdout).unwrap_or_default()))
        .collect();
    let faults: BTreeMap<_, _> = faults.into_iter().collect();
    let line = |node: &Node| {
        let mut words = Vec::new();
        if node.state != State::Running {
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
                Some(members) if members < there.len() as u64 => {
                    words.push(format!("sees only {members} of the {} nodes that run", there.len()));
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
    let nodes = project.look().await?;
    let broken = broken(&nodes).await?;
    if broken.is_empty() {
        return output::print_line(&format!("all {} nodes are well", nodes.len()));
    }
    output::print_line(&broken.join("\n"))
}
