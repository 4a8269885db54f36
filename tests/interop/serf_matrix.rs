//! One configuration of a serf agent and a node of ours, for each row of the table in docs/serf.md.
//!
//! In a cluster of two they find each other, exchange messages, change their tags, refute wrong suspicions, leave and fail. Our
//! nodes run inside the test.

use std::net::UdpSocket;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use broadcast::{
    Config, Envelope, MemberState, Profile, Seed, SerfConfig, Tags, Tuning,
    wire::{Keyring, Message, SecretKey, Suspect, packet},
};
use serde_json::json;

use crate::support::{embedded::Embedded, serf::Agent, wait_for};

/// How both sides are configured.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Whether our streams are compressed; an agent's always are.
    compression: bool,
    /// The bytes of the secret key.
    key: Option<usize>,
}

/// Every configuration, by its name.
pub fn setups() -> Vec<(String, Setup)> {
    let plain = Setup { compression: false, key: None };
    let compressed = Setup { compression: true, ..plain };
    let mut all = vec![("plain".to_owned(), plain), ("compressed".to_owned(), compressed)];
    all.extend([16, 24, 32].map(|key| (format!("encrypted-{key}"), Setup { key: Some(key), ..compressed })));
    all
}

fn tags(role: &str) -> Tags {
    [("role".into(), role.into())].into()
}

impl Setup {
    fn envelope(self) -> Envelope {
        let keys = self.key.map(|len| SecretKey::new(vec![0x5a; len]).expect("a key's length"));
        Envelope { keyring: Keyring::new(keys).expect("one key at most"), ..Envelope::default() }
    }

    fn ours(self, name: &str, through: Option<&str>) -> Embedded {
        let tuning = Tuning { compression: self.compression, ..Profile::Local.tuning() };
        let seeds = through.map(|addr| addr.parse::<Seed>().expect("an address"));
        let config = Config::new(name).bind(([127, 0, 0, 1], 0).into()).tuning(tuning).join(seeds);
        Embedded::start(config.envelope(self.envelope()).serf(SerfConfig { tags: tags("web") }))
    }

    fn agent(self, name: &str, through: Option<&str>) -> Agent {
        let key = self.key.map(|len| format!("-encrypt={}", STANDARD.encode(vec![0x5a; len])));
        let join = through.map(|addr| format!("-join={addr}"));
        let args: Vec<&str> = key.iter().chain(&join).map(String::as_str).chain(["-tag=role=db"]).collect();
        Agent::start(name, &args)
    }

    /// Tells one node that another is suspected, as a member would.
    fn slander(self, at: &str, name: &'static str, incarnation: u32) {
        let suspect = Message::Suspect(Suspect { incarnation, node: name.into(), from: "somebody".into() });
        let packet = self.envelope().seal_packet([7; 12], packet::encode_message(&suspect));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has free ports");
        socket.send_to(&packet, at).expect("loopback takes it");
    }
}

/// The incarnation that a node of ours knows of a member that it sees alive.
fn life(node: &Embedded, name: &str) -> Option<u32> {
    let members = node.members();
    members.iter().find(|m| m.name == *name && m.state == MemberState::Alive).map(|m| m.incarnation)
}

#[track_caller]
fn wait_for_life_after(node: &Embedded, name: &str, before: u32) {
    wait_for(&format!("{name} refutes the suspicion"), || {
        let refuted = life(node, name).is_some_and(|life| life > before);
        if refuted { Ok(()) } else { Err(node.members()) }
    });
}

/// Checks one configuration.
pub fn check(setup: Setup, we_join: bool) {
    let (agent, node) = if we_join {
        let agent = setup.agent("agent", None);
        let node = setup.ours("ours", Some(&agent.addr));
        (agent, node)
    } else {
        let node = setup.ours("ours", None);
        let agent = setup.agent("agent", Some(&node.addr().to_string()));
        (agent, node)
    };

    // They agree, and know each other's tags.
    let member = agent.wait_member("ours", "alive");
    assert_eq!((&member["addr"], &member["tags"]), (&json!(node.addr().to_string()), &json!({"role": "web"})));
    node.log.wait_line(0, &json!({"event": "joined", "member": "agent", "addr": agent.addr}));

    // What is said crosses unaltered, once: a byte, some, and nearly all that an agent takes, which counts what
    // its encoding adds.
    let sizes = [1, 100, 450].map(|size| "x".repeat(size));
    for payload in &sizes {
        agent.event("of agent", payload);
        node.publish("of ours.", &json!(payload));
    }
    agent.wait_events(&sizes.each_ref().map(|payload| format!("user|of ours.|{payload}")));
    for payload in &sizes {
        node.log.wait_line(0, &json!({"event": "received", "from": "serf", "key": "of agent", "value": payload}));
    }

    // New tags arrive.
    let from = node.log.len();
    assert!(agent.run("tags", &["-set", "role=queue"]).success);
    let told = node.log.wait_line(from, &json!({"event": "updated", "member": "agent"}));
    let meta = node.log.lines()[told]["meta"].as_str().expect("text").to_owned();
    assert!(meta.contains("role") && meta.contains("queue"), "{meta:?}");
    node.run(|node| async move { node.update_tags(tags("cache")).await }).expect("it has not left");
    agent.wait_until_events("our new tags", |heard| {
        heard.iter().any(|line| line.contains("ours\t") && line.contains("role=cache"))
    });
    assert_eq!(agent.wait_member("ours", "alive")["tags"], json!({"role": "cache"}));

    // A wrong suspicion is refuted, either way.
    let before = life(&node, "ours").expect("it lives");
    setup.slander(&agent.addr, "ours", before);
    wait_for_life_after(&node, "ours", before);
    let before = life(&node, "agent").expect("it is seen alive");
    setup.slander(&node.addr().to_string(), "agent", before);
    wait_for_life_after(&node, "agent", before);
    agent.wait_member("ours", "alive");

    // Ours leaves, comes back, fails.
    let count = |key: &str, log: &crate::support::Log| log.count(&json!({"event": "received", "key": key}));
    let log = std::sync::Arc::clone(&node.log);
    node.leave();
    agent.wait_member("ours", "left");
    assert_eq!((count("of agent", &log), count("of ours.", &log)), (sizes.len(), 0));
    let heard = agent.events();
    assert_eq!(heard.iter().filter(|line| line.starts_with("user|of ours.|")).count(), sizes.len(), "{heard:#?}");
    assert!(!heard.iter().any(|line| line.starts_with("member-failed")), "{heard:#?}");
    let back = setup.ours("ours", Some(&agent.addr));
    agent.wait_member("ours", "alive");
    drop(back);
    agent.wait_member("ours", "failed");

    // The agent leaves, another one fails.
    let witness = setup.ours("witness", Some(&agent.addr));
    let other = setup.agent("other", Some(&witness.addr().to_string()));
    witness.log.wait_line(0, &json!({"event": "joined", "member": "agent"}));
    witness.log.wait_line(0, &json!({"event": "joined", "member": "other"}));
    assert!(agent.run("leave", &[]).success);
    witness.log.wait_line(0, &json!({"event": "left", "member": "agent"}));
    drop(other);
    witness.log.wait_line(0, &json!({"event": "failed", "member": "other"}));
    assert_eq!(witness.log.count(&json!({"event": "failed", "member": "agent"})), 0);
}
