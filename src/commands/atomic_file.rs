//! Writing a file whole or not at all, whatever happens meanwhile: to a temporary file, which is synced and renamed.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rand::{TryRng as _, rngs::SysRng};

/// A file that is being written beside `target`, under a random name. Unless it is committed, dropping this removes it. Only
/// the user who runs the program can read it.
#[derive(Debug)]
pub(super) struct AtomicFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl AtomicFile {
    /// Begins a file that will be `target`.
    pub(super) fn new(target: &Path) -> io::Result<Self> {
        let random = SysRng.try_next_u64().map_err(io::Error::other)?;
        let mut name = target.file_name().map_or_else(OsString::new, OsString::from);
        name.push(format!(".{random:016x}"));
        let path = target.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, target: target.to_owned() })
    }

    /// The temporary file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes it `target`, unless that exists.
    pub(super) fn commit_new(self) -> io::Result<()> {
        self.file.sync_all()?;
        // A rename would replace a file.
        fs::hard_link(&self.path, &self.target)?;
        let target = self.target.clone();
        // The folder is synced without the temporary name.
        drop(self);
        sync_folder(&target)
    }

    /// Makes it `target`, in place of what was there.
    pub(super) fn commit(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        sync_folder(&self.target)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // Fails if it was renamed, which is fine.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
