//! etcd's calls for locks and elections: the same script on a real etcd and on the store.

use std::{net::SocketAddr, time::Duration};

use broadcast_etcd::messages::{
    CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LockRequest, LockResponse, ProclaimRequest, ProclaimResponse,
    RangeRequest, RangeResponse, ResignRequest, ResignResponse, UnlockRequest, UnlockResponse,
};
use tokio::time::{Instant, sleep};

use super::{
    RealEtcd,
    client::{Call, Client, LIMIT},
    one_voter,
};

const LOCK: &str = "/v3lockpb.Lock/Lock";

pub fn are_the_same() {
    let (real, voter) = (RealEtcd::start(), one_voter());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let [etcd, ours] = [real.addr, voter.etcd()].map(|addr| runtime.block_on(script(addr)));
    assert_eq!(ours, etcd);
    runtime.block_on(who_waits_with_a_lease_that_ends_gets_no_lock(voter.etcd()));
}

/// etcd 3.4 gives it the lock all the same, once it is free.
async fn who_waits_with_a_lease_that_ends_gets_no_lock(addr: SocketAddr) {
    let mut client = Client::connect(addr).await;
    let mut first = ask(&mut client, 0x1a).await;
    first.next::<LockResponse>().await.expect("it is free").expect("it is free");
    lease(&mut client, 0x5e).await;
    let mut second = ask(&mut client, 0x5e).await;
    wait_for(&mut client, "l/", &["l/1a", "l/5e"]).await;
    revoke(&mut client, 0x5e).await;
    assert_eq!(second.next::<LockResponse>().await, Err((2, "mutex: session is expired".into())));
}

async fn lease(client: &mut Client, id: i64) {
    let grant = LeaseGrantRequest { ID: id, TTL: 600 };
    client.call::<LeaseGrantResponse>("/etcdserverpb.Lease/LeaseGrant", &grant).await.expect("it is granted");
}

async fn revoke(client: &mut Client, id: i64) {
    let revoke = LeaseRevokeRequest { ID: id };
    client.call::<LeaseRevokeResponse>("/etcdserverpb.Lease/LeaseRevoke", &revoke).await.expect("it is revoked");
}

async fn unlock(client: &mut Client, key: &str) {
    let unlock = UnlockRequest { key: key.to_owned().into() };
    client.call::<UnlockResponse>("/v3lockpb.Lock/Unlock", &unlock).await.expect("it is given back");
}

/// The keys in a queue, in order.
async fn queue(client: &mut Client, prefix: &str) -> Vec<String> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    let range = RangeRequest {
        key: prefix.to_owned().into(),
        range_end: end.into(),
        sort_target: 2,
        sort_order: 1,
        ..RangeRequest::default()
    };
    let found: RangeResponse = client.call("/etcdserverpb.KV/Range", &range).await.expect("it is read");
    found.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

async fn wait_for(client: &mut Client, prefix: &str, expected: &[&str]) {
    let end = Instant::now() + LIMIT;
    while queue(client, prefix).await != expected {
        assert!(Instant::now() < end, "{prefix} has {:?}, not {expected:?}", queue(client, prefix).await);
        sleep(Duration::from_millis(10)).await;
    }
}

/// Asks for a lock, and does not wait for it.
async fn ask(client: &mut Client, lease: i64) -> Call {
    let mut call = client.open(LOCK, &[]).await;
    call.send(&LockRequest { name: "l".into(), lease });
    call.end();
    call
}

async fn script(addr: SocketAddr) -> Vec<String> {
    let mut said = Vec::new();
    let mut client = Client::connect(addr).await;
    for id in [0x1a, 0x2b, 0x3c, 0x4d] {
        lease(&mut client, id).await;
    }
    let key = |answer: Result<Option<LockResponse>, _>| match answer {
        Ok(answer) => Ok(answer.map(|answer| (answer.key, answer.header.map(|header| header.revision)))),
        Err(failed) => Err::<_, super::client::CallError>(failed),
    };
    // One has it, and has it again; another one waits, until the first gives it back.
    let mut first = ask(&mut client, 0x1a).await;
    said.push(format!("{:?}", key(first.next().await)));
    let mut again = ask(&mut client, 0x1a).await;
    said.push(format!("{:?}", key(again.next().await)));
    let mut second = ask(&mut client, 0x2b).await;
    wait_for(&mut client, "l/", &["l/1a", "l/2b"]).await;
    // One that waits goes away, and is in the queue no more.
    let third = ask(&mut client, 0x3c).await;
    wait_for(&mut client, "l/", &["l/1a", "l/2b", "l/3c"]).await;
    drop(third);
    wait_for(&mut client, "l/", &["l/1a", "l/2b"]).await;
    unlock(&mut client, "l/1a").await;
    said.push(format!("{:?}", key(second.next().await)));
    unlock(&mut client, "l/2b").await;
    revoke(&mut client, 0x4d).await;
    let mut gone = ask(&mut client, 0x4d).await;
    said.push(format!("{:?}", gone.next::<LockResponse>().await));
    elections(&mut client, &mut said).await;
    said
}

async fn campaign(client: &mut Client, lease: i64, value: &'static str) -> Call {
    let mut call = client.open("/v3electionpb.Election/Campaign", &[]).await;
    call.send(&CampaignRequest { name: "e".into(), lease, value: value.into() });
    call.end();
    call
}

async fn elections(client: &mut Client, said: &mut Vec<String>) {
    let nobody = LeaderRequest { name: "e".into() };
    const LEADER: &str = "/v3electionpb.Election/Leader";
    said.push(format!("{:?}", client.call::<LeaderResponse>(LEADER, &nobody).await));
    let mut observer = client.open("/v3electionpb.Election/Observe", &[]).await;
    observer.send(&nobody);
    observer.end();
    let one = campaign(client, 0x1a, "one").await.next::<CampaignResponse>().await.expect("it is elected");
    let one = one.expect("it is elected").leader.expect("a leader");
    said.push(format!("{one:?}"));
    let seen = |answer: LeaderResponse| answer.kv.map(|kv| (kv.key, kv.value, kv.version));
    said.push(format!("{:?}", observer.next::<LeaderResponse>().await.expect("it goes on").map(seen)));
    let mut next = campaign(client, 0x2b, "two").await;
    wait_for(client, "e/", &["e/1a", "e/2b"]).await;
    let proclaim = ProclaimRequest { leader: Some(one.clone()), value: "more".into() };
    const PROCLAIM: &str = "/v3electionpb.Election/Proclaim";
    client.call::<ProclaimResponse>(PROCLAIM, &proclaim).await.expect("it leads");
    said.push(format!("{:?}", observer.next::<LeaderResponse>().await.expect("it goes on").map(seen)));
    let leader = client.call::<LeaderResponse>(LEADER, &nobody).await.map(seen);
    said.push(format!("{leader:?}"));
    let resign = ResignRequest { leader: Some(one.clone()) };
    client.call::<ResignResponse>("/v3electionpb.Election/Resign", &resign).await.expect("it did lead");
    let two = next.next::<CampaignResponse>().await.expect("it is elected").expect("it is elected");
    said.push(format!("{:?}", two.leader));
    said.push(format!("{:?}", observer.next::<LeaderResponse>().await.expect("it goes on").map(seen)));
    said.push(format!("{:?}", client.call::<ProclaimResponse>(PROCLAIM, &proclaim).await));
}
