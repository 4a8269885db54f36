//! `broadcast store snapshot`, `restore` and `recover`: backups of the replicated store, and founding a new one.

use std::{io, path::PathBuf, process::ExitCode};

use broadcast_store::backup::{self, Backup, BackupError, NewStore};
use clap::{Args, Subcommand};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::{task::spawn_blocking, time::timeout};

use super::{
    atomic_file::AtomicFile,
    client::{ApiClient, ApiRequest, LEADER_WAIT},
    node::name_or_default,
    output,
    signals::StopSignals,
    sse::SILENCE,
    store_api::json::id_text,
};
use crate::{
    data::DataDir,
    failure::Failure,
    settings::{client::ClientArgs, node::node_name, values::path},
    store, visible,
};

/// Save all that the store has in a file
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  broadcast store snapshot save backup")]
pub(super) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    Save(SaveArgs),
}

/// Save all that the store has in a file, through any node
///
/// The file has keys with their history, and leases. It is written whole and checked before it has its name; then it
/// takes the place of a file of that name.
///
/// Exit codes: 0, saved; 1, not saved; 2, wrong usage; 130, Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast store snapshot save backup\n  \
    broadcast store snapshot save backup --node 10.0.0.1:8946 --json")]
struct SaveArgs {
    /// File to write, readable by you alone
    #[arg(value_name = "FILE", value_parser = path())]
    file: PathBuf,

    #[command(flatten)]
    client: ClientArgs,
}

/// Make the data directory of a voter from a file that `snapshot save` wrote
///
/// This founds another store, with what the former one had: a new id, this node as its only voter, and revisions that
/// go on far further, so that none of the former store's is mistaken for one of this. Then start the node, and the
/// other voters with empty data directories, and take these in with `broadcast voters add`.
///
/// Exit codes: 0, restored; 1, not restored, and no store was made; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  broadcast store restore backup --name node1 --data /var/lib/broadcast")]
pub(super) struct RestoreArgs {
    /// The file
    #[arg(value_name = "FILE", value_parser = path())]
    file: PathBuf,

    /// Data directory of the voter: made if it is not there; it must have no store
    #[arg(long, env = "BROADCAST_DATA", value_name = "DIRECTORY", value_parser = path())]
    data: PathBuf,

    /// Name of the voter [default: that of a node here, see broadcast node --help]
    #[arg(long, env = "BROADCAST_NAME", value_parser = node_name)]
    name: Option<String>,
}

/// Found the store anew, from the data directory of one voter, when most voters are lost for good
///
/// The node must not run. Its store has a new id then, this node as its only voter, and revisions that go on far
/// further. Of the voters that are left, take the one with the latest `last_term` in `store status --json`, and of those
/// with the same the one with the greatest `last`. Never start the former voters again with their data directories:
/// empty these first, and take the nodes in with `broadcast voters add`. What the directory had is kept in it, in
/// `store.former`.
///
/// Exit codes: 0, recovered; 1, not recovered, and the directory is as it was; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  broadcast store recover --force-new-cluster --data /var/lib/broadcast")]
pub(super) struct RecoverArgs {
    /// Says that the other voters are lost for good
    #[arg(long, required = true)]
    force_new_cluster: bool,

    /// Data directory of the voter
    #[arg(long, env = "BROADCAST_DATA", value_name = "DIRECTORY", value_parser = path())]
    data: PathBuf,
}

pub(super) async fn snapshot(args: SnapshotArgs) -> Result<ExitCode, Failure> {
    let SnapshotCommand::Save(args) = args.command;
    let mut signals = StopSignals::new().map_err(Failure::other)?;
    tokio::select! {
        saved = save(args) => saved,
        code = signals.exit_code() => Ok(code),
    }
}

async fn save(SaveArgs { file, client: args }: SaveArgs) -> Result<ExitCode, Failure> {
    let client = ApiClient::new(&args)?;
    let request = ApiRequest { path: "/v1/store/snapshot", server_wait: LEADER_WAIT, ..ApiRequest::default() };
    let mut body = client.send(request).await?.into_body();
    let shown = visible::path(&file);
    let cannot_write = |error: io::Error| Failure::other(format!("cannot write {shown}: {error}; name another FILE"));
    let mut partial = AtomicFile::new(&file).map_err(&cannot_write)?;
    loop {
        let frame = timeout(SILENCE, body.frame()).await;
        let frame = frame.map_err(|_| Failure::other(format!("{} sends nothing any more", client.node)))?;
        let Some(frame) = frame.transpose().map_err(|error| client.broke_off(&error))? else { break };
        let Ok(piece) = frame.into_data() else { continue };
        // Not on this thread: a slow disk must not keep a signal from ending the program.
        let written = spawn_blocking(move || partial.write(&piece).map(|()| partial));
        partial = written.await.map_err(io::Error::other).and_then(|written| written).map_err(&cannot_write)?;
    }
    let checked = spawn_blocking(move || Backup::open(partial.path()).map(|backup| (backup, partial)));
    let (backup, partial) = checked.await.map_err(Failure::other)?.map_err(|error| {
        Failure::other(format!("what {} sent is no whole backup: {error}; save again", client.node))
    })?;
    let finished = spawn_blocking(move || partial.commit()).await;
    finished.map_err(io::Error::other).and_then(|finished| finished).map_err(&cannot_write)?;
    let (header, bytes) = (backup.header(), backup.size());
    let cluster = id_text(header.cluster);
    output::print_line(&if args.json {
        let (revision, index, term) = (header.revision, header.index, header.term);
        let saved = json!({"file": file.to_string_lossy(), "cluster": cluster, "revision": revision, "index": index,
            "term": term, "bytes": bytes});
        visible::escaped_json(&saved.to_string())
    } else {
        let (revision, index) = (header.revision, header.index);
        format!("saved store {cluster} at revision {revision}, entry {index}, in {shown}: {bytes} bytes")
    })?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn restore(args: RestoreArgs) -> Result<ExitCode, Failure> {
    let RestoreArgs { file, data, name } = args;
    let name = name_or_default(name).await?;
    let restored = spawn_blocking(move || -> Result<NewStore, Failure> {
        let backup = Backup::open(&file)?;
        let data = DataDir::open(&data)?;
        Ok(backup::restore(backup, &store::machines(), &store::folder(data.path()), data.id().get(), &name)?)
    });
    print_founded("restored", restored.await.map_err(Failure::other)??)
}

pub(super) async fn recover(args: RecoverArgs) -> Result<ExitCode, Failure> {
    debug_assert!(args.force_new_cluster, "it has to be given");
    let recovered = spawn_blocking(move || -> Result<NewStore, Failure> {
        if !args.data.is_dir() {
            let shown = visible::path(&args.data);
            let problem = "there is no such directory; name that of a voter";
            return Err(Failure::other(format!("BROADCAST_DATA (--data) = {shown}: {problem}")));
        }
        backup::check_voter(&store::folder(&args.data))?;
        let data = DataDir::open(&args.data)?;
        Ok(backup::recover(&store::machines(), &store::folder(data.path()), data.id().get())?)
    });
    print_founded("recovered", recovered.await.map_err(Failure::other)??)
}

/// Says which store was founded, and from which one.
fn print_founded(done: &str, founded: NewStore) -> Result<ExitCode, Failure> {
    let NewStore { former, former_revision, former_index, former_term, cluster, revision, voter } = founded;
    output::print(format!(
        "{done} store {} at revision {former_revision}, entry {former_index} of term {former_term}\n\
         it is store {} now, from revision {revision} on, with {} as its only voter\n",
        id_text(former),
        id_text(cluster),
        visible::escaped(&voter)
    ))?;
    Ok(ExitCode::SUCCESS)
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Self::other(visible::escaped(&error.to_string()))
    }
}
