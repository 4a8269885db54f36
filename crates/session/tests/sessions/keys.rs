//! Keys that change, and none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use broadcast_session::{CallError, HandshakeRefusal, SessionConfig};
use bytes::Bytes;
use tokio::{sync::watch, task::JoinSet};

use crate::support::{NodeOptions, SOON, acquainted, echoes, key, other_address, until};

#[tokio::test]
async fn keys_rotate_under_load_without_a_failed_call() {
    let (one, other) = NodeOptions::default().pair().await;
    let (done, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for (from, to) in [(one.clone(), "other"), (other.clone(), "one")].into_iter().cycle().take(8) {
        let (done, made) = (Arc::clone(&done), Arc::clone(&made));
        callers.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let answer = from.call(to, "echo", Bytes::from_static(b"x"), SOON).await;
                assert_eq!(answer, Ok(Bytes::from_static(b"x")));
                made.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let more = async || {
        let before = made.load(Ordering::Relaxed);
        until("calls go on", async || made.load(Ordering::Relaxed) > before + 50).await;
    };
    for round in 1..5 {
        let (old, new) = (key(round), key(round + 1));
        for node in [one.node(), other.node()] {
            node.install_key(new.clone()).await.expect("there is room");
            more().await;
        }
        for node in [one.node(), other.node()] {
            node.use_key(new.clone()).await.expect("it is installed");
            more().await;
        }
        for node in [one.node(), other.node()] {
            node.remove_key(old.clone()).await.expect("it is not in use");
            more().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.expect("no call failed");
    }
    // The sessions with former keys have ended.
    until("one is left", async || one.stats().sessions == 1 && other.stats().sessions == 1).await;
}

#[tokio::test]
async fn a_call_goes_on_though_its_key_is_removed_and_no_further_one_follows_it() {
    let (one, other) = NodeOptions::default().pair().await;
    let mut call = one.open("other", "echo", None).await.expect("it is there");
    call.outgoing.send(Bytes::from_static(b"begun ")).await.expect("it is taken");
    for node in [one.node(), other.node()] {
        node.install_key(key(2)).await.expect("there is room");
    }
    for node in [one.node(), other.node()] {
        node.use_key(key(2)).await.expect("it is installed");
    }
    one.node().remove_key(key(1)).await.expect("it is not in use");
    echoes(&one, &other, "with the new key").await;
    assert_eq!(other.stats().sessions, 2);
    call.outgoing.send(Bytes::from_static(b"and ")).await.expect("it goes on");
    let mut answered = call.finish(Bytes::from_static(b"ended")).await.expect("it goes on");
    assert_eq!(answered.incoming.all(100).await, Ok(Bytes::from_static(b"begun and ended")));
    until("its session ends", async || other.stats().sessions == 1).await;
}

#[tokio::test]
async fn calls_that_wait_for_others_go_to_the_next_session_when_a_key_is_removed() {
    let (one, other) = NodeOptions::default().pair().await;
    let (open, gate) = watch::channel(false);
    other.serve("wait", move |_| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            Ok(Bytes::new().into())
        }
    });
    let mut calls = JoinSet::new();
    for _ in 0..400 {
        let one = one.clone();
        calls.spawn(async move { one.call("other", "wait", Bytes::new(), SOON).await });
    }
    until("one session has as many as it may", async || other.stats().calls == 256).await;
    for node in [one.node(), other.node()] {
        node.install_key(key(2)).await.expect("there is room");
    }
    for node in [one.node(), other.node()] {
        node.use_key(key(2)).await.expect("it is installed");
    }
    // Only the callee knows yet that the session is to end.
    other.node().remove_key(key(1)).await.expect("it is not in use");
    until("the others are made", async || other.stats().calls == 400).await;
    open.send_replace(true);
    while let Some(called) = calls.join_next().await {
        assert_eq!(called.expect("no panic"), Ok(Bytes::new()));
    }
}

#[tokio::test]
async fn the_other_keys_are_tried_where_the_first_is_not_known() {
    let (one, other) = NodeOptions::default().pair().await;
    one.node().install_key(key(2)).await.expect("there is room");
    // The gossip cannot be read any more, and the call is made before that is noticed.
    other.node().set_keys(vec![key(2)]).await.expect("one key");
    echoes(&one, &other, "with the second key").await;
}

#[tokio::test]
async fn without_a_key_calls_stay_on_one_host() {
    let keyless = NodeOptions { keys: Vec::new(), ..NodeOptions::default() };
    let (one, other) = keyless.pair().await;
    echoes(&one, &other, "on loopback").await;
    let Some(ip) = other_address() else {
        return eprintln!("skipped the rest: this host has no address but loopback");
    };
    let away = NodeOptions { ip, ..keyless };
    let (one, other) = away.pair().await;
    let error = one.call("other", "echo", Bytes::new(), SOON).await.expect_err("it is refused");
    assert_eq!(error, CallError::Insecure("other".into()));
    assert!(error.to_string().contains("`insecure_sessions`") && error.to_string().contains("key"), "{error}");
    // The callee decides for itself.
    let open = NodeOptions { config: SessionConfig::default().insecure_sessions(true), ..away.clone() };
    let third = open.sessions("third", &[one.node()]).await;
    acquainted(&third, &other).await;
    let error = third.call("other", "echo", Bytes::new(), SOON).await.expect_err("it is refused");
    assert_eq!(error, CallError::SessionRefused { to: "other".into(), why: HandshakeRefusal::Insecure });
    let fourth = open.sessions("fourth", &[one.node()]).await;
    acquainted(&third, &fourth).await;
    echoes(&third, &fourth, "as both allow it").await;
    let keyed = NodeOptions { keys: vec![key(1)], ..away };
    let (one, other) = keyed.pair().await;
    echoes(&one, &other, "with a key").await;
}

#[tokio::test]
async fn another_key_opens_nothing() {
    // As gossip goes by plain text here, both know each other though their keys differ.
    let (one, other) = NodeOptions::default().pair().await;
    one.node().set_keys(vec![key(9)]).await.expect("one key");
    let error =
        one.call("other", "echo", Bytes::new(), Duration::from_secs(5)).await.expect_err("it is not understood");
    assert!(matches!(&error, CallError::Unreachable { problem, .. } if problem.contains("another key")), "{error}");
    assert!(!error.has_begun());
    assert_eq!(other.stats().sessions, 0);
}
