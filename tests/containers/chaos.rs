//! `broadcast chaos` against the compose project: what it breaks, and that everything heals. It runs on the host, as for users.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use crate::support::{
    compose::Project,
    docker::{PROGRAM, success, wait_until},
    require, signal,
};

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    require::cases(
        require::compose().as_ref(),
        &[
            ("what_is_broken_is_named_and_heals", what_is_broken_is_named_and_heals),
            ("random_things_lose_nothing", random_things_lose_nothing),
        ],
    )
}

/// How often the nodes are looked at. Each look runs two programs in every container, so it takes much of the processors.
const LOOK: Duration = Duration::from_millis(500);

/// Five nodes of the compose file.
struct Cluster(Project);

impl Cluster {
    fn start(name: &str) -> Self {
        let cluster = Self(Project::new(name, &[("BROADCAST_INTERVAL", "500ms"), ("BROADCAST_PROFILE", "local")]));
        cluster.0.compose(&["up", "--detach", "--no-build", "--scale", "sender=2"]);
        cluster.all_well();
        cluster
    }

    fn chaos(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&*PROGRAM);
        command.args(["chaos", "--project-name", &self.0.name]).args(args);
        command
    }

    /// Its output, and its exit code.
    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.chaos(args).output().expect("the program runs");
        (status.code(), (String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr)).into_owned())
    }

    fn good(&self, args: &[&str]) -> String {
        success(&mut self.chaos(args))
    }

    /// Its exit code if only its first lines are read, as by `| head -n`.
    fn read_only(&self, args: &[&str], lines: usize) -> Option<i32> {
        let mut child = self.chaos(args).stdout(Stdio::piped()).spawn().expect("the program runs");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        assert_eq!(output.lines().take(lines).filter(Result::is_ok).count(), lines);
        child.wait().expect("it was started").code()
    }

    /// Waits until all is well: a node that was away sees the others again only a moment later.
    fn all_well(&self) {
        self.wait_for("all 5 nodes are well");
    }

    fn wait_for(&self, wanted: &str) {
        wait_until(wanted, || match self.good(&["status"]) {
            status if status == wanted => Ok(()),
            status => {
                thread::sleep(LOOK);
                Err(status)
            }
        });
    }
}

fn what_is_broken_is_named_and_heals() {
    let cluster = Cluster::start("chaos");

    let (code, said) = cluster.run(&["partition", "node4"]);
    assert!(code == Some(1) && said.contains("there are node1 node2 node3 sender-1 sender-2"), "{said}");
    // A duration without its unit is no node.
    let (code, said) = cluster.run(&["partition", "node2", "20"]);
    assert!(code == Some(2) && said.contains("20 is neither a node nor a duration"), "{code:?} {said}");

    // Who takes the page away says so, and only node1's is published.
    let said = cluster.good(&["partition", "node1"]);
    assert!(said.contains("node1's page http://127.0.0.1:"), "{said}");
    for args in [&["pause", "sender-1"][..], &["loss", "node2", "30%"], &["kill", "node3"]] {
        let said = cluster.good(args);
        assert!(!said.contains("page"), "{said}");
    }
    cluster.wait_for("node1: off the network\nnode2: loss=0.3\nnode3: killed\nsender-1: paused");
    let (code, said) = cluster.run(&["random", "20s"]);
    assert!(code == Some(1) && said.contains("something is broken already"), "{code:?} {said}");
    let (code, said) = cluster.run(&["pause", "node3"]);
    assert!(code == Some(1) && said.contains("node3 is killed: broadcast chaos heal"), "{code:?} {said}");
    // Even where nobody reads what heals.
    assert_eq!(cluster.read_only(&["heal"], 0), Some(0));
    cluster.all_well();

    // Nor does it matter how a node ended, nor what else it suffered from.
    let mut delay = cluster.chaos(&["delay", "sender-2", "5ms..50ms", "10m"]);
    let mut lasting = delay.stdout(Stdio::piped()).spawn().expect("the program runs");
    cluster.good(&["loss", "node2", "10%"]);
    cluster.good(&["pause", "node2"]);
    cluster.good(&["partition", "node3"]);
    cluster.0.compose(&["stop", "node1", "node3"]);
    cluster.wait_for("node1: exited\nnode2: paused\nnode3: exited, off the network\nsender-2: delay=5ms..50ms");
    // Who is interrupted undoes what it did.
    signal(lasting.id(), "TERM");
    assert_eq!(lasting.wait().expect("it was started").code(), Some(143));
    cluster.wait_for("node1: exited\nnode2: paused\nnode3: exited, off the network");
    cluster.good(&["heal"]);
    cluster.good(&["restart", "node1"]);
    cluster.all_well();
}

fn random_things_lose_nothing() {
    let cluster = Cluster::start("random");
    // Who is not read any more undoes what it did.
    assert_eq!(cluster.read_only(&["random", "10m", "--seed", "5"], 3), Some(141));
    cluster.all_well();

    let said = cluster.good(&["random", "--seed", "1", "12s"]);
    let verdict = said.lines().find(|line| line.contains(" nodes survived")).expect("a verdict");
    assert!(verdict.ends_with("; each survivor has each of them once"), "{said}");
    cluster.all_well();
}
