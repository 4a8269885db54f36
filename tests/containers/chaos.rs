//! `scripts/chaos`: what it breaks, that it heals, and that its check can fail.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

use crate::support::{
    self,
    compose::Project,
    docker::{success, wait_until},
    require,
};

/// All of them.
pub fn cases() -> Vec<require::Case> {
    let mut cases = require::cases(None, &[("the_check_finds_what_is_wrong", the_check_finds_what_is_wrong)]);
    cases.extend(require::cases(
        require::compose().as_ref(),
        &[
            ("what_is_broken_is_named_and_heals", what_is_broken_is_named_and_heals),
            ("random_things_lose_nothing", random_things_lose_nothing),
        ],
    ));
    cases
}

fn chaos(args: &[&str]) -> Command {
    let mut command = Command::new(support::repository("scripts/chaos"));
    command.args(args);
    command
}

/// What it says, and its exit code.
fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.output().expect("bash is there");
    (status.code(), (String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr)).into_owned())
}

/// Its exit code, where as many lines are read from it as `| head -n` would.
fn read_only(command: &mut Command, lines: usize) -> Option<i32> {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("bash is there");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    assert_eq!(output.lines().take(lines).filter(Result::is_ok).count(), lines);
    child.wait().expect("it was started").code()
}

/// What three nodes logged: node1 receives, node2 and node3 send, node3 is killed and comes back.
const LOGS: [(&str, &str); 3] = [
    ("node1", "< node2 1|< node3 2|< node2 3|< node3 4|< node2 6|< node3 7"),
    ("node2", "> 1|< node3 2|> 3|< node3 4|> 6|< node3 7"),
    ("node3", "> 0|> 2|< node2 3|> 4|> 5|!|< node2 6|> 7"),
];

/// Judges the nodes' logs, in one of which one thing is another.
fn judge(node: &str, what: &str, other: &str, line: fn(&str, &str) -> String) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, script) in LOGS {
        let script = if name == node { script.replacen(what, other, 1) } else { script.into() };
        let log: String = script.split('|').filter(|step| !step.is_empty()).map(|step| line(name, step)).collect();
        for kind in ["sent", "log"] {
            fs::write(folder.path().join(format!("{name}.{kind}")), &log).expect("written");
        }
    }
    outcome(&mut chaos(&["check", folder.path().to_str().expect("a plain name")]))
}

fn words(name: &str, step: &str) -> String {
    match step.split(' ').collect::<Vec<_>>()[..] {
        ["<", from, value] => format!("received broadcast msg: key=I am {from} value={value}"),
        [">", value] => format!("send broadcast msg: key=I am {name} value={value}"),
        _ => "listening on 172.18.0.2:7946".into(),
    }
}

fn text(name: &str, step: &str) -> String {
    format!("2026-11-24T21:26:42.093Z  INFO {name} {}\n", words(name, step))
}

fn json(name: &str, step: &str) -> String {
    format!("{{\"level\":\"INFO\",\"node\":\"{name}\",\"message\":\"{}\"}}\n", words(name, step))
}

fn the_check_finds_what_is_wrong() {
    let good = "2 of 3 nodes survived (killed or restarted: node3); 5 messages sent by 2 senders; \
                each survivor has each of them once\n";
    let lost = "  (1 more were lost with the killed node that had sent them, before any survivor had them)\n";
    for line in [text, json] {
        // Of the first of each nobody knows who heard it, and 5 went with its sender.
        assert_eq!(judge("", "", "", line), (Some(0), format!("{good}{lost}")));
        for (node, what, other, wrong) in [
            ("node1", "|< node2 3", "", "node1 lacks of node2: 3"),
            ("node1", "|< node2 3", "|< node2 3|< node2 3", "node1 has too often of node2: 3"),
            // In a former life of its sender, with which it was not lost: another has it …
            ("node1", "|< node3 4", "", "node1 lacks of node3: 4"),
            // … and from the new life of that.
            ("node2", "|< node3 7", "", "node2 lacks of node3: 7"),
        ] {
            let (code, said) = judge(node, what, other, line);
            assert!(code == Some(1) && said.ends_with(&format!("once:\n  {wrong}\n{lost}")), "{code:?} {said}");
        }
        // What was sent before something that arrived is not lost with its sender.
        let (code, said) = judge("node3", "> 2|", "> 2|> 2000|", line);
        let wrong = "  node1 lacks of node3: 2000\n  node2 lacks of node3: 2000\n";
        assert!(code == Some(1) && said.ends_with(&format!("once:\n{wrong}{lost}")), "{code:?} {said}");
        // Nothing sent, nothing proved.
        let (code, said) = judge("node2", "> 1|< node3 2|> 3|< node3 4|> 6|< node3 7", "!", line);
        assert!(code == Some(1) && said.ends_with("too little to check\n"), "{code:?} {said}");
    }
}

/// Five nodes of the compose file.
struct Cluster(Project);

impl Cluster {
    fn start(name: &str) -> Self {
        let cluster = Self(Project::new(name, &[("BROADCAST_INTERVAL", "500ms"), ("BROADCAST_PROFILE", "local")]));
        cluster.0.compose(&["up", "--detach", "--no-build", "--scale", "sender=2"]);
        cluster.all_well();
        cluster
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String) {
        outcome(&mut chaos(&[&["--project-name", &self.0.name], args].concat()))
    }

    fn good(&self, args: &[&str]) -> String {
        success(&mut chaos(&[&["--project-name", &self.0.name], args].concat()))
    }

    /// Who was away for a moment sees all again a moment later.
    fn all_well(&self) {
        wait_until("all nodes to be well", || match self.good(&["status"]) {
            status if status == "all 5 nodes are well" => Ok(()),
            status => Err(status),
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
    for wrong in [
        &["loss", "node1", "130%"][..],
        &["pause", "node1", "500ms"],
        &["delay", "node1", "foo"],
        &["delay", "node1", "50ms..5ms"],
        &["delay", "node1", "5ms..61s"],
        &["delay", "node1", "5ms..50ms,loss=1"],
        &["random"],
        &["random", "20"],
        &["random", "20s", "2m"],
        &["random", "20s", "--seed"],
        &["brake", "node1"],
        &["kill"],
        &["kill", ""],
        &["kill", "*"],
        &["pause", "node2", "node2"],
        &["partition", "node2", "node2", "3s"],
        &["--file", "/nope", "status"],
    ] {
        let (code, said) = cluster.run(wrong);
        assert!(code == Some(2) && said.contains("see scripts/chaos --help"), "{wrong:?}: {code:?} {said}");
    }

    for args in [&["partition", "node2"][..], &["pause", "sender-1"], &["loss", "node1", "30%"], &["kill", "node3"]] {
        let said = cluster.good(args);
        assert!(!said.contains("page"), "only node1's is published: {said}");
    }
    assert_eq!(cluster.good(&["status"]), "node1: loss=0.3\nnode2: off the network\nnode3: killed\nsender-1: paused");
    let (code, said) = cluster.run(&["random", "20s"]);
    assert!(code == Some(1) && said.contains("something is broken already"), "{code:?} {said}");
    // Even where nobody reads what heals.
    let mut deaf = chaos(&["--project-name", &cluster.0.name, "heal"]);
    assert_eq!(read_only(&mut deaf, 0), Some(0));
    cluster.all_well();

    // Who takes the page away says so.
    let said = cluster.good(&["partition", "node1"]);
    assert!(said.contains("node1's page http://127.0.0.1:"), "{said}");
    cluster.good(&["heal"]);
    cluster.all_well();

    // Nor does it matter how a node ended, nor what else it suffered from.
    cluster.good(&["partition", "node3"]);
    cluster.0.compose(&["stop", "node2", "node3"]);
    assert_eq!(cluster.good(&["status"]), "node2: exited\nnode3: exited, off the network");
    cluster.good(&["heal"]);
    cluster.all_well();

    // Who is interrupted undoes what it did.
    let mut command = chaos(&["--project-name", &cluster.0.name, "delay", "sender-2", "5ms..50ms", "10m"]);
    let mut lasting = command.stdout(Stdio::null()).spawn().expect("bash is there");
    wait_until("a delay", || match cluster.good(&["status"]) {
        status if status == "sender-2: delay=5ms..50ms" => Ok(()),
        status => Err(status),
    });
    success(Command::new("kill").arg(lasting.id().to_string()));
    assert_eq!(lasting.wait().expect("it was started").code(), Some(143));
    cluster.all_well();
    cluster.good(&["restart", "node1"]);
    cluster.all_well();
}

fn random_things_lose_nothing() {
    let cluster = Cluster::start("random");
    // Who is not read any more undoes what it did.
    let folder = tempfile::tempdir().expect("a folder");
    let mut unread = chaos(&["--project-name", &cluster.0.name, "random", "10m", "--seed", "5"]);
    assert_eq!(read_only(unread.env("TMPDIR", folder.path()), 3), Some(141));
    cluster.all_well();
    assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 0);

    let said = cluster.good(&["random", "--seed", "1", "20s"]);
    let verdict = said.lines().find(|line| line.contains(" nodes survived")).expect("a verdict");
    assert!(verdict.ends_with("; each survivor has each of them once"), "{said}");
    cluster.all_well();
}
