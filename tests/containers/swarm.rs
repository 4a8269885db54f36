//! The repository's stack on a Docker Swarm of several engines: all nodes receive each other's messages, and none is lost while
//! the nodes are updated.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Output, Stdio},
};

use crate::support::{
    Process,
    docker::{self, IMAGE, success, wait_until},
    repository, require,
    swarm::{self, Engine, Swarm},
    traffic,
};
use serde_json::{Value, json};

/// Several, so that messages cross the overlay network between engines; each of them runs a node.
const ENGINES: u8 = 3;
const STACK: &str = "demo";

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    require::cases(
        swarm::missing().as_ref(),
        &[(
            "a_stack_of_thirteen_talks_and_is_updated_while_it_talks",
            a_stack_of_thirteen_talks_and_is_updated_while_it_talks,
        )],
    )
}

/// The containers of a service that an engine runs.
fn containers(engine: &Engine, service: &str) -> BTreeSet<String> {
    let filter = format!("label=com.docker.swarm.service.name={STACK}_{service}");
    engine.run(&["ps", "--quiet", "--no-trunc", "--filter", &filter]).lines().map(Into::into).collect()
}

/// What the nodes of a service log, whichever engine runs them.
fn follow(swarm: &Swarm, service: &str) -> BTreeMap<String, Process> {
    let of = |engine: &Engine| docker::follow(|| engine.docker(), &containers(engine, service));
    swarm.engines.iter().flat_map(of).collect()
}

fn wait_for_replicas(swarm: &Swarm, wanted: &str) {
    wait_until(wanted, || {
        let listed = swarm.manager().run(&["stack", "services", STACK, "--format", "{{.Name}} {{.Replicas}}"]);
        let mut lines: Vec<_> = listed.lines().collect();
        lines.sort_unstable();
        if lines.join(", ") == wanted { Ok(()) } else { Err(format!("{listed}\n{}", tasks(swarm))) }
    });
}

/// What happened to each engine and to each task, for the message of a test that fails.
fn tasks(swarm: &Swarm) -> String {
    let format = "{{.Name}} {{.Node}} {{.CurrentState}} {{.Error}}";
    let tasks = swarm.manager().run(&["stack", "ps", STACK, "--no-trunc", "--format", format]);
    format!("{}\n{tasks}", swarm.manager().run(&["node", "ls", "--format", "{{.Hostname}} {{.Status}}"]))
}

/// Deploys the stack as its first lines say: two secrets, then the stack.
fn deploy(swarm: &Swarm) {
    for secret in ["broadcast-keys", "broadcast-token"] {
        let value = docker::docker(&["run", "--rm", "--network", "none", &IMAGE, "keygen"]);
        let mut create = swarm.manager().docker();
        let create = create.args(["secret", "create", secret, "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = create.spawn().expect("docker runs");
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(value.as_bytes()).expect("it reads");
        drop(input);
        assert!(child.wait().expect("it was started here").success(), "{secret}");
    }
    let stack = repository("docker/stack.yaml").display().to_string();
    success(
        swarm
            .manager()
            .docker()
            // There is no registry to ask for the image.
            .args(["stack", "deploy", "--resolve-image", "never", "--compose-file", &stack, STACK])
            .envs([
                ("BROADCAST_IMAGE", IMAGE.as_str()),
                ("BROADCAST_INTERVAL", "1s"),
                ("BROADCAST_LOG_FORMAT", "json"),
            ]),
    );
}

fn cluster(nodes: &BTreeMap<String, Process>) -> Vec<traffic::NamedLog<'_>> {
    nodes.iter().map(|(name, node)| (name.as_str(), &*node.log)).collect()
}

/// Publishes at a node until the update has ended, and waits each time until all have the message. Gives to how many each was
/// delivered.
fn publish_during(swarm: &Swarm, update: &mut Command, node: &mut impl FnMut(&str) -> Command) -> Vec<u64> {
    let mut update = update.stdout(Stdio::null()).spawn().expect("docker runs");
    let mut delivered = Vec::new();
    let status = loop {
        if let Some(status) = update.try_wait().expect("it was started here") {
            break status;
        }
        let value = delivered.len().to_string();
        let Output { status, stdout, stderr } = node(&value).output().expect("docker runs");
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(status.success(), "message {value} did not reach all: {stdout}{stderr}\n{}", tasks(swarm));
        let answer: Value = serde_json::from_str(stdout.trim()).expect("an object");
        assert_eq!(answer["delivered"], answer["members"], "{answer}");
        delivered.push(answer["delivered"].as_u64().expect("a number"));
    };
    assert!(status.success(), "the update did not succeed: {status}");
    delivered
}

fn a_stack_of_thirteen_talks_and_is_updated_while_it_talks() {
    let swarm = Swarm::new(ENGINES);
    let manager = swarm.manager();
    deploy(&swarm);
    wait_for_replicas(&swarm, &format!("{STACK}_node 3/3, {STACK}_sender 10/10"));

    let receivers = follow(&swarm, "node");
    assert_eq!(receivers.keys().collect::<Vec<_>>(), ["node1", "node2", "node3"]);
    for engine in &swarm.engines {
        assert_eq!(containers(engine, "node").len(), 1, "each engine runs one:\n{}", tasks(&swarm));
    }
    let names: Vec<_> = (1..=10).map(|n| format!("sender-{n}")).collect();
    let senders: Vec<_> = names.iter().map(String::as_str).collect();
    let with_receivers = |of: &BTreeMap<String, Process>, name: &str| {
        assert_eq!(of.keys().cloned().collect::<BTreeSet<_>>(), names.iter().cloned().collect(), "{name}");
        let all = [cluster(&receivers), cluster(of)].concat();
        let since = traffic::wait_members(13, &all);
        traffic::wait_delivered(&senders, 3, &since, &all);
    };
    let before = follow(&swarm, "sender");
    with_receivers(&before, "the first ones");

    let node1 = &receivers["node1"];
    let place = node1.log.len();
    let here = containers(manager, "node").into_iter().next().expect("each engine runs one");
    let delivered = publish_during(
        &swarm,
        manager.docker().args(["service", "update", "--no-resolve-image", "--quiet", "--detach=false"]).args([
            // It is a change, and makes the new ones healthy sooner.
            "--health-interval=1s",
            // Half of them at once, one half after the other.
            "--update-parallelism=5",
            "--update-delay=0s",
            // For how long the swarm watches the last ones; the test does that itself.
            "--update-monitor=2s",
            &format!("{STACK}_sender"),
        ]),
        &mut |value| {
            let mut command = manager.docker();
            command.args(["exec", &here, "/broadcast", "publish", "update", value, "--ack", "all", "--json"]);
            command
        },
    );
    assert!(delivered.len() >= 10, "messages were published all the time: {delivered:?}");
    // The command ends when the containers are there; the swarm watches the last of them for a while.
    wait_until("the update to be completed", || {
        let service = format!("{STACK}_sender");
        let state = manager.run(&["service", "inspect", "--format", "{{.UpdateStatus.State}}", &service]);
        if state == "completed" { Ok(()) } else { Err(format!("{state}\n{}", tasks(&swarm))) }
    });

    let after = follow(&swarm, "sender");
    with_receivers(&after, "the updated ones");
    for sender in &senders {
        node1.log.wait_message(place, &format!("{sender} left"));
    }
    for (name, node) in receivers.iter().chain(&before).chain(&after) {
        let lines = node.log.lines();
        for line in &lines {
            // Names are known a while after the start, and a sender speaks at once: what it says to nobody is lost.
            let alone = line["event"] == "missed" && line["first"] == 0;
            let well = line["level"] == "INFO" || alone || line["event"] == "seed_unreachable";
            assert!(well && line["event"] != "failed", "everybody was well: {line}");
            assert!(!line["addr"].as_str().is_some_and(|addr| addr.starts_with("172.")), "{name}: {line}");
        }
    }
    assert_eq!(node1.log.count(&json!({ "event": "failed" })), 0);
}
