//! Voters that fail, restart, lose their disks, or are others.

use std::time::Duration;

use broadcast_store::{
    Store, StoreConfig, StoreError,
    keys::Range,
    node::{ReadRequest, VoterChange, VoterError},
};

use crate::support::{Disks, leader, until};

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_leader_or_all_are_restarted() {
    let disks = Disks::new(3);
    let mut nodes = disks.start_all().await;
    for number in 0..20 {
        nodes[number % 3].put(&format!("key{number}"), "value").await;
    }
    let lead = leader(&nodes).await;
    let gone = nodes.remove(lead);
    let name = gone.name.clone();
    gone.crash().await;
    // The others go on without it.
    assert_eq!(nodes[0].put("meanwhile", "x").await, 22);
    let back = disks.start(&name, &[&nodes[0], &nodes[1]]).await;
    until("it has caught up", async || {
        let status = back.store.status().await;
        status.iter().any(|(other, status)| *other == name && status.as_ref().is_ok_and(|status| status.revision == 22))
    })
    .await;
    nodes.push(back);
    let cluster = nodes[0].store.status().await[0].1.as_ref().expect("it says").cluster;
    for node in nodes {
        node.crash().await;
    }
    let nodes = disks.start_all().await;
    assert_eq!(nodes[1].get("meanwhile").await.as_deref(), Some("x"));
    assert_eq!(nodes[2].put("after", "x").await, 23);
    assert_eq!(nodes[0].store.status().await[0].1.as_ref().expect("it says").cluster, cluster, "it is the same store");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_agreed_on_and_nothing_is_founded() {
    let disks = Disks::new(3);
    let one = disks.start("node1", &[]).await;
    let two = disks.start("node2", &[&one]).await;
    let short = |store: &Store| store.clone().request_timeout(Duration::from_secs(2));
    for node in [&one, &two] {
        let error = short(&node.store).range(Range::of("x")).await.expect_err("the third is missing");
        assert!(matches!(error, StoreError::NoLeader { .. }), "{error}");
    }
    let three = disks.start("node3", &[&one]).await;
    assert_eq!(three.put("x", "y").await, 2);
    // One alone, of three, agrees with nobody.
    two.crash().await;
    three.crash().await;
    let error = short(&one.store).range(Range::of("x")).await.expect_err("the others are missing");
    assert!(matches!(error, StoreError::NoLeader { .. }), "{error}");
    let found = one
        .store
        .read(ReadRequest { serializable: true, ..Range::of("x").into() })
        .await
        .expect("what it has itself is read");
    assert_eq!(found.kvs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_lost_its_disk_is_a_new_one_and_takes_its_place() {
    let disks = Disks::new(3).replace_after(Duration::from_secs(2));
    let mut nodes = disks.start_all().await;
    for number in 0..10 {
        nodes[0].put("x", &number.to_string()).await;
    }
    let former: Vec<u64> =
        nodes[0].store.status().await.iter().map(|(_, status)| status.as_ref().expect("it says").id).collect();
    // The founder: it must not found another store.
    nodes.remove(0).crash().await;
    disks.wipe("node1");
    let back = disks.start("node1", &[&nodes[0], &nodes[1]]).await;
    nodes.insert(0, back);
    until("it votes again", async || {
        let status = nodes[1].store.status().await;
        let new = status.iter().find(|(name, _)| name == "node1").and_then(|(_, status)| status.as_ref().ok());
        new.is_some_and(|new| {
            let ids: Vec<u64> = new.voters.iter().map(|(id, _)| *id).collect();
            new.revision == 11 && ids.len() == 3 && ids.contains(&new.id) && !former.contains(&new.id)
        })
    })
    .await;
    // It counts: with it and one other there is a quorum.
    nodes.remove(2).crash().await;
    assert_eq!(nodes[0].put("x", "after").await, 12);
    assert_eq!(nodes[0].get("x").await.as_deref(), Some("after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_come_and_go_as_an_operator_says() {
    let disks = Disks::new(4);
    // Three of the names found; the fourth is taken in later.
    let three = Disks::new(3);
    let nodes = three.start_all().await;
    nodes[0].put("x", "y").await;
    let seeds: Vec<_> = nodes.iter().collect();
    let four = disks.start("node4", &seeds).await;
    until("it can be asked", async || {
        nodes[0].store.status().await.iter().any(|(name, s)| name == "node4" && s.is_ok())
    })
    .await;
    // Its list is another one: that of the cluster it joins counts.
    let change = |change: VoterChange| async { nodes[1].store.change_voters(change).await };
    let error = change(VoterChange::Add("node2".into())).await.expect_err("it votes already");
    assert!(error.to_string().contains("votes already"), "{error}");
    let error = change(VoterChange::Remove("nobody".into())).await.expect_err("there is none");
    assert!(error.to_string().contains("does not vote"), "{error}");
    change(VoterChange::Add("node4".into())).await.expect("it is taken in");
    let voters = async || {
        let status = nodes[0].store.status().await;
        let status = status.iter().find_map(|(_, status)| status.as_ref().ok().filter(|status| status.leads));
        status.map(|status| status.voters.iter().map(|(_, name)| name.clone()).collect::<Vec<_>>())
    };
    until("four vote", async || voters().await.is_some_and(|voters| voters.len() == 4)).await;
    let lead = leader(&nodes).await;
    change(VoterChange::Remove(nodes[lead].name.clone())).await.expect("the leader goes, too");
    until("three vote", async || {
        let names = voters().await;
        names.is_some_and(|names| names.len() == 3 && !names.contains(&nodes[lead].name))
    })
    .await;
    assert_eq!(four.get("x").await.as_deref(), Some("y"));
    assert_eq!(nodes[lead].put("x", "z").await, 3, "who votes no more asks others");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_of_one_node_and_one_process() {
    let disks = Disks::new(1);
    let one = disks.start("node1", &[]).await;
    one.put("x", "y").await;
    let config = || StoreConfig::default().voters(["node1"]).data(disks.path("node1"));
    let error = Store::start(&one.sessions, config()).await.expect_err("another has it");
    assert!(matches!(error, VoterError::Folder(_)) && error.to_string().contains("another process"), "{error}");
    one.crash().await;
    let other = disks.start("stranger", &[]).await;
    let error = Store::start(&other.sessions, config()).await.expect_err("it is another node's");
    assert!(matches!(error, VoterError::OtherNode { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_vote_says_nothing_to_raft_and_fills_no_memory_with_it() {
    let disks = Disks::new(3);
    let nodes = disks.start_all().await;
    assert_eq!(nodes[0].put("before", "x").await, 2);
    let stranger = disks.start("stranger", &[&nodes[0]]).await;
    until("it can call", async || {
        stranger.sessions.call(&nodes[0].name, "store/voter", "", Duration::from_secs(5)).await.is_ok()
    })
    .await;
    for method in ["store/raft", "store/snapshot"] {
        for _ in 0..60 {
            let mut call = stranger.sessions.open(&nodes[0].name, method, None).await.expect("it is there");
            // The answer comes though nothing has ended: it is not waited for.
            let _ = call.outgoing.send(vec![1; 64 << 10].into()).await;
            let answered = tokio::time::timeout(Duration::from_secs(10), call.split()).await.expect("at once");
            let error = answered.expect_err("it does not vote");
            assert!(error.to_string().contains("stranger is no voter"), "{error}");
        }
    }
    // What waits for others' ends holds up no voter.
    let mut held = Vec::new();
    for _ in 0..60 {
        let mut call = stranger.sessions.open(&nodes[0].name, "store/execute", None).await.expect("it is there");
        let _ = tokio::time::timeout(Duration::from_millis(20), call.outgoing.send(vec![1; 1 << 20].into())).await;
        held.push(call);
    }
    assert_eq!(nodes[1].put("after", "x").await, 3);
    assert_eq!(nodes[0].get("after").await.as_deref(), Some("x"));
}
