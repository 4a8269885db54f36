//! What was asked, what was answered, and what has happened; and whether these agree.
//!
//! Each change has a revision, so there is no need to search for an order that explains the answers: the revisions are the
//! order. It has to explain all of them, and to agree with real time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use broadcast_store::keys::{KeyEvent, KeysOutcome, OpOutcome, RangeOutcome};
use bytes::Bytes;

/// What a client has asked for.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Put {
        key: Bytes,
        value: Bytes,
    },
    Delete {
        key: Bytes,
    },
    /// Puts a value, if the key was changed last at this revision.
    Swap {
        key: Bytes,
        expected: u64,
        value: Bytes,
    },
    /// Reads all keys as they are.
    Read,
    /// Reads all keys as they are at some voter.
    ReadLocally,
}

/// What was answered.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Changed(KeysOutcome),
    Found(RangeOutcome),
    /// Nothing: it may have been done, or may yet be.
    Nothing,
}

/// An operation. Its times are positions in the order of all that happens.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) ask: Ask,
    pub(crate) answer: Answer,
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// A lease that somebody had, with a key.
#[derive(Clone, Debug)]
pub(crate) struct LeaseHeld {
    pub(crate) key: Bytes,
    /// The revision that attached the key to it.
    pub(crate) since: u64,
    /// Before this it may not end: its whole time after it was last kept alive, by the fastest of all clocks.
    pub(crate) not_before: Duration,
}

/// All of it.
#[derive(Default)]
pub(crate) struct History {
    failures: Vec<String>,
    /// The changes of each revision, and when they were first told.
    revisions: BTreeMap<u64, (Vec<KeyEvent>, Duration)>,
    /// Up to which revision each watcher was told.
    pub(crate) watched_revisions: BTreeMap<u64, u64>,
    states: BTreeMap<u64, u32>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) leases: Vec<LeaseHeld>,
    moments: u64,
    /// How many watches were begun.
    pub(crate) watches: u64,
}

impl History {
    pub(crate) fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    /// A moment after all before.
    pub(crate) fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// The newest revision that was told.
    pub(crate) fn revision(&self) -> u64 {
        self.revisions.last_key_value().map_or(1, |(revision, _)| *revision)
    }

    /// Notes the events of a revision as a watcher was told them, which must be what others were told.
    pub(crate) fn check_revision(&mut self, watcher: u64, revision: u64, events: &[KeyEvent], now: Duration) {
        self.watched_revisions.insert(watcher, revision);
        match self.revisions.get(&revision) {
            Some((before, _)) if before != events => {
                let what = format!("revision {revision} is {events:?} to watcher {watcher}, and was {before:?}");
                self.fail(what);
            }
            Some(_) => {}
            None => drop(self.revisions.insert(revision, (events.to_vec(), now))),
        }
    }

    /// Notes the state of a voter at an index, which must be that of all others there.
    pub(crate) fn check_state(&mut self, voter: u64, index: u64, hash: u32) {
        let before = *self.states.entry(index).or_insert(hash);
        if before != hash {
            self.fail(format!("the state of voter {voter} at index {index} is another than that of others"));
        }
    }

    /// Checks all that can be checked once everything is told.
    pub(crate) fn check(&mut self) {
        let gap = self.revisions.keys().zip(2..).find(|(revision, expected)| *revision != expected);
        if let Some((revision, expected)) = gap {
            self.fail(format!("revision {expected} is missing: {revision} follows"));
        }
        let timeline = Timeline::of(&self.revisions);
        let mut problems = timeline.problems.clone();
        let mut with_revisions = Vec::new();
        for operation in &self.operations {
            match timeline.effective_revision(operation) {
                Ok(at) => with_revisions.extend(at.map(|(revision, changed)| (operation, revision, changed))),
                Err(problem) => problems.push(format!("{problem}: {operation:?}")),
            }
        }
        problems.extend(real_time_violations(with_revisions));
        for lease in &self.leases {
            let end = self.revisions.range(lease.since + 1..).find(|(_, (events, _))| {
                events.iter().any(|event| event.kv.key == lease.key && event.kv.is_tombstone())
            });
            match end {
                Some((revision, (_, seen))) if *seen < lease.not_before => {
                    problems.push(format!("a lease has ended early, at {seen:?}, by revision {revision}: {lease:?}"));
                }
                Some(_) => {}
                None => problems.push(format!("a lease has not ended: {lease:?}")),
            }
        }
        self.failures.extend(problems);
    }
}

/// Whoever begins after an answer must see what that answer has seen.
fn real_time_violations(with_revisions: Vec<(&Operation, u64, bool)>) -> Vec<String> {
    let (mut by_begin, mut by_end) = (with_revisions.clone(), with_revisions);
    by_begin.sort_by_key(|(operation, ..)| operation.began);
    by_end.sort_by_key(|(operation, ..)| operation.ended);
    let mut answered = by_end.into_iter().peekable();
    let mut newest = 0;
    let mut problems = Vec::new();
    for (operation, revision, changed) in by_begin {
        while let Some((_, revision, _)) = answered.next_if(|(earlier, ..)| earlier.ended < operation.began) {
            newest = newest.max(revision);
        }
        if revision < newest || changed && revision == newest {
            problems.push(format!("{newest} was answered before this began, which is at {revision}: {operation:?}"));
        }
    }
    problems
}

/// Each key's versions: the revision, and the value, if it was not deleted.
struct Timeline {
    keys: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    /// Which revision has put a value: each is put by one request only.
    values: BTreeMap<Bytes, u64>,
    last: u64,
    problems: Vec<String>,
}

/// The revision at which an operation took effect, and whether the operation made it; nothing if that cannot be told.
type EffectiveRevision = Option<(u64, bool)>;

impl Timeline {
    fn of(revisions: &BTreeMap<u64, (Vec<KeyEvent>, Duration)>) -> Self {
        let mut all = Self { keys: BTreeMap::new(), values: BTreeMap::new(), last: 1, problems: Vec::new() };
        for (revision, (events, _)) in revisions {
            all.last = *revision;
            for event in events {
                let value = (!event.kv.is_tombstone()).then(|| event.kv.value.clone());
                let versions = all.keys.entry(event.kv.key.clone()).or_default();
                let before = versions.last().and_then(|(revision, value)| Some((*revision, value.clone()?)));
                let prev = event.prev.as_ref().map(|prev| (prev.mod_revision, prev.value.clone()));
                if before != prev {
                    all.problems.push(format!("before revision {revision} there was {before:?}: {event:?}"));
                }
                versions.push((*revision, value.clone()));
                if let Some(value) = value
                    && let Some(first) = all.values.insert(value.clone(), *revision)
                {
                    all.problems.push(format!("a request was done twice, at {first} and {revision}: {value:?}"));
                }
            }
        }
        all
    }

    /// What a key was at a revision: when it was changed last, and its value.
    fn version_at(&self, key: &[u8], revision: u64) -> (u64, Option<&Bytes>) {
        let versions = self.keys.get(key).map(Vec::as_slice).unwrap_or_default();
        let after = versions.partition_point(|(at, _)| *at <= revision);
        let Some((at, value)) = after.checked_sub(1).map(|last| &versions[last]) else { return (0, None) };
        (if value.is_some() { *at } else { 0 }, value.as_ref())
    }

    /// The effective revision of an operation, or why its answer cannot be right.
    fn effective_revision(&self, operation: &Operation) -> Result<EffectiveRevision, String> {
        let put = |key: &Bytes, value: &Bytes, revision: u64| {
            let is = self.version_at(key, revision);
            if is == (revision, Some(value)) { Ok(Some((revision, true))) } else { Err(format!("there is {is:?}")) }
        };
        match (&operation.ask, &operation.answer) {
            (Ask::Put { value, .. } | Ask::Swap { value, .. }, Answer::Nothing) => {
                Ok(self.values.get(value).map(|revision| (*revision, true)))
            }
            (_, Answer::Nothing) => Ok(None),
            (Ask::Put { key, value }, Answer::Changed(KeysOutcome::Put(done))) => put(key, value, done.revision),
            (Ask::Delete { key }, Answer::Changed(KeysOutcome::Delete(done))) => {
                let before = self.version_at(key, done.revision - 1).1.is_some();
                let after = self.version_at(key, done.revision).1.is_some();
                match (done.deleted, before, after) {
                    (1, true, false) => Ok(Some((done.revision, true))),
                    (0, _, false) => Ok(Some((done.revision, false))),
                    _ => Err(format!("there {before}, then {after}")),
                }
            }
            (
                Ask::Swap { key, expected, value },
                Answer::Changed(KeysOutcome::Txn { revision, succeeded, responses }),
            ) => {
                if *succeeded {
                    let before = self.version_at(key, revision - 1).0;
                    if before != *expected {
                        return Err(format!("it was changed at {before}"));
                    }
                    return put(key, value, *revision);
                }
                let (changed, is) = self.version_at(key, *revision);
                let found = match &responses[..] {
                    [OpOutcome::Range(range)] => range.kvs.first().map(|kv| &kv.value),
                    _ => return Err("it answers something else".into()),
                };
                if changed == *expected || found != is {
                    return Err(format!("it was changed at {changed}, to {is:?}"));
                }
                Ok(Some((*revision, false)))
            }
            (Ask::Read | Ask::ReadLocally, Answer::Found(found)) => {
                if found.revision > self.last {
                    return Err(format!("the last revision is {}", self.last));
                }
                let read: BTreeMap<_, _> = found.kvs.iter().map(|kv| (&kv.key, (kv.mod_revision, &kv.value))).collect();
                let keys: BTreeSet<_> = self.keys.keys().filter(|key| key.starts_with(b"k")).collect();
                for key in keys.into_iter().chain(read.keys().copied()) {
                    let (changed, value) = self.version_at(key, found.revision);
                    let expected = value.map(|value| (changed, value));
                    if read.get(key).copied() != expected {
                        return Err(format!("{key:?} should be {expected:?}"));
                    }
                }
                Ok(matches!(operation.ask, Ask::Read).then_some((found.revision, false)))
            }
            (_, answer) => Err(format!("{answer:?} answers something else")),
        }
    }
}
