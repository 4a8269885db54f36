//! A man in the middle.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use broadcast::NodeInfo;
use broadcast_session::{CallError, ENDPOINT, Sessions};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Direction, ManInTheMiddle, NodeOptions, SOON, Tamper, acquainted, echoes, until};

/// Has calls to `other` go through the middle: whoever can redirect packets, or announces another's endpoint, could.
pub(crate) async fn behind(one: &Sessions, other: &Sessions, tamper: Tamper) -> ManInTheMiddle {
    let middle = ManInTheMiddle::before(other.node().addr(), tamper).await;
    let info = NodeInfo::new(other.node().id()).endpoint(ENDPOINT, middle.addr);
    other.node().update_info(info).await.expect("it runs");
    until("the way leads through the middle", async || {
        let found = one.node().find(&"other".into()).await;
        let info = found.and_then(|(_, info)| info);
        info.is_some_and(|info| info.endpoint_at(ENDPOINT, other.node().addr()) == Some(middle.addr))
    })
    .await;
    middle
}

#[tokio::test]
async fn whatever_is_done_to_a_session_cuts_it_and_the_next_call_makes_another() {
    let (one, other) = NodeOptions::default().pair().await;
    let third = NodeOptions::default().sessions("third", &[one.node()]).await;
    acquainted(&third, &other).await;
    echoes(&third, &other, "before anybody stands between").await;
    let counted = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&counted);
    other.serve("count", move |_| {
        let seen = Arc::clone(&seen);
        async move { Ok(seen.fetch_add(1, Ordering::SeqCst).to_string().into()) }
    });
    // Behind the handshake, where frames are, unless it is that which is changed.
    type Act = fn(Direction, usize, &mut Vec<u8>);
    let acts: [(&str, usize, Act); 5] = [
        ("changes a bit", 1, |direction, at, bytes| {
            if direction == Direction::There && at > 600 {
                bytes[0] ^= 1;
            }
        }),
        ("leaves something out", 1, |direction, at, bytes| {
            if direction == Direction::Back && at > 400 {
                bytes.truncate(bytes.len() / 2);
            }
        }),
        ("repeats", 1, |direction, at, bytes| {
            if direction == Direction::There && at > 600 {
                bytes.extend_from_within(..);
            }
        }),
        ("turns around", 1, |direction, at, bytes| {
            if direction == Direction::There && at > 600 {
                bytes.reverse();
            }
        }),
        ("changes handshakes, too", 3, |_, _, bytes| {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }),
    ];
    let acting = Arc::new(Mutex::new(None::<Act>));
    let is_acting = Arc::clone(&acting);
    let tamper: Tamper = Arc::new(move |direction, at, bytes| {
        if let Some(act) = *is_acting.lock().expect("nobody panics") {
            act(direction, at, bytes);
        }
    });
    let _middle = behind(&one, &other, tamper).await;
    for (what, times, act) in acts {
        *acting.lock().expect("nobody panics") = Some(act);
        let before = counted.load(Ordering::SeqCst);
        let (mut answered, mut broken) = (0, 0);
        while broken < times {
            match one.call("other", "count", Bytes::new(), Duration::from_millis(500)).await {
                Ok(_) => answered += 1,
                Err(error) => {
                    assert!(!matches!(error, CallError::Refused { .. }), "{what}: {error}");
                    broken += 1;
                }
            }
            assert!(answered < 1000, "{what}: nothing breaks");
        }
        let made = counted.load(Ordering::SeqCst) - before;
        assert!((answered..=answered + broken).contains(&made), "{what}: {made} of {answered} and {broken}");
        echoes(&third, &other, "others are not disturbed").await;
        *acting.lock().expect("nobody panics") = None;
        until("it goes on", async || one.call("other", "count", Bytes::new(), SOON).await.is_ok()).await;
    }
}

#[tokio::test]
async fn what_was_recorded_does_nothing_when_it_is_sent_again_or_back() {
    let (one, other) = NodeOptions::default().pair().await;
    let counted = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&counted);
    other.serve("count", move |_| {
        let seen = Arc::clone(&seen);
        async move { Ok(seen.fetch_add(1, Ordering::SeqCst).to_string().into()) }
    });
    let middle = behind(&one, &other, Arc::new(|_, _, _| {})).await;
    for _ in 0..3 {
        one.call("other", "count", Bytes::new(), SOON).await.expect("it is there");
    }
    let said: Vec<_> = middle.recording.lock().expect("nobody panics").clone();
    let recorded = |wanted| -> Vec<u8> {
        said.iter().filter(|(direction, _)| *direction == wanted).flat_map(|(_, bytes)| bytes.clone()).collect()
    };
    let refused = other.stats().refused + one.stats().refused;
    for (node, bytes) in [
        // Once more, to whom it was for.
        (&other, recorded(Direction::There)),
        // Back to who said it, and what was answered to who answered.
        (&one, recorded(Direction::There)),
        (&other, [&[0xb5, 1], &recorded(Direction::Back)[..]].concat()),
    ] {
        let mut stream = TcpStream::connect(node.node().addr()).await.expect("it listens");
        stream.write_all(&bytes).await.expect("it is taken");
        let mut answer = Vec::new();
        // It is cut off: by the callee, or by the system, as what came was not all read.
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("it ends");
        assert!(answer.len() < 1000, "{} bytes", answer.len());
    }
    until("it is counted", async || other.stats().refused + one.stats().refused >= refused + 2).await;
    assert_eq!(counted.load(Ordering::SeqCst), 3);
    assert!(!recorded(Direction::There).windows(5).any(|bytes| bytes == b"count"), "nobody in between reads along");
    assert!(!recorded(Direction::There).windows(3).any(|bytes| bytes == b"one"), "nor who calls");
    echoes(&one, &other, "nobody was disturbed").await;
}
