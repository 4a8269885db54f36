//! Making the folder of a voter, while no process uses it.

use std::{
    fs,
    io::{self, BufReader, BufWriter, Write as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use rand::{TryRng as _, rngs::SysRng};

use super::{Backup, BackupError, BackupHeader};
use crate::{
    disk::{DataFolder, Disk as _, Folder, Ids},
    log::{Log, LogOptions},
    machine::{Command, LogId, Machines, REVISION_JUMP, State},
    raft::{self, MAX_SNAPSHOT, OfflineEntry},
    snapshot::Snapshots,
};

/// How many bytes of the log are read at once.
const READ: usize = 1 << 20;

/// A new store with a single voter, and where its state is from. [`restore`] and [`recover`] return it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStore {
    /// The id of the store that its state is from.
    pub former: u64,
    /// The current revision of that store.
    pub former_revision: u64,
    /// The last entry of the log that its state is from.
    pub former_index: u64,
    /// The term of that entry.
    pub former_term: u64,
    /// The id of the new store.
    pub cluster: u64,
    /// The current revision of the new store, and the first one that can be read.
    pub revision: u64,
    /// The name of its only voter.
    pub voter: String,
}

/// Makes the directory `folder` of the voter `name`, whose id is `node`, from a backup. The directory must be empty, or must not
/// exist. Blocks.
///
/// # Errors
///
/// See [`BackupError`]. The directory is unchanged.
///
/// ```no_run
/// # fn run() -> Result<(), broadcast_store::backup::BackupError> {
/// use std::path::Path;
/// use broadcast_store::{backup::{Backup, restore}, machine::Machines};
///
/// let backup = Backup::open(Path::new("store.backup"))?;
/// let store = restore(backup, &Machines::default(), Path::new("/var/lib/broadcast"), 7, "node1")?;
/// println!("store {:016x} begins at revision {}", store.cluster, store.revision);
/// # Ok(())
/// # }
/// ```
pub fn restore(
    mut backup: Backup,
    machines: &Machines,
    folder: &Path,
    node: u64,
    name: &str,
) -> Result<NewStore, BackupError> {
    let state = backup.state(machines)?;
    let kept = Folder::kept(folder);
    if kept.exists() {
        // Should this be broken off, what it leaves must not look like a recovery that was.
        return Err(BackupError::Kept { folder: kept.display().to_string() });
    }
    if let Some(file) = any_file(folder)? {
        return Err(BackupError::NotEmpty { folder: folder.display().to_string(), file });
    }
    let BackupHeader { cluster, index, term, .. } = backup.header();
    let (founded, _lock) = found(cluster, LogId { term, index }, state, folder, node, name)?;
    Folder::take_place(folder).map_err(BackupError::io("make", folder))?;
    Ok(founded)
}

/// Whether the folder `folder` is that of a voter, which [`recover`] needs. Nothing is written: to open a folder is to make it
/// one.
///
/// # Errors
///
/// [`BackupError::NoStore`].
pub fn check_voter(folder: &Path) -> Result<(), BackupError> {
    if DataFolder::<Folder>::is_in(folder) || Folder::is_half_replaced(folder) {
        return Ok(());
    }
    Err(BackupError::NoStore { folder: folder.display().to_string() })
}

/// Makes the folder `folder` anew, from what it has. It belongs to a voter of a store that has lost its majority, which is
/// to be founded anew with the node `node` alone, under the name of that voter. The former folder is kept beside it. Blocks.
///
/// # Errors
///
/// See [`BackupError`]. The folder is as it was, unless the disk fails in between.
pub fn recover(machines: &Machines, folder: &Path, node: u64) -> Result<NewStore, BackupError> {
    let cannot = |what| BackupError::io(what, folder);
    check_voter(folder)?;
    let kept = Folder::kept(folder);
    if Folder::is_half_replaced(folder) {
        fs::rename(&kept, folder).map_err(cannot("move back"))?;
    }
    if kept.exists() {
        return Err(BackupError::Kept { folder: kept.display().to_string() });
    }
    let nothing = || BackupError::NoStore { folder: folder.display().to_string() };
    let disk = Folder::open(folder).map_err(cannot("open"))?;
    let former = DataFolder::open(disk.clone(), node)?;
    let cluster = former.cluster().ok_or_else(nothing)?;
    let Some((state, last, name)) = replay(machines, disk, Ids { cluster, node: former.node() })? else {
        return Err(nothing());
    };
    let name = name.ok_or_else(|| BackupError::NoVote { folder: folder.display().to_string(), node: former.node() })?;
    let (founded, _lock) = found(cluster, last, state, folder, node, &name)?;
    fs::rename(folder, &kept).map_err(cannot("move away"))?;
    Folder::take_place(folder).map_err(cannot("make"))?;
    Ok(founded)
}

/// What a voter's disk leads to.
type ReplayedStore = (State, LogId, Option<String>);

/// The state that a voter's disk leads to, whether or not the voter knew that all of it was agreed on, its last entry, and by
/// which name it took part then. Nothing if its store has not begun.
fn replay(machines: &Machines, disk: Folder, ids: Ids) -> Result<Option<ReplayedStore>, BackupError> {
    let name = disk.name();
    let path = Path::new(&name);
    let (log, _writer) = Log::open(disk.clone(), ids, LogOptions::default())?;
    let snapshots = Snapshots::open(disk, ids.cluster, log.state().purged)?;
    let (mut state, mut members, mut last) = match snapshots.current() {
        Some((meta, file)) => {
            let read = |input: &mut dyn io::Read| {
                State::read_snapshot(machines.make(), &mut BufReader::new(input), MAX_SNAPSHOT)
                    .map_err(io::Error::other)
            };
            let (_, state) = snapshots.read(&file, read)?;
            let members = raft::snapshot_members(&meta).map_err(BackupError::io("read who votes from", path))?;
            (state, Some(members), meta.last)
        }
        None => (State::with(machines.make()), None, None),
    };
    let next = |last: Option<LogId>| last.map_or(0, |last| last.index + 1);
    let end = next(log.state().last);
    let reader = log.reader();
    while next(last) < end {
        for entry in reader.read(next(last)..end, READ)? {
            last = Some(entry.log_id);
            let at = LogId { index: entry.log_id.index, term: entry.log_id.term };
            match raft::decode_entry(entry).map_err(BackupError::io("read the log of", path))? {
                OfflineEntry::Blank => {}
                OfflineEntry::Command(command) => drop(state.apply(at, &Command::decode(&command)?)?),
                OfflineEntry::Members(of) => members = Some(of),
            }
        }
    }
    Ok(members.map(|members| (state, last.unwrap_or_default(), members.get(&ids.node).cloned())))
}

/// Makes the folder that is to take the place of another, of a store with this state. It is locked until the second is
/// dropped.
fn found(
    former: u64,
    last: LogId,
    mut state: State,
    folder: &Path,
    node: u64,
    name: &str,
) -> Result<(NewStore, DataFolder<Folder>), BackupError> {
    let former_revision = state.keys().revision();
    let new = Folder::next(folder);
    let drawn = SysRng.try_next_u64().map_err(io::Error::other);
    let cluster = drawn.map_err(BackupError::io("draw a random number for", &new))?;
    // Later than all that was founded before, with whatever state, as no store changes a million times a second; unless the
    // clock is behind.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_micros()).unwrap_or_default();
    let jump = now.checked_sub(former_revision).filter(|jump| *jump > 0).unwrap_or(REVISION_JUMP);
    state.found_anew(jump).map_err(BackupError::NoRoom)?;
    remove(&new)?;
    let lock = make(&new, &state, cluster, node, name).inspect_err(|_| drop(remove(&new)))?;
    let revision = state.keys().revision();
    let LogId { term: former_term, index: former_index } = last;
    let voter = name.into();
    Ok((NewStore { former, former_revision, former_index, former_term, cluster, revision, voter }, lock))
}

fn remove(folder: &Path) -> Result<(), BackupError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(BackupError::io("remove", folder)(error)),
        _ => Ok(()),
    }
}

fn make(new: &Path, state: &State, cluster: u64, node: u64, name: &str) -> Result<DataFolder<Folder>, BackupError> {
    let cannot = |what| BackupError::io(what, new);
    let disk = Folder::open(new).map_err(cannot("make"))?;
    let mut made = DataFolder::open(disk.clone(), node)?;
    let snapshots = Snapshots::open(disk, cluster, None)?;
    let meta = raft::single_voter(node, name).map_err(cannot("name a voter for"))?;
    snapshots.write(&meta, |out| {
        let mut out = BufWriter::new(out);
        state.write_snapshot(&mut out)?;
        out.flush()
    })?;
    made.join(cluster)?;
    Ok(made)
}

/// A file of a folder, if there is one.
fn any_file(folder: &Path) -> Result<Option<String>, BackupError> {
    let cannot = |error| BackupError::io("list", folder)(error);
    match fs::read_dir(folder) {
        Ok(mut files) => {
            let file = files.next().transpose().map_err(cannot)?;
            Ok(file.map(|file| file.file_name().to_string_lossy().into_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot(error)),
    }
}
