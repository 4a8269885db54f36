//! Nodes of the previous release and of this one in one cluster, as during an upgrade node by node.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use crate::support::{
    Log, Process,
    cluster::{INTERVAL, Node, own_addr},
    ledger::{self, Life},
    program, repository, require, traffic,
};
use serde_json::json;

/// The variable that names the program of the previous release; else it is built from the history.
const PREVIOUS: &str = "BROADCAST_PREVIOUS";
/// Builds it.
const BUILD: &str = "scripts/previous-release";
/// How many nodes there are.
const NODES: usize = 4;

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    let missing = (std::env::var_os(PREVIOUS).is_none() && !has_history()).then(|| {
        format!(
            "the previous release is not in the history: `git fetch --unshallow`, or name its program in {PREVIOUS}"
        )
    });
    let upgrade = "compat/every_message_crosses_once_while_nodes_are_replaced_one_by_one";
    require::cases(missing.as_ref(), &[(upgrade, every_message_crosses_once_while_nodes_are_replaced_one_by_one)])
}

fn has_history() -> bool {
    let script = std::fs::read_to_string(repository(BUILD)).expect("it is part of the repository");
    let commit = script.lines().find_map(|line| line.strip_prefix("commit=")).expect("it names the commit");
    let git = ["cat-file", "-e", &format!("{commit}^{{commit}}")];
    require::answers(Command::new("git").current_dir(repository("")).args(git))
}

/// The program of the previous release.
fn previous() -> PathBuf {
    if let Some(named) = std::env::var_os(PREVIOUS) {
        return named.into();
    }
    let built = Command::new(repository(BUILD)).output().expect("it runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(built.stdout).expect("a path that is text").trim_end().into()
}

/// Which release a node is of.
#[derive(Clone, Copy, Debug)]
enum Release {
    Previous,
    This,
}

struct Cluster {
    previous: PathBuf,
    addrs: Vec<SocketAddr>,
    nodes: Vec<Node>,
    /// From when on each node has to receive everything.
    since: Vec<String>,
    /// Lives that have ended.
    lives: Vec<Life>,
}

impl Cluster {
    fn start(release: Release) -> Self {
        let addrs: Vec<_> = (0..NODES).map(|_| own_addr()).collect();
        let mut cluster = Self { previous: previous(), addrs, nodes: Vec::new(), since: Vec::new(), lives: Vec::new() };
        cluster.nodes = (0..NODES).map(|i| cluster.node(i, release)).collect();
        cluster.since = vec![traffic::wait_members(NODES, &cluster.logs()); NODES];
        cluster
    }

    fn node(&self, i: usize, release: Release) -> Node {
        let name = format!("node{}", i + 1);
        let bind = self.addrs[i].to_string();
        let others = self.addrs.iter().filter(|addr| **addr != self.addrs[i]).map(SocketAddr::to_string);
        let seeds = others.collect::<Vec<_>>().join(",");
        let command = program(&["node", "--name", &name, "--bind", &bind, "--join", &seeds, "--http", "off"]);
        let mut command = match release {
            Release::This => command,
            Release::Previous => {
                let mut previous = Command::new(&self.previous);
                previous.args(command.get_args());
                command.get_envs().for_each(|(variable, _)| _ = previous.env_remove(variable));
                previous
            }
        };
        command.args(["--role", "sender", "--interval", INTERVAL, "--profile", "local", "--log-format", "json"]);
        Node { process: Process::spawn(command.args(["--log", "info,broadcast=debug"])), name }
    }

    fn logs(&self) -> Vec<(&str, &Log)> {
        self.nodes.iter().map(|node| (node.name.as_str(), node.log())).collect()
    }

    /// Waits, several times, until each has received new messages of all others and knows that all others have received its own.
    #[track_caller]
    fn flow(&self) {
        (0..3).for_each(|_| self.flow_once());
    }

    #[track_caller]
    fn flow_once(&self) {
        let from: Vec<_> = self.nodes.iter().map(|node| node.log().len()).collect();
        for (node, from) in self.nodes.iter().zip(&from) {
            for other in self.nodes.iter().filter(|other| other.name != node.name) {
                node.wait_received(*from, &other.name);
            }
            let all = NODES - 1;
            node.log().wait_line(*from, &json!({"event": "delivered", "delivered": all, "members": all}));
        }
    }

    /// Stops a node in order, once all others have received its messages, and it theirs.
    #[track_caller]
    fn end(&mut self, i: usize, from: usize) {
        let logs = self.logs().split_off(from);
        let (said, until) = ledger::last_sent(&logs);
        ledger::wait_received(&said, &logs);
        let node = &mut self.nodes[i];
        node.process.signal("TERM");
        assert_eq!(node.process.wait().code(), Some(0), "{}", node.name);
        node.log().wait_end();
        let (name, lines, since) = (node.name.clone(), node.log().lines(), self.since[i].clone());
        self.lives.push(Life { node: name, lines, since, until, killed: false });
    }

    #[track_caller]
    fn replace(&mut self, i: usize, release: Release) {
        let from: Vec<_> = self.nodes.iter().map(|node| node.log().len()).collect();
        self.end(i, 0);
        let name = self.nodes[i].name.clone();
        for (node, from) in self.nodes.iter().zip(from).filter(|(node, _)| node.name != name) {
            node.wait_event(from, "left", &name);
        }
        self.nodes[i] = self.node(i, release);
        self.since[i] = traffic::wait_members(NODES, &self.logs());
    }
}

fn every_message_crosses_once_while_nodes_are_replaced_one_by_one() {
    let mut cluster = Cluster::start(Release::Previous);
    cluster.flow();
    for i in 0..NODES {
        cluster.replace(i, Release::This);
        cluster.flow();
    }
    // Somebody has second thoughts.
    cluster.replace(1, Release::Previous);
    cluster.flow();

    (0..NODES).for_each(|i| cluster.end(i, i));
    // Nobody was told what it does not understand.
    for life in &cluster.lives {
        let rejected = life.lines.iter().find(|line| line["event"] == "rejected");
        assert_eq!(rejected, None, "{}", life.node);
    }
    println!("{} messages heard by {} lives", ledger::check(&cluster.lives), cluster.lives.len());
}
