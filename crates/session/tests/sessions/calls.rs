//! What calls do.

use std::{sync::Arc, time::Duration};

use broadcast_session::{CallError, Refusal, Request, Response};
use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use crate::support::{NodeOptions, SOON, echoes, until};

#[tokio::test]
async fn a_node_calls_another_by_its_name_and_is_known_there() {
    let (one, other) = NodeOptions::default().pair().await;
    echoes(&one, &other, "hello").await;
    assert_eq!(one.call("other", "who", Bytes::new(), SOON).await, Ok(Bytes::from_static(b"one")));
    assert_eq!(other.call("one", "who", Bytes::new(), SOON).await, Ok(Bytes::from_static(b"other")));
    assert_eq!(other.stats().sessions, 1, "both calls came over one connection");
    assert_eq!((other.stats().calls_served, one.stats().calls_made), (2, 2));
}

#[tokio::test]
async fn what_cannot_be_called_is_told_at_once() {
    let plan = NodeOptions::default();
    let (one, other) = plan.pair().await;
    let plain = plan.node("plain", &[one.node()]).await;
    until("all know of each other", async || one.node().members().await.len() == 3).await;
    let call = async |to: &str, method: &str| one.call(to, method, Bytes::new(), SOON).await.expect_err("no answer");
    let begun = Instant::now();
    assert_eq!(call("nobody", "echo").await, CallError::NoMember("nobody".into()));
    assert_eq!(call("plain", "echo").await, CallError::NoSessions("plain".into()));
    assert_eq!(call("one", "echo").await, CallError::SelfCall("one".into()));
    let none = CallError::NoService { to: "other".into(), method: "nothing".into() };
    assert_eq!(call("other", "nothing").await, none);
    assert!(!none.has_begun());
    for method in ["", "no such\nservice", &"x".repeat(65)] {
        assert_eq!(call("other", method).await, CallError::NoService { to: "other".into(), method: method.into() });
    }
    // Any time will do.
    drop(one.open("other", "echo", Some(Duration::MAX)).await.expect("it is there"));
    assert_eq!(one.call("other", "echo", Bytes::new(), Duration::MAX).await, Ok(Bytes::new()));
    assert!(begun.elapsed() < SOON / 2);
    plain.leave().await;
    other.node().leave().await;
    until("who has left is no member", async || call("other", "echo").await == CallError::NoMember("other".into()))
        .await;
    one.node().leave().await;
    assert_eq!(call("other", "echo").await, CallError::Stopped);
}

#[tokio::test]
async fn a_service_refuses_fails_or_takes_too_long() {
    let (one, other) = NodeOptions::default().pair().await;
    let dropped = Arc::new(Notify::new());
    struct NotifyOnDrop(Arc<Notify>);
    impl Drop for NotifyOnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    other.serve("no", async |_: Request| Err(Refusal::new(42, "é".repeat(4 << 10))));
    other.serve("panic", async |_: Request| panic!("as the test wants it"));
    let notify = Arc::clone(&dropped);
    other.serve("never", move |_: Request| {
        let guard = NotifyOnDrop(Arc::clone(&notify));
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(Bytes::new().into())
        }
    });
    let call = async |method: &str, within| one.call("other", method, Bytes::new(), within).await.expect_err("no");
    let CallError::Refused { refusal, .. } = call("no", SOON).await else { panic!("it refuses") };
    assert_eq!((refusal.code, refusal.text), (42, "é".repeat(2 << 10)));
    assert!(matches!(call("panic", SOON).await, CallError::Broken { .. }));
    let short = Duration::from_millis(200);
    assert!(matches!(call("never", short).await, CallError::Deadline { within, .. } if within == short));
    dropped.notified().await;
    // A caller that gives up by itself is as one whose time is over.
    let given_up = tokio::time::timeout(short, one.call("other", "never", Bytes::new(), SOON)).await;
    assert!(given_up.is_err());
    dropped.notified().await;
    echoes(&one, &other, "none of that ended the session").await;
    assert_eq!(other.stats().sessions, 1);
    until("nothing is left of them", async || other.stats().calls == 0).await;
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions_and_too_large_ones_are_refused() {
    let (one, other) = NodeOptions::default().pair().await;
    let large: Bytes = (0..4 << 20).map(|i: u32| ((i * 31) >> 5) as u8).collect::<Vec<_>>().into();
    assert!(one.call("other", "echo", large.clone(), SOON).await.is_ok_and(|answer| answer == large));
    let too_large = Bytes::from(vec![1; (4 << 20) + 1]);
    let error = one.call("other", "echo", too_large.clone(), SOON).await.expect_err("too large");
    assert!(matches!(error, CallError::TooLong { max, .. } if max == 4 << 20), "{error}");
    let more = Bytes::from(vec![1; (8 << 20) + 1]);
    let error = one.call("other", "echo", more, SOON).await.expect_err("too large");
    assert!(matches!(&error, CallError::Refused { refusal, .. } if refusal.text.contains("the limit")), "{error}");
    echoes(&one, &other, "the session goes on").await;
}

#[tokio::test]
async fn pieces_go_both_ways_and_no_faster_than_they_are_taken() {
    let (one, other) = NodeOptions::default().pair().await;
    other.serve("count", async |mut request: Request| {
        Ok(Response::stream(async move |mut outgoing| {
            let mut all = 0_usize;
            while let Ok(Some(piece)) = request.body.next().await {
                all += piece.len();
                if outgoing.send(Bytes::from(format!("{all};"))).await.is_err() {
                    return;
                }
            }
            let _ = outgoing.end(Bytes::from_static(b"end")).await;
        }))
    });
    let mut call = one.open("other", "count", None).await.expect("it is there");
    call.outgoing.send(Bytes::from_static(b"abc")).await.expect("it is taken");
    let (mut outgoing, mut answered) = call.split().await.expect("it answers before all has been sent");
    assert_eq!(answered.incoming.next().await, Ok(Some(Bytes::from_static(b"3;"))));
    outgoing.send(Bytes::from_static(b"de")).await.expect("it is taken");
    assert_eq!(answered.incoming.next().await, Ok(Some(Bytes::from_static(b"5;"))));
    outgoing.end(Bytes::new()).await.expect("it is taken");
    assert_eq!(answered.incoming.all(10).await, Ok(Bytes::from_static(b"end")));

    // Nobody reads: only as much goes as a call may have on its way.
    let (reading, read) = tokio::sync::oneshot::channel::<()>();
    let read = Arc::new(tokio::sync::Mutex::new(Some(read)));
    other.serve("later", move |mut request: Request| {
        let read = Arc::clone(&read);
        async move {
            read.lock().await.take().expect("once").await.expect("it is told");
            Ok(request
                .bytes(64 << 20)
                .await
                .map_err(|error| Refusal::new(1, error.to_string()))?
                .len()
                .to_string()
                .into())
        }
    });
    let mut call = one.open("other", "later", None).await.expect("it is there");
    let piece = Bytes::from(vec![7; 64 << 10]);
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_millis(500), call.outgoing.send(piece.clone())).await.is_ok() {
        sent += piece.len();
        assert!(sent <= 512 << 10, "{sent} bytes are on their way");
    }
    // Other calls are not held up by that.
    echoes(&one, &other, "meanwhile").await;
    reading.send(()).expect("it waits");
    call.outgoing.send(Bytes::new()).await.expect("it goes on");
}

#[tokio::test]
async fn many_calls_share_one_session() {
    let (one, other) = NodeOptions::default().pair().await;
    let calls = (0..2000_u32).map(|number| {
        let one = one.clone();
        tokio::spawn(async move {
            let text = Bytes::from(number.to_string());
            one.call("other", "echo", text.clone(), SOON).await.is_ok_and(|answer| answer == text)
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(call.await.expect("no panic"));
    }
    assert_eq!(other.stats().sessions, 1);
}

#[tokio::test]
async fn a_node_that_starts_anew_is_called_again() {
    let plan = NodeOptions::default();
    let (one, other) = plan.pair().await;
    echoes(&one, &other, "before").await;
    other.node().leave().await;
    drop(other);
    let other = plan.sessions("other", &[one.node()]).await;
    until("its new life is known", async || one.call("other", "who", Bytes::new(), SOON).await.is_ok()).await;
    echoes(&one, &other, "after").await;
}
