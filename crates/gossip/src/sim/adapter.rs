//! The one place where the simulator touches what is special about messages in [`Node`]'s face.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::network::Boot;
use crate::{
    config::{DEFAULT_PORT, Seed},
    dissemination::{self, MessageId, PublishError},
    membership::NodeName,
    node::{Advertised, Event, GuessedBy, Node, NodeConfig},
    wire::{Dead, Message, packet},
};

pub(super) fn config(name: NodeName, addr: SocketAddr, boot: &Boot<'_>, rng_seed: u64) -> NodeConfig {
    NodeConfig {
        seeds: boot.seeds.to_vec(),
        tuning: boot.tuning.clone(),
        limits: boot.limits,
        replay: boot.replay,
        report_probes: false,
        epoch: boot.epoch,
        rng_seed,
        envelope: boot.envelope.clone(),
        // Different for each life, as the seed is.
        nonce: (u128::from(rng_seed) << 64).to_be_bytes()[..12].try_into().expect("12 bytes of 16"),
        ..NodeConfig::new(name, addr.into())
    }
}

/// Has a node go on being reached where its name leads.
pub(super) fn follow(node: &mut Node, now: Instant, name: String) {
    let host = Seed { host: name, port: DEFAULT_PORT };
    node.follow(now, Advertised { host, ipv6: false });
}

/// Has a node know where it is.
pub(super) fn readdress(node: &mut Node, now: Instant, addr: SocketAddr) {
    node.set_guess(now, addr.ip(), GuessedBy::Interfaces);
}

/// That a node is gone: has left, as it would say so itself, or has failed, as another would.
pub(super) fn forged_end(node: &Node, name: &NodeName, from: &NodeName) -> Bytes {
    let (_, incarnation) = node.standing();
    let [node, from] = [name, from].map(|name| Bytes::copy_from_slice(name.as_bytes()));
    packet::encode_message(&Message::Dead(Dead { incarnation, node, from }))
}

/// What came of publishing.
#[derive(Debug)]
pub(super) enum Published {
    As(MessageId),
    /// Not now: the application waits until it is told that there is room.
    Held,
    /// Not at all: the node leaves, or its former life holds its name.
    Not,
    Refused(String),
}

pub(super) fn publish(node: &mut Node, now: Instant, key: &str, value: &str) -> Published {
    match node.publish(now, key, value) {
        Ok(id) => Published::As(id),
        Err(PublishError::WouldBlock) => Published::Held,
        // It is told so, and its application has to live with it.
        Err(PublishError::Stopped | PublishError::NameTaken) => Published::Not,
        Err(error) => Published::Refused(error.to_string()),
    }
}

/// What a node told, as far as it matters here.
#[derive(Debug)]
pub(super) enum Told {
    Message(dissemination::Message, u8),
    /// These can no longer be had, both ends included.
    Missed {
        origin: NodeName,
        epoch: u64,
        from: u64,
        to: u64,
    },
    /// What was held back can be published now.
    Room,
    Joined,
    Left,
    Failed(NodeName),
    LeaveComplete,
    Other,
}

pub(super) fn told(event: Event) -> Told {
    match event {
        Event::Message(message) => {
            let hops = message.hops();
            Told::Message(message, hops)
        }
        Event::Missed { origin, epoch, from, to } => Told::Missed { origin, epoch, from, to: to - 1 },
        Event::Room => Told::Room,
        Event::Joined(_) => Told::Joined,
        Event::Left(_) => Told::Left,
        Event::Failed(member) => Told::Failed(member.name),
        Event::LeaveComplete => Told::LeaveComplete,
        _ => Told::Other,
    }
}
