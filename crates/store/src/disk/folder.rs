//! A real folder.
//!
//! A folder `F` is made anew as a whole: as `F.new`, which then takes the place of `F`. What is to be kept of the former one
//! is `F.former`. If a process ends when `F` has been moved there, and before the new one has its name, there is no `F`:
//! such a folder is not made, for it would be empty.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Disk, DiskFile};

const LOCK: &str = "lock";

/// A real directory, as a [`Disk`]. [`DataFolder`](super::DataFolder) has an example.
#[derive(Clone, Debug)]
pub struct Folder {
    path: Arc<Path>,
}

impl Folder {
    /// Opens the folder, and makes it if there is none.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        if Self::is_half_replaced(&path) {
            let kept = Self::kept(&path);
            return Err(io::Error::other(format!(
                "a recovery was broken off, and has left what was in it in {}; recover again",
                kept.display()
            )));
        }
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        Ok(Self { path: path.into() })
    }

    /// Where a folder is made that is to take the place of this one.
    pub(crate) fn next(path: &Path) -> PathBuf {
        with_suffix(path, ".new")
    }

    /// Where a folder is kept whose place another takes.
    pub(crate) fn kept(path: &Path) -> PathBuf {
        with_suffix(path, ".former")
    }

    /// Whether it was moved away, and no other has taken its place.
    pub(crate) fn is_half_replaced(path: &Path) -> bool {
        !path.exists() && Self::next(path).exists() && Self::kept(path).exists()
    }

    /// Gives the folder at [`next`](Self::next) this name, which none or an empty one has.
    pub(crate) fn take_place(path: &Path) -> io::Result<()> {
        fs::rename(Self::next(path), path)?;
        match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

impl Disk for Folder {
    type File = File;
    type Lock = File;

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn lock(&self) -> io::Result<Option<File>> {
        let path = self.path.join(LOCK);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_folder(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        let length = i64::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        loop {
            match nix::fcntl::posix_fallocate(self, 0, length) {
                Err(nix::errno::Errno::EINTR) => {}
                result => return result.map_err(io::Error::from),
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}
