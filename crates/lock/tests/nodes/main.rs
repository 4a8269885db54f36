//! Locks on real nodes, sockets and disks.

#[allow(dead_code, reason = "tests of the store use all of it")]
#[path = "../../../store/tests/nodes/support.rs"]
mod support;

use std::time::Duration;

use broadcast_lock::{
    LockClient, LockError, Locks, Mode, Name, Refusal,
    client::{AcquireRequest, Owner},
    message::{LockQuery, LockState},
};
use broadcast_store::{
    StoreError,
    keys::{self, Range},
    machine::Machines,
    node::since_boot,
};
use tokio::time::timeout;

use crate::support::{Disks, Node, SOON, until};

const SHORT: Duration = Duration::from_secs(2);

fn machines() -> Machines {
    Machines::default().with(Locks::machine)
}

/// All voters, and one node that does not vote.
async fn start(disks: &Disks) -> (Vec<Node>, Node) {
    let mut nodes: Vec<Node> = Vec::new();
    for name in ["node1", "node2", "node3"] {
        let seeds: Vec<&Node> = nodes.iter().collect();
        let node = disks.start_with(name, &seeds, machines()).await;
        nodes.push(node);
    }
    let client = disks.start("client", &[&nodes[0]]).await;
    (nodes, client)
}

fn locks(node: &Node) -> LockClient {
    LockClient::new(node.store.clone(), &node.name)
}

fn name(name: &str) -> Name {
    Name::new(name).expect("a name")
}

async fn lock_state(client: &LockClient, lock: &str) -> Option<LockState> {
    client.query(&LockQuery::Lock(name(lock))).await.expect("it is answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_goes_from_node_to_node_and_its_tokens_grow() {
    let disks = Disks::new(3);
    let (nodes, client) = start(&disks).await;
    let all: Vec<LockClient> = nodes.iter().chain([&client]).map(locks).collect();
    let first = all[3].lock("jobs/nightly").await.expect("it is free");
    let mut waiting = Vec::new();
    for each in all.clone() {
        waiting.push(tokio::spawn(async move {
            let guard = each.lock("jobs/nightly").await.expect("it is granted one day");
            let token = guard.token();
            guard.release().await.expect("it is released");
            token
        }));
    }
    until("all wait", async || lock_state(&all[0], "jobs/nightly").await.is_some_and(|lock| lock.waiting == 4)).await;
    let mut tokens = vec![first.token()];
    assert!(first.left() > Duration::from_secs(5), "{:?}", first.left());
    first.release().await.expect("it is released");
    for each in waiting {
        tokens.push(timeout(SOON, each).await.expect("it is told soon").expect("it does not panic"));
    }
    let mut sorted = tokens.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), 5, "{tokens:?}");
    assert_eq!(lock_state(&all[0], "jobs/nightly").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_leaves_the_queue_and_who_is_gone_loses_its_lock() {
    let disks = Disks::new(3);
    let (nodes, client) = start(&disks).await;
    let (ours, theirs) = (locks(&client), locks(&nodes[1]));
    // Nobody keeps this one alive.
    let ttl = Duration::from_secs(6);
    let session = ours.open_session(ours.session_config(ttl, "forgotten")).await.expect("it is opened");
    let request = AcquireRequest::new(Owner::Session(session), [name("a")]);
    let mut waiter = ours.acquire(request.clone(), None).await.expect("it is free");
    let (_, token) = waiter.detach();
    // Whoever tries is told who has it.
    let tried = AcquireRequest {
        waits: false,
        ..AcquireRequest::new(Owner::New(theirs.session_config(SHORT, "")), [name("a")])
    };
    let Err(LockError::Taken { holders }) = theirs.acquire(tried, None).await.map(|_| ()) else { panic!("it is held") };
    assert_eq!((holders[0].token, &holders[0].label[..], &holders[0].node[..]), (token, "forgotten", "client"));
    // Whoever waits for less than it takes is told so, too, and does not wait on.
    let waits = AcquireRequest::new(Owner::New(theirs.session_config(SHORT, "")), [name("a")]);
    let given_up = theirs.acquire(waits.clone(), Some(Duration::from_millis(50))).await.map(|_| ());
    assert!(matches!(&given_up, Err(LockError::Taken { holders }) if holders.len() == 1), "{given_up:?}");
    until("the queue is empty", async || lock_state(&ours, "a").await.is_none_or(|lock| lock.waiting == 0)).await;
    // The next one has it when the session has ended, and not before.
    let began = since_boot();
    assert_eq!(ours.keep_alive(session).await.expect("it is there"), Some(ttl));
    let guard = timeout(SOON, theirs.lock("a")).await.expect("it is granted soon").expect("it is granted");
    assert!(since_boot() - began >= ttl, "{:?}", since_boot() - began);
    assert!(guard.token() > token);
    assert_eq!(ours.keep_alive(session).await.expect("it is answered"), None);
    let refused = ours.release(session, token).await;
    assert!(matches!(refused, Err(LockError::Refused(Refusal::NotHeld { .. }))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_hears_that_its_lock_was_taken_away() {
    let disks = Disks::new(3);
    let (nodes, client) = start(&disks).await;
    let (ours, theirs) = (locks(&client), locks(&nodes[2]));
    let mut guard = ours.lock("a").await.expect("it is free");
    assert!(timeout(Duration::from_millis(300), guard.lost()).await.is_err(), "it is held");
    let forced = broadcast_lock::message::LockCommand::ForceRelease { name: name("a") };
    theirs.execute(&forced).await.expect("it is taken away");
    timeout(SOON, guard.lost()).await.expect("it is told soon");
    // A session that somebody ended is lost as well.
    let mut guard = ours.lock("a").await.expect("it is free");
    theirs.end_session(guard.session().id()).await.expect("it is there");
    timeout(SOON, guard.lost()).await.expect("it is told soon");
    // So is one that ends with the guard, for whoever has it, too: long before its deadline.
    let guard = ours.lock("a").await.expect("it is free");
    let session = guard.session().clone();
    drop(guard);
    timeout(SHORT, session.lost()).await.expect("it is known at once");
    assert!(session.deadline() > since_boot());
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_and_those_who_wait_outlive_the_voter_that_leads() {
    let disks = Disks::new(3);
    let (mut nodes, client) = start(&disks).await;
    let ours = locks(&client);
    let mut held = ours.lock("a").await.expect("it is free");
    let next = ours.clone();
    let waits = tokio::spawn(async move { next.lock("a").await.expect("it is granted one day").token() });
    until("it waits", async || lock_state(&ours, "a").await.is_some_and(|lock| lock.waiting == 1)).await;
    let leads = nodes.iter().position(|node| node.store.leads()).expect("somebody leads");
    nodes.remove(leads).crash().await;
    until("another one leads", async || nodes.iter().any(|node| node.store.leads())).await;
    assert!(timeout(Duration::from_millis(100), held.lost()).await.is_err(), "it is held on");
    let token = held.token();
    held.release().await.expect("it is released");
    let after = timeout(SOON, waits).await.expect("it is told soon").expect("it does not panic");
    assert!(after > token);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_voters_the_holder_gives_up_by_its_own_deadline() {
    let disks = Disks::new(3);
    let (nodes, client) = start(&disks).await;
    let ours = locks(&client);
    let request = |owner| AcquireRequest::new(owner, [name("a")]);
    let mut guard = ours.lock_with(ours.session_config(SHORT, ""), request, None).await.expect("it is free");
    for node in nodes {
        node.crash().await;
    }
    timeout(SOON, guard.lost()).await.expect("it gives up");
    assert!(guard.left().is_zero() && since_boot() < guard.deadline() + Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn semaphores_elections_and_fences() {
    let disks = Disks::new(3);
    let (nodes, client) = start(&disks).await;
    let (ours, theirs) = (locks(&client), locks(&nodes[0]));
    let two = Mode::Semaphore { permits: 2 };
    let slot = |owner| AcquireRequest { mode: two, ..AcquireRequest::new(owner, [name("pool")]) };
    let one = ours.lock_with(ours.session_config(SHORT, ""), slot, None).await.expect("it is free");
    let _two = theirs.lock_with(ours.session_config(SHORT, ""), slot, None).await.expect("it is free");
    let third = ours.lock_with(ours.session_config(SHORT, ""), slot, Some(Duration::from_millis(50))).await.map(|_| ());
    assert!(matches!(third, Err(LockError::Taken { .. })), "{third:?}");
    drop(one);
    let third =
        timeout(SOON, ours.lock_with(ours.session_config(SHORT, ""), slot, None)).await.expect("it is free soon");
    third.expect("it is granted");

    let leads = ours.campaign("leader", "node7").await.expect("it is won");
    leads.proclaim("node8").await.expect("it leads");
    let lock = lock_state(&theirs, "leader").await.expect("it is held");
    assert_eq!(&lock.holders[0].value[..], b"node8");
    let put = |value: &'static str| {
        keys::KeysCommand::Put(keys::Put { key: "k".into(), value: value.into(), ..Default::default() })
    };
    ours.fenced_write(name("leader"), leads.token(), &put("1")).await.expect("it leads");
    let token = leads.token();
    leads.release().await.expect("it is released");
    let refused = ours.fenced_write(name("leader"), token, &put("2")).await.map(|_| ());
    assert!(matches!(refused, Err(LockError::Refused(Refusal::NotHeld { .. }))), "{refused:?}");
    let found = ours.store().range(Range::of("k")).await.expect("it is read");
    assert_eq!(&found.kvs[0].value[..], b"1");
    ours.raise_fence(name("disk"), token).await.expect("it is the first");
    let refused = ours.raise_fence(name("disk"), token - 1).await;
    assert!(matches!(refused, Err(LockError::Refused(Refusal::StaleToken { .. }))), "{refused:?}");
}

/// A voter of before has no locks, and says so; the locks are not used before all voters know them.
#[tokio::test(flavor = "multi_thread")]
async fn voters_that_know_no_locks_say_so() {
    let disks = Disks::new(1);
    let node = disks.start("node1", &[]).await;
    let refused = locks(&node).lock("a").await.map(|_| ());
    assert!(matches!(&refused, Err(LockError::Store(StoreError::NotPossible { .. }))), "{refused:?}");
}
