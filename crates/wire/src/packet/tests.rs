//! The work that packets cost, whatever lengths they claim.

use super::*;
use crate::{MsgpackError, msgpack::HEADS_READ, test_bytes::hex};

/// The heads of values read while `work` is done.
fn heads_read(work: impl FnOnce()) -> usize {
    let before = HEADS_READ.get();
    work();
    HEADS_READ.get() - before
}

#[test]
fn lengths_without_bytes_cost_nothing() {
    let truncated = |name, len| PacketError::Body { name, len, source: MsgpackError::Truncated.into() };
    for (text, name) in [
        ("02 81a75061796c6f6164 db7fffffff", "ack"),
        ("02 81a75061796c6f6164 c6ffffffff", "ack"),
        ("02 81a75061796c6f6164 dd7fffffff", "ack"),
        ("02 df7fffffff", "ack"),
        ("02 dd7fffffff", "ack"),
        ("02 81 dbffffffff", "ack"),
        ("0b 81a178 df7fffffff", "nack"),
        ("0b 81a178 ddffffffff", "nack"),
        ("0b 81a178 c9ffffffff01", "nack"),
    ] {
        let packet = hex(text);
        let work =
            heads_read(|| assert_eq!(decode(&packet, &mut Vec::new()), Err(truncated(name, packet.len())), "{text}"));
        assert!(work <= packet.len(), "{text}: {work}");
    }
}

#[test]
fn work_is_linear_in_the_packet() {
    // An array of nils in an unknown field, and as a payload; a map of unknown fields.
    for (head, item) in [("0b81a178dd0000ea60", "c0"), ("0281a75061796c6f6164dd0000ea60", "c0"), ("0bde7530", "a005")] {
        let mut packet = hex(head).to_vec();
        packet.extend(hex(&item.repeat(60_000 / (item.len() / 2))));
        let (mut out, len) = (Vec::new(), packet.len());
        let work = heads_read(|| decode(&packet.into(), &mut out).unwrap());
        assert!(work <= len, "{head}: {work} for {len}");
    }
}
