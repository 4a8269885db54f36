//! A backup as bytes: a header, the state, and a checksum of both.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write},
    path::Path,
};

use super::BackupError;
use crate::{
    machine::{LogId, Machines, State},
    raft::MAX_SNAPSHOT,
};

const MAGIC: [u8; 8] = *b"bcstback";
const FORMAT: u32 = 1;
/// Magic, format, four numbers, and the checksum of these; all little endian.
const HEADER: usize = 48;
const CHECKSUM: usize = 4;
/// How much is read at once.
const PIECE: usize = 64 << 10;

/// What a backup is of. [`Backup::header`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupHeader {
    /// The id of the store.
    pub cluster: u64,
    /// The store's current revision.
    pub revision: u64,
    /// The index of the last applied entry.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
}

impl BackupHeader {
    fn of(cluster: u64, state: &State) -> Self {
        let LogId { index, term } = state.last_applied();
        Self { cluster, revision: state.keys().revision(), index, term }
    }

    fn write(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        for (at, number) in (12..).step_by(8).zip([self.cluster, self.revision, self.index, self.term]) {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[..HEADER - CHECKSUM]);
        bytes[HEADER - CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; HEADER], file: &str) -> Result<Self, BackupError> {
        if bytes[..8] != MAGIC {
            return Err(BackupError::NoBackup { file: file.into() });
        }
        let format = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        if format != FORMAT {
            return Err(BackupError::Format { file: file.into(), found: format, known: FORMAT });
        }
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let header = Self { cluster: number(12), revision: number(20), index: number(28), term: number(36) };
        if header.write() != *bytes {
            return Err(damaged(file, "has a header that does not fit its checksum"));
        }
        Ok(header)
    }
}

fn damaged(file: &str, problem: impl Into<String>) -> BackupError {
    BackupError::Damaged { file: file.into(), problem: problem.into() }
}

/// A writer that adds up a checksum of what passes.
struct ChecksumWriter<'a> {
    to: &'a mut dyn Write,
    sum: crc32fast::Hasher,
}

impl Write for ChecksumWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes a backup of a store's state, in small pieces.
pub(crate) fn write(cluster: u64, state: &State, to: &mut dyn Write) -> io::Result<()> {
    let mut summed = ChecksumWriter { to, sum: crc32fast::Hasher::new() };
    summed.write_all(&BackupHeader::of(cluster, state).write())?;
    state.write_snapshot(&mut summed)?;
    let ChecksumWriter { to, sum } = summed;
    to.write_all(&sum.finalize().to_le_bytes())?;
    to.flush()
}

/// The file of a backup that is whole, and as it was saved. See [`restore`](super::restore).
#[derive(Debug)]
pub struct Backup {
    file: File,
    name: String,
    size: u64,
    header: BackupHeader,
}

impl Backup {
    /// Opens a file and reads it through.
    ///
    /// # Errors
    ///
    /// It cannot be read, is no backup, is of a later release, or is not as it was saved.
    pub fn open(path: &Path) -> Result<Self, BackupError> {
        let name = path.display().to_string();
        let cannot = |what| BackupError::io(what, path);
        // A pipe would be waited for.
        if !path.metadata().map_err(cannot("read"))?.is_file() {
            return Err(BackupError::NoBackup { file: name });
        }
        let mut file = File::open(path).map_err(cannot("open"))?;
        let size = file.metadata().map_err(cannot("read the length of"))?.len();
        let mut start = [0; HEADER];
        file.read_exact(&mut start).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BackupError::NoBackup { file: name.clone() },
            _ => cannot("read")(error),
        })?;
        let header = BackupHeader::read(&start, &name)?;
        let state = size.saturating_sub((HEADER + CHECKSUM) as u64);
        if state == 0 {
            return Err(damaged(&name, "ends after its header"));
        }
        if state > MAX_SNAPSHOT {
            return Err(damaged(&name, format!("has {size} bytes, and {MAX_SNAPSHOT} are the most of a state")));
        }
        let mut sum = crc32fast::Hasher::new();
        sum.update(&start);
        let (mut piece, mut left) = (vec![0; PIECE], state);
        while left > 0 {
            let n = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
            file.read_exact(&mut piece[..n]).map_err(cannot("read"))?;
            sum.update(&piece[..n]);
            left -= n as u64;
        }
        let mut told = [0; CHECKSUM];
        file.read_exact(&mut told).map_err(cannot("read"))?;
        if told != sum.finalize().to_le_bytes() {
            return Err(damaged(&name, "is cut short, or was changed: it does not fit its checksum"));
        }
        Ok(Self { file, name, size, header })
    }

    /// What it is of.
    pub fn header(&self) -> BackupHeader {
        self.header
    }

    /// How many bytes the file has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The state.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is of a later release.
    pub fn state(&mut self, machines: &Machines) -> Result<State, BackupError> {
        let seek = self.file.seek(SeekFrom::Start(HEADER as u64));
        seek.map_err(BackupError::io("read", Path::new(&self.name)))?;
        let bytes = self.size - (HEADER + CHECKSUM) as u64;
        let state = State::read_snapshot(machines.make(), &mut BufReader::new((&self.file).take(bytes)), bytes);
        let state = state.map_err(|source| BackupError::State { file: self.name.clone(), source })?;
        if BackupHeader::of(self.header.cluster, &state) != self.header {
            return Err(damaged(&self.name, "has another state than its header says"));
        }
        Ok(state)
    }
}
