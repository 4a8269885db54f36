//! Nodes that leave: alone, while they join, or before they come back.

use super::*;

#[test]
fn a_node_that_leaves_is_said_to_have_left_and_may_return() {
    let mut sim = sim();
    let addrs = cluster(&mut sim, 4);
    sim.leave(addrs[3]);
    let now = sim.now;
    assert_eq!(sim.node(addrs[3]).publish(now, "k", "1"), Err(PublishError::Stopped));
    sim.run(2 * SECOND);
    assert_eq!(told(&mut sim, addrs[3]), ["leave complete"]);
    sim.kill(addrs[3]);
    sim.run_until(SECOND, Sim::agreed);
    for addr in &addrs[..3] {
        assert_eq!(told(&mut sim, *addr), ["node4 left"]);
    }
    sim.start("node4", 4, &["node2"]);
    sim.run_until(10 * SECOND, Sim::agreed);
    assert_eq!(told(&mut sim, addrs[0]), ["node4 joined"]);
    sim.run(60 * SECOND);
    assert!(sim.agreed());
}

#[test]
fn a_node_that_leaves_while_it_joins_tells_who_let_it_in() {
    let mut sim = sim();
    let seed = sim.start("node1", 1, &[]);
    let joiner = sim.start("node2", 2, &["node1"]);
    sim.run_until(SECOND, |sim| sim.view(seed).len() == 2);
    assert_eq!(sim.view(joiner), ["node2"], "the answer is under way");
    sim.leave(joiner);
    sim.run(SECOND);
    assert!(told(&mut sim, joiner).contains(&"leave complete".to_owned()));
    assert_eq!(told(&mut sim, seed), ["ready", "node2 joined", "node2 left"]);
}

#[test]
fn a_node_whose_seed_does_not_answer_leaves_without_it() {
    let mut sim = sim();
    let seed = sim.start("node1", 1, &[]);
    let joiner = sim.start("node2", 2, &["node1"]);
    sim.partition(&[seed], &[joiner]);
    sim.run(SECOND / 1000);
    sim.leave(joiner);
    sim.run(SECOND);
    assert!(told(&mut sim, joiner).contains(&"leave complete".to_owned()));
}

#[test]
fn a_node_alone_leaves_at_once() {
    let mut sim = sim();
    let addr = sim.start("alone", 1, &[]);
    sim.leave(addr);
    assert_eq!(told(&mut sim, addr), ["ready", "leave complete"]);
}
