//! What a stream learns and requests, step by step.

use super::{
    super::{
        control::StreamDigest,
        origin_stream::{DigestSource, RepairSources, RepairStep, RepairTiming},
    },
    *,
};
use crate::membership::NodeName;

const TIMING: RepairTiming = RepairTiming { response_timeout: Duration::from_millis(25), gossip_rounds: 1 };
const SOURCES: RepairSources = RepairSources { origin_is_live: true, met_origin: true, live: 3 };

/// Takes a digest that there are messages from `base` to `next`.
fn learn(
    stream: &mut OriginStream,
    buffers: &mut ReceiveBuffers,
    (base, next): (u64, u64),
    is_origin: bool,
) -> Option<Duration> {
    let digest = StreamDigest { origin: b"node1", epoch: 2, base, next, floor: 0, start: None };
    let addr = Some(SocketAddr::from(([10, 0, 0, if is_origin { 1 } else { 2 }], 7946)));
    stream.learn(&digest, None, DigestSource { addr, is_origin_addr: is_origin, is_origin }, TIMING, buffers).request_in
}

#[test]
fn what_is_missing_is_asked_for_ever_more_rarely_and_given_up_when_its_origin_has_it_no_more() {
    let (mut stream, mut buffers) = (OriginStream::new("node1".into(), 2, Some(0)), ReceiveBuffers::new(0, false));
    let mut now = Instant::now();
    assert_eq!(stream.next_step(now, SOURCES, TIMING.response_timeout, &mut buffers), RepairStep::Idle);
    assert_eq!(learn(&mut stream, &mut buffers, (0, 3), false), Some(TIMING.response_timeout / 5));
    let sender = Some(SocketAddr::from(([10, 0, 0, 2], 7946)));
    let mut asked = Vec::new();
    for _ in 0..5 {
        let RepairStep::Request(request) = stream.next_step(now, SOURCES, TIMING.response_timeout, &mut buffers) else {
            panic!("no request")
        };
        assert_eq!((&request.ranges[..], request.origin_is_live), (&[(0, 3)][..], true));
        now += request.response_timeout;
        asked.push((
            request.attempt,
            request.preferred_peer.is_some(),
            request.response_timeout.as_millis(),
            request.attempts_exhausted,
        ));
        if request.attempt == 0 {
            assert_eq!(request.preferred_peer, sender, "who told of it is asked first");
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
    learn(&mut stream, &mut buffers, (3, 3), false);
    assert!(matches!(stream.next_step(now, SOURCES, TIMING.response_timeout, &mut buffers), RepairStep::Request(_)));
    learn(&mut stream, &mut buffers, (3, 3), true);
    assert_eq!(stream.next_step(now, SOURCES, TIMING.response_timeout, &mut buffers), RepairStep::GaveUp);
    assert_eq!(buffers.missed, vec![(NodeName::from("node1"), 2, 0..3)]);
    assert_eq!(
        (stream.next, stream.next_step(now, SOURCES, TIMING.response_timeout, &mut buffers)),
        (Some(3), RepairStep::Idle)
    );
}

#[test]
fn an_origin_is_asked_where_to_begin_until_others_are_believed() {
    let (mut stream, mut buffers) = (OriginStream::new("node1".into(), 2, None), ReceiveBuffers::new(0, false));
    let mut now = Instant::now();
    learn(&mut stream, &mut buffers, (7, 9), false);
    let mut asked = 0;
    while let RepairStep::RequestStart(pause) = stream.next_step(now, SOURCES, TIMING.response_timeout, &mut buffers) {
        now += pause;
        asked += 1;
    }
    assert_eq!((asked, stream.next), (20, Some(7)), "it begins with what others retain");
    assert_eq!(stream.acknowledged(), None, "the origin may still say otherwise");
    // One that failed may turn up first.
    let mut stream = OriginStream::new("node1".into(), 2, None);
    learn(&mut stream, &mut buffers, (7, 9), false);
    stream.end_epoch(now, false);
    let gone = RepairSources { origin_is_live: false, ..SOURCES };
    assert_eq!(stream.next_step(now, gone, TIMING.response_timeout, &mut buffers), RepairStep::Wait(SECOND));
    assert_eq!(stream.next_step(now + 10 * SECOND, gone, TIMING.response_timeout, &mut buffers), RepairStep::Started);
}
