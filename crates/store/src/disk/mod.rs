//! The few file operations that the log and the snapshots need.
//!
//! A [`Disk`] is one directory. [`Folder`] is a real one. `SimDisk` (feature `sim`) is one in memory that forgets at a crash
//! what was not synced. Everything goes through these traits, so that a test can crash a node at any operation.
//!
//! Bytes are durable once [`DiskFile::sync`] has returned. A name is durable once [`Disk::sync_folder`] has returned: without it
//! a new or renamed file may be gone, or have its old name, after a power cut.

mod folder;
mod identity;
#[cfg(feature = "sim")]
mod sim;

use std::io;

pub use folder::Folder;
pub use identity::{DataFolder, DataFolderError, Ids};
#[cfg(feature = "sim")]
pub use sim::{CrashOutcome, SimDisk, SimFile};

/// A directory with files in it; clones are the same directory. [`Folder`] is a real one.
pub trait Disk: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// Keeps the folder locked until it is dropped.
    type Lock: std::fmt::Debug + Send + Sync + 'static;

    /// The directory's name, for messages.
    fn name(&self) -> String;

    /// Locks the folder against other processes; `None` if one has it.
    fn lock(&self) -> io::Result<Option<Self::Lock>>;

    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that exists.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Makes an empty file, in place of one of this name.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name, in place of the one that had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Who has it open can still read it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable which files there are, and their names.
    fn sync_folder(&self) -> io::Result<()>;
}

/// An open file of a [`Disk`]. Reads and writes name their offset, so that threads can share it.
pub trait DiskFile: std::fmt::Debug + Send + Sync + 'static {
    /// Reads at most `buffer.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes all that was written durable, and as much of the length as reading it needs.
    fn sync(&self) -> io::Result<()>;

    /// Takes room for `length` bytes, which read as zeros, so that writing them cannot fail for want of room.
    fn preallocate(&self, length: u64) -> io::Result<()>;

    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reads `buffer.len()` bytes; an error if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// Reads a whole small file; an error if it has more than `limit` bytes.
pub(crate) fn read_small<F: DiskFile>(file: &F, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.size()?;
    if size > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{size} bytes, and {limit} are the most")));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Writes a small file so that after a crash there is the whole one, or what was before.
pub(crate) fn write_small<D: Disk>(disk: &D, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    let file = disk.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&temporary, name)?;
    disk.sync_folder()
}
