//! An upgrade: voters of a release with one more machine replace those of one without it, one by one and under load.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use broadcast_store::{
    StoreError,
    keys::{Put, Range},
    machine::{Command, Machines, Outcome},
    node::VoterChange,
};

use crate::{
    counter::Counter,
    support::{Disks, leader, until},
};

fn later() -> Machines {
    Machines::default().with(|| Box::<Counter>::default())
}

/// Why it is not carried out yet.
fn refused(outcome: Result<Outcome, StoreError>) -> String {
    match outcome {
        Err(StoreError::NotPossible { why }) => why,
        other => panic!("it should be refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_until_all_voters_know_it() {
    let disks = Disks::new(3);
    let mut nodes = disks.start_all().await;
    let other = disks.start("other", &[&nodes[0]]).await;
    leader(&nodes).await;

    let stop = Arc::new(AtomicBool::new(false));
    let (store, stopped) = (other.store.clone(), Arc::clone(&stop));
    let load = tokio::spawn(async move {
        let mut done = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let key = format!("key{}", done.len());
            let put = Put { key: key.clone().into(), value: key.into(), ..Put::default() };
            // Who was answered that it is not known asks for the same again.
            match store.put(put).await {
                Ok(outcome) => done.push(outcome.revision),
                Err(StoreError::Unknown { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        done
    });

    let count = Command::machine("counter", 2, vec![1]).expect("it is small");
    let why = refused(other.store.execute(count.clone()).await);
    assert!(why.contains("counter"), "{why}");
    for former in [2, 1, 0] {
        // One of the former release; those are in front.
        let gone = nodes.remove(0);
        let name = gone.name.clone();
        gone.store.stop().await;
        gone.crash().await;
        let new = disks.start_with(&name, &[&nodes[0], &other], later()).await;
        nodes.push(new);
        until("it has what the others have", async || {
            let status = other.store.status().await;
            let mut all = status.iter().filter_map(|(_, status)| status.as_ref().ok()?.applied);
            let newest = all.by_ref().max().unwrap_or_default();
            status.iter().any(|(other, status)| {
                *other == name && status.as_ref().is_ok_and(|status| status.applied.is_some_and(|at| at + 100 > newest))
            })
        })
        .await;
        if former > 0 {
            // Whoever leads: all have to know it.
            let why = refused(other.store.execute(count.clone()).await);
            assert!(why.contains("counter"), "{why}");
        }
    }
    leader(&nodes).await;
    let outcome = other.store.execute(count.clone()).await.expect("all know it");
    assert!(matches!(&outcome, Outcome::Machine(_)), "{outcome:?}");

    // One of the former release is not taken in any more.
    let seeds: Vec<_> = nodes.iter().collect();
    let more = Disks::new(4);
    let four = more.start("node4", &seeds).await;
    let mut why = String::new();
    until("it is asked what it knows", async || {
        let error =
            other.store.change_voters(VoterChange::Add("node4".into())).await.expect_err("it does not know all");
        why = error.to_string();
        why.contains("commands of")
    })
    .await;
    assert!(why.contains("it knows 0; upgrade it"), "{why}");
    four.crash().await;

    stop.store(true, Ordering::Relaxed);
    let done = load.await.expect("it ends");
    assert!(done.len() > 20, "{}", done.len());
    for (number, _) in done.iter().enumerate() {
        let key = format!("key{number}");
        let found = nodes[1].store.range(Range::of(key.clone())).await.expect("it is read");
        assert_eq!(found.kvs.len(), 1, "{key} was acknowledged");
    }
}
