//! Where a voter keeps its log and snapshots: in a directory, or in memory as long as it runs.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use crate::disk::{Disk, DiskFile, Folder};

/// A directory on a disk, or one in memory that is gone with the process.
#[derive(Clone, Debug)]
pub(super) enum VoterDisk {
    Folder(Folder),
    Memory(Memory),
}

impl VoterDisk {
    pub(super) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        Ok(match path {
            Some(path) => Self::Folder(Folder::open(path)?),
            None => Self::Memory(Memory::default()),
        })
    }
}

/// An open file of a [`VoterDisk`].
#[derive(Debug)]
pub(super) enum VoterFile {
    Folder(<Folder as Disk>::File),
    Memory(MemoryFile),
}

impl Disk for VoterDisk {
    type File = VoterFile;
    type Lock = Option<<Folder as Disk>::Lock>;

    fn name(&self) -> String {
        match self {
            Self::Folder(folder) => folder.name(),
            Self::Memory(_) => "memory".into(),
        }
    }

    fn lock(&self) -> io::Result<Option<Self::Lock>> {
        match self {
            Self::Folder(folder) => Ok(folder.lock()?.map(Some)),
            Self::Memory(_) => Ok(Some(None)),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Folder(folder) => folder.list(),
            Self::Memory(memory) => Ok(memory.files().keys().cloned().collect()),
        }
    }

    fn open(&self, name: &str) -> io::Result<VoterFile> {
        match self {
            Self::Folder(folder) => folder.open(name).map(VoterFile::Folder),
            Self::Memory(memory) => {
                let file = memory.files().get(name).cloned();
                file.map(VoterFile::Memory).ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }
    }

    fn create(&self, name: &str) -> io::Result<VoterFile> {
        match self {
            Self::Folder(folder) => folder.create(name).map(VoterFile::Folder),
            Self::Memory(memory) => {
                let file = MemoryFile::default();
                memory.files().insert(name.into(), file.clone());
                Ok(VoterFile::Memory(file))
            }
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.rename(from, to),
            Self::Memory(memory) => {
                let mut files = memory.files();
                let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
                files.insert(to.into(), file);
                Ok(())
            }
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.remove(name),
            Self::Memory(memory) => {
                memory.files().remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }
    }

    fn sync_folder(&self) -> io::Result<()> {
        match self {
            Self::Folder(folder) => folder.sync_folder(),
            Self::Memory(_) => Ok(()),
        }
    }
}

impl DiskFile for VoterFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self {
            Self::Folder(file) => file.read_at(buffer, offset),
            Self::Memory(file) => file.read_at(buffer, offset),
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::Folder(file) => file.write_at(bytes, offset),
            Self::Memory(file) => file.write_at(bytes, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self {
            Self::Folder(file) => file.sync(),
            Self::Memory(_) => Ok(()),
        }
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        match self {
            Self::Folder(file) => file.preallocate(length),
            // Nothing is allocated before it is written.
            Self::Memory(file) => {
                file.0.write().unwrap_or_else(PoisonError::into_inner).size = length;
                Ok(())
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        match self {
            Self::Folder(file) => file.size(),
            Self::Memory(file) => Ok(file.0.read().unwrap_or_else(PoisonError::into_inner).size),
        }
    }
}

/// A directory in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<BTreeMap<String, MemoryFile>>>);

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, MemoryFile>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file in memory. It stays as long as somebody has it open, whatever becomes of its name.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryFile(Arc<RwLock<Content>>);

#[derive(Debug, Default)]
struct Content {
    /// The bytes that were written; zeros follow up to `size`.
    bytes: Vec<u8>,
    size: u64,
}

impl MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let left = content.size.saturating_sub(offset);
        let len = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let written = usize::try_from(offset).ok().and_then(|offset| content.bytes.get(offset..)).unwrap_or_default();
        let (copied, zeros) = buffer[..len].split_at_mut(len.min(written.len()));
        copied.copy_from_slice(&written[..copied.len()]);
        zeros.fill(0);
        Ok(len)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = start.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if content.bytes.len() < end {
            content.bytes.resize(end, 0);
        }
        content.bytes[start..end].copy_from_slice(bytes);
        content.size = content.size.max(end as u64);
        Ok(())
    }
}
