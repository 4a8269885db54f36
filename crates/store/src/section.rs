//! The sections of a snapshot: each machine writes records into its own, and reads them from there.

use std::io::{self, Read, Write};

use crate::{
    codec::{ByteReader, ByteWriter},
    error::{CodecError, SnapshotError},
};

/// The most bytes of a record in a section.
pub const MAX_RECORD: u64 = 2 << 20;

/// Writes the records of a section. See [`Machine::write`](crate::machine::Machine::write).
pub struct SectionWriter<'a> {
    pub(crate) to: &'a mut dyn Write,
    pub(crate) version: u16,
}

impl SectionWriter<'_> {
    /// The version of the machine that has to be able to read the section.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Writes a record of the section.
    ///
    /// # Errors
    ///
    /// The destination fails; or the record has more than [`MAX_RECORD`] bytes, and could not be read.
    pub fn record(&mut self, record: &[u8]) -> io::Result<()> {
        let len = record.len() as u64;
        if len > MAX_RECORD {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a record of a snapshot has {len} bytes, the most is {MAX_RECORD}: write several"),
            ));
        }
        let mut head = ByteWriter::new();
        head.number(len + 1);
        self.to.write_all(&head.finish())?;
        self.to.write_all(record)
    }

    pub(crate) fn begin(&mut self, name: &str, version: u16) -> io::Result<()> {
        self.version = version;
        let mut record = ByteWriter::new();
        record.bytes(name.as_bytes());
        record.number(version.into());
        self.record(&record.finish())
    }

    pub(crate) fn end(&mut self) -> io::Result<()> {
        self.to.write_all(&[0])
    }
}

/// Reads the records of a section. See [`Machine::read`](crate::machine::Machine::read).
pub struct SectionReader<'a> {
    pub(crate) from: &'a mut dyn Read,
    pub(crate) most: u64,
    pub(crate) left: u64,
    pub(crate) section: String,
    pub(crate) version: u16,
    pub(crate) ended: bool,
}

impl SectionReader<'_> {
    /// The version of the machine that the section was written for.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The next record of the section; `None` at its end.
    ///
    /// # Errors
    ///
    /// The source fails; or a record is larger than one may be.
    pub fn record(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        if self.ended {
            return Ok(None);
        }
        let Some(size) = self.number()?.checked_sub(1) else {
            self.ended = true;
            return Ok(None);
        };
        if size > MAX_RECORD {
            return Err(SnapshotError::RecordTooLarge { size, most: MAX_RECORD });
        }
        self.take(size).map(Some)
    }

    /// The name and version of the next section; `None` after the last one.
    pub(crate) fn next_section(&mut self) -> Result<Option<(String, u16)>, SnapshotError> {
        self.ended = false;
        self.section = "the head of a section".to_owned();
        let Some(record) = self.record()? else { return Ok(None) };
        let mut from = ByteReader::new(&record);
        let read = |from: &mut ByteReader<'_>| {
            let name = from.text()?;
            let version = u16::try_from(from.number()?).map_err(|_| CodecError::Number)?;
            from.end()?;
            Ok((name, version))
        };
        let (name, version) = read(&mut from).map_err(|malformed| self.malformed(malformed))?;
        self.section.clone_from(&name);
        self.version = version;
        Ok(Some((name, version)))
    }

    /// An error that names the section that is being read.
    pub fn malformed(&self, malformed: CodecError) -> SnapshotError {
        SnapshotError::Malformed { section: self.section.clone(), malformed }
    }

    pub(crate) fn take(&mut self, size: u64) -> Result<Vec<u8>, SnapshotError> {
        self.left = self.left.checked_sub(size).ok_or(SnapshotError::TooLarge { most: self.most })?;
        // A wrong length must not allocate: the buffer grows with what comes.
        let mut bytes = Vec::new();
        let mut limited = (&mut *self.from).take(size);
        limited.read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, SnapshotError> {
        let mut bytes = Vec::new();
        loop {
            let byte = self.take(1)?[0];
            bytes.push(byte);
            if byte < 0x80 || bytes.len() > 10 {
                return ByteReader::new(&bytes).number().map_err(|malformed| self.malformed(malformed));
            }
        }
    }
}
