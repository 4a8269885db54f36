//! Views that are larger than any cluster: refused before they are built, and read in slices.

use super::*;
use crate::wire::{
    NodeState, PushPull, PushPullState,
    stream::{self, StreamMessage},
};

fn view(records: usize) -> Vec<u8> {
    let record = PushPullState {
        name: "fake".into(),
        address: SocketAddr::from(([10, 0, 0, 99], 7946)).into(),
        meta: Bytes::new(),
        incarnation: 1,
        state: NodeState::Alive,
        versions: Some(VERSIONS),
    };
    let view = PushPull { join: true, nodes: vec![record; records], user_state: Bytes::new() };
    stream::encode(&StreamMessage::PushPull(view), true)
}

fn node(now: Instant, max_members: usize) -> Node {
    let config = Config::new("me").resource_limits(ResourceLimits { max_members, ..ResourceLimits::default() });
    Node::new(now, NodeConfig::new(config, SocketAddr::from(([10, 0, 0, 1], 7946))))
}

fn rejected(node: &mut Node) -> Vec<String> {
    let events = std::iter::from_fn(|| node.poll_event());
    let reasons = events.filter_map(|event| match event {
        Event::Rejected { reason, .. } => Some(reason),
        _ => None,
    });
    reasons.collect()
}

#[test]
fn a_view_of_more_members_than_are_remembered_is_refused_however_often_it_names_one() {
    let now = Instant::now();
    let from = SocketAddr::from(([10, 0, 0, 9], 7946));
    let mut node = node(now, 1000);
    let id = node.handle_accept(now, from).expect("room for a stream");
    node.handle_stream(now, id, StreamInput::Data(&view(1001)));
    assert_eq!(
        rejected(&mut node),
        ["stream announces 1001 records in a push/pull, more than 1000, the limit; is `max_members` too small?"]
    );
    assert_eq!((node.metrics().over_limit.stream_sizes, node.buffered(), node.records().len()), (1, 0, 1));
    let id = node.handle_accept(now, from).expect("room for a stream");
    node.handle_stream(now, id, StreamInput::Data(&view(1000)));
    while node.poll_timeout().is_some_and(|at| at <= now) {
        node.handle_timeout(now);
    }
    assert_eq!((rejected(&mut node), node.records().len()), (vec![], 2));
}

#[test]
fn a_large_view_is_read_in_slices_between_which_all_else_goes_on() {
    let now = Instant::now();
    let from = SocketAddr::from(([10, 0, 0, 9], 7946));
    let mut node = node(now, 100_000);
    while node.poll_timeout().is_some_and(|at| at <= now) {
        node.handle_timeout(now);
    }
    let data = view(100_000);
    let id = node.handle_accept(now, from).expect("room for a stream");
    node.handle_stream(now, id, StreamInput::Data(&data));
    node.handle_stream(now, id, StreamInput::Closed);
    let mut slices = 0;
    while node.streams.contains_key(&id) {
        slices += 1;
        assert!(node.poll_timeout().is_some_and(|at| at <= now), "it goes on at once");
        // Other inputs are served in between.
        let ping = crate::wire::Ping { seq: slices, node: "me".into(), source: None };
        node.handle_datagram(now, from, &packet(&Wire::Ping(ping)));
        let answer = std::iter::from_fn(|| node.poll_transmit()).find(|transmit| transmit.to == from);
        assert!(answer.is_some(), "after {slices} slices");
        node.handle_timeout(now);
    }
    assert!(slices > 100, "{slices}");
    assert_eq!((rejected(&mut node), node.records().len()), (vec![], 2));
}

#[test]
fn a_view_is_not_given_up_because_this_node_is_slow_to_read_it() {
    let mut now = Instant::now();
    let from = SocketAddr::from(([10, 0, 0, 9], 7946));
    let mut node = node(now, 100_000);
    let id = node.handle_accept(now, from).expect("room for a stream");
    node.handle_stream(now, id, StreamInput::Data(&view(100_000)));
    let mut slices = 0;
    while node.streams.contains_key(&id) {
        slices += 1;
        now += node.tuning.tcp_timeout;
        node.handle_timeout(now);
    }
    assert!(slices > 100, "{slices}");
    assert_eq!((rejected(&mut node), node.metrics().over_limit.stream_times, node.records().len()), (vec![], 0, 2));

    // Once it has read what there is, the time is the other side's again.
    let whole = view(100_000);
    let id = node.handle_accept(now, from).expect("room for a stream");
    node.handle_stream(now, id, StreamInput::Data(&whole[..whole.len() - 1]));
    while node.streams.contains_key(&id) {
        now += node.tuning.tcp_timeout;
        node.handle_timeout(now);
    }
    assert!(matches!(&rejected(&mut node)[..], [reason] if reason.contains("still incomplete")));
}

#[test]
fn what_is_made_of_streams_counts_as_what_they_hold() {
    let now = Instant::now();
    let from = SocketAddr::from(([10, 0, 0, 9], 7946));
    let mut node = node(now, 100_000);
    let max = node.resource_limits.max_stream_bytes;
    // All but the end of it: it is not compressed.
    let whole = {
        let StreamMessage::PushPull(view) =
            stream::StreamReader::new().push(&view(100_000)).expect("a view").expect("all of it")
        else {
            panic!("a view")
        };
        stream::encode(&StreamMessage::PushPull(view), false)
    };
    let begun = &whole[..whole.len() - 1];
    let mut cut_off = 0;
    for _ in 0..20 {
        let id = node.handle_accept(now, from).expect("room for a stream");
        for chunk in begun.chunks(16 << 10) {
            node.handle_stream(now, id, StreamInput::Data(chunk));
            while !node.backlog.is_empty() {
                node.handle_timeout(now);
            }
            assert!(node.buffered() <= max, "{}", node.buffered());
        }
        cut_off += usize::from(!node.streams.contains_key(&id));
    }
    assert!((15..20).contains(&cut_off), "{cut_off}");
    assert!(node.metrics().over_limit.stream_bytes >= 15);
}
