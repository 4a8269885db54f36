//! The state in pieces with checksums, as a writer and a reader.

use std::io::{self, Read, Write};

use crate::disk::DiskFile;

const PIECE: usize = 64 << 10;
/// Length and checksum.
const HEAD: usize = 8;

/// Writes pieces to a file from an offset on.
pub(super) struct PieceWriter<'a, F> {
    file: &'a F,
    pub(super) offset: u64,
    /// The piece that is being filled, behind the room for its head.
    buffer: Vec<u8>,
}

impl<'a, F: DiskFile> PieceWriter<'a, F> {
    pub(super) fn new(file: &'a F, offset: u64) -> Self {
        Self { file, offset, buffer: vec![0; HEAD] }
    }

    fn put(&mut self) -> io::Result<()> {
        let body = &self.buffer[HEAD..];
        let (length, checksum) = (body.len() as u32, crc32fast::hash(body));
        self.buffer[..4].copy_from_slice(&length.to_le_bytes());
        self.buffer[4..HEAD].copy_from_slice(&checksum.to_le_bytes());
        self.file.write_at(&self.buffer, self.offset)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.truncate(HEAD);
        Ok(())
    }

    /// Writes the last piece and the empty one at the end.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.flush()?;
        self.put()?;
        Ok(self.offset)
    }
}

impl<F: DiskFile> Write for PieceWriter<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE + HEAD - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..n]);
        if self.buffer.len() == PIECE + HEAD {
            self.put()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.len() > HEAD { self.put() } else { Ok(()) }
    }
}

/// Reads pieces, and gives no byte of one before its checksum fits.
pub(super) struct PieceReader<'a, F> {
    file: &'a F,
    pub(super) offset: u64,
    piece: Vec<u8>,
    given: usize,
    pub(super) ended: bool,
}

impl<'a, F: DiskFile> PieceReader<'a, F> {
    pub(super) fn new(file: &'a F, offset: u64) -> Self {
        Self { file, offset, piece: Vec::new(), given: 0, ended: false }
    }

    fn next(&mut self) -> io::Result<()> {
        let mut head = [0; HEAD];
        self.file.read_exact_at(&mut head, self.offset)?;
        let length = u32::from_le_bytes(head[..4].try_into().expect("four bytes")) as usize;
        let checksum = u32::from_le_bytes(head[4..].try_into().expect("four bytes"));
        let damaged = |what: &str| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the piece at byte {} {what}", self.offset))
        };
        if length > PIECE {
            return Err(damaged("is longer than any"));
        }
        self.piece.resize(length, 0);
        self.given = 0;
        self.file.read_exact_at(&mut self.piece, self.offset + HEAD as u64)?;
        if crc32fast::hash(&self.piece) != checksum {
            self.piece.clear();
            return Err(damaged("does not fit its checksum"));
        }
        self.offset += (HEAD + length) as u64;
        self.ended = length == 0;
        Ok(())
    }
}

impl<F: DiskFile> Read for PieceReader<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.piece.len() && !self.ended && !buffer.is_empty() {
            self.next()?;
        }
        let n = buffer.len().min(self.piece.len() - self.given);
        buffer[..n].copy_from_slice(&self.piece[self.given..self.given + n]);
        self.given += n;
        Ok(n)
    }
}
