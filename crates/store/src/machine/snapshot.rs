//! The encoding of the whole state.
//!
//! A snapshot is a sequence of sections, each a sequence of records behind their lengths. The first record of a section has
//! its name and version. A machine reads the records of its own section, and cannot read beyond it. Equal states have equal
//! snapshots, byte for byte.
//!
//! The reader trusts nothing: a length allocates only what is there, and values that contradict each other are refused. It does
//! not notice a change that leaves a valid state; for that the files and messages that carry a snapshot have checksums.

use std::io::{self, Read, Write};

use super::{
    Clients, Keys, Leases, LogId, MAGIC, MAX_LEASES, MAX_TTL, MIN_TTL, Machine, NAME, SectionReader, SectionWriter,
    State, VERSION, keys,
};
use crate::{
    codec::{ByteReader, ByteWriter},
    error::{CodecError, SnapshotError},
};

/// The format of sections and records; what is in them has the machines' versions.
pub const FORMAT: u16 = 1;

const LEASES: &str = "store/leases";
const CLIENTS: &str = "store/clients";

impl State {
    /// Writes a snapshot. It writes small pieces: give it a buffered writer.
    ///
    /// # Errors
    ///
    /// Those of what it writes to.
    pub fn write_snapshot(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(MAGIC.as_bytes())?;
        to.write_all(&FORMAT.to_le_bytes())?;
        let mut sink = SectionWriter { to, version: 0 };
        let used = |name: &str| self.used.get(name).copied().unwrap_or(0);
        // Keys and shared state are always there.
        let version = used(NAME).max(1);
        sink.begin(NAME, version)?;
        let mut head = ByteWriter::new();
        head.number(self.last_applied.index);
        head.number(self.last_applied.term);
        head.number(self.commands);
        sink.record(&head.finish())?;
        sink.end()?;

        sink.begin(LEASES, version)?;
        for (lease, ttl) in self.leases.iter() {
            let mut record = ByteWriter::new();
            record.signed(lease);
            record.signed(ttl);
            sink.record(&record.finish())?;
        }
        sink.end()?;

        sink.begin(CLIENTS, version)?;
        self.clients.write(&mut sink)?;
        sink.end()?;

        sink.begin(keys::NAME, used(keys::NAME).max(1))?;
        self.keys.write(&mut sink)?;
        sink.end()?;

        for machine in self.others.iter().filter(|machine| used(machine.name()) > 0) {
            sink.begin(machine.name(), used(machine.name()))?;
            machine.write(&mut sink)?;
            sink.end()?;
        }
        sink.end()
    }

    /// Reads a snapshot of `most` bytes at most, up to the end of the reader. The machines are new ones; those that
    /// have had no command, maybe because the snapshot is of an earlier release, stay as they are. It reads small
    /// pieces: give it a buffered reader.
    ///
    /// # Errors
    ///
    /// What is wrong with the snapshot.
    pub fn read_snapshot(
        machines: Vec<Box<dyn Machine>>,
        from: &mut dyn Read,
        most: u64,
    ) -> Result<Self, SnapshotError> {
        let mut state = Self::with(machines);
        let mut source =
            SectionReader { from, most, left: most, section: "the head".to_owned(), version: 0, ended: false };
        if source.take(MAGIC.len() as u64)? != MAGIC.as_bytes() {
            return Err(SnapshotError::Magic);
        }
        let format = source.take(2)?;
        let format = u16::from_le_bytes([format[0], format[1]]);
        if format != FORMAT {
            return Err(SnapshotError::Format { found: format, known: FORMAT });
        }
        let mut last = None;
        while let Some((name, version)) = source.next_section()? {
            let order = state.order(&name);
            if order.is_none_or(|(_, knows)| version > knows) {
                let knows = order.map_or(0, |(_, knows)| knows);
                return Err(SnapshotError::UnknownMachine { machine: name, needs: version, knows });
            }
            if order <= last || version == 0 {
                return Err(source.malformed(CodecError::Contradiction { what: "sections are not in order" }));
            }
            last = order;
            let owner = if [LEASES, CLIENTS].contains(&name.as_str()) { NAME } else { &name };
            if state.used.insert(owner.to_owned(), version).is_some_and(|used| used != version) {
                return Err(source.malformed(CodecError::Contradiction { what: "sections are of different versions" }));
            }
            state.read_section(&name, &mut source)?;
            if source.record()?.is_some() {
                return Err(source.malformed(CodecError::Contradiction { what: "a section is too long" }));
            }
        }
        let all = state.order(keys::NAME);
        if last < all {
            return Err(source.malformed(CodecError::Contradiction { what: "sections are missing" }));
        }
        if source.from.read(&mut [0])? > 0 {
            return Err(source.malformed(CodecError::Trailing { bytes: 1 }));
        }
        Ok(state)
    }

    /// The position of a section among all, and the version that this release knows.
    fn order(&self, section: &str) -> Option<(usize, u16)> {
        let shared = [(NAME, VERSION), (LEASES, VERSION), (CLIENTS, VERSION), (keys::NAME, keys::VERSION)];
        let others = self.others.iter().map(|machine| (machine.name(), machine.version()));
        let mut all = shared.into_iter().chain(others).enumerate();
        all.find_map(|(at, (name, version))| (name == section).then_some((at, version)))
    }

    fn read_section(&mut self, name: &str, source: &mut SectionReader<'_>) -> Result<(), SnapshotError> {
        match name {
            NAME => {
                let record = source.record()?.unwrap_or_default();
                let mut from = ByteReader::new(&record);
                let read = |from: &mut ByteReader<'_>| {
                    let last_applied = LogId { index: from.number()?, term: from.number()? };
                    let commands = from.number()?;
                    from.end()?;
                    Ok((last_applied, commands))
                };
                (self.last_applied, self.commands) =
                    read(&mut from).map_err(|malformed| source.malformed(malformed))?;
            }
            LEASES => self.leases = read_leases(source)?,
            CLIENTS => self.clients = Clients::read(source, self.commands)?,
            keys::NAME => {
                self.keys = Keys::read(source)?;
                if self.keys.leases().any(|lease| !self.leases.contains(lease)) {
                    let what = "a key is attached to a lease that is not there";
                    return Err(source.malformed(CodecError::Contradiction { what }));
                }
            }
            _ => {
                if let Some(machine) = self.others.iter_mut().find(|machine| machine.name() == name) {
                    machine.read(source)?;
                }
            }
        }
        Ok(())
    }
}

fn read_leases(source: &mut SectionReader<'_>) -> Result<Leases, SnapshotError> {
    let mut leases = Leases::default();
    let mut last = None;
    while let Some(record) = source.record()? {
        let mut from = ByteReader::new(&record);
        let read = |from: &mut ByteReader<'_>| {
            let lease = (from.signed()?, from.signed()?);
            from.end()?;
            Ok(lease)
        };
        let (lease, ttl) = read(&mut from).map_err(|malformed| source.malformed(malformed))?;
        let is_valid = lease != 0 && (MIN_TTL..=MAX_TTL).contains(&ttl) && last.is_none_or(|last| last < lease);
        if !is_valid || leases.len() == MAX_LEASES || leases.grant(lease, ttl).is_err() {
            return Err(source.malformed(CodecError::Contradiction { what: "the leases are none that can be granted" }));
        }
        last = Some(lease);
    }
    Ok(leases)
}

/// A checksum of what is written to it.
#[derive(Default)]
pub(super) struct Hasher(crc32fast::Hasher);

impl Hasher {
    pub(super) fn finish(self) -> u32 {
        self.0.finalize()
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
