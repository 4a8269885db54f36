//! Those who have no key, or take no part.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use broadcast_session::{CallError, ENDPOINT, Sessions};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{NodeOptions, SOON, acquainted, echoes, until};

#[tokio::test]
async fn silent_and_confused_strangers_hold_little_and_hinder_nobody() {
    let (one, other) = NodeOptions::default().pair().await;
    let mut held = Vec::new();
    for number in 0..200_u8 {
        let mut stream = TcpStream::connect(other.node().addr()).await.expect("it listens");
        let said = [0xb5, 1, 2, 0, number];
        // Some are cut off at once, as there are too many of one address.
        let _ = stream.write_all(&said[..usize::from(number) % 5 + 1]).await;
        held.push(stream);
    }
    // They come from the address that the caller has, too: it gets its turn when theirs is over.
    let begun = Instant::now();
    until("a member is served", async || one.call("other", "who", Bytes::new(), SOON).await.is_ok()).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for mut stream in held {
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("each is cut off");
        assert!(answer.is_empty(), "nothing is said to a stranger: {answer:?}");
    }
    assert!(other.stats().refused >= 200 - 40, "{:?}", other.stats());
    // The members' port goes on as one.
    assert_eq!(one.node().members().await.len(), 2);
    echoes(&other, &one, "nobody is hindered").await;
}

/// Has calls to `other` go where somebody else listens.
async fn elsewhere(from: &Sessions, other: &Sessions) -> TcpListener {
    let listener = TcpListener::bind((other.node().addr().ip(), 0)).await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let info = broadcast::NodeInfo::new(other.node().id()).endpoint(ENDPOINT, addr);
    other.node().update_info(info).await.expect("it runs");
    until("the caller knows of it", async || {
        let found = from.node().find(&"other".into()).await.and_then(|(_, info)| info);
        found.is_some_and(|info| info.endpoint_at(ENDPOINT, other.node().addr()) == Some(addr))
    })
    .await;
    listener
}

#[tokio::test]
async fn many_calls_to_who_cannot_be_reached_share_one_attempt() {
    let (one, other) = NodeOptions::default().pair().await;
    let listener = elsewhere(&one, &other).await;
    // Its time is over before there is a session: nothing was sent.
    let call = async |within| one.call("other", "echo", Bytes::from_static(b"x"), within).await.expect_err("not there");
    let short = Duration::from_millis(100);
    for _ in 0..5 {
        let error = call(short).await;
        assert!(matches!(error, CallError::Unreachable { .. }) && !error.has_begun(), "{error:?}");
    }
    let silent = listener.accept().await.expect("the attempt");
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let begun = Instant::now();
    drop(silent);
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let one = one.clone();
        calls.spawn(async move { one.call("other", "echo", Bytes::new(), SOON).await });
    }
    while let Some(called) = calls.join_next().await {
        let error = called.expect("no panic").expect_err("it hangs up");
        assert!(matches!(error, CallError::Unreachable { .. }) && !error.has_begun(), "{error:?}");
    }
    let most = 1 + begun.elapsed().as_millis() / 200;
    let made = attempts.load(Ordering::SeqCst);
    assert!(made as u128 <= most, "{made} attempts within {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_callee_that_does_not_go_on_is_given_up() {
    let (one, other) = NodeOptions::default().pair().await;
    echoes(&one, &other, "before").await;
    let third = NodeOptions::default().sessions("third", &[one.node()]).await;
    acquainted(&third, &other).await;
    // It accepts, and says nothing.
    let _silent = elsewhere(&third, &other).await;
    let begun = Instant::now();
    let error = third.call("other", "echo", Bytes::new(), SOON).await.expect_err("nobody answers");
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    echoes(&one, &other, "the session of before goes on").await;
}
