//! Messages that fit in no packet.

use super::*;
use crate::dissemination::{PublishError, draft::MAX_MESSAGE};

/// JSON of a text of this length.
fn text(len: usize) -> String {
    format!("\"{}\"", "x".repeat(len))
}

#[test]
fn a_mebibyte_arrives_once_everywhere() {
    // Straight, passed on, and with loss.
    for (n, loss) in [(5, 0.0), (60, 0.0), (13, 0.2)] {
        let mut sim = Sim::new(11, Profile::Lan);
        let addrs = cluster(&mut sim, n);
        sim.loss = loss;
        let value = text(MAX_MESSAGE - 200);
        sim.publish(addrs[1], "k", "0");
        sim.publish(addrs[1], "k", &value);
        sim.publish(addrs[1], "k", "2");
        sim.run(20 * SECOND);
        check_bounds(&mut sim);
        for addr in addrs.iter().filter(|addr| **addr != addrs[1]) {
            let heard = received(&mut sim, *addr);
            let lens: Vec<_> = heard.iter().map(String::len).collect();
            assert_eq!(lens, ["node2: 0".len(), "node2: ".len() + value.len(), "node2: 2".len()], "{addr} of {n}");
            assert!(heard[1].ends_with(&value));
        }
        assert_eq!(sim.node(addrs[1]).progress().stable, 3);
    }
}

#[test]
fn more_than_a_message_may_be_is_refused() {
    let mut sim = Sim::new(12, Profile::Lan);
    let addrs = cluster(&mut sim, 2);
    let refused = sim.try_publish(addrs[0], "k", &text(MAX_MESSAGE));
    assert!(matches!(refused, Err(PublishError::TooLarge { size, max: MAX_MESSAGE }) if size > MAX_MESSAGE));
    check_healthy(&mut sim, &addrs);
}
