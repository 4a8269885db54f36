//! Three voters of this project, and as client a node that does not vote, as in a program that embeds the library.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use broadcast::{NodeId, NodeInfo};
use broadcast_lock::{
    Name,
    client::{AcquireRequest, Owner, Waiter},
};
use broadcast_session::Sessions;
use broadcast_store::{
    Store, StoreConfig,
    keys::{Put, Range},
};
use bytes::Bytes;
use tokio::process::Command;

use crate::{
    Outcome, load,
    locks::Locks,
    servers::{Servers, free_ports},
};

const NAMES: [&str; 3] = ["node1", "node2", "node3"];

#[derive(Clone)]
pub(crate) struct Client {
    store: Store,
    pub(crate) locks: broadcast_lock::LockClient,
    program: PathBuf,
    /// Where a voter answers commands.
    http: String,
    /// Where the voters answer clients of etcd.
    pub(crate) etcd_ports: [u16; 3],
}

/// Starts voters with data directories in this folder.
pub(crate) async fn start(program: &Path, folder: &Path) -> Outcome<(Servers, Client)> {
    let info = NodeInfo::new(NodeId::random().ok_or("the system has no random numbers")?);
    let node = broadcast::Config::new("client").bind((Ipv4Addr::LOCALHOST, 0).into()).info(info);
    let node = broadcast::start(node).await?;
    let sessions = Sessions::start(&node, broadcast_session::SessionConfig::default()).await?;
    let store = Store::start(&sessions, StoreConfig::default()).await?.request_timeout(Duration::from_secs(30));
    let [port, etcd_ports @ ..] = free_ports::<4>()?;
    let http = format!("127.0.0.1:{port}");
    let args = NAMES.iter().zip(etcd_ports).map(|(&name, etcd)| {
        let etcd = format!("127.0.0.1:{etcd}");
        let http = if name == NAMES[0] { &http } else { "127.0.0.1:0" };
        let fixed = ["node", "--bind", "127.0.0.1:0", "--http", http, "--etcd", &etcd, "--role", "voter"];
        let join = node.addr().to_string();
        let more = ["--name", name, "--voters", &NAMES.join(","), "--join", &join, "--data"];
        let args = fixed.iter().chain(&more).map(|arg| arg.into());
        args.chain([folder.join(name).into_os_string()]).collect()
    });
    let locks = broadcast_lock::LockClient::new(store.clone(), "client");
    let servers = Servers::start(program, folder, args.collect())?;
    Ok((servers, Client { store, locks, program: program.into(), http, etcd_ports }))
}

impl load::Client for Client {
    async fn leader(&self) -> Outcome<usize> {
        let voters = self.store.status().await;
        let voters = voters.into_iter().map(|(_, status)| status).collect::<Result<Vec<_>, _>>()?;
        let leader = voters.iter().find(|voter| voter.leads).ok_or("nobody leads")?;
        let agree = voters.iter().filter(|voter| voter.leader.as_ref() == Some(&leader.name)).count();
        let equal = voters.iter().filter(|voter| voter.applied == leader.applied).count();
        if agree < NAMES.len() || equal < NAMES.len() {
            return Err(format!("{agree} of {} follow {}, and {equal} have all", NAMES.len(), leader.name).into());
        }
        NAMES.iter().position(|name| *name == leader.name).ok_or_else(|| "an unknown voter leads".into())
    }

    // It tries again by itself, whatever time there is for one attempt.
    async fn put(&self, _: usize, key: Bytes, value: Bytes, _: Duration) -> Outcome<()> {
        self.store.put(Put { key, value, ..Put::default() }).await?;
        Ok(())
    }

    async fn get(&self, _: usize, key: Bytes, _: Duration) -> Outcome<usize> {
        let found = self.store.range(Range::of(key)).await?;
        Ok(found.kvs.first().map_or(0, |found| found.value.len()))
    }
}

impl Locks for Client {
    type Session = i64;
    type HeldLock = Waiter;

    async fn session(&self, _: usize, ttl: Duration) -> Outcome<i64> {
        Ok(self.locks.open_session(self.locks.session_config(ttl, "bench")).await?)
    }

    async fn lock(&self, session: &i64, name: &str) -> Outcome<Waiter> {
        Ok(self.locks.acquire(AcquireRequest::new(Owner::Session(*session), [Name::new(name)?]), None).await?)
    }

    async fn unlock(&self, _: &i64, held: Waiter) -> Outcome<()> {
        Ok(held.give_up().await?)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["lock", name, "--node", &self.http, "--", "true"]);
        command
    }
}
