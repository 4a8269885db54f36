//! Three voters and a node that does not vote, each on a host of its own: what the tests that break them share.

use serde_json::Value;

use crate::support::{
    Process,
    netns::{Host, seed},
    voters::{VOTERS, leader},
};

/// Where each of the nodes answers clients of etcd, in its own network.
pub const ETCD: &str = "127.0.0.1:2379";
const KEY: &str = "cg8StVXbQJ0gPvMde8o7yrlKmLfiirVuSpXeQm9WlP8=";

/// Starts a node, with variables of its own; one with a folder for its data votes.
pub fn start(host: &Host, data: Option<&str>, env: &[String]) -> Process {
    let join = seed(4);
    let mut args = vec!["--join", &join, "--interval", "200ms", "--etcd", ETCD];
    if let Some(data) = data {
        args.extend(["--role", "voter", "--voters", VOTERS, "--data", data]);
    }
    let keys = format!("BROADCAST_SECRET_KEYS={KEY}");
    let wrapper: Vec<_> = ["env", &keys].into_iter().chain(env.iter().map(String::as_str)).collect();
    host.node_with(&wrapper, &args)
}

/// What the store says of itself, through the node there; nothing, if it says nothing.
pub fn status(host: &Host) -> Option<Value> {
    let asked = host.ask(&["store", "status", "--json"], b"");
    serde_json::from_slice(&asked.stdout).ok()
}

/// Which of the voters leads, from 0 on, if all three vote; otherwise what the store says of itself.
pub fn leader_of_all(host: &Host) -> Result<usize, Value> {
    let status = status(host).unwrap_or_default();
    leader(&status, 3).ok_or(status)
}
