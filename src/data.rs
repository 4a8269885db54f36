//! The data directory: what a node keeps across restarts.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | nothing; it is locked as long as a process uses the directory |
//! | `id` | the node's identity |
//!
//! # On disk
//!
//! `id` is three lines of text. It is written to a temporary file, which is synced and renamed, and then the directory is
//! synced. So `id` is whole, or it does not exist.
//!
//! ```text
//! broadcast node id, format 1
//! 00c0ffee00c0ffee
//! crc32 8f1ab7d3
//! ```
//!
//! # What can go wrong
//!
//! - *A second process opens the directory*: refused, by a file lock that ends with the process.
//! - *Somebody copies the directory* and starts another node with it: two nodes then have the same identity. Neither can know,
//!   but every node that hears of both logs their names.
//! - *The file is damaged, or from a later release*: refused. A node never takes a new identity by itself, since others may
//!   rely on the old one.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use broadcast::{NodeId, config::quote};
use nix::fcntl::OFlag;

use crate::{failure::Failure, visible};

const LOCK: &str = "lock";
const ID: &str = "id";
const NEW_ID: &str = "id.new";
/// Comes before the number of the format.
const MAGIC: &str = "broadcast node id, format ";
const FORMAT: &str = "1";
/// How many bytes of `id` are read at most: more than any format will need.
const MAX_ID_FILE: usize = 1024;

/// A data directory. No other process can open it as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    id: NodeId,
    /// Locked until the file is closed.
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug)]
pub(crate) enum DataError {
    /// The system refused an operation.
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// Another process uses it.
    InUse(PathBuf),
    /// Everybody on this host may change what is in it.
    OpenToAll { path: PathBuf, mode: u32 },
    /// The file has no readable identity.
    Id { path: PathBuf, problem: String },
    /// The system has no randomness for a new identity.
    Randomness,
}

impl DataDir {
    /// Opens the directory. It and the identity in it are created if they do not exist.
    ///
    /// # Errors
    ///
    /// See [`DataError`].
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the directory", path))?;
        let mode = path.metadata().map_err(io_error("look at", path))?.permissions().mode() & 0o7777;
        if mode & 0o002 != 0 {
            return Err(DataError::OpenToAll { path: path.to_owned(), mode });
        }
        let file = path.join(LOCK);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let lock = open_regular(options, &file).map_err(io_error("open", &file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &file)(source)),
        }
        let file = path.join(ID);
        let id = match read(&file) {
            Ok(text) => decode(&text).map_err(|problem| DataError::Id { path: file, problem })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = NodeId::random().ok_or(DataError::Randomness)?;
                write_id(path, id).map_err(io_error("write", &path.join(NEW_ID)))?;
                id
            }
            Err(source) => return Err(io_error("read", &file)(source)),
        };
        Ok(Self { path: path.to_owned(), id, _lock: lock })
    }

    /// The path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The node's identity.
    pub(crate) fn id(&self) -> NodeId {
        self.id
    }
}

/// Makes an error of what the system refused.
fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError + use<> {
    let path = path.to_owned();
    move |source| DataError::Io { doing, path, source }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    open_regular(OpenOptions::new().read(true), file)?.take(MAX_ID_FILE as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

/// Opens a regular file in the directory: not a link to somewhere else, nor a pipe that would block.
fn open_regular(options: &mut OpenOptions, file: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = options.custom_flags(flags.bits()).open(file)?;
    if opened.metadata()?.is_file() { Ok(opened) } else { Err(io::Error::other("it is not a file")) }
}

/// Writes the identity, whole or not at all.
fn write_id(dir: &Path, id: NodeId) -> io::Result<()> {
    let new = dir.join(NEW_ID);
    // A crash may have left one.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(encode(id).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, dir.join(ID))?;
    File::open(dir)?.sync_all()
}

/// The text of the file `id`.
fn encode(id: NodeId) -> String {
    let content = format!("{MAGIC}{FORMAT}\n{id}\n");
    format!("{content}crc32 {:08x}\n", crc32fast::hash(content.as_bytes()))
}

/// Reads what [`encode`] wrote, or says what is wrong with it.
fn decode(data: &[u8]) -> Result<NodeId, String> {
    let whole = encode(NodeId::from(0)).len();
    let length = match data.len() {
        0 => return Err("it is empty".into()),
        len if len > MAX_ID_FILE => format!("it has more than {MAX_ID_FILE} bytes, instead of {whole}"),
        len => format!("it has {len} bytes, instead of {whole}"),
    };
    let cut_off = || format!("it is cut off: {length}");
    let head = format!("{MAGIC}{FORMAT}\n");
    let begin = || quote(&String::from_utf8_lossy(&data[..data.len().min(head.len())]));
    let Some(rest) = data.strip_prefix(head.as_bytes()) else {
        if head.as_bytes().starts_with(data) {
            return Err(cut_off());
        }
        let format = data.strip_prefix(MAGIC.as_bytes()).and_then(|rest| rest.split(|byte| *byte == b'\n').next());
        return Err(match format.map(String::from_utf8_lossy) {
            Some(format) if format != FORMAT => {
                format!("it has the format {}, and this release reads format {FORMAT}", quote(&format))
            }
            _ => format!("it begins with {}, and not with {:?}", begin(), head.trim_end()),
        });
    };
    let id = rest.get(..16).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
    match id {
        Some(id) if encode(id).as_bytes() == data => Ok(id),
        Some(id) if encode(id).as_bytes().starts_with(data) => Err(cut_off()),
        Some(id) if data.len() == whole => {
            let checksum = String::from_utf8_lossy(&data[head.len() + 17..]);
            Err(format!("it has the id {id} with {}, and not the checksum of that", quote(checksum.trim_end())))
        }
        Some(_) => Err(length),
        None if rest.len() < 16 => Err(cut_off()),
        None => Err(format!("its second line is {}, and no id", quote(&first_line(rest)))),
    }
}

/// Text up to its first line end.
fn first_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned()
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        match error {
            DataError::OpenToAll { .. } | DataError::Id { .. } => Self::usage(error),
            DataError::Io { .. } | DataError::InUse(_) | DataError::Randomness => Self::other(error),
        }
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BROADCAST_DATA (--data): ")?;
        match self {
            Self::Io { doing, path, source } => {
                write!(f, "cannot {doing} {}: {source}; {}", visible::path(path), remedy(source.kind()))
            }
            Self::InUse(path) => {
                write!(
                    f,
                    "another process uses {0}; stop it, or give each node a directory of its own",
                    visible::path(path)
                )
            }
            Self::OpenToAll { path, mode } => {
                let path = visible::path(path);
                write!(f, "everybody on this host may write to {path} (mode {mode:04o}); chmod 700 {path}")
            }
            Self::Id { path, problem } => write!(
                f,
                "{0} is damaged or of another release: {problem}; restore it, or start the release that wrote it; or \
                 remove it, and the node is a new one to the others, with a new id",
                visible::path(path)
            ),
            Self::Randomness => f.write_str("the system has no source of randomness, from which a node has its id"),
        }
    }
}

/// What to do when the system refuses an operation.
fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => "let the user that runs the node own it, or name another directory",
        io::ErrorKind::ReadOnlyFilesystem => "mount it for writing, or name another directory",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room there, or name another directory",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "remove the file that is there, or name a directory"
        }
        io::ErrorKind::IsADirectory => "remove what is there, or name another directory",
        io::ErrorKind::NotFound => "name a directory whose parent is there",
        _ => "see that it is a plain file on a disk that is well, or name another directory",
    }
}

#[cfg(test)]
mod tests {
    use nix::{sys::stat::Mode, unistd::mkfifo};
    use tempfile::TempDir;

    use super::*;

    fn problem(dir: &TempDir) -> String {
        DataDir::open(dir.path()).expect_err("it cannot be used").to_string()
    }

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let dir = TempDir::new().expect("a folder");
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path).expect("it is made").id();
        assert_eq!(DataDir::open(&path).expect("it is there").id(), first);
        for (file, mode) in [("", 0o700), (ID, 0o600), (LOCK, 0o600)] {
            let found = path.join(file).metadata().expect("it is there").permissions().mode() & 0o777;
            assert_eq!(found, mode, "{file:?}");
        }
        let other = DataDir::open(&dir.path().join("c")).expect("it is made").id();
        assert_ne!(other, first);
        let mut names: Vec<_> =
            fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("a file").file_name()).collect();
        names.sort();
        assert_eq!(names, [ID, LOCK], "nothing else is left");
    }

    #[test]
    fn what_a_crash_left_of_writing_is_no_matter() {
        let dir = TempDir::new().expect("a folder");
        fs::write(dir.path().join(NEW_ID), "broadcast no").expect("it is written");
        let id = DataDir::open(dir.path()).expect("it is made").id();
        assert_eq!(DataDir::open(dir.path()).expect("it is there").id(), id);
    }

    #[test]
    fn links_and_pipes_are_refused_and_nothing_elsewhere_is_written() {
        for name in [ID, LOCK, NEW_ID] {
            let (dir, other) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
            let precious = other.path().join("precious");
            fs::write(&precious, "precious").expect("it is written");
            std::os::unix::fs::symlink(&precious, dir.path().join(name)).expect("it is linked");
            let opened = DataDir::open(dir.path());
            assert_eq!(opened.is_ok(), name == NEW_ID, "{name}");
            assert_eq!(fs::read_to_string(&precious).expect("it is there"), "precious", "{name}");
            assert!(!dir.path().join(ID).is_symlink() || name == ID, "{name}");
        }
        for name in [ID, LOCK] {
            let dir = TempDir::new().expect("a folder");
            mkfifo(&dir.path().join(name), Mode::from_bits_truncate(0o600)).expect("a pipe");
            problem(&dir);
        }
    }

    #[test]
    fn one_process_uses_it_at_a_time() {
        let dir = TempDir::new().expect("a folder");
        let used = DataDir::open(dir.path()).expect("it is made");
        assert!(problem(&dir).contains("another process uses"), "{}", problem(&dir));
        drop(used);
        DataDir::open(dir.path()).expect("it is free");
    }

    #[test]
    fn no_byte_of_the_file_may_change_or_be_missing() {
        let dir = TempDir::new().expect("a folder");
        DataDir::open(dir.path()).expect("it is made");
        let file = dir.path().join(ID);
        let written = fs::read(&file).expect("it is there");
        for at in 0..written.len() {
            let mut damaged = written.clone();
            damaged[at] ^= 1;
            fs::write(&file, damaged).expect("it is written");
            let told = problem(&dir);
            assert!(told.contains(&*file.to_string_lossy()) && told.contains("remove it"), "{at}: {told}");
            fs::write(&file, &written[..at]).expect("it is written");
            problem(&dir);
        }
        fs::write(&file, [&written[..], b"\n"].concat()).expect("it is written");
        problem(&dir);
        fs::write(&file, &written).expect("it is written");
        DataDir::open(dir.path()).expect("as it was");
    }

    #[test]
    fn a_refusal_says_what_was_found() {
        let dir = TempDir::new().expect("a folder");
        let file = dir.path().join(ID);
        let written = encode(NodeId::from(7));
        for (data, found) in [
            (String::new(), "it is empty"),
            ("\0".repeat(60), r#"it begins with "\0\0\0"#),
            ("broadcast node id, for".into(), "it is cut off: it has 22 bytes, instead of 60"),
            ("x\u{1b}[2J".into(), r#"it begins with "x\u{1b}[2J", and not with "broadcast node id, format 1""#),
            ("x".repeat(100_000), "and not with"),
            (written.replace("format 1", "format 2"), "it has the format \"2\", and this release reads format 1"),
            (
                written.replace("format 1", &format!("format {}", "9".repeat(900))),
                "bytes), and this release reads format 1",
            ),
            (written[..30].into(), "it is cut off: it has 30 bytes, instead of 60"),
            (written[..50].into(), "it is cut off: it has 50 bytes, instead of 60"),
            (written.replace("07", "0g"), r#"its second line is "000000000000000g", and no id"#),
            (written.replace("07", "08"), r#"it has the id 0000000000000008 with "crc32 "#),
            (written.clone() + &"\0".repeat(5000), "it has more than 1024 bytes, instead of 60"),
            (written.clone() + "\n", "it has 61 bytes, instead of 60"),
        ] {
            fs::write(&file, data).expect("it is written");
            let told = problem(&dir);
            assert!(told.contains(found) && told.contains("; restore it, or ") && told.len() < 800, "{told}");
        }
    }

    #[test]
    fn a_directory_that_is_none_or_open_to_all_is_refused() {
        let dir = TempDir::new().expect("a folder");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("it is written");
        for path in [file.clone(), file.join("x")] {
            let problem = DataDir::open(&path).expect_err("a file").to_string();
            assert!(problem.contains("remove the file that is there"), "{problem}");
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).expect("it is ours");
        assert!(problem(&dir).contains("(mode 1777); chmod 700"), "{}", problem(&dir));
    }
}
