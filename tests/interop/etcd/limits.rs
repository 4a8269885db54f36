//! Limits: of requests, and of answers that nobody reads.

use std::time::Duration;

use broadcast_etcd::messages::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};
use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Cluster,
    client::{Call, Client, UNAVAILABLE},
    one_voter,
};
use crate::support::LIMIT;

const PUT: &str = "/etcdserverpb.KV/Put";

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

fn put(length: usize) -> PutRequest {
    PutRequest { key: "large".into(), value: vec![b'x'; length].into(), ..PutRequest::default() }
}

pub fn large_requests_are_refused() {
    let voter = one_voter();
    run(async {
        let mut client = Client::connect(voter.etcd()).await;
        client.call::<PutResponse>(PUT, &put((3 << 19) - 100)).await.expect("it is as large as may be");
        let refused = client.call::<PutResponse>(PUT, &put(3 << 19)).await;
        assert_eq!(refused, Err((3, "etcdserver: request is too large".into())));
        let (code, why) = client.call::<PutResponse>(PUT, &put(10 << 20)).await.expect_err("it is larger still");
        assert!(code == 8 && why.starts_with("grpc: received message larger than max (104857"), "{code}: {why}");
        // What it is said to be is not waited for, nor room made for it.
        let mut call = client.open(PUT, &[]).await;
        call.send_raw(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
        let (code, why) = call.next::<PutResponse>().await.expect_err("it is too large");
        assert!(code == 8 && why.starts_with("grpc: received message larger than max (4294967295"), "{code}: {why}");
        let mut call = client.open(PUT, &[]).await;
        call.send_raw(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert_eq!(call.next::<PutResponse>().await.expect_err("it is compressed").0, 12);
        let mut call = client.open(PUT, &[]).await;
        call.send_raw(Bytes::from_static(&[0, 0, 0, 0, 2, 0xff, 0xff]));
        call.end();
        assert_eq!(call.next::<PutResponse>().await.expect_err("it is no message").0, 13);
        let (code, _) = client.call::<PutResponse>("/etcdserverpb.Auth/UserAdd", &put(1)).await.expect_err("none");
        assert_eq!(code, 12);
        let found = RangeRequest { key: "large".into(), count_only: true, ..RangeRequest::default() };
        let found: RangeResponse = client.call("/etcdserverpb.KV/Range", &found).await.expect("it goes on");
        assert_eq!(found.count, 1);
    });
}

/// Begins to watch what [`put`] puts.
async fn watch(client: &mut Client) -> Call {
    let mut call = client.open("/etcdserverpb.Watch/Watch", &[]).await;
    let create = WatchCreateRequest { key: "large".into(), ..WatchCreateRequest::default() };
    call.send(&WatchRequest { create_request: Some(create), ..WatchRequest::default() });
    call
}

async fn wait_created(call: &mut Call) {
    let created = call.next::<WatchResponse>().await.expect("it is created").expect("it is created");
    assert!(created.created && !created.canceled, "{created:?}");
}

/// What a watcher does not read is not kept for it: it fits in no window, and other calls go on.
pub fn watchers_that_do_not_read_are_bounded() {
    const STREAMS: usize = 20;
    const EACH: usize = 256 << 10;
    const ROUNDS: i64 = 100;
    let voter = one_voter();
    run(async {
        let mut lazy = Client::connect(voter.etcd()).await;
        let mut calls = Vec::new();
        for _ in 0..STREAMS {
            let mut call = watch(&mut lazy).await;
            wait_created(&mut call).await;
            calls.push(call);
        }
        let before = voter.peak_memory();
        let mut busy = Client::connect(voter.etcd()).await;
        for _ in 0..ROUNDS {
            busy.call::<PutResponse>(PUT, &put(EACH)).await.expect("it is put");
        }
        // 25 MiB of history, and as much in the log; what nobody reads would be 500 MiB more.
        let more = voter.peak_memory() - before;
        assert!(more < 250 << 20, "{} MiB more than {} MiB", more >> 20, before >> 20);
        // Who reads late reads all.
        let mut call = calls.swap_remove(0);
        let mut revisions = Vec::new();
        while revisions.len() < ROUNDS as usize {
            let told = call.next::<WatchResponse>().await.expect("it goes on").expect("it goes on");
            revisions.extend(told.events.into_iter().filter_map(|event| event.kv).map(|kv| kv.mod_revision));
        }
        assert!(revisions.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{revisions:?}");
    });
}

/// As many streams as a node is told to serve are served, each by itself, and what is more is refused at once; and nobody takes
/// a node for failed meanwhile. There are 1,000, or as many as `BROADCAST_TESTS_STREAMS` says.
pub fn many_streams_are_served() {
    const STREAMS: usize = 100;
    let all = std::env::var("BROADCAST_TESTS_STREAMS").map_or(1000, |text| text.parse().expect("a number"));
    let connections: usize = all / STREAMS;
    let most = (connections * STREAMS + STREAMS / 2).to_string();
    let cluster = Cluster::start_with(&["--http-max-connections", &most], &[]);
    let busy = &cluster.voters[0];
    let open = async || {
        let mut client = Client::connect(busy.etcd()).await;
        let mut calls = Vec::new();
        for _ in 0..STREAMS {
            calls.push(watch(&mut client).await);
        }
        calls
    };
    let failures = || -> usize {
        let nodes = cluster.voters.iter().chain([&cluster.other]);
        nodes.map(|node| node.log.count(&json!({"event": "failed"}))).sum()
    };
    run(async {
        let mut client = Client::connect(cluster.other.etcd()).await;
        client.call::<PutResponse>(PUT, &put(1)).await.expect("there is a leader soon");
        let failed = failures();
        let before = busy.peak_memory();
        let mut calls = Vec::new();
        for _ in 0..connections {
            for mut call in open().await {
                wait_created(&mut call).await;
                calls.push(call);
            }
        }
        let mut refused = 0;
        for call in &mut open().await {
            match call.next::<WatchResponse>().await {
                Ok(_) => {}
                Err((UNAVAILABLE, _)) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!((STREAMS / 2..STREAMS).contains(&refused), "{refused} are refused");
        // One that asks nothing for long is closed.
        let mut client = Client::connect(cluster.other.etcd()).await;
        client.call::<PutResponse>(PUT, &put(100)).await.expect("it is put");
        for call in &mut calls {
            let told = call.next::<WatchResponse>().await.expect("it goes on").expect("it goes on");
            assert_eq!(told.events.len(), 1, "{told:?}");
        }
        let each = (busy.peak_memory() - before) / calls.len();
        assert!(each < 32 << 10, "a stream takes {each} bytes");
        assert_eq!(failures(), failed, "nobody is taken for failed meanwhile");
    });
}

pub fn streams_end_where_nobody_leads() {
    let mut cluster = Cluster::start();
    run(async {
        let (other, voter) = (cluster.other.etcd(), cluster.voters[0].etcd());
        let mut clients = [Client::connect(other).await, Client::connect(voter).await];
        let put = put(1);
        let with_leader = [("hasleader", "true")];
        let deadline = Instant::now() + LIMIT;
        for client in &mut clients {
            loop {
                let mut call = client.open(PUT, &with_leader).await;
                call.send(&put);
                call.end();
                if call.next::<PutResponse>().await.is_ok() {
                    break;
                }
                assert!(Instant::now() < deadline, "the store does not begin");
                sleep(Duration::from_millis(50)).await;
            }
        }
        let mut streams = Vec::new();
        for client in &mut clients {
            let mut watch = client.open("/etcdserverpb.Watch/Watch", &with_leader).await;
            let create = WatchCreateRequest { key: "x".into(), ..WatchCreateRequest::default() };
            watch.send(&WatchRequest { create_request: Some(create), ..WatchRequest::default() });
            watch.next::<WatchResponse>().await.expect("it is created");
            let mut kept = client.open("/etcdserverpb.Lease/LeaseKeepAlive", &with_leader).await;
            kept.send(&LeaseKeepAliveRequest { ID: 7 });
            let answer = kept.next::<LeaseKeepAliveResponse>().await.expect("it is answered").expect("it is answered");
            assert_eq!((answer.ID, answer.TTL), (7, 0), "there is no such lease");
            streams.push((watch, kept));
        }
        cluster.voters.drain(1..).for_each(|mut voter| voter.kill());
        let expected = (UNAVAILABLE, "etcdserver: no leader".to_owned());
        for (mut watch, mut kept) in streams {
            assert_eq!(
                timeout(LIMIT, watch.next_without_limit::<WatchResponse>()).await.expect("in time"),
                Err(expected.clone())
            );
            let ended = timeout(LIMIT, kept.next_without_limit::<LeaseKeepAliveResponse>()).await.expect("in time");
            assert_eq!(ended.expect_err("it ends"), expected);
        }
        for client in &mut clients {
            let mut call = client.open(PUT, &with_leader).await;
            call.send(&put);
            call.end();
            assert_eq!(call.next::<PutResponse>().await, Err(expected.clone()));
        }
    });
}
