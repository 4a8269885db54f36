//! The repository's compose file: up, scaled, stopped and down, as docs/demo.md shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use crate::support::{
    Process,
    compose::Project,
    docker::{self, docker, wait_until},
    require, traffic,
};

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    require::cases(
        require::compose().as_ref(),
        &[
            ("three_nodes_talk_and_ten_more_and_all_leave", three_nodes_talk_and_ten_more_and_all_leave),
            ("settings_come_from_the_environment", settings_come_from_the_environment),
            ("the_cluster_has_a_key_of_its_own", the_cluster_has_a_key_of_its_own),
            ("whoever_is_started_is_of_the_sources_that_are_here", whoever_is_started_is_of_the_sources_that_are_here),
        ],
    )
}

fn follow(containers: &BTreeSet<String>) -> BTreeMap<String, Process> {
    docker::follow(|| Command::new("docker"), containers)
}

fn cluster(nodes: &BTreeMap<String, Process>) -> Vec<traffic::NamedLog<'_>> {
    nodes.iter().map(|(name, node)| (name.as_str(), &*node.log)).collect()
}

fn three_nodes_talk_and_ten_more_and_all_leave() {
    let project = Project::new("scale", &[("BROADCAST_INTERVAL", "1s"), ("BROADCAST_LOG_FORMAT", "json")]);
    project.compose(&["up", "--detach", "--no-build"]);
    let three = project.containers();
    let nodes = follow(&three);
    assert_eq!(nodes.keys().collect::<Vec<_>>(), ["node1", "node2", "node3"]);
    let since = traffic::wait_members(3, &cluster(&nodes));
    traffic::wait_delivered(&["node2", "node3"], 2, &since, &cluster(&nodes));

    project.compose(&["up", "--detach", "--no-build", "--scale", "sender=10"]);
    let all = project.containers();
    assert!(all.is_superset(&three), "the first three go on");
    let more = all.difference(&three).cloned().collect();
    let mut nodes = nodes;
    nodes.extend(follow(&more));
    let names: BTreeSet<_> =
        (1..=10).map(|n| format!("sender-{n}")).chain((1..=3).map(|n| format!("node{n}"))).collect();
    assert_eq!(nodes.keys().cloned().collect::<BTreeSet<_>>(), names);
    let nodes_of = cluster(&nodes);
    let since = traffic::wait_members(13, &nodes_of);
    let senders: Vec<_> = nodes.keys().map(String::as_str).filter(|name| *name != "node1").collect();
    traffic::wait_delivered(&senders, 3, &since, &nodes_of);

    wait_until("every container to be healthy", || {
        let ids = all.iter().map(String::as_str);
        let format = ["inspect", "--format", "{{.Name}} {{.State.Health.Status}}"];
        let states = docker(&format.into_iter().chain(ids).collect::<Vec<_>>());
        if states.lines().all(|line| line.ends_with(" healthy")) { Ok(()) } else { Err(states) }
    });

    project.compose(&["stop", "node3"]);
    let others = nodes_of.iter().filter(|(name, _)| *name != "node3");
    others.for_each(|(_, log)| _ = log.wait_message(0, "node3 left"));
    project.compose(&["stop"]);
    for container in &all {
        let state = docker(&["inspect", "--format", "{{.Name}} {{.State.ExitCode}} {{.State.OOMKilled}}", container]);
        assert!(state.ends_with(" 0 false"), "it ends by itself, in time: {state}");
    }
    for (name, node) in &mut nodes {
        // The log is complete when there is no more to follow.
        assert!(node.wait().success());
        node.log.wait_end();
        let lines = node.log.lines();
        traffic::check_log(name, &lines);
        for line in &lines {
            // One that starts late on a busy machine is missed for a while; and its ports are open to the network.
            let told = ["etcd_open", "http_open", "seed_unreachable"].iter().any(|event| line["event"] == *event);
            let well = line["level"] == "INFO" || told;
            assert!(well && line["event"] != "failed", "everybody was well: {line}");
        }
    }

    project.compose(&["down"]);
    assert_eq!(project.containers(), BTreeSet::new());
    let filter = format!("label=com.docker.compose.project={}", project.name);
    assert_eq!(docker(&["network", "ls", "--quiet", "--filter", &filter]), "");
}

/// Compose builds the image from these sources even if there is one of that name, which may be older.
fn whoever_is_started_is_of_the_sources_that_are_here() {
    let project = Project::new("sources", &[]);
    for some in [&[][..], &["node3"], &["--scale", "sender=2", "sender"]] {
        let up = |more: &[&str]| {
            // Unlike `up`, it waits for nothing to end, which in a dry run nothing does.
            let args = [&["--dry-run", "create"], more, some].concat();
            let output = project.command(&args).output().expect("docker runs");
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
        };
        let told = up(&[]);
        assert!(told.contains("build service"), "{some:?}: {told}");
        let told = up(&["--no-build"]);
        assert!(!told.contains("build service"), "{some:?}: {told}");
    }
}

fn settings_come_from_the_environment() {
    let settings = &[
        ("BROADCAST_INTERVAL", "200ms"),
        ("BROADCAST_LOG", "broadcast=debug"),
        ("BROADCAST_LOG_FORMAT", "json"),
        ("BROADCAST_PROFILE", "local"),
    ];
    let project = Project::new("order", settings);
    // Seeds that are not there yet, whose names nobody knows.
    project.compose(&["up", "--detach", "--no-build", "node3"]);
    let mut nodes = follow(&project.containers());
    nodes["node3"].log.wait("node3 to miss a seed", |lines| {
        lines.iter().any(|line| line["event"] == "seed_unreachable").then_some(())
    });
    let health = || {
        let output = project.command(&["exec", "-T", "node3", "/broadcast", "health"]).output().expect("docker runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, words) = health();
    assert!(code == Some(1) && words.contains("unhealthy: not joined yet"), "{code:?} {words}");

    project.compose(&["up", "--detach", "--no-build"]);
    nodes = follow(&project.containers());
    let since = traffic::wait_members(3, &cluster(&nodes));
    traffic::wait_delivered(&["node2", "node3"], 5, &since, &cluster(&nodes));
    assert_eq!(health(), (Some(0), String::new()));
    for (name, node) in &nodes {
        let lines = node.log.lines();
        traffic::check_log(name, &lines);
        assert!(lines.iter().any(|line| line["level"] == "DEBUG"), "{name}");
    }
}

fn the_cluster_has_a_key_of_its_own() {
    let project = Project::new("key", &[("BROADCAST_LOG_FORMAT", "json")]);
    let up = || project.compose(&["up", "--detach", "--no-build", "node1", "node2"]);
    up();
    let nodes = follow(&project.containers());
    traffic::wait_members(2, &cluster(&nodes));
    let bind = |project: &Project| {
        let containers = project.containers();
        let format = "{{.Config.Hostname}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let args = ["inspect", "--format", format].into_iter().chain(containers.iter().map(String::as_str));
        let told = docker(&args.collect::<Vec<_>>());
        let node1 = told.lines().find_map(|line| line.strip_prefix("node1 ")).expect("node1 is there");
        format!("{node1}:7946")
    };
    // Who has no key is not let in, and who has the volume is.
    let health = |more: &[&str]| {
        let network = format!("{}_gossip", project.name);
        let args = [
            &["run", "--rm", "--network", &network],
            more,
            &[docker::IMAGE.as_str(), "health", "--bind", &bind(&project)],
        ];
        Command::new("docker").args(args.concat()).output().expect("docker runs")
    };
    let without = health(&[]);
    let told = String::from_utf8_lossy(&without.stderr);
    assert!(without.status.code() == Some(1) && told.contains("encrypt"), "{told}");
    let key = format!("{}_key:/run/broadcast:ro", project.name);
    let with = health(&["--volume", &key, "--env", "BROADCAST_SECRET_KEYS_FILE=/run/broadcast/keys"]);
    assert!(with.status.success(), "{with:?}");
    // It is made once, and goes with the volume.
    project.compose(&["down"]);
    up();
    let logs = project.compose(&["logs", "--no-log-prefix", "key"]);
    // Some versions of compose put a control sequence in front. And it may run a service that has ended once more, which changes nothing.
    let (made, kept) = ("wrote a new key to ", "/var/lib/broadcast/keys stays as it is: it has a key already");
    assert!(logs.ends_with(kept) && !logs.contains(made), "{logs}");
    project.compose(&["down", "--volumes"]);
    up();
    let logs = project.compose(&["logs", "--no-log-prefix", "key"]);
    let first = logs.lines().next().unwrap_or_default();
    assert!(first.ends_with("wrote a new key to /var/lib/broadcast/keys") && logs.matches(made).count() == 1, "{logs}");

    let plain = Project::new("plain", &[("BROADCAST_LOG_FORMAT", "json"), ("BROADCAST_SECRET_KEYS_FILE", "")]);
    plain.compose(&["up", "--detach", "--no-build", "node1"]);
    let network = format!("{}_gossip", plain.name);
    wait_until("a node without a key", || {
        let args =
            ["run", "--rm", "--network", &network, docker::IMAGE.as_str(), "health", "--live", "--bind", &bind(&plain)];
        let output = Command::new("docker").args(args).output().expect("docker runs");
        if output.status.success() { Ok(()) } else { Err(format!("{output:?}")) }
    });
}
