//! A file that is written whole, or not at all, whatever happens meanwhile.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rand::{TryRng as _, rngs::SysRng};

/// A file that does not have its name yet: it has another one beside it, and is removed when this is dropped. Only who runs
/// the program can read it.
#[derive(Debug)]
pub(super) struct Unfinished {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Unfinished {
    /// Begins a file that is to have the name `target`.
    pub(super) fn new(target: &Path) -> io::Result<Self> {
        let random = SysRng.try_next_u64().map_err(io::Error::other)?;
        let mut name = target.file_name().map_or_else(OsString::new, OsString::from);
        name.push(format!(".{random:016x}"));
        let path = target.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, target: target.to_owned() })
    }

    /// Where it is until it has its name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Gives it its name, unless another file has that.
    pub(super) fn finish_new(self) -> io::Result<()> {
        self.file.sync_all()?;
        // Unlike a rename, this replaces nothing.
        fs::hard_link(&self.path, &self.target)?;
        let target = self.target.clone();
        // The folder is to know of no other name.
        drop(self);
        sync_folder(&target)
    }

    /// Gives it its name, in place of the file that has it.
    pub(super) fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.target)?;
        sync_folder(&self.target)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is not there any more if it has its name.
        let _ = fs::remove_file(&self.path);
    }
}

fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
