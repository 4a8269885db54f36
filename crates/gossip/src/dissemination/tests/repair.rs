//! What a stream learns and asks for, step by step.

use super::{
    super::{
        control::Have,
        stream::{Pace, Peers, Source, Step},
    },
    *,
};
use crate::membership::NodeName;

const PACE: Pace = Pace { patience: Duration::from_millis(25), rounds: 1 };
const PEERS: Peers = Peers { has_origin: true, met_origin: true, live: 3 };

/// Who tells that there are messages from `base` up to `next`.
fn learn(stream: &mut Stream, store: &mut Store, (base, next): (u64, u64), by_origin: bool) -> Option<Duration> {
    let have = Have { origin: b"node1", epoch: 2, base, next, floor: 0, start: None };
    let addr = Some(SocketAddr::from(([10, 0, 0, if by_origin { 1 } else { 2 }], 7946)));
    stream.learn(&have, None, Source { addr, named: by_origin, by_origin }, PACE, store).ask_in
}

#[test]
fn what_is_missing_is_asked_for_ever_more_rarely_and_given_up_when_its_origin_has_it_no_more() {
    let (mut stream, mut store) = (Stream::new("node1".into(), 2, Some(0)), Store::new(0, false));
    let mut now = Instant::now();
    assert_eq!(stream.next_step(now, PEERS, PACE.patience, &mut store), Step::Rest);
    assert_eq!(learn(&mut stream, &mut store, (0, 3), false), Some(PACE.patience / 5));
    let teller = Some(SocketAddr::from(([10, 0, 0, 2], 7946)));
    let mut asked = Vec::new();
    for _ in 0..5 {
        let Step::Ask(request) = stream.next_step(now, PEERS, PACE.patience, &mut store) else { panic!("no request") };
        assert_eq!((&request.ranges[..], request.has_origin), (&[(0, 3)][..], true));
        now += request.patience;
        asked.push((request.attempt, request.hint.is_some(), request.patience.as_millis(), request.asked_enough));
        if request.attempt == 0 {
            assert_eq!(request.hint, teller, "who told of it is asked first");
        }
    }
    let expected = [
        (0, true, 25, false),
        (1, false, 50, false),
        (2, false, 100, false),
        (3, false, 200, false),
        (4, false, 400, true),
    ];
    assert_eq!(asked, expected);
    // What another has no more, the origin may have.
    learn(&mut stream, &mut store, (3, 3), false);
    assert!(matches!(stream.next_step(now, PEERS, PACE.patience, &mut store), Step::Ask(_)));
    learn(&mut stream, &mut store, (3, 3), true);
    assert_eq!(stream.next_step(now, PEERS, PACE.patience, &mut store), Step::GaveUp);
    assert_eq!(store.lost, vec![(NodeName::from("node1"), 2, 0..3)]);
    assert_eq!((stream.next, stream.next_step(now, PEERS, PACE.patience, &mut store)), (Some(3), Step::Rest));
}

#[test]
fn an_origin_is_asked_where_to_begin_until_others_are_believed() {
    let (mut stream, mut store) = (Stream::new("node1".into(), 2, None), Store::new(0, false));
    let mut now = Instant::now();
    learn(&mut stream, &mut store, (7, 9), false);
    let mut asked = 0;
    while let Step::AskStart(pause) = stream.next_step(now, PEERS, PACE.patience, &mut store) {
        now += pause;
        asked += 1;
    }
    assert_eq!((asked, stream.next), (20, Some(7)), "it begins with what others retain");
    assert_eq!(stream.acknowledged(), None, "the origin may still say otherwise");
    // One that failed may turn up first.
    let mut stream = Stream::new("node1".into(), 2, None);
    learn(&mut stream, &mut store, (7, 9), false);
    stream.end_life(now, false);
    let gone = Peers { has_origin: false, ..PEERS };
    assert_eq!(stream.next_step(now, gone, PACE.patience, &mut store), Step::Wait(SECOND));
    assert_eq!(stream.next_step(now + 10 * SECOND, gone, PACE.patience, &mut store), Step::Begun);
}
