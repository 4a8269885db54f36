//! The state machine: sessions, places, queues and fences. Pure, as all machines of the store are.
//!
//! # Invariants
//!
//! - Each place is of a session, and stands in the queue of each of its locks: among those that hold it, or among those
//!   that wait, and in the same one of the two in all of them.
//! - A session has at most one place in a queue.
//! - A place that is in a queue with one of a client of etcd is a key, too: see `shown.rs`.
//! - Nobody waits who could be granted: whenever a place is taken or given up, what can be granted is, in the same command.
//! - The bytes are the sum of what sessions, places and fences are counted as.

mod answer;
mod queue;
mod shown;
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
        Acquire, Change, Command, Event, MAX_FENCES, MAX_PLACES_OF_SESSION, Mode, Outcome, SessionConfig, decode,
        encode,
    },
    name::Name,
    refusal::Refusal,
};

/// The machine's name.
pub const NAME: &str = "locks";

/// The version of the newest of its commands.
pub const VERSION: u16 = 1;

/// How many bytes locks may take, unless the quota is set to something else.
pub const DEFAULT_QUOTA: u64 = 64 << 20;

/// Roughly what each takes in memory besides its texts; a place, for each of its locks. All members have to count alike, so
/// other numbers would take another [`VERSION`].
const SESSION_BYTES: u64 = 256;
const PLACE_BYTES: u64 = 384;
const FENCE_BYTES: u64 = 96;

/// A place in the queues of its locks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    session: i64,
    names: Vec<Name>,
    mode: Mode,
    value: Bytes,
    since: u64,
    /// Whether it is a key, too, for each of its locks.
    shown: bool,
}

impl Place {
    fn bytes(&self) -> u64 {
        let names: u64 = self.names.iter().map(|name| PLACE_BYTES + 2 * name.as_str().len() as u64).sum();
        names + self.value.len() as u64
    }
}

fn session_bytes(config: &SessionConfig) -> u64 {
    SESSION_BYTES + (config.node.len() + config.label.len()) as u64
}

fn fence_bytes(name: &Name) -> u64 {
    FENCE_BYTES + name.as_str().len() as u64
}

/// What has happened since the store was founded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Places that were granted.
    pub grants: u64,
    /// Granted places that were given up.
    pub releases: u64,
    /// Granted places that were taken away.
    pub forced: u64,
    /// Granted places that ended with their session, which nobody had kept alive.
    pub expired: u64,
    /// Writes that were refused for a token.
    pub fenced: u64,
}

/// The locks of a store, as all its voters have them. See the [crate].
#[derive(Clone, Debug)]
pub struct Locks {
    sessions: CowMap<i64, Arc<SessionConfig>>,
    /// By their tokens.
    places: CowMap<u64, Arc<Place>>,
    /// The places that hold each lock, in the order of their tokens.
    held: CowMap<(Name, u64), ()>,
    /// Those that wait for it.
    waiting: CowMap<(Name, u64), ()>,
    /// The places of each session, by lock.
    of_session: CowMap<(i64, Name), u64>,
    fences: CowMap<Name, u64>,
    /// How many places clients of etcd have in the queue of each lock, if any.
    foreign: CowMap<Name, u64>,
    totals: Totals,
    bytes: u64,
    quota: u64,
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            sessions: CowMap::default(),
            places: CowMap::default(),
            held: CowMap::default(),
            waiting: CowMap::default(),
            of_session: CowMap::default(),
            fences: CowMap::default(),
            foreign: CowMap::default(),
            totals: Totals::default(),
            bytes: 0,
            quota: DEFAULT_QUOTA,
        }
    }
}

impl Locks {
    /// An empty one, boxed for [`Machines`](broadcast_store::machine::Machines).
    pub fn machine() -> Box<dyn Machine> {
        Box::<Self>::default()
    }

    /// What has happened since the store was founded.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How many bytes they may take.
    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// How many sessions there are, places that are granted, counted once for each of their locks, and places that wait.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.sessions.len(), self.held.len(), self.waiting.len())
    }

    /// The sessions that end when their node has failed: id, node, and lock-delay in seconds.
    pub fn released_on_failure(&self) -> impl Iterator<Item = (i64, &str, u32)> {
        let all = self.sessions.iter().filter(|(_, config)| config.release_on_failure);
        all.map(|(session, config)| (*session, config.node.as_str(), config.lock_delay))
    }

    fn execute(&mut self, context: &mut ApplyContext<'_>, command: Command) -> Result<Outcome, Refusal> {
        command.check().map_err(|_| Refusal::Invalid(String::new()))?;
        match command {
            Command::Open { session, config } => {
                self.check_space(session_bytes(&config))?;
                self.open(context, session, config)?;
                Ok(Outcome::Done)
            }
            Command::Acquire(acquire) => self.acquire(context, acquire),
            Command::End { session } => {
                self.sessions.get(&session).ok_or(Refusal::NoSession { session })?;
                context.end_lease(session);
                Ok(Outcome::Done)
            }
            Command::Release { session, token, name } => {
                let place = self.place_of(session, token)?;
                if name.is_some_and(|name| !place.names.contains(&name)) {
                    return Err(Refusal::NotHeld { token });
                }
                self.remove(context, &[token], Change::Released);
                Ok(Outcome::Released { tokens: vec![token] })
            }
            Command::Force { name } => {
                let tokens: Vec<u64> = self.held(&name).collect();
                if tokens.is_empty() {
                    return Err(Refusal::Free { name });
                }
                // All that their sessions have goes at once, so that none of them is granted what another one had.
                let places = tokens.iter().filter_map(|token| self.places.get(token));
                let sessions: BTreeSet<i64> = places.map(|place| place.session).collect();
                let all: Vec<u64> =
                    sessions.iter().flat_map(|each| self.of_session(*each)).map(|(_, token)| token).collect();
                sessions.into_iter().for_each(|session| context.end_lease(session));
                self.remove(context, &all, Change::Forced);
                Ok(Outcome::Released { tokens })
            }
            Command::Proclaim { name, session, token, value } => {
                let place = Arc::clone(self.place_of(session, token)?);
                if !self.holds(&name, token) || place.mode != Mode::Exclusive {
                    return Err(Refusal::NotHeld { token });
                }
                self.check_space(value.len() as u64)?;
                if place.shown {
                    Self::show(context, &Place { value: value.clone(), ..Place::clone(&place) }).map_err(no_space)?;
                }
                self.set_value(context, token, &place, value);
                Ok(Outcome::Done)
            }
            Command::Fence { token, .. } if token > context.revision() => {
                Err(Refusal::NotGiven { token, newest: context.revision() })
            }
            Command::Fence { name, token } => match self.fences.get(&name).copied() {
                Some(highest) if highest > token => {
                    self.totals.fenced += 1;
                    Err(Refusal::Fenced { name, token, highest })
                }
                Some(_) => {
                    self.fences.insert(name, token);
                    Ok(Outcome::Done)
                }
                None if self.fences.len() >= MAX_FENCES => Err(Refusal::TooManyFences { most: MAX_FENCES as u64 }),
                None => {
                    self.check_space(fence_bytes(&name))?;
                    self.bytes += fence_bytes(&name);
                    self.fences.insert(name, token);
                    Ok(Outcome::Done)
                }
            },
            Command::Forget { name } => {
                if self.fences.remove(&name).is_some() {
                    self.bytes -= fence_bytes(&name);
                }
                Ok(Outcome::Done)
            }
            Command::Fenced { name, token, keys } => self.fenced(context, &name, token, &keys),
        }
    }

    fn fenced(
        &mut self,
        context: &mut ApplyContext<'_>,
        name: &Name,
        token: u64,
        command: &Bytes,
    ) -> Result<Outcome, Refusal> {
        let exclusive = self.places.get(&token).is_some_and(|place| place.mode == Mode::Exclusive);
        if !exclusive || !self.holds(name, token) {
            self.totals.fenced += 1;
            return Err(Refusal::NotHeld { token });
        }
        // It was checked before it came into the log.
        let command = keys::KeysCommand::decode(command).map_err(|_| Refusal::Invalid(String::new()))?;
        let outcome = self.users_keys(context, &command).map_or_else(StoreOutcome::Refused, StoreOutcome::Keys);
        Ok(Outcome::Keys(outcome.encode().into()))
    }

    /// Carries out a command of a user's, which may be about places as well.
    fn users_keys(
        &mut self,
        context: &mut ApplyContext<'_>,
        command: &keys::KeysCommand,
    ) -> Result<keys::KeysOutcome, Error> {
        self.before_places(context, &command.leased_puts())?;
        let before = context.revision();
        let outcome = context.keys(command)?;
        if let Some(changed) = context.changed_after(before) {
            self.places_changed(context, &changed);
        }
        Ok(outcome)
    }

    fn set_value(&mut self, context: &mut ApplyContext<'_>, token: u64, place: &Place, value: Bytes) {
        let place = Place { value, ..Place::clone(place) };
        tell(context, token, &place, Change::Proclaimed);
        self.bytes += place.bytes();
        let former = self.places.insert(token, Arc::new(place));
        self.bytes -= former.map_or(0, |former| former.bytes());
    }

    fn open(&mut self, context: &mut ApplyContext<'_>, session: i64, config: SessionConfig) -> Result<(), Refusal> {
        // The lock-delay is part of the lease: whoever holds the lock counts without it.
        match context.grant(session, i64::from(config.ttl) + i64::from(config.lock_delay)) {
            Ok(_) => {}
            Err(Error::NoSpace { quota, bytes, .. }) => return Err(Refusal::NoSpace { quota, bytes }),
            Err(_) => return Err(Refusal::SessionExists { session }),
        }
        self.bytes += session_bytes(&config);
        self.sessions.insert(session, Arc::new(config));
        Ok(())
    }

    fn acquire(&mut self, context: &mut ApplyContext<'_>, acquire: Acquire) -> Result<Outcome, Refusal> {
        let Acquire { session, open, names, mode, waits, value, since } = acquire;
        if open.is_none() && self.sessions.get(&session).is_none() {
            return Err(Refusal::NoSession { session });
        }
        if open.is_some() && context.leases().contains(session) {
            return Err(Refusal::SessionExists { session });
        }
        let has = names.iter().find_map(|name| Some((name, *self.of_session.get(&(session, name.clone()))?)));
        // Each place is the business of one who asked for it: two would give it up for each other.
        if let Some((name, token)) = has {
            return Err(Refusal::HasPlace { session, name: name.clone(), token });
        }
        if self.of_session(session).take(MAX_PLACES_OF_SESSION).count() == MAX_PLACES_OF_SESSION {
            return Err(Refusal::TooManyPlaces { session, most: MAX_PLACES_OF_SESSION as u64 });
        }
        if !waits && !names.iter().all(|name| self.would_grant(name, mode)) {
            return Ok(Outcome::Taken { holders: self.holders(&names) });
        }
        let shown = names.iter().any(|name| self.has_foreign(name));
        let place = Place { session, names, mode, value, since, shown };
        self.check_space(place.bytes() + open.as_ref().map_or(0, session_bytes))?;
        let is_opened = open.is_some();
        if let Some(config) = open {
            self.open(context, session, config)?;
        }
        let token = match shown {
            false => context.next_revision(),
            true => Self::show(context, &place).map_err(|error| {
                if is_opened {
                    context.end_lease(session);
                }
                no_space(error)
            })?,
        };
        let first = place.names[0].clone();
        self.insert(token, place, false);
        self.grant(context, &first);
        let granted = self.holds(&first, token);
        if !granted && let Some(place) = self.places.get(&token) {
            tell(context, token, place, Change::Waits);
        }
        Ok(Outcome::Placed { token, granted })
    }

    /// The place of that token, if it is the session's.
    fn place_of(&self, session: i64, token: u64) -> Result<&Arc<Place>, Refusal> {
        self.places.get(&token).filter(|place| place.session == session).ok_or(Refusal::NotHeld { token })
    }

    fn check_space(&self, bytes: u64) -> Result<(), Refusal> {
        if self.bytes.saturating_add(bytes) > self.quota {
            return Err(Refusal::NoSpace { quota: self.quota, bytes: self.bytes });
        }
        Ok(())
    }

    /// Each place's place is checked, and the sums: what tests run after every step.
    #[doc(hidden)]
    pub fn assert_invariants(&self) {
        let mut bytes = self.sessions.iter().map(|(_, config)| session_bytes(config)).sum::<u64>();
        bytes += self.fences.iter().map(|(name, _)| fence_bytes(name)).sum::<u64>();
        let mut queued = 0;
        for (token, place) in self.places.iter() {
            bytes += place.bytes();
            queued += place.names.len();
            assert!(
                place.is_foreign() || self.sessions.get(&place.session).is_some(),
                "place {token} is of no session"
            );
            let meets_foreign = place.names.iter().any(|name| self.has_foreign(name));
            assert!(place.shown || !meets_foreign, "a client of etcd does not see place {token}");
            let held = self.holds(&place.names[0], *token);
            for name in &place.names {
                assert_eq!(self.holds(name, *token), held, "place {token} is granted in part");
                assert_eq!(self.waiting.get(&(name.clone(), *token)).is_some(), !held, "place {token} of {name}");
                assert_eq!(self.of_session.get(&(place.session, name.clone())), Some(token));
            }
        }
        let foreign = self.places.iter().filter(|(_, place)| place.is_foreign()).count() as u64;
        assert_eq!(foreign, self.foreign.iter().map(|(_, count)| count).sum::<u64>());
        assert_eq!(queued, self.held.len() + self.waiting.len());
        assert_eq!(queued, self.of_session.len());
        assert_eq!(bytes, self.bytes);
        for ((name, token), ()) in self.waiting.iter() {
            let place = self.places.get(token).expect("whoever waits has a place");
            assert!(
                !place.names.iter().all(|name| self.is_turn(name, *token)),
                "{token} waits for {name} though it is free"
            );
        }
        for ((name, token), ()) in self.held.iter() {
            assert!(self.is_turn(name, *token), "{token} holds {name} before its turn");
        }
    }
}

/// Tells those who follow what has happened to a place.
fn tell(context: &mut ApplyContext<'_>, token: u64, place: &Place, change: Change) {
    context.emit(encode(&Event { token, session: place.session, names: place.names.clone(), change }));
}

/// Why the keys of a place cannot be put: there is nothing else to be refused.
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
            Command::Fenced { keys, .. } => keys::KeysCommand::decode(&keys).map(drop),
            _ => Ok(()),
        }
    }

    fn apply(&mut self, context: &mut ApplyContext<'_>, body: &[u8]) -> Result<Bytes, CodecError> {
        let outcome = self.execute(context, decode(body).map_err(malformed)?);
        Ok(encode(&outcome.unwrap_or_else(Outcome::Refused)).into())
    }

    fn query(&self, context: &QueryContext<'_>, question: &[u8]) -> Result<Bytes, CodecError> {
        Ok(self.answer_to(context, decode(question).map_err(malformed)?).into())
    }

    fn lease_ended(&mut self, context: &mut ApplyContext<'_>, lease: i64, why: LeaseEndReason) {
        let Some(config) = self.sessions.remove(&lease) else { return };
        self.bytes -= session_bytes(&config);
        let change = match why {
            LeaseEndReason::Revoked => Change::Ended,
            LeaseEndReason::Expired => Change::Expired,
        };
        let tokens: Vec<u64> = self.of_session(lease).map(|(_, token)| token).collect();
        self.remove(context, &tokens, change);
    }

    fn before_puts(&mut self, context: &mut ApplyContext<'_>, puts: &[&keys::Put]) -> Result<(), Error> {
        self.before_places(context, puts)
    }

    fn keys_changed(&mut self, context: &mut ApplyContext<'_>, changed: &[Arc<keys::KeyValue>]) {
        self.places_changed(context, changed);
    }

    fn founded_anew(&mut self, revision: u64) -> Vec<i64> {
        // What they hold may have been released since, and granted to others. No token of theirs is to pass a fence.
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
