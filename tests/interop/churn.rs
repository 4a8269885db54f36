//! A cluster of twenty under one key: half are built on memberlist (both releases), half are ours.
//!
//! For a while nodes join, leave and are killed. At the end all agree on who is there, and nobody was declared dead who was not
//! killed. Then the key is changed everywhere, while all send.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use broadcast::{
    Config, Envelope, Profile, Seed,
    wire::{Keyring, SecretKey},
};
use serde_json::{Value, json};

use crate::memberlist::is_diagnostic;
use crate::support::{LIMIT, Log, Process, embedded::Embedded, go::Release, require::Case};

const OLD: [u8; 32] = [1; 32];
const NEW: [u8; 32] = [2; 32];
/// How many nodes of each kind there are.
const HALF: usize = 10;
/// How long nodes come and go, unless `BROADCAST_TESTS_CHURN` says another number of seconds.
const CHURN: Duration = Duration::from_secs(27);
/// How often a node joins or goes.
const TURN: Duration = Duration::from_secs(1);
/// The pause after all nodes have sent something.
const ROUND: Duration = Duration::from_millis(100);

/// The one case, which is long.
pub fn cases(missing: Option<&String>) -> Vec<Case> {
    let name = "twenty_nodes_come_and_go_and_change_their_key".into();
    vec![Case { name, missing: missing.cloned(), test: Box::new(come_and_go_and_change_the_key) }]
}

fn come_and_go_and_change_the_key() {
    let churn = std::env::var("BROADCAST_TESTS_CHURN").map_or(CHURN, |seconds| {
        Duration::from_secs(seconds.parse().expect("BROADCAST_TESTS_CHURN is a number of seconds"))
    });
    let mut cluster = Cluster::default();
    for _ in 0..HALF {
        cluster.join(true);
        cluster.join(false);
    }
    cluster.agree();

    let began = Instant::now();
    let mut next = began;
    for turn in 0.. {
        if began.elapsed() >= churn {
            break;
        }
        cluster.turn(turn);
        next += TURN;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    cluster.agree();
    cluster.check_the_dead();

    cluster.change_the_key();
}

/// A member of the cluster.
#[derive(Debug)]
enum Node {
    Ours(Embedded),
    Go { name: String, process: Process },
}

impl Node {
    fn name(&self) -> &str {
        match self {
            Self::Ours(node) => node.name(),
            Self::Go { name, .. } => name,
        }
    }

    fn log(&self) -> &Log {
        match self {
            Self::Ours(node) => &node.log,
            Self::Go { process, .. } => &process.log,
        }
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Ours(node) => node.addr(),
            Self::Go { process, .. } => process.addr(),
        }
    }

    /// One step of replacing the old key by the new one.
    fn change_keys(&mut self, step: &str) {
        let key = if step == "remove" { OLD } else { NEW };
        match self {
            Self::Ours(node) => {
                let key = SecretKey::new(key).expect("32 bytes are a key");
                let step = step.to_owned();
                let changed = node.run(|node| async move {
                    match step.as_str() {
                        "add" => node.install_key(key).await,
                        "use" => node.use_key(key).await,
                        _ => node.remove_key(key).await,
                    }
                });
                changed.expect("the keyring has it, or room for it");
            }
            Self::Go { process, .. } => {
                let from = process.log.len();
                process.send_line(&format!("key {step} {}", STANDARD.encode(key)));
                process.log.wait_line(from, &json!({"event": "key", "line": step}));
            }
        }
    }

    fn say(&mut self, key: &str) {
        match self {
            Self::Ours(node) => node.publish(key, &json!(1)),
            // Memberlist's gossip is for whom it picks; this goes to each member.
            Self::Go { process, .. } => {
                let said = json!({"key": key, "value": 1}).to_string();
                process.send_line(&format!("best-effort {}", STANDARD.encode(said)));
            }
        }
    }
}

#[derive(Debug, Default)]
struct Cluster {
    nodes: Vec<Node>,
    /// The logs of nodes that are gone.
    logs: Vec<(String, std::sync::Arc<Log>)>,
    started: usize,
    killed: BTreeSet<String>,
}

impl Cluster {
    /// Starts a node that joins through a running one.
    fn join(&mut self, ours: bool) {
        self.started += 1;
        let name = format!("{}-{}", if ours { "ours" } else { "go" }, self.started);
        let through = self.nodes.get(self.started * 7 % self.nodes.len().max(1)).map(Node::addr);
        let node = if ours { start_ours(&name, through) } else { start_go(name, through, self.started) };
        self.nodes.push(node);
    }

    /// One node joins or goes, by turns.
    fn turn(&mut self, turn: usize) {
        let ours = (turn / 3).is_multiple_of(2);
        let place = turn * 5 % HALF;
        let mut of_kind = (0..self.nodes.len()).filter(|i| matches!(self.nodes[*i], Node::Ours(_)) == ours);
        let Some(at) = of_kind.nth(place % (HALF - 1)) else { return self.join(ours) };
        if turn % 3 == 2 {
            return self.join(ours);
        }
        let node = self.nodes.swap_remove(at);
        let kills = turn.is_multiple_of(3);
        if kills {
            self.killed.insert(node.name().to_owned());
        }
        let name = node.name().to_owned();
        match node {
            Node::Ours(node) => {
                self.logs.push((name, std::sync::Arc::clone(&node.log)));
                if !kills {
                    node.leave();
                }
            }
            Node::Go { mut process, .. } => {
                self.logs.push((name, std::sync::Arc::clone(&process.log)));
                if kills {
                    process.kill();
                } else {
                    process.send_line("leave");
                    process.log.wait_line(0, &json!({"event": "left"}));
                    process.send_line("quit");
                    process.wait();
                }
            }
        }
        if turn % 2 == 1 {
            self.join(ours);
        }
    }

    /// Waits until each node sees all of them, and nobody else.
    fn agree(&mut self) {
        let names: BTreeSet<String> = self.nodes.iter().map(|node| node.name().to_owned()).collect();
        for node in &mut self.nodes {
            let deadline = Instant::now() + LIMIT;
            loop {
                let seen = seen_by(node);
                if seen == names {
                    break;
                }
                let (more, less) = (seen.difference(&names), names.difference(&seen));
                assert!(
                    Instant::now() < deadline,
                    "{} sees {:?} who are gone, and does not see {:?}",
                    node.name(),
                    more.collect::<Vec<_>>(),
                    less.collect::<Vec<_>>()
                );
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    /// Exactly the killed nodes were declared dead.
    fn check_the_dead(&self) {
        let live = self.nodes.iter().map(|node| (node.name(), node.log()));
        let gone = self.logs.iter().map(|(name, log)| (name.as_str(), &**log));
        let mut declared = BTreeSet::new();
        for (name, log) in live.chain(gone) {
            for line in log.lines() {
                if let Some(member) = declared_dead(&line) {
                    let there = self.nodes.iter().any(|node| node.name() == member);
                    let is = if there { "is alive" } else { "has left" };
                    assert!(self.killed.contains(&member), "{name} declared {member} dead, who {is}: {line}");
                    declared.insert(member);
                }
            }
        }
        assert_eq!(declared, self.killed, "everybody who was killed was declared dead");
    }

    /// Everywhere the new key is installed, then used, then the old one removed; all speak in between, also
    /// while some have made a step and others have not. No probe fails.
    fn change_the_key(&mut self) {
        // Until whoever pinged one that has just left has given that up.
        self.speak_for_a_while("before");
        let from: Vec<_> = self.nodes.iter().map(|node| node.log().len()).collect();
        let (lives, failed) = (self.lives(), self.failed_probes());
        for step in ["add", "use", "remove"] {
            for place in 0..self.nodes.len() {
                if place == HALF {
                    self.speak_for_a_while(&format!("half {step}"));
                }
                self.nodes[place].change_keys(step);
            }
            self.speak_for_a_while(&format!("all {step}"));
        }
        self.agree();
        assert_eq!(self.lives(), lives, "who has been suspected has a later incarnation");
        assert_eq!(self.failed_probes(), failed);
        for (node, from) in self.nodes.iter().zip(from) {
            let failed = |line: &&Value| {
                let ping = ["Failed UDP ping", "Failed ping"].iter().any(|words| is_diagnostic(line, words));
                ping || ["gone", "failed"].iter().any(|event| line["event"] == *event)
            };
            let lines = node.log().lines();
            let failed: Vec<_> = lines[from..].iter().filter(failed).collect();
            assert!(failed.is_empty(), "{}: {failed:?}", node.name());
        }
    }

    /// The incarnations of all, as those of ours know them.
    fn lives(&self) -> Vec<BTreeSet<(String, u32)>> {
        let lives = |node: &Embedded| {
            node.members().into_iter().map(|member| (member.name.to_string(), member.incarnation)).collect()
        };
        self.ours().map(lives).collect()
    }

    /// How many probes of each of ours were not answered.
    fn failed_probes(&self) -> Vec<u64> {
        let metrics = |node: &Embedded| node.run(|node| async move { node.metrics().await });
        self.ours().map(|node| metrics(node).membership.probes_failed).collect()
    }

    fn ours(&self) -> impl Iterator<Item = &Embedded> {
        self.nodes.iter().filter_map(|node| if let Node::Ours(node) = node { Some(node) } else { None })
    }

    /// All nodes send, for as long as each needs to ping some others. Without pauses, the pings would wait for the processors.
    fn speak_for_a_while(&mut self, about: &str) {
        let until = Instant::now() + 2 * Profile::Lan.tuning().probe_interval;
        let mut round = 0;
        while round == 0 || Instant::now() < until {
            self.speak(&format!("{about} {round}"));
            round += 1;
            std::thread::sleep(ROUND);
        }
    }

    /// Every node sends something, and every other one receives it.
    fn speak(&mut self, about: &str) {
        // Whoever looks at a whole log holds up the node that writes to it.
        let from: Vec<_> = self.nodes.iter().map(|node| node.log().len()).collect();
        for node in &mut self.nodes {
            let key = format!("{about} {}", node.name());
            node.say(&key);
        }
        for speaker in &self.nodes {
            let line = json!({"event": "received", "key": format!("{about} {}", speaker.name()), "value": 1});
            for (node, from) in self.nodes.iter().zip(&from).filter(|(node, _)| node.name() != speaker.name()) {
                node.log().wait_line(*from, &line);
            }
        }
    }
}

fn start_ours(name: &str, through: Option<SocketAddr>) -> Node {
    let keyring = Keyring::new([SecretKey::new(OLD).expect("32 bytes are a key")]).expect("it is one key");
    let join = through.map(|addr| addr.to_string().parse::<Seed>().expect("an address"));
    let config = Config::new(name)
        .bind(([127, 0, 0, 1], 0).into())
        .profile(Profile::Lan)
        .join(join)
        .envelope(Envelope { keyring, ..Envelope::default() });
    Node::Ours(Embedded::start(config))
}

fn start_go(name: String, through: Option<SocketAddr>, count: usize) -> Node {
    let mut args = vec![
        "-preset=lan".to_owned(),
        format!("-name={name}"),
        "-bind=127.0.0.1:0".into(),
        format!("-keys={}", STANDARD.encode(OLD)),
    ];
    args.extend(through.map(|addr| format!("-join={addr}")));
    let release = if count % 4 < 2 { Release::Current } else { Release::Old };
    let process = release.node(&args.iter().map(String::as_str).collect::<Vec<_>>());
    process.addr();
    Node::Go { name, process }
}

fn seen_by(node: &mut Node) -> BTreeSet<String> {
    match node {
        Node::Ours(node) => {
            let live = node.members().into_iter().filter(|member| member.state.is_live());
            live.map(|member| member.name.to_string()).collect()
        }
        Node::Go { process, .. } => {
            let from = process.log.len();
            process.send_line("members");
            process.log.wait("its members", |lines| {
                let line = lines[from..].iter().find(|line| line["event"] == "members")?;
                let names = line["members"].as_array().expect("a list");
                Some(names.iter().map(|name| name.as_str().expect("text").to_owned()).collect())
            })
        }
    }
}

/// The member that a line of a log, of either kind of node, declares dead.
fn declared_dead(line: &Value) -> Option<String> {
    if line["event"] == "failed" {
        return line["member"].as_str().map(str::to_owned);
    }
    let (_, words) = line["line"].as_str()?.split_once("Marking ")?;
    Some(words.split_once(" as failed")?.0.to_owned())
}
