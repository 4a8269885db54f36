//! One snapshot's file: its header, and reading it.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use super::pieces::PieceReader;
use super::{SnapshotFileError, SnapshotMeta};
use crate::disk::{Disk, DiskFile};
use crate::log::LogId;

const MAGIC: [u8; 8] = *b"bcstsnap";
const FORMAT: u32 = 1;
pub(super) const HEADER: u64 = 64;
/// The most bytes of a description: who votes is short.
const DESCRIPTION: u32 = 1 << 20;

/// A snapshot's file, which is sent to other nodes as it is. It can be read as long as this exists, also after a newer one took
/// its place. See [`Snapshots`](super::Snapshots).
#[derive(Debug)]
pub struct SnapshotFile<D: Disk> {
    pub(super) inner: Arc<Inner<D>>,
}

impl<D: Disk> Clone for SnapshotFile<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

#[derive(Debug)]
pub(super) struct Inner<D: Disk> {
    pub(super) disk: D,
    /// None for no snapshot at all.
    pub(super) file: Option<D::File>,
    pub(super) name: Mutex<FileName>,
    pub(super) size: u64,
    /// Which store it belongs to.
    pub(super) store: Arc<()>,
}

#[derive(Clone, Debug)]
pub(super) struct FileName {
    pub(super) name: String,
    /// Goes when nobody has it any more.
    pub(super) temporary: bool,
}

impl<D: Disk> Inner<D> {
    pub(super) fn name(&self) -> FileName {
        self.name.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_name(&self, name: FileName) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }
}

impl<D: Disk> Drop for Inner<D> {
    fn drop(&mut self) {
        let name = self.name();
        if name.temporary {
            // If this fails, the next start removes it.
            let _ = self.disk.remove(&name.name);
        }
    }
}

impl<D: Disk> SnapshotFile<D> {
    /// How many bytes the file has.
    pub fn size(&self) -> u64 {
        self.inner.size
    }

    /// Reads at most `buffer.len()` bytes of the file, to send them; 0 at its end. Blocks.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.file.as_ref().map_or(Ok(0), |file| file.read_at(buffer, offset))
    }

    pub(super) fn new(disk: &D, file: Option<D::File>, name: FileName, size: u64, store: &Arc<()>) -> Self {
        let inner = Inner { disk: disk.clone(), file, name: Mutex::new(name), size, store: store.clone() };
        Self { inner: Arc::new(inner) }
    }
}

/// What a header says.
pub(super) struct SnapshotHeader {
    pub(super) cluster: u64,
    /// The bytes behind the header.
    pub(super) length: u64,
    pub(super) description: Vec<u8>,
}

impl SnapshotHeader {
    pub(super) fn write(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.description.len() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.length.to_le_bytes());
        bytes[32..36].copy_from_slice(&crc32fast::hash(&self.description).to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(super) fn read<F: DiskFile>(file: &F, size: u64, name: &str, cluster: u64) -> Result<Self, SnapshotFileError> {
        let damaged = |problem: &str| SnapshotFileError::Damaged { file: name.into(), problem: problem.into() };
        let mut bytes = [0; HEADER as usize];
        if size < HEADER {
            return Err(damaged("is shorter than a header"));
        }
        file.read_exact_at(&mut bytes, 0).map_err(SnapshotFileError::io(name, "read its header"))?;
        if bytes[..8] != MAGIC {
            return Err(damaged("has no header of a snapshot"));
        }
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if word(8) != FORMAT {
            return Err(SnapshotFileError::Format { file: name.into(), found: word(8), known: FORMAT });
        }
        if word(60) != crc32fast::hash(&bytes[..60]) {
            return Err(damaged("has a header that does not fit its checksum"));
        }
        if number(16) != cluster {
            return Err(SnapshotFileError::Foreign { file: name.into(), found: number(16), expected: cluster });
        }
        let length = number(24);
        if length != size - HEADER {
            return Err(damaged(&format!("has {} bytes behind its header, and should have {length}", size - HEADER)));
        }
        if word(12) > DESCRIPTION || u64::from(word(12)) > length {
            return Err(damaged("has a description that is too long"));
        }
        let mut description = vec![0; word(12) as usize];
        file.read_exact_at(&mut description, HEADER).map_err(SnapshotFileError::io(name, "read its description"))?;
        if crc32fast::hash(&description) != word(32) {
            return Err(damaged("has a description that does not fit its checksum"));
        }
        Ok(Self { cluster, length, description })
    }
}

impl SnapshotMeta {
    pub(super) fn write(&self) -> Vec<u8> {
        let log_id = self.last.unwrap_or_default();
        let mut bytes = vec![u8::from(self.last.is_some())];
        bytes.extend_from_slice(&log_id.term.to_le_bytes());
        bytes.extend_from_slice(&log_id.index.to_le_bytes());
        bytes.extend_from_slice(&self.membership);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, membership) = bytes.split_first_chunk::<17>()?;
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let log_id = LogId { term: number(1), index: number(9) };
        let last = match head[0] {
            0 => None,
            1 => Some(log_id),
            _ => return None,
        };
        Some(Self { last, membership: membership.to_vec() })
    }
}

/// Reads a file's description, and its state with `state`, and checks that the file is whole.
pub(super) fn read<F: DiskFile, T>(
    file: &F,
    size: u64,
    name: &str,
    cluster: u64,
    state: impl FnOnce(&mut dyn Read) -> io::Result<T>,
) -> Result<(SnapshotMeta, T), SnapshotFileError> {
    let damaged = |problem: String| SnapshotFileError::Damaged { file: name.into(), problem };
    let header = SnapshotHeader::read(file, size, name, cluster)?;
    let meta =
        SnapshotMeta::parse(&header.description).ok_or_else(|| damaged("has a description of another kind".into()))?;
    let mut pieces = PieceReader::new(file, HEADER + header.description.len() as u64);
    let result = state(&mut pieces);
    let value = result.map_err(|source| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(source.to_string()),
        _ => SnapshotFileError::State { file: name.into(), source },
    })?;
    // Whoever reads the state may not have asked for more than it wanted.
    let rest = io::copy(&mut pieces, &mut io::sink()).map_err(|error| damaged(error.to_string()))?;
    if rest > 0 || !pieces.ended || pieces.offset != size {
        return Err(damaged(format!("has {rest} bytes more than the state")));
    }
    Ok((meta, value))
}
