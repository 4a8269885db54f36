//! Messages at their origin and at their receivers, one at a time as in a quiet cluster, or many at once as in a flood; and a
//! cluster at rest.

use std::time::Duration;

use broadcast::node::{Node, Transmit};

use super::{
    cluster::{Cluster, messages, transmits},
    counted,
};

/// As in the other benchmarks: an origin and twelve receivers.
const NODES: u8 = 13;
const RECEIVERS: usize = NODES as usize - 1;
const ORIGIN: usize = 0;
/// The node that loses messages.
const LOSER: usize = 1;
/// The time from one message, or batch, to the next.
const PERIOD: Duration = Duration::from_millis(5);
/// Messages or batches before counting begins: the first ones allocate memory.
const WARM_UP: usize = 20;
const ROUNDS: usize = 200;
/// Messages in a batch: as many as a node reads from its socket at once.
const BATCH: usize = 64;
/// A value of 64 bytes.
const VALUE: &str = "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"";
/// How long a cluster at rest is measured.
const REST: Duration = Duration::from_secs(20);

/// The part of a message's way that is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Publish,
    Deliver,
    Acknowledge,
}

/// Per message: the origin publishes it, until it is on its way to everybody.
pub fn publish() -> u64 {
    exchange(Part::Publish, 1)
}

pub fn publish_batch() -> u64 {
    exchange(Part::Publish, BATCH)
}

/// Per delivery: a receiver handles a message, until it is delivered and the acknowledgement is on its way.
pub fn deliver() -> u64 {
    exchange(Part::Deliver, 1)
}

pub fn deliver_batch() -> u64 {
    exchange(Part::Deliver, BATCH)
}

/// Per delivery: the origin handles the acknowledgement.
pub fn acknowledge() -> u64 {
    exchange(Part::Acknowledge, 1)
}

pub fn acknowledge_batch() -> u64 {
    exchange(Part::Acknowledge, BATCH)
}

/// Runs something, and counts it only if it is wanted.
fn counted_if<R>(wanted: bool, operation: impl FnOnce() -> R) -> R {
    if wanted { counted(operation) } else { operation() }
}

fn exchange(part: Part, batch: usize) -> u64 {
    let mut cluster = Cluster::new(NODES);
    let mut seen = 0;
    for round in 0..WARM_UP + ROUNDS {
        cluster.run(PERIOD);
        let is = |this| part == this && round >= WARM_UP;
        let Cluster { now, nodes, addrs, .. } = &mut cluster;
        let sent = counted_if(is(Part::Publish), || {
            for _ in 0..batch {
                nodes[ORIGIN].publish(*now, "bench", VALUE).expect("there is room");
            }
            transmits(&mut nodes[ORIGIN])
        });
        let mut answers = Vec::new();
        for at in ORIGIN + 1..nodes.len() {
            let own: Vec<_> = sent.iter().filter(|transmit| transmit.to == addrs[at]).collect();
            let (delivered, answer) = counted_if(is(Part::Deliver), || {
                let node = &mut nodes[at];
                own.iter().for_each(|transmit| node.handle_datagram(*now, addrs[ORIGIN], &transmit.payload));
                (messages(node), transmits(node))
            });
            assert_eq!(delivered, batch, "every receiver hears everything at once");
            answers.extend(answer.into_iter().map(|transmit| (addrs[at], transmit)));
        }
        seen += answers.len();
        counted_if(is(Part::Acknowledge), || {
            for (from, transmit) in &answers {
                nodes[ORIGIN].handle_datagram(*now, *from, &transmit.payload);
            }
            transmits(&mut nodes[ORIGIN])
        });
    }
    assert!(seen >= (WARM_UP + ROUNDS) * RECEIVERS, "every receiver acknowledges at once");
    let messages = (ROUNDS * batch) as u64;
    if part == Part::Publish { messages } else { messages * RECEIVERS as u64 }
}

/// Per message that one receiver has lost: everything that it and the origin do from the next message on, which reveals the gap,
/// until the receiver has both.
pub fn repair() -> u64 {
    let mut cluster = Cluster::new(NODES);
    for round in 0..WARM_UP + ROUNDS {
        cluster.run(PERIOD);
        let counts = round >= WARM_UP;
        let lost = publish_one(&mut cluster);
        deliver_to(&mut cluster, &lost, |to| to != LOSER);
        let next = publish_one(&mut cluster);
        deliver_to(&mut cluster, &next, |to| to != LOSER);
        let to_loser = next.iter().filter(|transmit| transmit.to == cluster.addrs[LOSER]).cloned().collect();
        counted_if(counts, || repair_loss(&mut cluster, to_loser));
    }
    ROUNDS as u64
}

/// Has the origin publish a message, and returns its datagrams.
fn publish_one(cluster: &mut Cluster) -> Vec<Transmit> {
    cluster.nodes[ORIGIN].publish(cluster.now, "bench", VALUE).expect("there is room");
    transmits(&mut cluster.nodes[ORIGIN])
}

/// Delivers datagrams of the origin to some nodes, and their answers to the origin.
fn deliver_to(cluster: &mut Cluster, sent: &[Transmit], is_wanted: impl Fn(usize) -> bool) {
    for transmit in sent {
        let to = cluster.index_of(transmit.to);
        if !is_wanted(to) {
            continue;
        }
        cluster.nodes[to].handle_datagram(cluster.now, cluster.addrs[ORIGIN], &transmit.payload);
        messages(&mut cluster.nodes[to]);
        for answer in transmits(&mut cluster.nodes[to]) {
            cluster.nodes[ORIGIN].handle_datagram(cluster.now, cluster.addrs[to], &answer.payload);
        }
    }
}

/// Delivers what the origin and the node that has lost a message send each other, until that node has the message and the next
/// one, which is on its way.
fn repair_loss(cluster: &mut Cluster, mut to_loser: Vec<Transmit>) {
    let mut received = 0;
    let mut exchange_once = |nodes: &mut [Node], now, addrs: &[_], to_loser: &mut Vec<Transmit>| {
        for transmit in to_loser.drain(..) {
            nodes[LOSER].handle_datagram(now, addrs[ORIGIN], &transmit.payload);
        }
        received += messages(&mut nodes[LOSER]);
        for answer in transmits(&mut nodes[LOSER]) {
            if answer.to == addrs[ORIGIN] {
                nodes[ORIGIN].handle_datagram(now, addrs[LOSER], &answer.payload);
            }
        }
        to_loser.extend(transmits(&mut nodes[ORIGIN]).into_iter().filter(|transmit| transmit.to == addrs[LOSER]));
        received
    };
    while exchange_once(&mut cluster.nodes, cluster.now, &cluster.addrs, &mut to_loser) < 2 {
        if to_loser.is_empty() {
            // Both are idle until a timer is due.
            let due = [ORIGIN, LOSER].iter().filter_map(|at| cluster.nodes[*at].poll_timeout()).min();
            cluster.now = due.expect("who lacks something asks again").max(cluster.now);
            [ORIGIN, LOSER].iter().for_each(|at| cluster.nodes[*at].handle_timeout(cluster.now));
        }
    }
}

/// Per second and node: a cluster without messages.
pub fn rest() -> u64 {
    let mut cluster = Cluster::new(NODES);
    counted(|| cluster.run(REST));
    REST.as_secs() * u64::from(NODES)
}
