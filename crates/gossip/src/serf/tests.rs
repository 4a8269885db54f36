use std::net::SocketAddr;

use super::*;
use crate::{
    Config, Profile,
    wire::{self, Address, Alive, Versions},
};

const AGENT: Versions = [1, 5, 2, 2, 5, 4];

fn name(i: u8) -> NodeName {
    format!("n{i}").as_str().into()
}

fn addr(i: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, i], 7946))
}

/// Node 1, which knows these agents.
fn cluster(now: Instant, agents: &[u8]) -> (Serf, Membership) {
    let tuning = Profile::Lan.tuning();
    let config = Config::new("n1").tuning(tuning.clone());
    let mut membership = Membership::new(now, &config, addr(1).into(), [1, 5, 2, 2, 0xb1, 4], 7);
    let mut serf = Serf::new(name(1), Tags::new(), false, tuning.retransmit_mult, tuning.udp_buffer_size);
    for &i in agents {
        let alive = Alive {
            incarnation: 1,
            node: Bytes::copy_from_slice(name(i).as_bytes()),
            address: Address::from(addr(i)),
            meta: Bytes::from_static(b"\xff\x81\xa1a\xa1b"),
            versions: Some(AGENT),
        };
        membership.handle(now, addr(i), wire::Message::Alive(alive)).expect("it is let in");
        serf.member_up(&name(i), &membership);
    }
    (serf, membership)
}

/// What is queued, without the type byte of user messages.
fn queued(serf: &mut Serf) -> Vec<Bytes> {
    let mut out = Vec::new();
    // For one member, and with a multiplier of 4, each goes four times.
    for _ in 0..16 {
        serf.take_broadcasts(1, 1400, &mut out);
    }
    let mut messages: Vec<Bytes> = out.iter().map(|message| message.slice(1..)).collect();
    messages.sort();
    messages.dedup();
    messages
}

fn delivered(serf: &mut Serf) -> Vec<(String, Bytes)> {
    let outputs = std::iter::from_fn(|| serf.poll_output());
    let events = outputs.filter_map(|output| match output {
        SerfOutput::Deliver { name, payload } => Some((name, payload)),
        SerfOutput::Send { .. } | SerfOutput::Left(_) => None,
    });
    events.collect()
}

fn sent(serf: &mut Serf) -> Vec<(SocketAddr, Bytes)> {
    let outputs = std::iter::from_fn(|| serf.poll_output());
    let sent = outputs.filter_map(|output| match output {
        SerfOutput::Send { to, message } => Some((to.addr, message.slice(1..))),
        SerfOutput::Deliver { .. } | SerfOutput::Left(_) => None,
    });
    sent.collect()
}

/// An event as an agent sends it.
fn event(time: u64, name: &str, payload: &str) -> Bytes {
    let mut out = vec![message::kind::EVENT];
    msgpack::put_map(&mut out, 4);
    for (field, value) in [("Name", name), ("Payload", payload)] {
        msgpack::put_str(&mut out, field.as_bytes());
        msgpack::put_str(&mut out, value.as_bytes());
    }
    msgpack::put_str(&mut out, b"LTime");
    msgpack::put_u64(&mut out, time);
    msgpack::put_str(&mut out, b"CC");
    msgpack::put_bool(&mut out, true);
    out.into()
}

fn query(id: u32, name: &str, payload: &[u8], from: u8, flags: u32) -> Bytes {
    query_at(5, id, name, payload, from, flags)
}

fn query_at(time: u64, id: u32, name: &str, payload: &[u8], from: u8, flags: u32) -> Bytes {
    let mut out = vec![message::kind::QUERY];
    msgpack::put_map(&mut out, 7);
    msgpack::put_str(&mut out, b"Addr");
    msgpack::put_str(&mut out, &[10, 0, 0, from]);
    for (field, value) in [("Port", 7946), ("ID", id), ("Flags", flags)] {
        msgpack::put_str(&mut out, field.as_bytes());
        msgpack::put_uint(&mut out, value);
    }
    msgpack::put_str(&mut out, b"LTime");
    msgpack::put_u64(&mut out, time);
    for (field, value) in [("Name", name.as_bytes()), ("Payload", payload)] {
        msgpack::put_str(&mut out, field.as_bytes());
        msgpack::put_str(&mut out, value);
    }
    out.into()
}

#[test]
fn an_agent_s_event_is_delivered_and_passed_on_once() {
    let now = Instant::now();
    let (mut serf, membership) = cluster(now, &[2]);
    let said = event(3, "deploy", "v1");
    for _ in 0..3 {
        serf.handle(now, &said, &membership).expect("it is one");
    }
    assert_eq!(delivered(&mut serf), [("deploy".into(), Bytes::from("v1"))]);
    assert_eq!(queued(&mut serf), [said], "as it came, so that fields that are not known survive");
    assert_eq!(serf.next_event(), 4);
}

#[test]
fn a_message_of_ours_is_no_second_message_by_its_event() {
    let now = Instant::now();
    let (mut origin, membership) = cluster(now, &[2]);
    let time = origin.next_event();
    assert_eq!(origin.emit_event("k", b"1"), 0);
    let flood = queued(&mut origin).pop().expect("it is told");

    // By the flood, before the message and after it.
    let (mut other, _) = cluster(now, &[2]);
    other.handle(now, &flood, &membership).expect("it is one");
    assert_eq!(delivered(&mut other), []);
    assert_eq!(queued(&mut other), std::slice::from_ref(&flood), "agents may not have it yet");
    assert!(other.claim_event(time, "k", b"1"));
    other.handle(now, &flood, &membership).expect("it is one");
    assert_eq!(delivered(&mut other), []);

    // In an agent's state, which has no mark: whichever comes first is delivered.
    let unmarked = event(time, "k", "1");
    let (mut late, _) = cluster(now, &[2]);
    late.handle(now, &unmarked, &membership).expect("it is one");
    assert_eq!(delivered(&mut late).len(), 1);
    assert!(!late.claim_event(time, "k", b"1"));
    let (mut early, _) = cluster(now, &[2]);
    assert!(early.claim_event(time, "k", b"1"));
    early.handle(now, &unmarked, &membership).expect("it is one");
    assert_eq!(delivered(&mut early), []);

    // The origin gets its own event, too.
    for echo in [&flood, &unmarked] {
        origin.handle(now, echo, &membership).expect("it is one");
    }
    assert_eq!(delivered(&mut origin), []);
}

#[test]
fn who_joins_hears_what_is_said_from_then_on() {
    let now = Instant::now();
    let (mut old, membership) = cluster(now, &[2]);
    old.handle(now, &event(3, "before", ""), &membership).expect("it is one");
    let state = old.state(&membership, Some("ours".into()));
    assert_eq!(Serf::broadcast_state_in(&state).expect("a state"), Some(Bytes::from("ours")));
    for (replay, count) in [(false, 0), (true, 1)] {
        let (mut new, membership) = cluster(now, &[2]);
        new.replay = replay;
        new.merge(now, &state, (true, true), &membership).expect("a state");
        assert_eq!(delivered(&mut new).len(), count);
        new.handle(now, &event(4, "after", ""), &membership).expect("it is one");
        assert_eq!(delivered(&mut new), [("after".into(), Bytes::new())]);
        // What is repaired by a later exchange of views.
        old.handle(now, &event(5, "missed", ""), &membership).expect("it is one");
        new.merge(now, &old.state(&membership, None), (false, true), &membership).expect("a state");
        let missed = delivered(&mut new);
        assert!(missed.contains(&("missed".into(), Bytes::new())), "{missed:?}");
    }
}

#[test]
fn the_first_event_of_a_cluster_is_not_taken_for_an_old_one() {
    let now = Instant::now();
    let (mut one, membership) = cluster(now, &[2]);
    let (mut other, _) = cluster(now, &[2]);
    other.merge(now, &one.state(&membership, None), (true, true), &membership).expect("a state");
    one.handle(now, &event(1, "first", ""), &membership).expect("it is one");
    other.merge(now, &one.state(&membership, None), (false, true), &membership).expect("a state");
    assert_eq!(delivered(&mut other).len(), 1);
}

#[test]
fn a_leave_that_is_said_of_this_node_is_answered_with_a_join() {
    let now = Instant::now();
    let (mut serf, membership) = cluster(now, &[2]);
    serf.join(now);
    assert_eq!(queued(&mut serf), [message::encode_join(1, &name(1))]);
    serf.handle(now, &message::encode_leave(7, &name(1)), &membership).expect("it is one");
    assert_eq!(queued(&mut serf), [message::encode_join(8, &name(1))]);
    serf.handle(now, &message::encode_leave(8, &name(1)), &membership).expect("it is one");
    assert_eq!(queued(&mut serf), [] as [Bytes; 0], "it is older than the join");
    serf.leave(now, membership.others());
    assert_eq!(sent(&mut serf), [(addr(2), message::encode_leave(9, &name(1)))]);
    assert_eq!(queued(&mut serf), [message::encode_leave(9, &name(1))]);
    serf.handle(now, &message::encode_leave(20, &name(1)), &membership).expect("it is one");
    assert_eq!(queued(&mut serf), [message::encode_leave(20, &name(1))], "it leaves");
}

#[test]
fn queries_are_acknowledged_and_answered_once_to_members() {
    let now = Instant::now();
    let (mut serf, membership) = cluster(now, &[2, 3]);
    let answers = |serf: &mut Serf, query: Bytes| {
        serf.handle(now, &query, &membership).expect("it is one");
        serf.handle(now, &query, &membership).expect("it is one");
        sent(serf)
    };
    let [(to, ack)] = &answers(&mut serf, query(1, "uptime", b"", 2, 1))[..] else { panic!("one answer") };
    assert_eq!(*to, addr(2));
    assert_eq!(ack[..9], *b"\x05\x85\xa5Flags\x01");
    assert_eq!(answers(&mut serf, query(2, "uptime", b"", 2, 0)), []);
    assert_eq!(answers(&mut serf, query(3, "_serf_ping", b"", 2, 1)).len(), 1);
    let keys = answers(&mut serf, query(4, "_serf_list-keys", b"", 2, 1));
    assert!(keys.len() == 2 && keys[1].1.windows(13).any(|part| part == b"cannot be see"), "{keys:?}");
    let conflict = answers(&mut serf, query(5, "_serf_conflict", b"n3", 2, 0));
    let described = b"\xa4Tags\x81\xa1a\xa1b";
    assert!(conflict[0].1.ends_with(described), "{conflict:?}");
    assert_eq!(answers(&mut serf, query(6, "_serf_conflict", b"n1", 2, 0)), [], "that is for others to say");
    let stranger = serf.handle(now, &query(7, "uptime", b"", 9, 1), &membership);
    assert_eq!(stranger, Err(SerfError::NotAMember(addr(9))));
    assert_eq!(queued(&mut serf).len(), 7, "each is passed on");
    serf.handle(now, &query(8, "uptime", b"", 2, 2), &membership).expect("it is one");
    assert_eq!(queued(&mut serf), [] as [Bytes; 0], "it is not to be passed on");
}

#[test]
fn relays_go_to_members_and_not_without_end() {
    let now = Instant::now();
    let (mut serf, membership) = cluster(now, &[2]);
    let relay = |i: u8| {
        let header = [&b"\x09\x82\xa8DestAddr\x83\xa2IP\xa4"[..], &[10, 0, 0, i], b"\xa4Port\xcd\x1f\x0a\xa4Zone\xa0"];
        Bytes::from([&header.concat()[..], b"\xa8DestName\xa0", b"\x05inner"].concat())
    };
    assert_eq!(serf.handle(now, &relay(9), &membership), Err(SerfError::NotAMember(addr(9))));
    serf.handle(now, &relay(2), &membership).expect("to a member");
    assert_eq!(sent(&mut serf), [(addr(2), Bytes::from_static(b"\x05inner"))]);
    let refused =
        (0..1000).filter(|_| serf.handle(now, &relay(2), &membership) == Err(SerfError::TooManyReplies)).count();
    assert_eq!(refused, 1001 - REPLIES_PER_SECOND as usize);
    serf.handle(now + Duration::from_secs(1), &relay(2), &membership).expect("it is another second");
}

#[test]
fn views_tell_who_left_and_what_was_last_heard_of_each() {
    let now = Instant::now();
    let (mut serf, mut membership) = cluster(now, &[2, 3, 4]);
    serf.handle(now, &message::encode_join(5, &name(2)), &membership).expect("it is one");
    for (i, from) in [(3, 3), (4, 2)] {
        let [node, from] = [i, from].map(|i| Bytes::copy_from_slice(name(i).as_bytes()));
        let dead = wire::Message::Dead(wire::Dead { incarnation: 1, node, from });
        membership.handle(now, addr(2), dead).expect("it is believed");
    }
    let left = |serf: &Serf| SerfPushPull::decode(&serf.state(&membership, None)).expect("a state").left;
    assert_eq!(left(&serf), [name(3)]);
    // `serf force-leave`
    serf.handle(now, &message::encode_leave(6, &name(4)), &membership).expect("it is one");
    assert_eq!(std::collections::BTreeSet::from_iter(left(&serf)), [name(3), name(4)].into());
    let state = SerfPushPull::decode(&serf.state(&membership, None)).expect("a state");
    assert!(state.statuses.contains(&(name(2), 5)) && state.statuses.len() == 4, "{:?}", state.statuses);
    assert_eq!((state.time, state.event_time, state.query_time), (7, 1, 1));
}

#[test]
fn what_is_told_is_bounded() {
    let now = Instant::now();
    let (mut serf, membership) = cluster(now, &[2]);
    let lost: usize = (0..2000).map(|i| serf.emit_event("k", format!("{i}").as_bytes())).sum();
    assert_eq!(lost, 2000 - QUEUE_CAPACITY);
    for i in 0..3000_u32 {
        let intent = message::encode_join(1, &i.to_string().as_str().into());
        serf.handle(now, &intent, &membership).expect("it is one");
    }
    for (what, held, bound) in serf.sizes() {
        assert!(held <= bound, "{held} {what}, more than {bound}");
    }
}

/// A state that says these times.
fn state(time: u64, event_time: u64, query_time: u64, statuses: &[(NodeName, u64)], events: &[u64]) -> Bytes {
    let events =
        events.iter().map(|&time| UserEvent { time, name: "k".into(), payload: Bytes::new(), is_broadcast: false });
    let (statuses, events) = (statuses.to_vec(), events.collect());
    SerfPushPull { time, statuses, left: Vec::new(), event_time, events, query_time, broadcast_state: None }.encode()
}

/// What can be said after it: the clocks are not used up, and others hear what this node says.
fn assert_goes_on(now: Instant, serf: &mut Serf, membership: &Membership) {
    let (mut other, others) = cluster(now, &[1, 3]);
    other
        .merge(now, &serf.state(membership, None), (false, true), &others)
        .expect("it is believed when it is asked for");
    queued(serf);
    serf.join(now);
    serf.emit_event("news", b"");
    for message in queued(serf) {
        other.handle(now, &message, &others).expect("what this node says others believe");
    }
    serf.handle(now, &event(serf.next_event(), "next", ""), membership).expect("what agents say next is heard");
    assert!(delivered(serf).iter().any(|(name, _)| name == "next"));
}

#[test]
fn a_time_that_is_made_up_moves_no_clock_far_whatever_it_stands_in() {
    let now = Instant::now();
    let far = [3 + MAX_LEAP, 1 << 40, 1 << 62, (1 << 62) + 1, 1 << 63, u64::MAX - 1, u64::MAX];
    for time in far {
        let (mut serf, membership) = cluster(now, &[2]);
        for message in [
            message::encode_join(time, &name(2)),
            message::encode_leave(time, &name(2)),
            message::encode_leave(time, &name(1)),
            event(time, "forged", ""),
            query_at(time, 7, "uptime", b"", 2, 1),
        ] {
            serf.handle(now, &message, &membership).expect_err("it is not believed");
        }
        for state in [
            state(time, 1, 1, &[], &[]),
            state(1, time, 1, &[], &[]),
            state(1, 1, time, &[], &[]),
            state(1, 1, 1, &[(name(2), time)], &[]),
            state(1, 1, 1, &[], &[time]),
            // Each a step further than the last.
            state(
                1,
                1,
                1,
                &(1..9).map(|i| (name(i), (time >> 9).saturating_mul(u64::from(i)).max(MAX_LEAP))).collect::<Vec<_>>(),
                &[],
            ),
        ] {
            serf.merge(now, &state, (true, false), &membership).expect_err("it is not believed of who comes by itself");
        }
        assert!(serf.claim_event(time, "k", b""), "a message of ours is delivered, whatever it says");
        assert_eq!((queued(&mut serf), delivered(&mut serf)), (vec![], vec![]), "nothing is passed on");
        assert_eq!(serf.state_of(membership.get(name(2).as_bytes()).expect("it is known")), MemberState::Alive);
        assert_eq!([serf.member_clock, serf.event_clock, serf.query_clock].map(LamportClock::time), [1; 3]);
        assert_goes_on(now, &mut serf, &membership);
    }
    // Even a clock that a reply has pushed as far ahead as possible has room for all that will ever be said.
    let (mut serf, membership) = cluster(now, &[2]);
    serf.merge(now, &state(1 << 40, 1 << 40, 1 << 40, &[], &[]), (true, true), &membership)
        .expect("this node was away");
    assert_goes_on(now, &mut serf, &membership);
    serf.merge(now, &state(1 << 62, 1, 1, &[], &[]), (true, true), &membership).expect_err("nobody can be there");
}

#[test]
fn many_made_up_times_do_not_use_the_clocks_up() {
    let now = Instant::now();
    let (mut serf, membership) = cluster(now, &[2]);
    for _ in 0..100_000 {
        let time = serf.next_event() + MAX_LEAP;
        serf.handle(now, &event(time, "forged", ""), &membership).expect("it is one");
    }
    assert!(serf.next_event() < clock::LATEST / 1_000_000);
    assert_goes_on(now, &mut serf, &membership);
}
