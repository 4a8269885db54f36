//! `broadcast node`: runs one node until it is told to stop.
//!
//! What can be refused is refused before the node joins: the data directory, addresses, tokens and certificates come first.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, pin::pin, process::ExitCode, sync::Arc};

use broadcast::{Handle, NodeId, NodeInfo, start};
use clap::Args;
use tokio::{sync::Notify, task::spawn_blocking};
use tracing::{info, warn};

use super::{
    control,
    etcd_api::EtcdApi,
    http_api::{HttpApi, ServeConfig},
    lock_api,
    reload::Reloader,
    signals::StopSignals,
    store_api, unknown_settings,
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

pub(super) async fn run(args: NodeArgs) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::new().map_err(Failure::other)?;
    let settings = args.settings;
    let mut reloader = Reloader::new(settings.envelope.secret_keys_file.clone()).map_err(Failure::other)?;
    let (roles, every) = (settings.role.clone(), settings.interval.interval);
    let StartedNode { node, api, etcd, serving, log, data, store } = tokio::select! {
        started = start_node(settings) => started?,
        _ = signals.exit_code() => return Ok(ExitCode::SUCCESS),
    };
    let (shutdown_guard, shutdown) = roles::shutdown();
    let context = Context { node: node.clone(), data, store: store.clone(), shutdown };
    let mut running_roles = pin!(roles::run(&roles, &context, every));
    let serving = (api.is_served() || etcd.is_served()).then_some(serving);
    let leave = Arc::new(Notify::new());
    let http_thread =
        api.serve(&node, [control::routes(&node, log, &leave), store_api::routes(&store), lock_api::routes(&store)])?;
    let etcd_thread = etcd.serve(&node, &store)?;
    let (why, failure) = tokio::select! {
        () = reloader.run(&node, serving) => ("its terminal was closed", None),
        ended = &mut running_roles => match ended {
            Ok(()) => return Err(Failure::other("the node stopped by itself; see its log")),
            Err(error) => ("a role cannot go on", Some(Failure::other(error))),
        },
        signal = signals.next() => (signal.reason(), None),
        () = leave.notified() => (control::TOLD_TO_LEAVE, None),
    };
    roles::leaving(node.name(), why);
    drop(shutdown_guard);
    let leaving = async {
        // Another voter leads before this node is gone, so that nobody waits for an election.
        store.stop().await;
        node.leave().await;
        if failure.is_none() {
            // Messages that arrive meanwhile are still logged.
            let _ = running_roles.await;
        }
        http_thread.join().await;
        etcd_thread.join().await;
    };
    let code = signals.while_leaving(leaving).await;
    failure.map_or(Ok(code), Err)
}

/// Warns if everybody on this host can read a secret. Docker's secrets are readable by all, but only in the container.
fn warn_if_world_readable(file: &Path) {
    let mode = file.metadata().map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 && !file.starts_with("/run/secrets") {
        warn!(event = "secret", file = %file.display(), "everybody on this host can read {file:?}: chmod 600 {file:?}");
    }
}

/// A node that has started, and what belongs to it.
struct StartedNode {
    node: Handle,
    api: HttpApi,
    etcd: EtcdApi,
    /// How `api` and `etcd` are served.
    serving: ServeConfig,
    log: log::LogControl,
    data: Option<Arc<DataDir>>,
    store: NodeStore,
}

async fn start_node(settings: NodeSettings) -> Result<StartedNode, Failure> {
    settings.check()?;
    let name = name_or_default(settings.name.clone()).await?;
    let voters = settings.voters_with(&name)?;
    let insecure_sessions = settings.insecure_sessions;
    let log = log::start(&settings.log.log, settings.log.log_format, log::Nodes::One(name.clone()))
        .map_err(Failure::start)?;
    unknown_settings::log("node", &name);
    let secrets = settings.envelope.secret_keys_file.iter().chain(settings.http.token_files());
    secrets.chain(settings.http.tls.key_file()).for_each(|file| warn_if_world_readable(file));
    let data = match settings.data.clone() {
        // Not on this thread: a slow disk must not keep a signal from ending the program.
        Some(path) => Some(Arc::new(spawn_blocking(move || DataDir::open(&path)).await.map_err(Failure::other)??)),
        None => None,
    };
    let serving = ServeConfig::read(&settings.http, &name)?;
    let api = HttpApi::bind(&serving, &name)?;
    let etcd = EtcdApi::bind(&settings.etcd, &serving, &name, !voters.is_empty())?;
    if api.is_served() || etcd.is_served() {
        serving.warn_of_expiry();
    }
    let info = node_info(data.as_deref(), &settings.role, api.endpoint().into_iter().chain(etcd.endpoint()))?;
    let has_faults = settings.faults.as_ref().is_some_and(|faults| !faults.is_inactive());
    let node = start(settings.config(name)?.info(info)).await?;
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
    Ok(StartedNode { node, api, etcd, serving, log: log.control, data, store })
}

/// The name that was given, or a default for this host.
pub(super) async fn name_or_default(name: Option<String>) -> Result<String, Failure> {
    match name {
        Some(name) => Ok(name),
        None => name::default_name().await.map_err(|error| {
            Failure::usage(format!("cannot find out this host's name: {error}; set BROADCAST_NAME (--name)"))
        }),
    }
}

/// What the node tells the others about itself: its id, its roles and where it is served.
pub(super) fn node_info(
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
