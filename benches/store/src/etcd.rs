//! Three etcd servers, and a gRPC client with the few messages that the load needs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use tokio::{process::Command, time::timeout};
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    Outcome, load,
    locks::Locks,
    servers::{Servers, free_ports},
};

const SERVERS: usize = 3;

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutDone {}

/// Of one key, linearizable.
#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeDone {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Grant {
    #[prost(int64, tag = "1")]
    ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Granted {
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Lock {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(int64, tag = "2")]
    lease: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Locked {
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Unlock {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct Unlocked {}

#[derive(Clone, PartialEq, Message)]
struct AskStatus {}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "7")]
    applied: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

/// Connections to each server. Puts go to the leader first, as that saves them a hop.
#[derive(Clone)]
pub(crate) struct Client {
    channels: Arc<Vec<Vec<Channel>>>,
    leader: Arc<std::sync::atomic::AtomicUsize>,
    /// The program `etcdctl`, and whom it asks.
    program: PathBuf,
    endpoints: String,
}

/// Starts servers with data directories in this folder, and opens so many connections to each.
pub(crate) async fn start(program: &Path, folder: &Path, connections: usize) -> Outcome<(Servers, Client)> {
    let ports = free_ports::<{ 2 * SERVERS }>()?;
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (clients, peers) = ports.split_at(SERVERS);
    let name = |at: usize| format!("etcd{at}");
    let cluster: Vec<_> = peers.iter().enumerate().map(|(at, port)| format!("{}={}", name(at), url(*port))).collect();
    let args = (0..SERVERS).map(|at| {
        let (client, peer) = (url(clients[at]), url(peers[at]));
        let data = folder.join(name(at)).into_os_string();
        let mut args = vec!["--data-dir".into(), data];
        let more = [
            ["--name", &name(at)],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &cluster.join(",")],
            ["--logger", "zap"],
            ["--log-level", "error"],
        ];
        args.extend(more.as_flattened().iter().map(|arg| arg.into()));
        args
    });
    let servers = Servers::start(program, folder, args.collect())?;
    Ok((servers, connect(program, clients, connections)?))
}

/// Opens so many connections to each of these ports. `etcd` is the program, beside which `etcdctl` is.
pub(crate) fn connect(etcd: &Path, ports: &[u16], connections: usize) -> Outcome<Client> {
    let url = |port: &u16| format!("http://127.0.0.1:{port}");
    let connect = |port: &u16| -> Outcome<Vec<Channel>> {
        let endpoint = Endpoint::from_shared(url(port))?;
        Ok((0..connections).map(|_| endpoint.connect_lazy()).collect())
    };
    let channels = ports.iter().map(connect).collect::<Outcome<_>>()?;
    let endpoints = ports.iter().map(url).collect::<Vec<_>>().join(",");
    let program = etcd.with_file_name("etcdctl");
    Ok(Client { channels: Arc::new(channels), leader: Arc::default(), program, endpoints })
}

async fn call<A, B>(channel: &Channel, path: &'static str, message: A) -> Outcome<B>
where
    A: Message + Send + Sync + 'static,
    B: Message + Default + Send + Sync + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let answer = grpc.unary(Request::new(message), PathAndQuery::from_static(path), ProstCodec::default()).await?;
    Ok(answer.into_inner())
}

impl load::Client for Client {
    async fn leader(&self) -> Outcome<usize> {
        let mut servers = Vec::new();
        for channels in &*self.channels {
            let status: Status = call(&channels[0], "/etcdserverpb.Maintenance/Status", AskStatus {}).await?;
            servers.push((status.header.unwrap_or_default().member, status.leader, status.applied));
        }
        let (_, leader, applied) = servers[0];
        if leader == 0 || servers.iter().any(|(_, other, at)| (*other, *at) != (leader, applied)) {
            return Err("the servers are not equal yet".into());
        }
        let at = servers.iter().position(|(id, ..)| *id == leader).ok_or("an unknown server leads")?;
        self.leader.store(at, std::sync::atomic::Ordering::Relaxed);
        Ok(at)
    }

    async fn put(&self, client: usize, key: Bytes, value: Bytes, attempt: Duration) -> Outcome<()> {
        let put = Put { key, value };
        let _: PutDone = self.call_until_answered(client, "/etcdserverpb.KV/Put", put, attempt).await;
        Ok(())
    }

    async fn get(&self, client: usize, key: Bytes, attempt: Duration) -> Outcome<usize> {
        let range = Range { key };
        let found: RangeDone = self.call_until_answered(client, "/etcdserverpb.KV/Range", range, attempt).await;
        Ok(found.kvs.first().map_or(0, |found| found.value.len()))
    }
}

impl Client {
    /// Calls the leader, until somebody answers.
    async fn call_until_answered<A, B>(&self, client: usize, path: &'static str, message: A, attempt: Duration) -> B
    where
        A: Message + Clone + Send + Sync + 'static,
        B: Message + Default + Send + Sync + 'static,
    {
        loop {
            let at = self.leader.load(std::sync::atomic::Ordering::Relaxed);
            let channel = &self.channels[at][client % self.channels[at].len()];
            match timeout(attempt, call(channel, path, message.clone())).await {
                Ok(Ok(answer)) => return answer,
                // Another one may know who leads, or lead.
                Ok(Err(_)) | Err(_) => {
                    self.leader.store((at + 1) % SERVERS, std::sync::atomic::Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    /// The command line of etcd, for these servers.
    pub(crate) fn etcdctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoints]).args(args);
        command
    }

    /// A connection to the leader, for this client.
    fn to_leader(&self, client: usize) -> &Channel {
        let channels = &self.channels[self.leader.load(std::sync::atomic::Ordering::Relaxed)];
        &channels[client % channels.len()]
    }
}

impl Locks for Client {
    type Session = (usize, i64);
    type HeldLock = Bytes;

    async fn session(&self, client: usize, ttl: Duration) -> Outcome<(usize, i64)> {
        let grant = Grant { ttl: ttl.as_secs().try_into()? };
        let granted: Granted = call(self.to_leader(client), "/etcdserverpb.Lease/LeaseGrant", grant).await?;
        Ok((client, granted.lease))
    }

    async fn lock(&self, (client, lease): &(usize, i64), name: &str) -> Outcome<Bytes> {
        let lock = Lock { name: Bytes::copy_from_slice(name.as_bytes()), lease: *lease };
        let locked: Locked = call(self.to_leader(*client), "/v3lockpb.Lock/Lock", lock).await?;
        Ok(locked.key)
    }

    async fn unlock(&self, (client, _): &(usize, i64), key: Bytes) -> Outcome<()> {
        let _: Unlocked = call(self.to_leader(*client), "/v3lockpb.Lock/Unlock", Unlock { key }).await?;
        Ok(())
    }

    fn command(&self, name: &str) -> Command {
        self.etcdctl(&["lock", name, "true"])
    }
}
