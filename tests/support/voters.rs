//! The store's voters: three nodes that found it together.

use serde_json::Value;

/// Their names, as `--voters` takes them.
pub const VOTERS: &str = "node1,node2,node3";

/// Which voter leads, from 0 on, by what the store says of itself; nothing unless `count` voters take part, and all agree on
/// who leads.
pub fn leader(status: &Value, count: usize) -> Option<usize> {
    let voters = status["voters"].as_array()?;
    let healthy = voters.iter().filter(|voter| voter["votes"] == true && voter.get("problem").is_none()).count();
    let leader = voters.iter().find(|voter| voter["leads"] == true)?["name"].as_str()?;
    let number: usize = leader.strip_prefix("node")?.parse().ok()?;
    (healthy == count && status["leader"] == leader).then(|| number - 1)
}
