//! Members that send, or take, as it suits them.

use std::time::Duration;

use broadcast_session::{CallError, Refusal, Request, Sessions};
use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

use crate::support::{NodeOptions, SOON, acquainted, echoes, until};

const MIB: usize = 1 << 20;

async fn size(mut request: Request) -> Result<broadcast_session::Response, Refusal> {
    let body = request.bytes(8 * MIB).await.map_err(|error| Refusal::new(1, error.to_string()))?;
    Ok(body.len().to_string().into())
}

async fn three() -> (Sessions, Sessions, Sessions) {
    let (one, other) = NodeOptions::default().pair().await;
    let third = NodeOptions::default().sessions("third", &[one.node()]).await;
    acquainted(&third, &other).await;
    (one, other, third)
}

#[tokio::test]
async fn calls_that_never_end_are_refused_before_they_fill_the_memory() {
    let (one, other, third) = three().await;
    other.serve("size", size);
    other.serve_isolated("apart", size);
    let mut calls = JoinSet::new();
    for _ in 0..60 {
        let one = one.clone();
        calls.spawn(async move {
            let mut call = one.open("other", "size", None).await.expect("it is there");
            let _ = call.outgoing.send(Bytes::from(vec![1; 8 * MIB - 1])).await;
            call.split().await.expect_err("it is not answered")
        });
    }
    for refused in 0..56 {
        let error = timeout(SOON, calls.join_next()).await.unwrap_or_else(|_| panic!("only {refused} are refused"));
        let error = error.expect("there are more").expect("no panic");
        assert_eq!(error, CallError::Busy("other".into()));
        assert!(!error.has_begun());
    }
    // Four of 8 MiB are held; they are all that a member may have.
    let body = Bytes::from(vec![1; MIB]);
    assert_eq!(one.call("other", "size", body.clone(), SOON).await, Err(CallError::Busy("other".into())));
    let answer = Ok(Bytes::from(MIB.to_string()));
    assert_eq!(third.call("other", "size", body.clone(), SOON).await, answer, "others have what they may have");
    assert_eq!(one.call("other", "apart", body.clone(), SOON).await, answer, "as has what is held apart");
    assert!(timeout(Duration::ZERO, calls.join_next()).await.is_err(), "four wait");
    drop(calls);
    until("there is room again", async || one.call("other", "size", body.clone(), SOON).await == answer).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_broken_off_before_they_fill_the_memory() {
    let (one, other, third) = three().await;
    let large = Bytes::from(vec![1; 20 * MIB]);
    let answer = large.clone();
    other.serve("large", move |_| {
        let answer = answer.clone();
        async move { Ok(answer.into()) }
    });
    let ask = async |from: &Sessions| {
        let call = from.open("other", "large", None).await.expect("it is there");
        call.finish(Bytes::new()).await.map_err(|error| error.to_string())
    };
    let read = async |answered: Result<broadcast_session::CallResponse, String>| {
        answered?.incoming.all(large.len()).await.map_err(|error| error.to_string())
    };
    let unread = ask(&one).await;
    let error = read(ask(&one).await).await.expect_err("20 MiB are held for this member already");
    assert!(error.contains("no longer needed"), "{error}");
    assert_eq!(read(ask(&third).await).await, Ok(large.clone()), "others have what they may have");
    assert_eq!(read(unread).await, Ok(large.clone()));
    until("there is room again", async || read(ask(&one).await).await == Ok(large.clone())).await;
    echoes(&one, &other, "the session goes on").await;
}
