//! The messages that the roles log, with their fields, each in one place.
//!
//! The text log prints the message. The JSON log has the fields too; `event` says which message it is.

use std::{net::SocketAddr, path::Path, time::Duration};

use broadcast::{Delivery, DeliveryError, Member, Message, MessageId, NodeId, NodeName, PublishError, Reach, Seed};
use tracing::{debug, error, info, warn};

pub(super) fn listening(node: &str, addr: SocketAddr) {
    info!(node, event = "listening", %addr, "listening on {addr}");
}

pub(super) fn data(node: &str, dir: &Path, id: NodeId) {
    let dir = dir.display();
    info!(node, event = "data", %dir, %id, "this node is {id}, by its data in {dir}");
}

pub(super) fn moved(node: &str, from: SocketAddr, addr: SocketAddr) {
    info!(node, event = "moved", %addr, %from, "now reachable at {addr}, and no longer at {from}");
}

pub(crate) fn leaving(node: &str, why: &str) {
    info!(node, event = "leaving", why, "{why}: leaving the cluster");
}

pub(super) fn nodes(node: &str, nodes: usize) {
    info!(node, event = "nodes", nodes, "broadcast nodes = {nodes}");
}

pub(super) fn sent(node: &str, key: &str, value: u64, id: MessageId) {
    info!(node, event = "send", key, value, id = id.of(node), "send broadcast msg: key={key} value={value}");
}

pub(super) fn received(node: &str, message: &Message) {
    let (from, key, value) = (message.origin(), message.key(), message.value_on_one_line());
    let value = value.as_ref();
    // A message of a plain memberlist node has no id.
    let id = message.id();
    let (epoch, seq) = id.map(|id| (id.epoch, id.seq)).unzip();
    info!(
        node,
        event = "received",
        %from,
        key,
        value,
        epoch,
        seq,
        id = id.map(|id| id.of(from)),
        "received broadcast msg: key={key} value={value}"
    );
}

pub(super) fn delivered(node: &str, outcome: Result<Delivery, DeliveryError>) {
    match outcome {
        Ok(Delivery { delivered, members, elapsed, departed, .. }) => {
            let ms = elapsed.as_secs_f64() * 1e3;
            debug!(
                node,
                event = "delivered",
                delivered,
                members,
                ms,
                "delivered to {delivered} of {members} in {ms:.1} ms{departed}"
            );
        }
        // The node has stopped, which is logged elsewhere.
        Err(DeliveryError::Stopped) => {}
        Err(error) => warn!(node, event = "undelivered", %error, "{error}"),
    }
}

pub(super) fn not_sent(node: &str, error: &PublishError) {
    error!(node, event = "not_sent", %error, "not sent: {error}");
}

/// `what` is `joined`, `updated`, `left` or `failed`.
pub(super) fn member(node: &str, what: &'static str, member: &Member) {
    let (name, addr) = (&member.name, member.addr);
    info!(node, event = what, member = %name, %addr, "{name} {what}");
}

pub(super) fn name_conflict(node: &str, name: &NodeName, holder: SocketAddr, claimant: SocketAddr) {
    error!(
        node,
        event = "name_conflict",
        member = %name,
        addr = %holder,
        claimant = %claimant,
        "two nodes are named {name}, at {holder} and at {claimant}: give one of them another BROADCAST_NAME (--name)"
    );
}

pub(super) fn id_conflict(node: &str, id: NodeId, [one, other]: &[NodeName; 2]) {
    warn!(
        node,
        event = "id_conflict",
        %id,
        member = %one,
        other = %other,
        "{one} and {other} have the same id, {id}, as if the data directory of one was copied for the other: stop one of \
         them, and remove the file \"id\" from its BROADCAST_DATA (--data)"
    );
}

pub(super) fn seed_unreachable(node: &str, seed: &Seed, reason: &str) {
    warn!(
        node,
        event = "seed_unreachable",
        addr = %seed,
        reason,
        "cannot join through {seed} yet: {reason}; still trying; check that it runs and that BROADCAST_JOIN (--join) is right"
    );
}

pub(super) fn rejected(node: &str, from: SocketAddr, reason: &str) {
    warn!(node, event = "rejected", addr = %from, reason, "dropped what {from} sent (check what runs there): {reason}");
}

pub(super) fn rejected_more(node: &str, reason: &str, count: u64, period: Duration) {
    let period = period.as_secs();
    warn!(node, event = "rejected", reason, count, "dropped {count} more in the last {period} s: {reason}");
}

pub(super) fn missed(node: &str, (origin, epoch): (&NodeName, u64), from: u64, to: u64) {
    let count = to - from;
    error!(
        node,
        event = "missed",
        %origin,
        epoch,
        first = from,
        count,
        "missed {count} messages from {origin}, starting at number {from}: no member keeps them any more"
    );
}

pub(super) fn heard_elsewhere(node: &str, member: &NodeName, announced: SocketAddr, from: SocketAddr) {
    warn!(
        node,
        event = "heard_elsewhere",
        %member,
        %announced,
        %from,
        "{member} advertises {announced}, but its packets come from {from}; if answers do not reach it, set its \
         BROADCAST_ADVERTISE (--advertise) to an address that does"
    );
}

pub(super) fn cut_loose(node: &str, member: &NodeName) {
    warn!(
        node,
        event = "cut_loose",
        %member,
        "{member} has not kept up, so publishers no longer wait for it; it will be told what it missed"
    );
}

pub(super) fn reached(node: &str, member: &NodeName, addr: SocketAddr, reach: Reach) {
    match reach {
        Reach::Datagrams => {
            info!(node, event = "reached", %member, %addr, reach = "udp", "UDP reaches {member} again");
        }
        Reach::SmallDatagrams(max) => warn!(
            node,
            event = "reached",
            %member,
            %addr,
            reach = "small-udp",
            max,
            "datagrams of more than {max} bytes do not reach {member}, so larger messages go over TCP; if your network \
             always has this limit, set BROADCAST_UDP_BUFFER_SIZE (--udp-buffer-size)"
        ),
        Reach::Streams => warn!(
            node,
            event = "reached",
            %member,
            %addr,
            reach = "tcp",
            "UDP does not reach {member} at {addr}, so messages to it go over TCP, which is slower; check that firewalls \
             let UDP through"
        ),
    }
}

pub(super) fn no_serf_event(node: &str, count: u64, reason: &str) {
    warn!(
        node,
        event = "no_serf_event",
        count,
        reason,
        "serf agents do not get {count} messages from this node: {reason}"
    );
}

pub(super) fn lagged(node: &str, what: &'static str, missed: u64) {
    error!(
        node,
        event = "lagged",
        missed,
        "missed {missed} {what}: this node logs them more slowly than they arrive; check what reads its output"
    );
}
