//! Asking members what they believe.

use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpListener};

use super::*;
use crate::{
    Envelope, MemberState, ViewEntry,
    wire::{
        Keyring, SecretKey,
        stream::{StreamMessage, encode},
    },
};

fn believed(view: &[ViewEntry], name: &str) -> Option<(MemberState, SocketAddr)> {
    view.iter().find(|belief| belief.name == *name).map(|belief| (belief.state, belief.addr))
}

fn sealed(key: u8) -> Envelope {
    let keyring = Keyring::new([SecretKey::new(vec![key; 32]).unwrap()]).unwrap();
    Envelope { label: "cluster 1".into(), keyring, ..Envelope::default() }
}

/// Two nodes with these envelopes know each other, and tell each other what they believe.
async fn tell_each_other(envelope: impl Fn() -> Envelope) -> (Handle, Handle) {
    let a = start(config("a", &[]).envelope(envelope())).await.expect("starts");
    let b = start(config("b", &[a.addr()]).envelope(envelope())).await.expect("starts");
    hear(&mut a.events(), "b joins", |event| matches!(event, Event::Joined(_))).await;
    hear(&mut b.events(), "b is ready", |event| matches!(event, Event::Ready)).await;
    let before = a.metrics().await;
    for (asking, asked) in [(&a, &b), (&b, &a), (&a, &a)] {
        let view = asking.view_of(asked.addr(), SOON).await.expect("it tells");
        assert_eq!(view.len(), 2);
        for node in [&a, &b] {
            assert_eq!(believed(&view, node.name()), Some((MemberState::Alive, node.addr())), "{view:?}");
        }
        assert_eq!(asked.view().await, view);
    }
    let after = a.metrics().await;
    assert_eq!((after.rejected, after.gauges.view_received), (before.rejected, before.gauges.view_received));
    let (asked, to_ask) =
        (after.traffic.tcp_connect - before.traffic.tcp_connect, after.sent.views - before.sent.views);
    assert!(asked >= 2 && to_ask > 0, "it has asked b, and itself: {asked} times, with {to_ask} bytes");
    (a, b)
}

#[tokio::test]
async fn members_tell_what_they_believe_also_of_those_that_left() {
    let (a, b) = tell_each_other(Envelope::default).await;
    let (gone, mut events) = (b.addr(), a.events());
    b.leave().await;
    hear(&mut events, "b leaves", |event| matches!(event, Event::Left(_))).await;
    let c = node("c", &[a.addr()]).await;
    for view in [a.view().await, c.view_of(a.addr(), SOON).await.expect("it tells")] {
        assert_eq!(believed(&view, "b"), Some((MemberState::Left, gone)), "{view:?}");
    }
    a.leave().await;
    assert_eq!(a.view().await, []);
    assert!(matches!(a.view_of(c.addr(), SOON).await, Err(ViewError::Stopped)));
}

#[tokio::test]
async fn members_are_asked_with_the_label_and_the_keys_of_the_moment() {
    let (a, b) = tell_each_other(|| sealed(1)).await;
    let stranger = node("stranger", &[]).await;
    assert!(stranger.view_of(a.addr(), SOON).await.is_err(), "it tells it to everybody");
    for node in [&a, &b] {
        node.set_keys(sealed(2).keyring.keys().cloned().collect()).await.expect("a key");
        if node.name() == "a" {
            assert!(node.view_of(b.addr(), SOON).await.is_err(), "b has only the old key");
        }
    }
    assert_eq!(a.view_of(b.addr(), SOON).await.expect("it tells").len(), 2);
}

#[tokio::test]
async fn what_is_no_view_is_an_error_that_says_what_to_do() {
    let a = node("a", &[]).await;
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = a.view_of(closed, SOON).await.unwrap_err().to_string();
    assert!(error.contains(&closed.to_string()) && error.contains("is the node running?"), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let answers = [encode(&StreamMessage::Error("not for you".into()), false), b"HTTP/1.1 400 Bad Request".into()];
    tokio::spawn(async move {
        let mut open = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(&answer).await.unwrap();
            open.push(stream);
        }
        open.push(listener.accept().await.unwrap().0);
        std::future::pending::<()>().await;
    });
    let error = a.view_of(addr, SOON).await.unwrap_err();
    assert!(matches!(&error, ViewError::Refused { reason, .. } if reason == "not for you"), "{error}");
    let error = a.view_of(addr, SOON).await.unwrap_err();
    assert!(matches!(error, ViewError::Request(RequestError::NotANode { .. })), "{error}");
    let error = a.view_of(addr, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, ViewError::Request(RequestError::Timeout { .. })), "{error}");
}

#[tokio::test]
async fn whoever_watches_the_members_is_woken_when_they_change() {
    let a = node("a", &[]).await;
    a.overview().await;
    let mut changes = a.watch_members();
    changes.mark_unchanged();
    for _ in 0..10 {
        a.overview().await;
    }
    assert!(!changes.has_changed().expect("it runs"), "who only looks changes nothing");
    let mut until = async |what: &str, holds: fn(&crate::MemberOverview) -> bool| {
        let watching = async {
            while !a.overview().await.members.get(1).is_some_and(holds) {
                changes.changed().await.expect("it runs");
            }
        };
        timeout(SOON, watching).await.unwrap_or_else(|_| panic!("nothing wakes it when {what}"));
    };
    let b = node("b", &[a.addr()]).await;
    until("b comes", |seen| seen.member.state == MemberState::Alive).await;
    until("b has answered", |seen| seen.member.rtt.is_some() && seen.acknowledges).await;
    a.publish("k", &1).await.expect("there is room");
    until("b has the message", |seen| seen.lag == Some(0)).await;
    b.leave().await;
    until("b leaves", |seen| seen.member.state == MemberState::Left).await;
    a.leave().await;
    timeout(SOON, async { while changes.changed().await.is_ok() {} }).await.expect("it ends");
}
