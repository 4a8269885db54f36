//! The keys' section of a snapshot: numbers first, then each key at the compacted revision, then every change since.
//!
//! The changes at the compacted revision itself are only there for watches.

use std::{io, sync::Arc};

use super::{KeyValue, Keys, MAX_REVISION, Versions, codec, version_at};
use crate::{
    codec::{ByteReader, ByteWriter},
    error::{CodecError, SnapshotError},
    section::{SectionReader, SectionWriter},
};

const BASE: u8 = 0;
const CHANGE: u8 = 1;

impl Keys {
    pub(crate) fn write(&self, sink: &mut SectionWriter<'_>) -> io::Result<()> {
        let mut head = ByteWriter::new();
        head.number(self.revision);
        head.number(self.compacted);
        head.number(self.quota);
        head.flag(self.alarm);
        sink.record(&head.finish())?;
        let base = self.index.iter().filter_map(|(_, versions)| version_at(versions, self.compacted));
        base.map(|version| (BASE, version))
            .chain(self.changes_from(0).flat_map(|(_, changes)| changes.iter()).map(|version| (CHANGE, version)))
            .try_for_each(|(kind, version)| {
                let mut record = ByteWriter::new();
                record.byte(kind);
                codec::write_key_value(&mut record, version);
                sink.record(&record.finish())
            })
    }

    pub(crate) fn read(source: &mut SectionReader<'_>) -> Result<Self, SnapshotError> {
        let head = source.record()?.ok_or_else(|| source.malformed(CodecError::Cut))?;
        let mut loading = KeysLoader::new(&head).map_err(|malformed| source.malformed(malformed))?;
        while let Some(record) = source.record()? {
            loading.add(&record).map_err(|malformed| source.malformed(malformed))?;
        }
        loading.finish().map_err(|malformed| source.malformed(malformed))
    }
}

/// Reads keys from a snapshot. It refuses what no commands could have led to.
struct KeysLoader {
    keys: Keys,
    /// The changes of the revision that it is reading.
    changes: Vec<Arc<KeyValue>>,
    last_base: Option<Arc<KeyValue>>,
}

fn check(holds: bool, what: &'static str) -> Result<(), CodecError> {
    if holds { Ok(()) } else { Err(CodecError::Contradiction { what }) }
}

impl KeysLoader {
    fn new(head: &[u8]) -> Result<Self, CodecError> {
        let mut from = ByteReader::new(head);
        let (revision, compacted) = (from.number()?, from.number()?);
        let keys = Keys { revision, compacted, quota: from.number()?, alarm: from.flag()?, ..Keys::default() };
        from.end()?;
        check(revision >= 1 && compacted <= revision, "keys are compacted at a revision that they do not have")?;
        check(revision < MAX_REVISION, "the revision of the keys has no room to grow")?;
        Ok(Self { keys, changes: Vec::new(), last_base: None })
    }

    fn add(&mut self, record: &[u8]) -> Result<(), CodecError> {
        let mut from = ByteReader::new(record);
        let kind = from.byte()?;
        let version = codec::read_key_value(&mut from)?;
        from.end()?;
        check(!version.key.is_empty(), "a key is empty")?;
        check(version.mod_revision >= 2, "a key was changed before the first change")?;
        let created = version.create_revision;
        check(
            version.is_tombstone() || created >= 2 && created <= version.mod_revision,
            "a key was changed before it was created",
        )?;
        match kind {
            BASE => self.add_base(version),
            CHANGE => self.add_change(version),
            tag => Err(CodecError::Tag { what: "record of keys", tag }),
        }
    }

    fn add_base(&mut self, version: Arc<KeyValue>) -> Result<(), CodecError> {
        let in_order = self.last_base.as_ref().is_none_or(|last| last.key < version.key);
        check(in_order && self.changes.is_empty() && self.keys.history.first().is_none(), "keys are not in order")?;
        check(
            !version.is_tombstone() && version.mod_revision <= self.keys.compacted,
            "a key is not as it was at the compacted revision",
        )?;
        self.last_base = Some(version.clone());
        self.keys.push(version);
        Ok(())
    }

    fn add_change(&mut self, version: Arc<KeyValue>) -> Result<(), CodecError> {
        let last = self.changes.first().map_or(0, |change| change.mod_revision);
        let revision = version.mod_revision;
        check(revision >= last && revision >= self.keys.compacted, "changes are not in the order of revisions")?;
        check(revision <= self.keys.revision, "a change is at a revision that the keys do not have")?;
        if revision > last {
            self.end_revision();
        }
        if revision > self.keys.compacted {
            let before = self.keys.index.get(&version.key).and_then(|versions| versions.last());
            check(before.is_none_or(|before| before.mod_revision < revision), "a key changes twice at a revision")?;
            let alive = before.filter(|before| !before.is_tombstone());
            let follows = match alive {
                _ if version.is_tombstone() => alive.is_some(),
                Some(before) => {
                    (version.create_revision, version.version) == (before.create_revision, before.version + 1)
                }
                None => (version.create_revision, version.version) == (revision, 1),
            };
            check(follows, "a version of a key does not follow from the one before it")?;
            self.keys.push(version.clone());
        } else {
            let base = self.keys.newest(&version.key);
            let same = base.map_or(version.is_tombstone(), |base| *base == version);
            check(same, "a change at the compacted revision is not what the key is there")?;
        }
        self.changes.push(version);
        Ok(())
    }

    fn end_revision(&mut self) {
        if let Some(change) = self.changes.first() {
            let revision = change.mod_revision;
            self.keys.history.insert(revision, std::mem::take(&mut self.changes).into());
        }
    }

    fn finish(mut self) -> Result<Keys, CodecError> {
        self.end_revision();
        let kept = self.keys.history.iter().filter(|(revision, _)| **revision > self.keys.compacted).count() as u64;
        // The first revision is that of the empty store.
        check(kept <= self.keys.revision - self.keys.compacted.max(1), "the history has revisions that were not")?;
        // Nothing changed at the revision with which a store was founded anew.
        let at_compacted = |versions: &Versions| versions.iter().any(|each| each.mod_revision == self.keys.compacted);
        let watched = self.keys.history.get(&self.keys.compacted).is_some()
            || !self.keys.index.iter().any(|(_, versions)| at_compacted(versions));
        check(watched, "the changes at the compacted revision are missing")?;
        Ok(self.keys)
    }
}
