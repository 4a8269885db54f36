//! The snapshots of a folder: the current one, and those that are being written or received.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::{self, FileName, HEADER, SnapshotFile, SnapshotHeader};
use super::pieces::PieceWriter;
use super::{SnapshotFileError, SnapshotMeta};
use crate::disk::{Disk, DiskFile};
use crate::log::LogId;

const SUFFIX: &str = ".snapshot";
const TEMPORARY: &str = ".snapshot.tmp";

/// The snapshots of a directory. Clones are of the same directory.
///
/// ```no_run
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use broadcast_store::{disk::Folder, snapshot::{SnapshotMeta, Snapshots}};
///
/// let snapshots = Snapshots::open(Folder::open("/tmp/node1")?, 1, None)?;
/// let file = snapshots.write(&SnapshotMeta::default(), |out| out.write_all(b"the state"))?;
/// let (_, state) = snapshots.read(&file, |input| std::io::read_to_string(input))?;
/// assert_eq!(state, "the state");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Snapshots<D: Disk> {
    shared: Arc<Shared<D>>,
}

impl<D: Disk> Clone for Snapshots<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

#[derive(Debug)]
struct Shared<D: Disk> {
    disk: D,
    cluster: u64,
    store: Arc<()>,
    temporary: AtomicU64,
    /// How many are being written, received or made durable.
    unfinished: Arc<AtomicU64>,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile<D>)>>,
    /// One at a time is made durable: two would disagree about which is the newest.
    keeping: Mutex<()>,
}

fn file_name(last: Option<LogId>) -> String {
    // The snapshot of a state before any entry is older than all others.
    let (term, index) = last.map_or((0, 0), |last| (last.term, last.index + 1));
    format!("{term:020}-{index:020}{SUFFIX}")
}

impl<D: Disk> Snapshots<D> {
    /// Opens the snapshots of a folder whose log has lost all entries up to `purged`.
    pub fn open(disk: D, cluster: u64, purged: Option<LogId>) -> Result<Self, SnapshotFileError> {
        let folder = disk.name();
        let mut names = disk.list().map_err(SnapshotFileError::io(&folder, "list its files"))?;
        for name in names.iter().filter(|name| name.ends_with(TEMPORARY)) {
            disk.remove(name).map_err(SnapshotFileError::io(name, "remove"))?;
        }
        names.retain(|name| name.ends_with(SUFFIX));
        names.sort_unstable();
        let store = Arc::new(());
        let (mut current, mut damaged, mut broken) = (None, String::new(), Vec::new());
        while let Some(name) = names.pop() {
            match load(&disk, &store, &name, cluster) {
                Ok(found) => {
                    current = Some(found);
                    break;
                }
                Err(error @ SnapshotFileError::Damaged { .. }) => {
                    tracing::error!(%error, "a snapshot cannot be read; an older one may do");
                    damaged += &format!(" ({error})");
                    broken.push(name);
                }
                // A failing disk, or a file of others, is nothing to work around.
                Err(error) => return Err(error),
            }
        }
        let last = current.as_ref().and_then(|(meta, _): &(SnapshotMeta, _)| meta.last).map(|last| last.index);
        if let Some(purged) = purged.map(|purged| purged.index).filter(|purged| last.is_none_or(|last| last < *purged))
        {
            return Err(SnapshotFileError::Gap { purged, snapshot: last, damaged });
        }
        // A process that ended may have given a snapshot its name without making that durable.
        disk.sync_folder().map_err(SnapshotFileError::io(&folder, "sync the folder"))?;
        // Only now is it certain that the others are not wanted, for a repair by hand.
        for name in names.iter().chain(&broken) {
            disk.remove(name).map_err(SnapshotFileError::io(name, "remove"))?;
        }
        let shared = Shared {
            disk,
            cluster,
            store,
            temporary: AtomicU64::new(0),
            unfinished: Arc::default(),
            current: Mutex::new(current),
            keeping: Mutex::new(()),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The newest snapshot that is durable.
    pub fn current(&self) -> Option<(SnapshotMeta, SnapshotFile<D>)> {
        self.lock().clone()
    }

    /// Writes a snapshot whose state `state` writes, and makes it durable. Blocks.
    pub fn write(
        &self,
        meta: &SnapshotMeta,
        state: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<SnapshotFile<D>, SnapshotFileError> {
        let _unfinished = self.begin();
        let mut incoming = self.receive()?;
        let name = incoming.name.clone();
        let description = meta.write();
        let start = HEADER + description.len() as u64;
        let file = incoming.file.as_ref().ok_or_else(|| gone(&name))?;
        file.write_at(&description, HEADER).map_err(SnapshotFileError::io(&name, "write"))?;
        let mut pieces = PieceWriter::new(file, start);
        state(&mut pieces).map_err(|source| SnapshotFileError::State { file: name.clone(), source })?;
        let end = pieces.finish().map_err(SnapshotFileError::io(&name, "write"))?;
        let header = SnapshotHeader { cluster: self.shared.cluster, length: end - HEADER, description };
        file.write_at(&header.write(), 0).map_err(SnapshotFileError::io(&name, "write its header"))?;
        incoming.size = end;
        let file = incoming.finish()?;
        self.keep(meta, &file)?;
        Ok(file)
    }

    /// Begins to receive a snapshot's file from another node.
    pub fn receive(&self) -> Result<SnapshotReceiver<D>, SnapshotFileError> {
        let number = self.shared.temporary.fetch_add(1, Ordering::Relaxed);
        let name = format!("{number}{TEMPORARY}");
        let file = self.shared.disk.create(&name).map_err(SnapshotFileError::io(&name, "create"))?;
        Ok(SnapshotReceiver { snapshots: self.clone(), name, file: Some(file), size: 0, _unfinished: self.begin() })
    }

    /// Whether one is being written, received or made durable.
    pub fn is_busy(&self) -> bool {
        self.shared.unfinished.load(Ordering::Relaxed) > 0
    }

    fn begin(&self) -> Unfinished {
        self.shared.unfinished.fetch_add(1, Ordering::Relaxed);
        Unfinished(self.shared.unfinished.clone())
    }

    /// Reads a snapshot's state with `state`, and checks that the file is whole and of this cluster. Blocks.
    pub fn read<T>(
        &self,
        file: &SnapshotFile<D>,
        state: impl FnOnce(&mut dyn Read) -> io::Result<T>,
    ) -> Result<(SnapshotMeta, T), SnapshotFileError> {
        let inner = &file.inner;
        let name = inner.name().name;
        let file = inner.file.as_ref().ok_or_else(|| gone(&name))?;
        file::read(file, inner.size, &name, self.shared.cluster, state)
    }

    /// Makes a snapshot that was read through durable, and the current one if it is the newest; then removes older ones.
    /// Blocks.
    pub fn keep(&self, meta: &SnapshotMeta, file: &SnapshotFile<D>) -> Result<(), SnapshotFileError> {
        if !Arc::ptr_eq(&file.inner.store, &self.shared.store) {
            return self.keep(meta, &self.copy(file)?);
        }
        let disk = &self.shared.disk;
        let _unfinished = self.begin();
        let _keeping = self.shared.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        let old = file.inner.name();
        if self.lock().as_ref().is_some_and(|(newest, _)| newest.last > meta.last) || !old.temporary {
            return Ok(());
        }
        let bytes = file.inner.file.as_ref().ok_or_else(|| gone(&old.name))?;
        bytes.sync().map_err(SnapshotFileError::io(&old.name, "sync"))?;
        let name = file_name(meta.last);
        disk.rename(&old.name, &name).map_err(SnapshotFileError::io(&old.name, "rename"))?;
        file.inner.set_name(FileName { name: name.clone(), temporary: false });
        disk.sync_folder().map_err(SnapshotFileError::io(&name, "sync its folder"))?;
        let before = self.lock().replace((meta.clone(), file.clone()));
        if let Some((_, before)) = before
            && before.inner.name().name != name
        {
            // Who sends it has it open. What stays is removed at the next start.
            if let Err(error) = disk.remove(&before.inner.name().name) {
                tracing::warn!(%error, "cannot remove an older snapshot");
            }
        }
        Ok(())
    }

    fn copy(&self, file: &SnapshotFile<D>) -> Result<SnapshotFile<D>, SnapshotFileError> {
        let mut incoming = self.receive()?;
        let (mut piece, mut offset) = (vec![0; 64 << 10], 0);
        loop {
            let name = file.inner.name().name;
            let n = file.read_at(&mut piece, offset).map_err(SnapshotFileError::io(&name, "read"))?;
            if n == 0 {
                return incoming.finish();
            }
            incoming.write(&piece[..n])?;
            offset += n as u64;
        }
    }

    /// No snapshot, for who must give one: it is of nothing, and empty.
    pub(crate) fn nothing(&self) -> SnapshotFile<D> {
        let name = FileName { name: "no snapshot".into(), temporary: false };
        SnapshotFile::new(&self.shared.disk, None, name, 0, &self.shared.store)
    }

    fn lock(&self) -> MutexGuard<'_, Option<(SnapshotMeta, SnapshotFile<D>)>> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(name: &str) -> SnapshotFileError {
    SnapshotFileError::Io { file: name.into(), what: "use", source: io::ErrorKind::NotFound.into() }
}

// Reads the whole file: one that cannot be read must be known before the log is believed.
fn load<D: Disk>(
    disk: &D,
    store: &Arc<()>,
    name: &str,
    cluster: u64,
) -> Result<(SnapshotMeta, SnapshotFile<D>), SnapshotFileError> {
    let file = disk.open(name).map_err(SnapshotFileError::io(name, "open"))?;
    let size = file.size().map_err(SnapshotFileError::io(name, "read its length"))?;
    let (meta, _) = file::read(&file, size, name, cluster, |state| io::copy(state, &mut io::sink()))?;
    if file_name(meta.last) != name {
        return Err(SnapshotFileError::Damaged {
            file: name.into(),
            problem: "has the name of another snapshot".into(),
        });
    }
    let name = FileName { name: name.into(), temporary: false };
    Ok((meta, SnapshotFile::new(disk, Some(file), name, size, store)))
}

/// Receives a snapshot's file from another node. Its drop removes the file, unless it is whole. [`Snapshots::receive`] makes it.
#[derive(Debug)]
pub struct SnapshotReceiver<D: Disk> {
    snapshots: Snapshots<D>,
    name: String,
    file: Option<D::File>,
    size: u64,
    _unfinished: Unfinished,
}

/// Counts a snapshot as unfinished until its drop.
#[derive(Debug)]
struct Unfinished(Arc<AtomicU64>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<D: Disk> SnapshotReceiver<D> {
    /// Writes the next bytes of the file. Blocks.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        let file = self.file.as_ref().ok_or_else(|| gone(&self.name))?;
        file.write_at(bytes, self.size).map_err(SnapshotFileError::io(&self.name, "write"))?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// How many bytes have come.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file is whole. It is neither checked nor durable yet.
    pub fn finish(mut self) -> Result<SnapshotFile<D>, SnapshotFileError> {
        let file = self.file.take().ok_or_else(|| gone(&self.name))?;
        let name = FileName { name: self.name.clone(), temporary: true };
        let shared = &self.snapshots.shared;
        Ok(SnapshotFile::new(&shared.disk, Some(file), name, self.size, &shared.store))
    }
}

impl<D: Disk> Drop for SnapshotReceiver<D> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = self.snapshots.shared.disk.remove(&self.name);
        }
    }
}
