//! Nodes in containers, each test on a network of its own: they find each other, exchange messages, leave, fail and return.
//! Their image has the program of this checkout.

use std::{
    collections::BTreeSet,
    process::{Command, id},
    sync::Arc,
    thread,
};

use crate::support::{
    Log,
    docker::{IMAGE, docker},
    ledger::{self, Life},
    require, traffic,
};
use serde_json::{Value, json};
use testcontainers::{Container, GenericImage, ImageExt as _, core::Healthcheck, runners::SyncRunner as _};

/// The tests of this module.
pub fn cases() -> Vec<require::Case> {
    require::cases(
        require::docker().as_ref(),
        &[
            (
                "under_loss_a_pause_a_crash_and_a_cut_everybody_hears_everything_once_and_in_order",
                under_loss_a_pause_a_crash_and_a_cut_everybody_hears_everything_once_and_in_order,
            ),
            ("ten_more_senders_are_heard_by_all_once", ten_more_senders_are_heard_by_all_once),
            ("the_image_holds_a_program_and_no_more", the_image_holds_a_program_and_no_more),
            ("three_nodes_hear_each_other", three_nodes_hear_each_other),
            ("a_node_that_stops_has_left_and_returns", a_node_that_stops_has_left_and_returns),
            ("a_node_that_is_killed_has_failed_and_returns", a_node_that_is_killed_has_failed_and_returns),
            ("the_log_is_for_people_too", the_log_is_for_people_too),
        ],
    )
}

/// A node in a container, which is removed when this is dropped.
struct Node {
    name: String,
    log: Arc<Log>,
    container: Container<GenericImage>,
}

impl Node {
    fn addr(&self) -> String {
        self.log.wait("the address it listens on", |lines| {
            let line = lines.iter().find(|line| line["event"] == "listening")?;
            line["addr"].as_str().map(Into::into)
        })
    }

    /// Stops it as `docker stop` does.
    fn stop(&self) {
        self.container.stop().expect("it runs");
        assert_eq!(self.container.exit_code().expect("it is still there"), Some(0), "{}", self.name);
    }

    /// Kills it.
    fn kill(&self) {
        docker(&["kill", self.container.id()]);
    }
}

/// A network whose name no other test or compose project has. It is removed with its last container.
struct Network {
    name: String,
    faults: &'static str,
    label: &'static str,
}

impl Network {
    fn new(test: &str) -> Self {
        Self { name: format!("broadcast-{}-{test}", id()), faults: "", label: "" }
    }

    /// The name of a node's container, by which the others find it.
    fn container(&self, node: &str) -> String {
        // As compose names them: project-service-number.
        format!("{}-{node}", self.name)
    }

    /// Starts a node. Without a `host`, it has to find a name by itself.
    fn start(&self, node: &str, host: Option<&str>, role: &str, seeds: &[&str], format: &str) -> Node {
        let seeds: Vec<_> = seeds.iter().map(|seed| self.container(seed)).collect();
        let (name, tag) = IMAGE.split_once(':').expect("the image has a tag");
        let mut container = GenericImage::new(name, tag)
            .with_container_name(self.container(node))
            .with_network(format!("{}_gossip", self.name))
            .with_env_var("BROADCAST_ROLE", role)
            .with_env_var("BROADCAST_JOIN", seeds.join(","))
            .with_env_var("BROADCAST_INTERVAL", "500ms")
            .with_env_var("BROADCAST_FAULTS", self.faults)
            .with_env_var("BROADCAST_LABEL", self.label)
            .with_env_var("BROADCAST_LOG_FORMAT", format)
            // Nobody asks for it here, and it takes the processors.
            .with_health_check(Healthcheck::none());
        if let Some(host) = host {
            container = container.with_hostname(host);
        }
        let container = container.start().expect("the engine starts containers");
        Node { name: node.into(), log: Log::follow(container.stdout(true)), container }
    }

    fn receiver(&self, node: &str, seeds: &[&str]) -> Node {
        self.start(node, Some(node), "receiver", seeds, "json")
    }

    fn sender(&self, node: &str, seeds: &[&str]) -> Node {
        self.start(node, Some(node), "sender", seeds, "json")
    }

    /// The demo's three nodes, started in the worst order.
    fn three_nodes(&self) -> [Node; 3] {
        let node3 = self.sender("node3", &["node1", "node2"]);
        let node2 = self.sender("node2", &["node1", "node3"]);
        [self.receiver("node1", &["node2", "node3"]), node2, node3]
    }
}

/// For [`traffic`].
fn cluster<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Vec<traffic::NamedLog<'a>> {
    nodes.into_iter().map(|node| (node.name.as_str(), &*node.log)).collect()
}

fn check<'a>(nodes: impl IntoIterator<Item = &'a Node>) {
    nodes.into_iter().for_each(|node| traffic::check_log(&node.name, &node.log.lines()));
}

fn the_image_holds_a_program_and_no_more() {
    let image = docker(&["image", "inspect", "--format", "{{json .}}", &IMAGE]);
    let image: Value = serde_json::from_str(&image).expect("the engine answers in JSON");
    let layers = image["RootFS"]["Layers"].as_array().map(Vec::len);
    assert_eq!(layers, Some(2), "the folder for volumes, and the binary: {image}");
    let config = &image["Config"];
    assert_eq!(config["Entrypoint"], json!(["/broadcast"]), "without a shell, which is not there");
    assert_eq!(config["Cmd"], json!(["node"]));
    assert_eq!(config["ExposedPorts"], json!({"7946/tcp": {}, "7946/udp": {}, "8946/tcp": {}}));
    assert_eq!(config["Healthcheck"]["Test"], json!(["CMD", "/broadcast", "health", "--live"]));
    let user = config["User"].as_str().and_then(|user| user.split(':').next()).expect("a user");
    assert!(user.parse::<u32>().is_ok_and(|user| user > 0), "a number, which needs no user database: {user}");
}

fn three_nodes_hear_each_other() {
    let nodes = Network::new("three").three_nodes();
    let cluster = cluster(&nodes);
    let since = traffic::wait_members(3, &cluster);
    traffic::wait_delivered(&["node2", "node3"], 5, &since, &cluster);
    check(&nodes);
    assert!(nodes[0].log.lines().iter().all(|line| line["event"] != "send"), "a receiver sends nothing");
}

fn a_node_that_stops_has_left_and_returns() {
    goes_and_returns("stops", Node::stop, "left");
}

fn a_node_that_is_killed_has_failed_and_returns() {
    goes_and_returns("killed", Node::kill, "failed");
}

/// node3 goes, and the others see how. It comes back under its name at another address, and they accept it.
fn goes_and_returns(test: &str, go: impl Fn(&Node), seen: &str) {
    let network = Network::new(test);
    let [node1, node2, node3] = network.three_nodes();
    let three = cluster([&node1, &node2, &node3]);
    let since = traffic::wait_members(3, &three);
    traffic::wait_delivered(&["node3"], 1, &since, &three);
    let places = [&node1, &node2].map(|node| node.log.len());

    go(&node3);
    for (node, place) in [&node1, &node2].into_iter().zip(places) {
        node.log.wait(&format!("{} to see that node3 {seen}", node.name), |lines| {
            let gone = |line: &&Value| line["member"] == "node3" && line["event"] != "joined";
            let event = lines[place..].iter().find(gone)?;
            assert_eq!(event["message"], format!("node3 {seen}"), "{}", node.name);
            Some(())
        });
    }
    let since = traffic::wait_members(2, &cluster([&node1, &node2]));
    traffic::wait_delivered(&["node2"], 2, &since, &cluster([&node1, &node2]));
    check([&node1, &node2, &node3]);
    let (old, places) = (node3.addr(), [&node1, &node2].map(|node| node.log.len()));
    drop(node3);

    // Someone else's by now, so that node3 has to come back at another address.
    // It is of another cluster: what is still said to node3 is not for it.
    let elsewhere = Network { label: "elsewhere", ..Network::new(test) };
    let squatter = elsewhere.receiver("squatter", &[]);
    squatter.addr();
    let node3 = network.sender("node3", &["node1", "node2"]);
    assert_ne!(node3.addr(), old);
    for (node, place) in [&node1, &node2].into_iter().zip(places) {
        let joined = node.log.wait_message(place, "node3 joined");
        assert_eq!(node.log.lines()[joined]["addr"], node3.addr());
    }
    let three = cluster([&node1, &node2, &node3]);
    let since = traffic::wait_members(3, &three);
    traffic::wait_delivered(&["node2", "node3"], 2, &since, &three);
    // Its clock started anew, so what it says now may be what it said before.
    check([&node3]);
    traffic::check_log("node1", &node1.log.lines()[places[0]..]);
    assert!(node1.log.lines().iter().all(|line| line["event"] != "name_conflict"), "nobody else had its name");
}

fn ten_more_senders_are_heard_by_all_once() {
    let network = Network::new("many");
    let mut nodes: Vec<Node> = network.three_nodes().into();
    thread::scope(|scope| {
        // Without a host name: they are to find their names by themselves.
        let start = |number| {
            let (network, name) = (&network, format!("sender-{number}"));
            scope.spawn(move || network.start(&name, None, "sender", &["node1", "node2", "node3"], "json"))
        };
        let starting: Vec<_> = (1..=10).map(start).collect();
        nodes.extend(starting.into_iter().map(|node| node.join().expect("it starts")));
    });
    let cluster = cluster(&nodes);
    let since = traffic::wait_members(13, &cluster);
    let senders: Vec<&str> = nodes[1..].iter().map(|node| node.name.as_str()).collect();
    traffic::wait_delivered(&senders, 3, &since, &cluster);
    check(&nodes);
    let addrs: BTreeSet<_> = nodes.iter().map(Node::addr).collect();
    assert_eq!(addrs.len(), 13);
}

fn the_log_is_for_people_too() {
    let network = Network::new("text");
    let node1 = network.start("node1", Some("node1"), "receiver", &["node2"], "text");
    let node2 = network.start("node2", Some("node2"), "sender", &["node1"], "text");
    for (node, words, rest) in [
        (&node1, " INFO node1 node2 joined", ""),
        (&node1, " INFO node1 broadcast nodes = 2", ""),
        (&node2, " INFO node2 send broadcast msg: key=I am node2 value=", "0"),
        (&node1, " INFO node1 received broadcast msg: key=I am node2 value=", "1"),
    ] {
        // The time comes before, and no colour where there is no terminal.
        let words = format!("Z {words}");
        let line = node.log.wait(&words, |lines| {
            lines.iter().filter_map(Value::as_str).find(|line| line.contains(&words)).map(str::to_owned)
        });
        let (time, number) = line.split_once(&words).expect("it was found there");
        assert_eq!(time.len(), "2026-11-24T15:06:09.344".len(), "{line:?}");
        assert!(number == rest || number.parse::<u64>().is_ok(), "{line:?}");
    }
}

/// A subnet in which a node gets its former address when it comes back. Removed when dropped.
struct Subnet {
    network: String,
}

impl Subnet {
    fn new(network: &Network) -> Self {
        let network = format!("{}_gossip", network.name);
        let create = |third: u32| {
            let subnet = format!("10.233.{third}.0/24");
            let mut create = Command::new("docker");
            create.args(["network", "create", "--subnet", &subnet, &network]).output().expect("docker runs")
        };
        // Others may have taken some of them.
        let created = (0..256).map(|i| create((id() + i) % 256)).find(|output| output.status.success());
        assert!(created.is_some(), "no subnet of 10.233.0.0/16 is free: see docker network ls");
        Self { network }
    }

    /// Takes a node off the network.
    fn cut_off(&self, node: &Node) {
        docker(&["network", "disconnect", &self.network, node.container.id()]);
    }

    /// Puts it back, at its former address.
    fn let_in(&self, node: &Node) {
        let addr = node.addr();
        let (ip, _) = addr.rsplit_once(':').expect("an address");
        docker(&["network", "connect", "--ip", ip, &self.network, node.container.id()]);
    }
}

impl Drop for Subnet {
    fn drop(&mut self) {
        // A test that failed has been told of already.
        let _ = Command::new("docker").args(["network", "rm", &self.network]).output();
    }
}

fn under_loss_a_pause_a_crash_and_a_cut_everybody_hears_everything_once_and_in_order() {
    let network = Network { faults: "loss=0.3,duplicate=0.05,delay=1ms..20ms", ..Network::new("faults") };
    let subnet = Subnet::new(&network);
    let node1 = network.receiver("node1", &["node2", "node3"]);
    let mut nodes = vec![node1];
    thread::scope(|scope| {
        let start = |number| {
            let network = &network;
            scope.spawn(move || network.sender(&format!("node{number}"), &["node1", "node2", "node3"]))
        };
        let starting: Vec<_> = (2..=13).map(start).collect();
        nodes.extend(starting.into_iter().map(|node| node.join().expect("it starts")));
    });
    let since = traffic::wait_members(13, &cluster(&nodes));
    let faults_told = |node: &Node| node.log.lines().iter().any(|line| line["event"] == "faults");
    assert!(nodes.iter().all(faults_told), "faults that are on are told of");

    let [paused, killed, cut] = [4, 6, 8];
    // Of others that come and go not even the first message may have been heard.
    traffic::wait_delivered(&[&nodes[killed].name], 1, &since, &cluster(&nodes));
    let others_see = |what: &str, who: usize| {
        for (i, node) in nodes.iter().enumerate().filter(|(i, _)| ![paused, killed, cut].contains(i)) {
            node.log.wait(&format!("node{} to see that node{} {what}", i + 1, who + 1), |lines| {
                let is = |line: &Value| line["event"] == what && line["member"] == nodes[who].name;
                lines.iter().any(is).then_some(())
            });
        }
    };
    // All three at once.
    subnet.cut_off(&nodes[cut]);
    docker(&["pause", nodes[paused].container.id()]);
    nodes[killed].kill();
    others_see("failed", paused);
    docker(&["unpause", nodes[paused].container.id()]);
    others_see("failed", cut);
    subnet.let_in(&nodes[cut]);
    others_see("failed", killed);
    nodes[killed].log.wait_end();
    docker(&["start", nodes[killed].container.id()]);
    // Both lives are in the log, one after the other.
    nodes[killed].log = Log::follow(nodes[killed].container.stdout(true));
    nodes[killed].log.wait("the second life", |lines| {
        (lines.iter().filter(|line| line["event"] == "listening").count() == 2).then_some(())
    });

    let cluster = cluster(&nodes);
    let restarted = traffic::wait_members(13, &cluster);
    let names: Vec<&str> = nodes[1..].iter().map(|node| node.name.as_str()).collect();
    traffic::wait_delivered(&names, 3, &restarted, &cluster);
    let (said, until) = ledger::last_sent(&cluster);
    ledger::wait_received(&said, &cluster);
    let life = |node: &Node, n, since: &str, until: &str, killed| Life {
        node: node.name.clone(),
        lines: ledger::nth_life(&node.log.lines(), n),
        since: since.to_owned(),
        until: until.to_owned(),
        killed,
    };
    ledger::wait_last_messages(&life(&nodes[killed], 0, &since, &until, true), &cluster);
    thread::scope(|scope| nodes[1..].iter().for_each(|node| _ = scope.spawn(|| node.stop())));
    nodes[1..].iter().for_each(|node| node.log.wait_end());
    ledger::wait_received(&ledger::last_sent(&cluster).0, &cluster[..1]);
    nodes[0].stop();
    nodes[0].log.wait_end();

    // The receiver has outlived the senders, and heard what they said to the very last.
    let mut lives = vec![life(&nodes[0], 0, &since, ledger::END, false)];
    for (i, node) in nodes.iter().enumerate().skip(1) {
        lives.push(life(node, 0, &since, &until, i == killed));
        if i == killed {
            lives.push(life(node, 1, &restarted, &until, false));
        }
    }
    println!("{} messages heard", ledger::check(&lives));
}
