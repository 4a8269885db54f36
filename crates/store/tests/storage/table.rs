//! A state to replicate: keys and values, and how often anything was applied.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use broadcast_store::raft::{CommittedEntry, EntryContent, EntryError, ReplicatedState};
use bytes::Bytes;

/// Keys and values. A command is a key of 8 bytes and its value; the answer is the index.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Table {
    pub(crate) applied: u64,
    pub(crate) last_term: u64,
    pub(crate) values: BTreeMap<u64, Vec<u8>>,
}

pub(crate) fn command(key: u64, value: &[u8]) -> Bytes {
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.extend_from_slice(value);
    bytes.into()
}

impl ReplicatedState for Table {
    type Copy = Self;

    fn apply(&mut self, entry: CommittedEntry<'_>) -> Result<Bytes, EntryError> {
        self.applied += 1;
        self.last_term = entry.term;
        if let EntryContent::Command(command) = entry.input {
            let (key, value) =
                command.split_first_chunk().ok_or_else(|| EntryError("a command without a key".into()))?;
            self.values.insert(u64::from_be_bytes(*key), value.to_vec());
        }
        Ok(Bytes::copy_from_slice(&entry.index.to_be_bytes()))
    }

    fn copy(&self) -> Self {
        self.clone()
    }

    fn write(copy: Self, out: &mut dyn Write) -> io::Result<()> {
        for number in [copy.applied, copy.last_term, copy.values.len() as u64] {
            out.write_all(&number.to_be_bytes())?;
        }
        for (key, value) in copy.values {
            out.write_all(&key.to_be_bytes())?;
            out.write_all(&(value.len() as u64).to_be_bytes())?;
            out.write_all(&value)?;
        }
        Ok(())
    }

    fn empty(&self) -> Self {
        Self::default()
    }

    fn read(self, input: &mut dyn Read) -> io::Result<Self> {
        let number = |input: &mut dyn Read| {
            let mut bytes = [0; 8];
            input.read_exact(&mut bytes)?;
            io::Result::Ok(u64::from_be_bytes(bytes))
        };
        let mut table = Self { applied: number(input)?, last_term: number(input)?, values: BTreeMap::new() };
        for _ in 0..number(input)? {
            let (key, length) = (number(input)?, number(input)?);
            let mut value = Vec::new();
            (&mut *input).take(length).read_to_end(&mut value)?;
            if value.len() as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            table.values.insert(key, value);
        }
        Ok(table)
    }
}
