//! The one place where the simulator touches what is special about messages in [`Node`]'s face.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;

use super::network::Boot;
use crate::{
    dissemination::{Message, MessageId, PublishError},
    membership::NodeName,
    node::{Event, Node, NodeConfig},
};

pub(super) fn config(name: NodeName, addr: SocketAddr, boot: &Boot<'_>, rng_seed: u64) -> NodeConfig {
    NodeConfig {
        name,
        address: addr.into(),
        meta: Bytes::new(),
        seeds: boot.seeds.to_vec(),
        tuning: boot.tuning.clone(),
        epoch: boot.epoch,
        rng_seed,
    }
}

/// What came of publishing.
#[derive(Debug)]
pub(super) enum Published {
    As(MessageId),
    /// Not now: the application waits until it is told that there is room.
    #[allow(dead_code, reason = "today's nodes hold nothing back")]
    Held,
    Refused(String),
}

pub(super) fn publish(node: &mut Node, _now: Instant, key: &str, value: &str) -> Published {
    match node.publish(key, value) {
        Ok(id) => Published::As(id),
        Err(PublishError::Stopped) => Published::Refused("it has left".to_owned()),
        Err(error) => Published::Refused(error.to_string()),
    }
}

/// What a node told, as far as it matters here.
#[derive(Debug)]
pub(super) enum Told {
    Message(Message, u8),
    /// These can no longer be had, both ends included (a node's event gives the number after the last).
    #[allow(dead_code, reason = "today's nodes report no loss")]
    Missed {
        origin: NodeName,
        epoch: u64,
        from: u64,
        to: u64,
    },
    /// What was held back can be published now.
    #[allow(dead_code, reason = "today's nodes hold nothing back")]
    Room,
    Joined,
    Left,
    Failed(NodeName),
    LeaveComplete,
    Other,
}

pub(super) fn told(event: Event) -> Told {
    match event {
        // Today's messages do not count their hops.
        Event::Message(message) => Told::Message(message, 0),
        Event::Joined(_) => Told::Joined,
        Event::Left(_) => Told::Left,
        Event::Failed(member) => Told::Failed(member.name),
        Event::LeaveComplete => Told::LeaveComplete,
        _ => Told::Other,
    }
}
