//! Members that are none any more.

use std::sync::{Arc, atomic::Ordering};

use crate::{
    disturbed::behind,
    support::{NodeOptions, acquainted, echoes, until},
};

#[tokio::test]
async fn a_session_ends_with_its_member_though_its_connection_stays() {
    let plan = NodeOptions::default();
    let (one, other) = plan.pair().await;
    let third = plan.sessions("third", &[one.node()]).await;
    acquainted(&third, &other).await;
    echoes(&third, &other, "from who stays").await;
    let middle = behind(&one, &other, Arc::new(|_, _, _| {})).await;
    echoes(&one, &other, "from who leaves").await;
    assert_eq!(other.stats().sessions, 2);
    // What one says at its end does not arrive, and its connection is held open.
    middle.holds.store(true, Ordering::SeqCst);
    one.node().leave().await;
    until("it has left", async || other.node().find(&"one".into()).await.is_none()).await;
    until("its session ends", async || other.stats().sessions == 1).await;
    echoes(&third, &other, "the other goes on").await;
}
