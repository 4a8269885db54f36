//! The state machine: sessions, queue entries and fences. It is pure, as all machines of the store are: it reads no clock
//! and draws no random number, so all voters come to the same state.
//!
//! A command comes in by [`Machine::apply`] and is carried out by `Locks::execute`; `queue` decides who is granted what. A
//! query comes in by [`Machine::query`] and is answered by `query`. `etcd_keys` makes queue entries of keys that clients of
//! etcd put, and the other way round. `snapshot` writes all of it down.
//!
//! # Invariants
//!
//! - Each entry belongs to a session, and is in the queue of each of its locks. It holds all of them, or waits for all.
//! - A session has at most one entry in a queue.
//! - Where a client of etcd is in a queue, each entry of that queue is a key, too: see `etcd_keys`.
//! - Nobody waits who could be granted the lock: the command that frees a lock also grants it.
//! - `bytes` is the sum of what sessions, entries and fences are counted as.

mod etcd_keys;
mod query;
mod queue;
mod snapshot;

use std::{collections::BTreeSet, io, sync::Arc};

use broadcast_store::{
    CodecError, Error, SnapshotError, keys,
    machine::{
        ApplyContext, CowMap, LeaseEndReason, Machine, Outcome as StoreOutcome, QueryContext, SectionReader,
        SectionWriter,
    },
};
use bytes::Bytes;

use crate::{
    message::{
        AcquireCommand, EntryChange, LockCommand, LockEvent, LockOutcome, LockSessionConfig, MAX_ENTRIES_PER_SESSION,
        MAX_FENCES, Mode, decode, encode,
    },
    name::Name,
    refusal::Refusal,
};

/// The machine's name.
pub const NAME: &str = "locks";

/// The version of its newest command. A new command raises it, so that voters of an older release are not asked for what
/// they do not know.
pub const VERSION: u16 = 1;

/// How many bytes locks may take, unless an operator sets another quota. More lets more clients queue; each voter needs that
/// much memory, and snapshots grow with it.
pub const DEFAULT_QUOTA: u64 = 64 << 20;

/// Roughly what each takes in memory besides its texts; an entry, for each of its locks. All voters must count alike, so
/// other numbers would take another [`VERSION`].
const SESSION_BYTES: u64 = 256;
const ENTRY_BYTES: u64 = 384;
const FENCE_BYTES: u64 = 96;

/// A request for locks, in the queue of each of them: it waits there, and then holds them. Its key is its token.
#[derive(Clone, Debug, PartialEq, Eq)]
struct QueueEntry {
    session: i64,
    names: Vec<Name>,
    mode: Mode,
    value: Bytes,
    since: u64,
    /// Whether clients of etcd see it, as a key for each of its locks.
    has_keys: bool,
}

impl QueueEntry {
    fn bytes(&self) -> u64 {
        let names: u64 = self.names.iter().map(|name| ENTRY_BYTES + 2 * name.as_str().len() as u64).sum();
        names + self.value.len() as u64
    }
}

fn session_bytes(config: &LockSessionConfig) -> u64 {
    SESSION_BYTES + (config.node.len() + config.label.len()) as u64
}

fn fence_bytes(name: &Name) -> u64 {
    FENCE_BYTES + name.as_str().len() as u64
}

/// Totals since the store was founded. What each counts is an entry; several locks at once are one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockTotals {
    /// Entries that were granted.
    pub grants: u64,
    /// Holders that released, or whose session was ended.
    pub releases: u64,
    /// Holders whose lock was taken away by force.
    pub forced: u64,
    /// Holders whose session expired.
    pub expired: u64,
    /// Writes that were refused for a stale token.
    pub fenced: u64,
}

/// The locks of a store, as all its voters have them. Add it to the store's machines:
///
/// ```
/// let machines = broadcast_store::machine::Machines::default().with(broadcast_lock::Locks::machine);
/// ```
#[derive(Clone, Debug)]
pub struct Locks {
    sessions: CowMap<i64, Arc<LockSessionConfig>>,
    /// By their tokens.
    entries: CowMap<u64, Arc<QueueEntry>>,
    /// The tokens that hold each lock, in order.
    held: CowMap<(Name, u64), ()>,
    /// The tokens that wait for each lock, in order.
    waiting: CowMap<(Name, u64), ()>,
    /// The token of a session in the queue of a lock.
    of_session: CowMap<(i64, Name), u64>,
    /// The highest token seen of each resource.
    fences: CowMap<Name, u64>,
    /// How many entries of etcd's clients are in the queue of a lock, if any.
    etcd_entries: CowMap<Name, u64>,
    totals: LockTotals,
    bytes: u64,
    quota: u64,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            sessions: CowMap::default(),
            entries: CowMap::default(),
            held: CowMap::default(),
            waiting: CowMap::default(),
            of_session: CowMap::default(),
            fences: CowMap::default(),
            etcd_entries: CowMap::default(),
            totals: LockTotals::default(),
            bytes: 0,
            quota: DEFAULT_QUOTA,
        }
    }
}

impl Locks {
    /// An empty machine, boxed for [`Machines`](broadcast_store::machine::Machines).
    pub fn machine() -> Box<dyn Machine> {
        Box::<Self>::default()
    }

    /// Totals since the store was founded.
    pub fn totals(&self) -> LockTotals {
        self.totals
    }

    /// How many bytes locks may take.
    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// How many sessions there are, how many holders and how many waiters; an entry counts once for each of its locks.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.sessions.len(), self.held.len(), self.waiting.len())
    }

    /// The sessions that are to end when their node has failed: id, node, and lock delay in seconds.
    pub fn released_on_failure(&self) -> impl Iterator<Item = (i64, &str, u32)> {
        let all = self.sessions.iter().filter(|(_, config)| config.release_on_failure);
        all.map(|(session, config)| (*session, config.node.as_str(), config.lock_delay))
    }

    fn execute(&mut self, context: &mut ApplyContext<'_>, command: LockCommand) -> Result<LockOutcome, Refusal> {
        command.check().map_err(|_| Refusal::Invalid(String::new()))?;
        match command {
            LockCommand::OpenSession { session, config } => {
                self.check_space(session_bytes(&config))?;
                self.open(context, session, config)?;
                Ok(LockOutcome::Done)
            }
            LockCommand::Acquire(acquire) => self.acquire(context, acquire),
            LockCommand::EndSession { session } => {
                self.sessions.get(&session).ok_or(Refusal::NoSession { session })?;
                context.end_lease(session);
                Ok(LockOutcome::Done)
            }
            LockCommand::Release { session, token, name } => {
                let entry = self.entry_of(session, token)?;
                if name.is_some_and(|name| !entry.names.contains(&name)) {
                    return Err(Refusal::NotHeld { token });
                }
                self.remove(context, &[token], EntryChange::Released);
                Ok(LockOutcome::Released { tokens: vec![token] })
            }
            LockCommand::ForceRelease { name } => {
                let tokens: Vec<u64> = self.held(&name).collect();
                if tokens.is_empty() {
                    return Err(Refusal::Free { name });
                }
                // All entries of their sessions go at once, so that none of them is granted what another one had.
                let entries = tokens.iter().filter_map(|token| self.entries.get(token));
                let sessions: BTreeSet<i64> = entries.map(|entry| entry.session).collect();
                let all: Vec<u64> =
                    sessions.iter().flat_map(|each| self.of_session(*each)).map(|(_, token)| token).collect();
                sessions.into_iter().for_each(|session| context.end_lease(session));
                self.remove(context, &all, EntryChange::Forced);
                Ok(LockOutcome::Released { tokens })
            }
            LockCommand::Proclaim { name, session, token, value } => {
                let entry = Arc::clone(self.entry_of(session, token)?);
                if !self.holds(&name, token) || entry.mode != Mode::Exclusive {
                    return Err(Refusal::NotHeld { token });
                }
                self.check_space(value.len() as u64)?;
                if entry.has_keys {
                    Self::put_keys(context, &QueueEntry { value: value.clone(), ..QueueEntry::clone(&entry) })
                        .map_err(no_space)?;
                }
                self.set_value(context, token, &entry, value);
                Ok(LockOutcome::Done)
            }
            LockCommand::RaiseFence { token, .. } if token > context.revision() => {
                Err(Refusal::TokenNotIssued { token, newest: context.revision() })
            }
            LockCommand::RaiseFence { name, token } => match self.fences.get(&name).copied() {
                Some(highest) if highest > token => {
                    self.totals.fenced += 1;
                    Err(Refusal::StaleToken { name, token, highest })
                }
                Some(_) => {
                    self.fences.insert(name, token);
                    Ok(LockOutcome::Done)
                }
                None if self.fences.len() >= MAX_FENCES => Err(Refusal::TooManyFences { most: MAX_FENCES as u64 }),
                None => {
                    self.check_space(fence_bytes(&name))?;
                    self.bytes += fence_bytes(&name);
                    self.fences.insert(name, token);
                    Ok(LockOutcome::Done)
                }
            },
            LockCommand::ForgetFence { name } => {
                if self.fences.remove(&name).is_some() {
                    self.bytes -= fence_bytes(&name);
                }
                Ok(LockOutcome::Done)
            }
            LockCommand::FencedWrite { name, token, keys } => self.fenced_write(context, &name, token, &keys),
        }
    }

    fn fenced_write(
        &mut self,
        context: &mut ApplyContext<'_>,
        name: &Name,
        token: u64,
        command: &Bytes,
    ) -> Result<LockOutcome, Refusal> {
        let exclusive = self.entries.get(&token).is_some_and(|entry| entry.mode == Mode::Exclusive);
        if !exclusive || !self.holds(name, token) {
            self.totals.fenced += 1;
            return Err(Refusal::NotHeld { token });
        }
        // Whoever proposed it has checked it.
        let command = keys::KeysCommand::decode(command).map_err(|_| Refusal::Invalid(String::new()))?;
        let outcome = self.execute_keys(context, &command).map_or_else(StoreOutcome::Refused, StoreOutcome::Keys);
        Ok(LockOutcome::Keys(outcome.encode().into()))
    }

    /// Carries out a command for users' keys. Some of these keys may be entries of etcd's clients.
    fn execute_keys(
        &mut self,
        context: &mut ApplyContext<'_>,
        command: &keys::KeysCommand,
    ) -> Result<keys::KeysOutcome, Error> {
        self.prepare_etcd_entries(context, &command.leased_puts())?;
        let before = context.revision();
        let outcome = context.keys(command)?;
        if let Some(changed) = context.changed_after(before) {
            self.apply_key_changes(context, &changed);
        }
        Ok(outcome)
    }

    fn set_value(&mut self, context: &mut ApplyContext<'_>, token: u64, entry: &QueueEntry, value: Bytes) {
        let entry = QueueEntry { value, ..QueueEntry::clone(entry) };
        emit(context, token, &entry, EntryChange::Proclaimed);
        self.bytes += entry.bytes();
        let former = self.entries.insert(token, Arc::new(entry));
        self.bytes -= former.map_or(0, |former| former.bytes());
    }

    fn open(&mut self, context: &mut ApplyContext<'_>, session: i64, config: LockSessionConfig) -> Result<(), Refusal> {
        // The lease is longer than the session by the lock delay: a holder stops counting on its lock before others get it.
        match context.grant(session, i64::from(config.ttl) + i64::from(config.lock_delay)) {
            Ok(_) => {}
            Err(Error::NoSpace { quota, bytes, .. }) => return Err(Refusal::NoSpace { quota, bytes }),
            Err(_) => return Err(Refusal::SessionExists { session }),
        }
        self.bytes += session_bytes(&config);
        self.sessions.insert(session, Arc::new(config));
        Ok(())
    }

    fn acquire(&mut self, context: &mut ApplyContext<'_>, acquire: AcquireCommand) -> Result<LockOutcome, Refusal> {
        let AcquireCommand { session, open, names, mode, waits, value, since } = acquire;
        if open.is_none() && self.sessions.get(&session).is_none() {
            return Err(Refusal::NoSession { session });
        }
        if open.is_some() && context.leases().contains(session) {
            return Err(Refusal::SessionExists { session });
        }
        let queued = names.iter().find_map(|name| Some((name, *self.of_session.get(&(session, name.clone()))?)));
        // An entry is the business of the one request that made it: of two, one would give up the other's lock.
        if let Some((name, token)) = queued {
            return Err(Refusal::AlreadyQueued { session, name: name.clone(), token });
        }
        if self.of_session(session).take(MAX_ENTRIES_PER_SESSION).count() == MAX_ENTRIES_PER_SESSION {
            return Err(Refusal::TooManyEntries { session, most: MAX_ENTRIES_PER_SESSION as u64 });
        }
        if !waits && !names.iter().all(|name| self.would_grant(name, mode)) {
            return Ok(LockOutcome::Taken { holders: self.holders(&names) });
        }
        let has_keys = names.iter().any(|name| self.has_etcd_client(name));
        let entry = QueueEntry { session, names, mode, value, since, has_keys };
        self.check_space(entry.bytes() + open.as_ref().map_or(0, session_bytes))?;
        let is_opened = open.is_some();
        if let Some(config) = open {
            self.open(context, session, config)?;
        }
        let token = match has_keys {
            false => context.next_revision(),
            true => Self::put_keys(context, &entry).map_err(|error| {
                if is_opened {
                    context.end_lease(session);
                }
                no_space(error)
            })?,
        };
        let first = entry.names[0].clone();
        self.insert(token, entry, false);
        self.grant(context, &first);
        let granted = self.holds(&first, token);
        if !granted && let Some(entry) = self.entries.get(&token) {
            emit(context, token, entry, EntryChange::Queued);
        }
        Ok(LockOutcome::Queued { token, granted })
    }

    /// The entry with that token, if it belongs to the session.
    fn entry_of(&self, session: i64, token: u64) -> Result<&Arc<QueueEntry>, Refusal> {
        self.entries.get(&token).filter(|entry| entry.session == session).ok_or(Refusal::NotHeld { token })
    }

    fn check_space(&self, bytes: u64) -> Result<(), Refusal> {
        if self.bytes.saturating_add(bytes) > self.quota {
            return Err(Refusal::NoSpace { quota: self.quota, bytes: self.bytes });
        }
        Ok(())
    }

    /// Checks the invariants of this module. Tests call it after every step.
    #[doc(hidden)]
    pub fn assert_invariants(&self) {
        let mut bytes = self.sessions.iter().map(|(_, config)| session_bytes(config)).sum::<u64>();
        bytes += self.fences.iter().map(|(name, _)| fence_bytes(name)).sum::<u64>();
        let mut queued = 0;
        for (token, entry) in self.entries.iter() {
            bytes += entry.bytes();
            queued += entry.names.len();
            assert!(
                entry.is_etcd_entry() || self.sessions.get(&entry.session).is_some(),
                "entry {token} has no session"
            );
            let meets_etcd_client = entry.names.iter().any(|name| self.has_etcd_client(name));
            assert!(entry.has_keys || !meets_etcd_client, "a client of etcd does not see entry {token}");
            let held = self.holds(&entry.names[0], *token);
            for name in &entry.names {
                assert_eq!(self.holds(name, *token), held, "entry {token} is granted in part");
                assert_eq!(self.waiting.get(&(name.clone(), *token)).is_some(), !held, "entry {token} of {name}");
                assert_eq!(self.of_session.get(&(entry.session, name.clone())), Some(token));
            }
        }
        let etcd_entries = self.entries.iter().filter(|(_, entry)| entry.is_etcd_entry()).count() as u64;
        assert_eq!(etcd_entries, self.etcd_entries.iter().map(|(_, count)| count).sum::<u64>());
        assert_eq!(queued, self.held.len() + self.waiting.len());
        assert_eq!(queued, self.of_session.len());
        assert_eq!(bytes, self.bytes);
        for ((name, token), ()) in self.waiting.iter() {
            let entry = self.entries.get(token).expect("whoever waits has an entry");
            assert!(
                !entry.names.iter().all(|name| self.is_turn(name, *token)),
                "{token} waits for {name} though it is free"
            );
        }
        for ((name, token), ()) in self.held.iter() {
            assert!(self.is_turn(name, *token), "{token} holds {name} before its turn");
        }
    }
}

/// Tells those who follow what has happened to an entry.
fn emit(context: &mut ApplyContext<'_>, token: u64, entry: &QueueEntry, change: EntryChange) {
    context.emit(encode(&LockEvent { token, session: entry.session, names: entry.names.clone(), change }));
}

/// Why the keys of an entry cannot be put: only space can be lacking.
fn no_space(error: Error) -> Refusal {
    match error {
        Error::NoSpace { quota, bytes, .. } => Refusal::KeysFull { quota, bytes },
        _ => Refusal::Invalid(String::new()),
    }
}

fn malformed(_: postcard::Error) -> CodecError {
    CodecError::Contradiction { what: "it cannot be read as one about locks" }
}

impl Machine for Locks {
    fn name(&self) -> &'static str {
        NAME
    }

    fn version(&self) -> u16 {
        VERSION
    }

    fn check(&self, body: &[u8]) -> Result<(), CodecError> {
        match decode(body).map_err(malformed)? {
            LockCommand::FencedWrite { keys, .. } => keys::KeysCommand::decode(&keys).map(drop),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, context: &mut ApplyContext<'_>, body: &[u8]) -> Result<Bytes, CodecError> {
        let outcome = self.execute(context, decode(body).map_err(malformed)?);
        Ok(encode(&outcome.unwrap_or_else(LockOutcome::Refused)).into())
    }

    fn query(&self, context: &QueryContext<'_>, query: &[u8]) -> Result<Bytes, CodecError> {
        Ok(self.answer_query(context, decode(query).map_err(malformed)?).into())
    }

    fn lease_ended(&mut self, context: &mut ApplyContext<'_>, lease: i64, why: LeaseEndReason) {
        let Some(config) = self.sessions.remove(&lease) else { return };
        self.bytes -= session_bytes(&config);
        let change = match why {
            LeaseEndReason::Revoked => EntryChange::Ended,
            LeaseEndReason::Expired => EntryChange::Expired,
        };
        let tokens: Vec<u64> = self.of_session(lease).map(|(_, token)| token).collect();
        self.remove(context, &tokens, change);
    }

    fn before_puts(&mut self, context: &mut ApplyContext<'_>, puts: &[&keys::Put]) -> Result<(), Error> {
        self.prepare_etcd_entries(context, puts)
    }

    fn keys_changed(&mut self, context: &mut ApplyContext<'_>, changed: &[Arc<keys::KeyValue>]) {
        self.apply_key_changes(context, changed);
    }

    fn founded_anew(&mut self, revision: u64) -> Vec<i64> {
        // What the restored sessions hold may have been granted to others since. None of their tokens may pass a fence.
        let names: Vec<Name> = self.fences.iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            self.fences.insert(name, revision);
        }
        self.sessions.iter().map(|(session, _)| *session).collect()
    }

    fn guaranteed_ttl(&self, lease: i64) -> Option<i64> {
        self.sessions.get(&lease).map(|config| config.ttl.into())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn set_quota(&mut self, bytes: u64) {
        self.quota = bytes;
    }

    fn copy(&self) -> Box<dyn Machine> {
        Box::new(self.clone())
    }

    fn write(&self, sink: &mut SectionWriter<'_>) -> io::Result<()> {
        self.write_records(sink)
    }

    fn read(&mut self, source: &mut SectionReader<'_>) -> Result<(), SnapshotError> {
        *self = Self::read_records(source)?;
        Ok(())
    }
}
