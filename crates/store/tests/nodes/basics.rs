//! Reading, writing and watching, from nodes that vote and nodes that do not.

use std::time::Duration;

use broadcast_store::{
    Error, StoreError,
    keys::{Compare, CompareOp, CompareTarget, Delete, KeyRange, Op, Put, Range, Txn, Watch, WatchEvent},
};
use tokio::time::{Instant, timeout};

use crate::support::{Disks, SOON, leader, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_node_reads_and_writes_what_all_have_agreed_on() {
    let disks = Disks::new(3);
    let nodes = disks.start_all().await;
    let client = disks.start("client", &[&nodes[0]]).await;
    let first = client.put("color", "green").await;
    assert_eq!(first, 2, "as in etcd, the first revision is 2");
    for (number, node) in nodes.iter().enumerate() {
        assert_eq!(node.get("color").await.as_deref(), Some(if number == 0 { "green" } else { "blue" }));
        node.put("color", "blue").await;
    }
    assert_eq!(client.get("color").await.as_deref(), Some("blue"));
    let found = client.store.range(Range { revision: 2, ..Range::of("color") }).await.expect("it is read");
    assert_eq!((&found.kvs[0].value[..], found.revision), (&b"green"[..], 5));
    let error = client.store.range(Range { revision: 99, ..Range::of("color") }).await.expect_err("not yet");
    assert_eq!(error, StoreError::Refused(Error::FutureRevision { requested: 99, current: 5 }));

    let put = |key: &'static str| Op::Put(Put { key: key.into(), value: "x".into(), ..Put::default() });
    let compare =
        Compare { keys: KeyRange::one("color"), op: CompareOp::Equal, target: CompareTarget::Value("blue".into()) };
    let txn = Txn { compare: vec![compare], success: vec![put("a"), put("b")], failure: vec![put("c")] };
    let (revision, succeeded, outcomes) = nodes[1].store.txn(txn).await.expect("it is carried out");
    assert_eq!((revision, succeeded, outcomes.len()), (6, true, 2));
    let deleted = nodes[2].store.delete(Delete { keys: KeyRange::all(), prev_kv: false }).await.expect("it is deleted");
    assert_eq!((deleted.deleted, deleted.revision), (3, 7));
    assert_eq!(client.get("a").await, None);
    // Each voter comes to have the same.
    until("all have applied all", async || {
        let status = client.store.status().await;
        status.len() == 3 && status.iter().all(|(_, status)| status.as_ref().is_ok_and(|status| status.revision == 7))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_voters_says_so() {
    let disks = Disks::new(1);
    let client = disks.start("client", &[]).await;
    let store = client.store.clone().request_timeout(Duration::from_millis(300));
    let error = store.range(Range::of("x")).await.expect_err("nobody votes");
    assert_eq!(error, StoreError::NoVoters);
    assert!(error.to_string().contains("`voters`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_tell_each_revision_once_whoever_they_follow() {
    let disks = Disks::new(3);
    let mut nodes = disks.start_all().await;
    let client = disks.start("client", &[&nodes[0], &nodes[1], &nodes[2]]).await;
    for number in 0..5 {
        client.put("w/early", &number.to_string()).await;
    }
    let watch =
        |start_revision| Watch { keys: KeyRange::prefix("w/"), start_revision, prev_kv: true, ..Watch::default() };
    let mut watchers =
        vec![client.store.watch(watch(2)), nodes[1].store.watch(watch(2)), nodes[2].store.watch(watch(2))];
    for watcher in &mut watchers {
        let begun = watcher.next().await.expect("it begins");
        assert!(matches!(begun, Some(WatchEvent::Progress { .. })), "{begun:?}");
    }
    let told = async |watcher: &mut broadcast_store::node::WatchStream, up_to: u64, from: &mut u64| {
        while *from < up_to {
            let event = timeout(SOON, watcher.next()).await.expect("it is told in time").expect("it goes on");
            match event.expect("it goes on") {
                WatchEvent::Changes { revision, events } => {
                    assert_eq!(revision, *from + 1, "each once, in order");
                    assert_eq!(events.len(), 1);
                    assert_eq!(events[0].prev.is_some(), revision > 2);
                    *from = revision;
                }
                WatchEvent::Progress { .. } => {}
                WatchEvent::Cancelled(why) => panic!("{why}"),
            }
        }
    };
    let mut at = [1; 3];
    for (watcher, at) in watchers.iter_mut().zip(&mut at) {
        told(watcher, 6, at).await;
    }
    // The leader goes; the others have an election, and all go on.
    let lead = leader(&nodes).await;
    let gone = nodes.remove(lead);
    let gone_watches = lead > 0;
    gone.crash().await;
    for number in 0..5 {
        client.put("w/late", &number.to_string()).await;
    }
    // That of the node that is gone has ended with it.
    for (number, (watcher, at)) in watchers.iter_mut().zip(&mut at).enumerate() {
        if !(gone_watches && number == lead) {
            // The first late one has no former value.
            while *at < 11 {
                let event =
                    timeout(SOON, watcher.next()).await.expect("in time").expect("it goes on").expect("it goes on");
                if let WatchEvent::Changes { revision, .. } = event {
                    assert_eq!(revision, *at + 1, "each once, in order, at watcher {number}");
                    *at = revision;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_in_time_and_not_before() {
    let disks = Disks::new(3);
    let nodes = disks.start_all().await;
    let client = disks.start("client", &[&nodes[0]]).await;
    client.put("warm", "up").await;
    let asked = Instant::now();
    let (lease, ttl) = client.store.grant(Duration::from_secs(2)).await.expect("it is granted");
    assert_eq!(ttl, Duration::from_secs(2));
    let put = Put { key: "session".into(), value: "x".into(), lease, ..Put::default() };
    client.store.put(put).await.expect("it is put");
    // Kept alive, it lives.
    let mut kept = asked;
    while asked.elapsed() < Duration::from_secs(4) {
        kept = Instant::now();
        assert_eq!(nodes[1].store.keep_alive(lease).await, Ok(Some(ttl)));
        assert_eq!(client.get("session").await.as_deref(), Some("x"));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    until("it ends", async || client.get("session").await.is_none()).await;
    assert!(kept.elapsed() >= ttl, "{:?}", kept.elapsed());
    assert_eq!(client.store.keep_alive(lease).await, Ok(None));
    // One that nobody keeps outlives a change of leader by its whole time.
    let (lease, ttl) = client.store.grant(Duration::from_secs(3)).await.expect("it is granted");
    client.store.put(Put { key: "other".into(), lease, ..Put::default() }).await.expect("it is put");
    client.store.revoke(lease).await.expect("it is there");
    assert_eq!(client.get("other").await, None, "{ttl:?}");
    let error = client.store.revoke(lease).await.expect_err("it is gone");
    assert_eq!(error, StoreError::Refused(Error::LeaseNotFound { lease }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_where_it_was_asked_to() {
    let disks = Disks::new(1);
    let one = disks.start("node1", &[]).await;
    let revision = one.put("x", "y").await;
    let client = disks.start("client", &[&one]).await;
    for node in [&one, &client] {
        for (start_revision, expected) in [(0, revision), (1, 0), (revision + 1, revision), (100, 99)] {
            let mut watching = node.store.watch(Watch { keys: KeyRange::all(), start_revision, ..Watch::default() });
            assert_eq!(
                watching.next().await,
                Ok(Some(WatchEvent::Progress { revision: expected })),
                "{start_revision}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_looks_at_leases_and_only_a_voter_has_a_hash() {
    let disks = Disks::new(3);
    let nodes = disks.start_all().await;
    let client = disks.start("client", &[&nodes[0]]).await;
    let (long, granted) = client.store.grant(Duration::from_secs(600)).await.expect("it is granted");
    let (short, _) = nodes[1].store.grant(Duration::from_secs(60)).await.expect("it is granted");
    for key in ["b", "a"] {
        client.store.put(Put { key: key.into(), lease: long, ..Put::default() }).await.expect("it is put");
    }
    for node in nodes.iter().chain([&client]) {
        let found = node.store.leases().await.expect("they are found");
        assert_eq!(found.leases.iter().map(|each| each.lease).collect::<Vec<_>>(), [short, long], "the soonest first");
        let found = node.store.lease(long, true).await.expect("it is found");
        assert_eq!((found.revision, found.leases.len()), (3, 1));
        let status = &found.leases[0];
        assert_eq!((status.lease, status.granted, &status.keys[..]), (long, granted, &["a".into(), "b".into()][..]));
        assert!(status.left <= granted && status.left > granted / 2, "{status:?}");
        assert!(node.store.lease(long, false).await.expect("it is found").leases[0].keys.is_empty());
        assert!(node.store.lease(7, true).await.expect("it was looked for").leases.is_empty());
    }
    let mut hashes = Vec::new();
    for node in &nodes {
        until("it has all", async || node.store.hash(3).await.is_ok_and(|(_, revision, _)| revision == 3)).await;
        hashes.push(node.store.hash(2).await.expect("all have it"));
        let future = Error::FutureRevision { requested: 4, current: 3 };
        assert_eq!(node.store.hash(4).await, Err(StoreError::Refused(future)));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    assert!(matches!(client.store.hash(2).await, Err(StoreError::NotPossible { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_hands_over_to_whom_it_is_told() {
    let disks = Disks::new(3);
    let nodes = disks.start_all().await;
    let leads = leader(&nodes).await;
    let next = (leads + 1) % 3;
    let (from, to) = (&nodes[leads].store, nodes[next].sessions.node().id().get());
    for (refused, to) in [(&nodes[next].store, to), (from, 7)] {
        assert!(matches!(refused.transfer_leadership(to).await, Err(StoreError::NotPossible { .. })));
    }
    from.transfer_leadership(to).await.expect("it does");
    until("it leads", async || leader(&nodes).await == next).await;
    nodes[next].store.transfer_leadership(to).await.expect("it leads already");
}
