//! Nodes of which some vote.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use broadcast::{
    Envelope, NodeId, NodeInfo, Profile,
    wire::{Keyring, SecretKey},
};
use broadcast_session::Sessions;
use broadcast_store::{
    Store, StoreConfig,
    keys::{Put, Range},
    machine::Machines,
    node::VOTER_ROLE,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A node, and its disk, which outlives it.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) store: Store,
    pub(crate) sessions: Sessions,
    folder: Option<PathBuf>,
}

/// The disks of voters, by their names.
pub(crate) struct Disks {
    folder: TempDir,
    voters: Vec<String>,
    replace_after: Duration,
}

impl Disks {
    pub(crate) fn new(count: usize) -> Self {
        let voters = (1..=count).map(|number| format!("node{number}")).collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { folder, voters, replace_after: Duration::from_secs(300) }
    }

    pub(crate) fn replace_after(self, time: Duration) -> Self {
        Self { replace_after: time, ..self }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The id that is kept beside the disk, as the program keeps it.
    pub(crate) fn id(&self, name: &str) -> NodeId {
        let path = self.path(&format!("{name}.id"));
        let kept = std::fs::read_to_string(&path).ok().map(|text| text.parse().expect("an id"));
        kept.unwrap_or_else(|| {
            let id = NodeId::random().expect("randomness");
            std::fs::write(path, id.to_string()).expect("it can be written");
            id
        })
    }

    /// Loses all that a node had.
    pub(crate) fn wipe(&self, name: &str) {
        let _ = std::fs::remove_dir_all(self.path(name));
        std::fs::remove_file(self.path(&format!("{name}.id"))).expect("it was there");
    }

    /// Starts one; a voter, if it has the name of one.
    pub(crate) async fn start(&self, name: &str, seeds: &[&Node]) -> Node {
        self.start_with(name, seeds, Machines::default()).await
    }

    /// The same, of a release that has these machines.
    pub(crate) async fn start_with(&self, name: &str, seeds: &[&Node], machines: Machines) -> Node {
        let votes = self.voters.iter().any(|voter| voter == name);
        let keyring = Keyring::new([SecretKey::new([7; 32]).expect("a key")]).expect("one key");
        let mut info = NodeInfo::new(if votes { self.id(name) } else { NodeId::random().expect("randomness") });
        if votes {
            info = info.role(VOTER_ROLE);
        }
        let config = broadcast::Config::new(name)
            .bind((Ipv4Addr::LOCALHOST, 0).into())
            .envelope(Envelope { keyring, ..Envelope::default() })
            .tuning(Profile::Local.tuning())
            .info(info)
            .join(seeds.iter().map(|seed| seed.addr().parse().expect("an address")).collect::<Vec<_>>());
        let node = broadcast::start(config).await.expect("it starts");
        let sessions = Sessions::start(&node, Default::default()).await.expect("it runs");
        let mut config = StoreConfig::default().replace_after(self.replace_after).machines(machines);
        if votes {
            let path = self.path(name);
            make(&path);
            config = config.voters(self.voters.clone()).data(path);
        }
        let store = Store::start(&sessions, config).await.expect("the disk can be used");
        let folder = votes.then(|| self.path(name));
        Node { name: name.into(), store: store.request_timeout(SOON), sessions, folder }
    }

    /// Starts all voters.
    pub(crate) async fn start_all(&self) -> Vec<Node> {
        let mut nodes: Vec<Node> = Vec::new();
        for name in &self.voters {
            let seeds: Vec<&Node> = nodes.iter().collect();
            let node = self.start(name, &seeds).await;
            nodes.push(node);
        }
        nodes
    }
}

fn make(path: &Path) {
    std::fs::create_dir_all(path).expect("it can be made");
}

impl Node {
    pub(crate) fn addr(&self) -> String {
        self.sessions.node().addr().to_string()
    }

    /// Ends it, and waits until its folder is free. Nobody is handed the leadership.
    pub(crate) async fn crash(self) {
        let Self { store, sessions, folder, .. } = self;
        sessions.node().leave().await;
        drop((store, sessions));
        if let Some(folder) = folder {
            until("its folder is free", async || {
                let folder = broadcast_store::disk::Folder::open(&folder).expect("it is there");
                broadcast_store::disk::Disk::lock(&folder).expect("it can be locked").is_some()
            })
            .await;
        }
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> u64 {
        let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() };
        self.store.put(put).await.expect("it is put").revision
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        let found = self.store.range(Range::of(key.to_owned())).await.expect("it is read");
        found.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).expect("text"))
    }
}

/// Who leads, once somebody does and all of these agree.
pub(crate) async fn leader(nodes: &[Node]) -> usize {
    let mut found = None;
    until("somebody leads", async || {
        let mut leaders = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            let status = node.store.status().await;
            if status
                .iter()
                .any(|(name, status)| *name == node.name && status.as_ref().is_ok_and(|status| status.leads))
            {
                leaders.push(at);
            }
        }
        found = leaders.first().copied().filter(|_| leaders.len() == 1);
        found.is_some()
    })
    .await;
    found.expect("it was found")
}

pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}
