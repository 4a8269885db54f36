//! What becomes of messages at their origin and at those who receive them, one at a time as in a quiet cluster, or many
//! at once as in a flood; and what a cluster does at rest.

use std::time::Duration;

use broadcast::node::{Node, Transmit};

use super::{
    counted,
    world::{World, messages, transmits},
};

/// As in the other benchmarks: an origin, and twelve who receive.
const NODES: u8 = 13;
const RECEIVERS: usize = NODES as usize - 1;
const ORIGIN: usize = 0;
/// Who loses what is repaired.
const LOSER: usize = 1;
/// From one message, or batch, to the next.
const PERIOD: Duration = Duration::from_millis(5);
/// Messages or batches before counting begins, as the first ones are those for which memory is set aside.
const WARM_UP: usize = 20;
const ROUNDS: usize = 200;
/// Messages in a batch: as many packets' worth as a socket is asked for at once.
const BATCH: usize = 64;
/// A value of 64 bytes.
const VALUE: &str = "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"";
/// Of a cluster at rest.
const REST: Duration = Duration::from_secs(20);

/// Which part of a message's way is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Publish,
    Deliver,
    Acknowledge,
}

/// For each message: the origin takes it, and has it on its way to everybody.
pub fn publish() -> u64 {
    exchange(Part::Publish, 1)
}

pub fn publish_batch() -> u64 {
    exchange(Part::Publish, BATCH)
}

/// For each delivery: a receiver takes a message, gives it to its application, and has the acknowledgement on its way.
pub fn deliver() -> u64 {
    exchange(Part::Deliver, 1)
}

pub fn deliver_batch() -> u64 {
    exchange(Part::Deliver, BATCH)
}

/// For each delivery: the origin takes the acknowledgement.
pub fn acknowledge() -> u64 {
    exchange(Part::Acknowledge, 1)
}

pub fn acknowledge_batch() -> u64 {
    exchange(Part::Acknowledge, BATCH)
}

/// Does something, and counts it only if that is what is measured.
fn counted_if<R>(wanted: bool, operation: impl FnOnce() -> R) -> R {
    if wanted { counted(operation) } else { operation() }
}

fn exchange(part: Part, batch: usize) -> u64 {
    let mut world = World::new(NODES);
    let mut seen = 0;
    for round in 0..WARM_UP + ROUNDS {
        world.run(PERIOD);
        let is = |this| part == this && round >= WARM_UP;
        let World { now, nodes, addrs, .. } = &mut world;
        let sent = counted_if(is(Part::Publish), || {
            for _ in 0..batch {
                nodes[ORIGIN].publish(*now, "bench", VALUE).expect("there is room");
            }
            transmits(&mut nodes[ORIGIN])
        });
        let mut answers = Vec::new();
        for at in ORIGIN + 1..nodes.len() {
            let own: Vec<_> = sent.iter().filter(|transmit| transmit.to == addrs[at]).collect();
            let (told, answer) = counted_if(is(Part::Deliver), || {
                let node = &mut nodes[at];
                own.iter().for_each(|transmit| node.handle_datagram(*now, addrs[ORIGIN], &transmit.payload));
                (messages(node), transmits(node))
            });
            assert_eq!(told, batch, "every receiver hears everything at once");
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

/// For each message that one receiver has lost: all that it and the origin do from the next message on, by which the
/// receiver sees the gap, until it has both.
pub fn repair() -> u64 {
    let mut world = World::new(NODES);
    for round in 0..WARM_UP + ROUNDS {
        world.run(PERIOD);
        let counts = round >= WARM_UP;
        let lost = say(&mut world);
        pass(&mut world, &lost, |to| to != LOSER);
        let next = say(&mut world);
        pass(&mut world, &next, |to| to != LOSER);
        let to_loser = next.iter().filter(|transmit| transmit.to == world.addrs[LOSER]).cloned().collect();
        counted_if(counts, || bring_together(&mut world, to_loser));
    }
    ROUNDS as u64
}

/// The origin says something: the datagrams that carry it.
fn say(world: &mut World) -> Vec<Transmit> {
    world.nodes[ORIGIN].publish(world.now, "bench", VALUE).expect("there is room");
    transmits(&mut world.nodes[ORIGIN])
}

/// Hands datagrams of the origin over to some nodes, and their answers to the origin.
fn pass(world: &mut World, sent: &[Transmit], is_wanted: impl Fn(usize) -> bool) {
    for transmit in sent {
        let to = world.place(transmit.to);
        if !is_wanted(to) {
            continue;
        }
        world.nodes[to].handle_datagram(world.now, world.addrs[ORIGIN], &transmit.payload);
        messages(&mut world.nodes[to]);
        for answer in transmits(&mut world.nodes[to]) {
            world.nodes[ORIGIN].handle_datagram(world.now, world.addrs[to], &answer.payload);
        }
    }
}

/// Lets the origin and who has lost a message talk with each other, until the latter has that message and the next one,
/// which is on its way.
fn bring_together(world: &mut World, mut to_loser: Vec<Transmit>) {
    let mut heard = 0;
    let mut talk = |nodes: &mut [Node], now, addrs: &[_], to_loser: &mut Vec<Transmit>| {
        for transmit in to_loser.drain(..) {
            nodes[LOSER].handle_datagram(now, addrs[ORIGIN], &transmit.payload);
        }
        heard += messages(&mut nodes[LOSER]);
        for answer in transmits(&mut nodes[LOSER]) {
            if answer.to == addrs[ORIGIN] {
                nodes[ORIGIN].handle_datagram(now, addrs[LOSER], &answer.payload);
            }
        }
        to_loser.extend(transmits(&mut nodes[ORIGIN]).into_iter().filter(|transmit| transmit.to == addrs[LOSER]));
        heard
    };
    while talk(&mut world.nodes, world.now, &world.addrs, &mut to_loser) < 2 {
        if to_loser.is_empty() {
            // Nobody has anything to say until something is due.
            let due = [ORIGIN, LOSER].iter().filter_map(|at| world.nodes[*at].poll_timeout()).min();
            world.now = due.expect("who lacks something asks again").max(world.now);
            [ORIGIN, LOSER].iter().for_each(|at| world.nodes[*at].handle_timeout(world.now));
        }
    }
}

/// For each second of each node: what it does when nobody says anything.
pub fn rest() -> u64 {
    let mut world = World::new(NODES);
    counted(|| world.run(REST));
    REST.as_secs() * u64::from(NODES)
}
