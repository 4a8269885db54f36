//! `broadcast node`: one node, until it is told to stop.

use std::{
    future::Future, io, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, pin::pin, process::ExitCode,
    sync::Arc, time::Duration,
};

use broadcast::{Handle, NodeId, NodeInfo, start};
use clap::Args;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    task::spawn_blocking,
    time::timeout,
};
use tracing::{info, warn};

use super::{
    control,
    etcd_api::EtcdApi,
    lock_api,
    reload::Reload,
    serve::{Api, Live},
    store_api, unknown,
};
use crate::{
    data::DataDir,
    failure::Failure,
    log,
    roles::{self, Context, Roles},
    settings::{name, node::NodeSettings},
    store::NodeStore,
};

/// Run one node until it is told to stop
///
/// A receiver logs every message that it receives. A sender also sends one every interval. SIGINT (Ctrl-C) or
/// SIGTERM makes the node leave the cluster and exit with 0; a second one ends it at once. So does `broadcast leave`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast node --name node1\n  \
    broadcast node --name node2 --role sender --join node1,node3:7946\n  \
    BROADCAST_ROLE=sender BROADCAST_JOIN=10.0.0.1 broadcast node\n\n\
    If a flag and its variable are both set, the flag wins.")]
pub(super) struct NodeArgs {
    #[command(flatten)]
    settings: NodeSettings,
}

/// How long good-byes may take, so that the process ends within 2 seconds.
const GOOD_BYE: Duration = Duration::from_millis(1800);

pub(super) async fn run(args: NodeArgs) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new().map_err(Failure::other)?;
    let settings = args.settings;
    let mut reload = Reload::new(settings.envelope.secret_keys_file.clone()).map_err(Failure::other)?;
    let (roles, every) = (settings.role.clone(), settings.interval.interval);
    let Node { node, api, etcd, live, log, data, store } = tokio::select! {
        node = bring_up(settings) => node?,
        _ = signals.recv() => return Ok(ExitCode::SUCCESS),
    };
    let (running, shutdown) = roles::shutdown();
    let context = Context { node: node.clone(), data, store: store.clone(), shutdown };
    let mut playing = pin!(roles::run(&roles, &context, every));
    let live = (api.is_served() || etcd.is_served()).then_some(live);
    let leave = Arc::new(Notify::new());
    let served =
        api.serve(&node, [control::routes(&node, log, &leave), store_api::routes(&store), lock_api::routes(&store)])?;
    let etcd_served = etcd.serve(&node, &store)?;
    let (why, failure) = tokio::select! {
        () = reload.obey(&node, live) => ("its terminal was closed", None),
        ended = &mut playing => match ended {
            Ok(()) => return Err(Failure::other("the node stopped by itself; see its log")),
            Err(error) => ("a role cannot go on", Some(Failure::other(error))),
        },
        signal = signals.next() => (signal.told(), None),
        () = leave.notified() => (control::TOLD_TO_LEAVE, None),
    };
    roles::leaving(node.name(), why);
    drop(running);
    let leaving = async {
        // Somebody else leads before this node is gone, so that nobody waits for an election.
        store.stop().await;
        node.leave().await;
        if failure.is_none() {
            // What it hears meanwhile is still logged.
            let _ = playing.await;
        }
        served.end().await;
        etcd_served.end().await;
    };
    let code = signals.good_bye(leaving).await;
    failure.map_or(Ok(code), Err)
}

/// A secret that everybody on this host can read is none. That of Docker is, as it makes it, but for the container.
fn warn_if_open(file: &Path) {
    let mode = file.metadata().map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 && !file.starts_with("/run/secrets") {
        warn!(event = "secret", file = %file.display(), "everybody on this host can read {file:?}: chmod 600 {file:?}");
    }
}

/// A node that has begun, and what belongs to it.
struct Node {
    node: Handle,
    api: Api,
    etcd: EtcdApi,
    /// What both are served with.
    live: Live,
    log: log::Control,
    data: Option<Arc<DataDir>>,
    store: NodeStore,
}

async fn bring_up(settings: NodeSettings) -> Result<Node, Failure> {
    settings.check()?;
    let name = name_or_default(settings.name.clone()).await?;
    let voters = settings.voters_with(&name)?;
    let insecure_sessions = settings.insecure_sessions;
    let log = log::start(&settings.log.log, settings.log.log_format, log::Nodes::One(name.clone()))
        .map_err(Failure::start)?;
    unknown::log("node", &name);
    let secrets = settings.envelope.secret_keys_file.iter().chain(settings.http.token_files());
    secrets.chain(settings.http.tls.key_file()).for_each(|file| warn_if_open(file));
    let data = match settings.data.clone() {
        // A disk may take its time, and a signal ends the program all the same.
        Some(path) => Some(Arc::new(spawn_blocking(move || DataDir::open(&path)).await.map_err(Failure::other)??)),
        None => None,
    };
    let live = Live::read(&settings.http, &name)?;
    let api = Api::bind(&live, &name)?;
    let etcd = EtcdApi::bind(&settings.etcd, &live, &name, !voters.is_empty())?;
    if api.is_served() || etcd.is_served() {
        live.warn_of_expiry();
    }
    let about = info(data.as_deref(), &settings.role, api.endpoint().into_iter().chain(etcd.endpoint()))?;
    let has_faults = settings.faults.as_ref().is_some_and(|faults| !faults.is_inactive());
    let node = start(settings.config(name)?.info(about)).await?;
    if has_faults {
        info!(node = node.name(), event = "faults_end", "`broadcast faults none` ends the faults");
    }
    if data.is_none() && !voters.is_empty() {
        warn!(
            node = node.name(),
            event = "store_ephemeral",
            "this voter keeps nothing when it ends: it has no data directory; give it one with BROADCAST_DATA (--data)"
        );
    }
    let store = NodeStore::new(node.clone(), insecure_sessions, voters, data.as_deref().map(DataDir::path));
    Ok(Node { node, api, etcd, live, log: log.control, data, store })
}

/// The name of a node here.
pub(super) async fn name_or_default(name: Option<String>) -> Result<String, Failure> {
    match name {
        Some(name) => Ok(name),
        None => name::default_name().await.map_err(|error| {
            Failure::usage(format!("cannot find out this host's name: {error}; set BROADCAST_NAME (--name)"))
        }),
    }
}

/// What the node tells the others about itself.
pub(super) fn info(
    data: Option<&DataDir>,
    roles: &Roles,
    endpoints: impl IntoIterator<Item = (&'static str, SocketAddr)>,
) -> Result<NodeInfo, Failure> {
    let id = data.map(DataDir::id).or_else(NodeId::random);
    let id =
        id.ok_or_else(|| Failure::other("the system has no source of randomness, from which a node has its id"))?;
    let info = roles.iter().fold(NodeInfo::new(id), |info, role| info.role(role.name()));
    Ok(endpoints.into_iter().fold(info, |info, (service, addr)| info.endpoint(service, addr)))
}

/// What tells the program to stop: SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// One of them, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopSignal {
    Interrupt = 2,
    Terminate = 15,
}

impl StopSignal {
    /// As the log says why a node leaves.
    pub(super) fn told(self) -> &'static str {
        match self {
            Self::Interrupt => "told to stop (SIGINT)",
            Self::Terminate => "told to stop (SIGTERM)",
        }
    }
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next one, as the exit code of what is ended by it.
    pub(super) async fn recv(&mut self) -> ExitCode {
        ExitCode::from(128 + self.next().await as u8)
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }

    /// Waits for the good-byes to be said. One more signal, and they are not waited for.
    pub(super) async fn good_bye(mut self, leaving: impl Future) -> ExitCode {
        tokio::select! {
            _ = timeout(GOOD_BYE, leaving) => ExitCode::SUCCESS,
            code = self.recv() => code,
        }
    }
}
