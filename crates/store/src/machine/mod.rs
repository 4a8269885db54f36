//! The replicated state: machines apart from each other, and what they share.
//!
//! # Machines
//!
//! A [`State`] is a set of [machines](Machine). Users' [keys] are one; others are registered when the state is made,
//! the same on every member of a release. A machine has a name, commands, a quota and a section of the snapshot of its
//! own. A command names its machine and is read by that alone, so no command for keys can reach another machine's data.
//! What has changed in a machine is found in its own state after a command, as [`WatchHub`](crate::keys::WatchHub)
//! finds what has changed in keys.
//!
//! All machines share the [leases](Leases): when one ends, each machine is told in the same command.
//!
//! # What is pure
//!
//! [`State::apply`] depends on the state, the command, and the index and term of its entry, and on nothing else: not on
//! a clock, a random number, the gossip, a setting of this node, or the order of a hash map. What depends on time is
//! proposed by the leader: it finds with [`LeaseTimers`] and [`Compactor`](crate::keys::Compactor) what is due, and
//! what these do is in the command.
//!
//! # Versions
//!
//! Each machine numbers its releases of commands; a command says in which it appeared. A leader proposes a command only
//! if all voters know it: [`CommandVersions`]. A member that meets a command it does not know [stops](crate::ApplyError): to skip it
//! would give it another state. A machine's section of a snapshot has the highest version of the commands that led to
//! it, so a member of an earlier release reads what one of a later release writes, until new commands are in use. Until
//! then the two write the same bytes, too.
//!
//! # Retries
//!
//! Who does not hear what became of a request sends it again, with the same [`RequestId`]: client and serial. The state
//! keeps the outcomes of the last requests of each client, so a request is applied once, and answered as the first
//! time.

mod clients;
mod command;
mod context;
mod lease_timers;
mod outcome;
mod snapshot;

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    error::{ApplyError, CodecError, Error, SnapshotError},
    keys::{self, Keys},
};
use clients::Clients;
use command::{Action, StoreCommand};

pub use crate::cow_map::{CowMap, Iter};
pub use crate::leases::{Leases, MAX_LEASES, MIN_TTL};
pub use crate::limits::{MAGIC, MAX_TTL, NAME};
pub use crate::log_id::LogId;
pub use crate::section::{MAX_RECORD, SectionReader, SectionWriter};
pub use clients::{MAX_CLIENTS, MAX_OUTCOME_BYTES, MAX_OUTCOMES, MAX_OUTCOMES_BYTES, RequestId};
pub use command::{Command, CommandVersions, MAX_COMMAND};
pub use context::ApplyContext;
pub use lease_timers::LeaseTimers;
pub use outcome::Outcome;
pub use snapshot::FORMAT;

/// The version of the newest of the state's own commands.
pub const VERSION: u16 = 1;

/// By how much revisions jump when a store is founded with the state of another, and the clock does not say how far they
/// should. It is more than a store changes within hours, so that no revision means two things: what etcd's manual advises.
pub const REVISION_JUMP: u64 = 1_000_000_000;

/// What every release knows.
const FIRST: [(&str, u16); 2] = [(NAME, 1), (keys::NAME, 1)];

/// What there is besides a machine, while it answers a question.
pub struct QueryContext<'a> {
    /// The leases that there are.
    pub leases: &'a Leases,
    /// How long a lease has left, as far as this member knows: only the leader does.
    pub left: &'a dyn Fn(i64) -> Option<Duration>,
}

/// Why a lease has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEndReason {
    /// Somebody ended it.
    Revoked,
    /// Nobody kept it alive.
    Expired,
}

/// A machine of the state. What it does depends on nothing but itself, the context and the command.
pub trait Machine: Any + Debug + Send + Sync {
    /// Its name, which no other machine has. It stays the same in all releases.
    fn name(&self) -> &'static str;

    /// The version of the newest command that it knows.
    fn version(&self) -> u16;

    /// Whether it can read the body of a command: one that it cannot would stop all members, and is not proposed.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn check(&self, body: &[u8]) -> Result<(), CodecError>;

    /// Carries out a command. A refusal is an outcome.
    ///
    /// # Errors
    ///
    /// A body that it cannot read. The node stops.
    fn apply(&mut self, context: &mut ApplyContext<'_>, body: &[u8]) -> Result<Bytes, CodecError>;

    /// Answers a question about what it has.
    ///
    /// # Errors
    ///
    /// A question that it cannot read.
    fn query(&self, context: &QueryContext<'_>, question: &[u8]) -> Result<Bytes, CodecError>;

    /// A lease has ended: whatever depended on it ends, too.
    fn lease_ended(&mut self, context: &mut ApplyContext<'_>, lease: i64, why: LeaseEndReason);

    /// A command is about to put users' keys with these leases, if it does not turn out otherwise. What the machine does now
    /// comes before that.
    ///
    /// # Errors
    ///
    /// The command is refused.
    fn before_puts(&mut self, context: &mut ApplyContext<'_>, puts: &[&keys::Put]) -> Result<(), Error> {
        let _ = (context, puts);
        Ok(())
    }

    /// Users' keys have changed: each as it is now, or [what a delete leaves](keys::KeyValue::is_tombstone). What machines
    /// themselves do to keys is not told.
    fn keys_changed(&mut self, context: &mut ApplyContext<'_>, changed: &[Arc<keys::KeyValue>]) {
        let _ = (context, changed);
    }

    /// How long, in seconds, whoever keeps a lease alive may rely on it, if that is shorter than the lease lives.
    fn guaranteed_ttl(&self, lease: i64) -> Option<i64> {
        let _ = lease;
        None
    }

    /// A store was founded with this state, and goes on at this revision: what was agreed on in the former store since the
    /// state was saved is lost. Gives the leases that are to end, as they belong to the former store.
    fn founded_anew(&mut self, revision: u64) -> Vec<i64> {
        let _ = revision;
        Vec::new()
    }

    /// How many bytes it takes, about.
    fn bytes(&self) -> u64;

    /// Sets how many bytes it may take. It refuses what would be more.
    fn set_quota(&mut self, bytes: u64);

    /// A copy that goes on being as it is now. It has to be cheap: commands wait meanwhile.
    fn copy(&self) -> Box<dyn Machine>;

    /// Writes its section of a snapshot, so that [`SectionWriter::version`] of it can read that: the highest version of the
    /// commands that it has had. Machines in the same state write the same bytes. One that has had no command, and
    /// has never had [bytes](Machine::bytes), is not asked: it is as it was made, whatever leases have ended.
    ///
    /// # Errors
    ///
    /// Those of the sink.
    fn write(&self, sink: &mut SectionWriter<'_>) -> io::Result<()>;

    /// Becomes what its section of a snapshot says. If that fails, it is not used any more.
    ///
    /// # Errors
    ///
    /// Those of the source, and [`SnapshotError::Malformed`].
    fn read(&mut self, source: &mut SectionReader<'_>) -> Result<(), SnapshotError>;
}

/// The machines that a store has besides users' keys. All voters of a store should have the same, and what one of them does
/// not know yet is not agreed on until it is upgraded.
#[derive(Clone, Debug, Default)]
pub struct Machines(Vec<fn() -> Box<dyn Machine>>);

impl Machines {
    /// Adds a machine, by how an empty one is made.
    #[must_use]
    pub fn with(mut self, make: fn() -> Box<dyn Machine>) -> Self {
        self.0.push(make);
        self
    }

    /// Makes each of them, empty.
    pub fn make(&self) -> Vec<Box<dyn Machine>> {
        self.0.iter().map(|make| make()).collect()
    }
}

/// All that the members agree on.
#[derive(Debug)]
pub struct State {
    last_applied: LogId,
    /// How many commands have been applied. Unlike indexes, no two commands have the same.
    commands: u64,
    leases: Leases,
    clients: Clients,
    keys: Keys,
    /// The highest version of the commands that each machine has had.
    used: BTreeMap<String, u16>,
    /// In the order of their names.
    others: Vec<Box<dyn Machine>>,
    /// What machines have told since that was last taken, by their names. It is no part of what members agree on.
    events: Vec<(&'static str, Bytes)>,
    /// Leases that are still to end, as part of the command that is being carried out.
    ending: VecDeque<i64>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// An empty state with users' keys alone.
    pub fn new() -> Self {
        Self::with(Vec::new())
    }

    /// An empty state with these machines besides users' keys.
    ///
    /// # Panics
    ///
    /// If two machines have the same name, or one that is taken: `keys` and `store`.
    pub fn with(mut machines: Vec<Box<dyn Machine>>) -> Self {
        machines.sort_by_key(|machine| machine.name());
        for pair in machines.windows(2) {
            assert_ne!(pair[0].name(), pair[1].name(), "each machine has its own name");
        }
        for machine in &machines {
            assert!(![NAME, keys::NAME].contains(&machine.name()), "{} is the name of another", machine.name());
        }
        Self {
            last_applied: LogId::default(),
            commands: 0,
            leases: Leases::default(),
            clients: Clients::default(),
            keys: Keys::default(),
            used: BTreeMap::new(),
            others: machines,
            events: Vec::new(),
            ending: VecDeque::new(),
        }
    }

    /// The entry that was applied last.
    pub fn last_applied(&self) -> LogId {
        self.last_applied
    }

    /// Users' keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Another machine, by its type.
    pub fn machine<M: Machine>(&self) -> Option<&M> {
        self.others.iter().find_map(|machine| (machine.as_ref() as &dyn Any).downcast_ref())
    }

    /// Has another machine, by its name, answer a question; nothing, if there is none of that name.
    pub fn query(
        &self,
        machine: &str,
        context: &QueryContext<'_>,
        question: &[u8],
    ) -> Option<Result<Bytes, CodecError>> {
        self.find(machine).map(|machine| machine.query(context, question))
    }

    /// How long, in seconds, whoever keeps a lease alive may rely on it; nothing, if there is none.
    pub fn guaranteed_ttl(&self, lease: i64) -> Option<i64> {
        let ttl = self.leases.ttl(lease)?;
        Some(self.others.iter().filter_map(|machine| machine.guaranteed_ttl(lease)).fold(ttl, i64::min))
    }

    /// What machines have told since this was called last, by their names.
    pub fn take_events(&mut self) -> Vec<(&'static str, Bytes)> {
        std::mem::take(&mut self.events)
    }

    fn find(&self, machine: &str) -> Option<&dyn Machine> {
        self.others.iter().find(|each| each.name() == machine).map(Box::as_ref)
    }

    /// Whether a command can be carried out here: what cannot would stop all that read it in the log.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn check(&self, command: &Command) -> Result<(), String> {
        let (machine, _) = command.required_version();
        command::check(command, self.known_version(machine)).map_err(|stop| stop.to_string())?;
        let checked = match &command.action {
            Action::Machine { machine, body, .. } if machine == keys::NAME => keys::KeysCommand::decode(body).map(drop),
            Action::Machine { machine, body, .. } => self.find(machine).map_or(Ok(()), |each| each.check(body)),
            Action::Store(_) => Ok(()),
        };
        checked.map_err(|malformed| malformed.to_string())
    }

    /// The version in which a machine is known; 0 if it is not.
    fn known_version(&self, machine: &str) -> u16 {
        match machine {
            NAME => VERSION,
            keys::NAME => keys::VERSION,
            _ => self.find(machine).map_or(0, Machine::version),
        }
    }

    /// The versions of commands that this release knows.
    pub fn versions(&self) -> CommandVersions {
        let others = self.others.iter().map(|machine| (machine.name(), machine.version()));
        [(NAME, VERSION), (keys::NAME, keys::VERSION)].into_iter().chain(others).collect()
    }

    /// The versions of commands that all members know, whatever their release: those that the log has had, and the first.
    pub fn versions_in_use(&self) -> CommandVersions {
        self.used.iter().map(|(machine, version)| (machine.as_str(), *version)).chain(FIRST).collect()
    }

    /// Whether that is so of a command. It is asked for each, and makes no list of all versions.
    pub fn is_known_to_all(&self, command: &Command) -> bool {
        let (machine, version) = command.required_version();
        let first = FIRST.iter().any(|(name, first)| *name == machine && version <= *first);
        first || self.used.get(machine).is_some_and(|used| version <= *used)
    }

    /// Carries out a command. The entries of a log come in their order; one may have several commands.
    ///
    /// # Errors
    ///
    /// The node has to stop: it cannot do what the others do. The state is not to be used any more.
    pub fn apply(&mut self, log_id: LogId, command: &Command) -> Result<Outcome, ApplyError> {
        if log_id.index < self.last_applied.index {
            return Err(ApplyError::OutOfOrder { index: log_id.index, applied: self.last_applied.index });
        }
        let (machine, version) = command.required_version();
        command::check(command, self.known_version(machine))?;
        match self.used.get_mut(machine) {
            Some(used) => *used = version.max(*used),
            None => drop(self.used.insert(machine.to_owned(), version)),
        }
        self.last_applied = log_id;
        self.commands += 1;
        let Some(request) = command.request else { return self.execute(&command.action) };
        match self.clients.find(request) {
            Ok(Some(outcome)) => {
                // What was kept was written by this very code, and checked when it came from a snapshot.
                Outcome::decode(&outcome)
                    .map_err(|malformed| ApplyError::Malformed { machine: NAME.to_owned(), malformed })
            }
            Ok(None) => {
                let outcome = self.execute(&command.action)?;
                self.clients.keep(request, self.commands, self.keys.revision(), &outcome);
                Ok(outcome)
            }
            Err(error) => Ok(Outcome::Refused(error)),
        }
    }

    fn execute(&mut self, action: &Action) -> Result<Outcome, ApplyError> {
        let outcome = self.execute_alone(action)?;
        self.end_leases();
        Ok(outcome)
    }

    fn execute_alone(&mut self, action: &Action) -> Result<Outcome, ApplyError> {
        let malformed = |machine: &str, malformed| ApplyError::Malformed { machine: machine.to_owned(), malformed };
        match action {
            Action::Store(command) => Ok(self.execute_store_command(command).unwrap_or_else(Outcome::Refused)),
            Action::Machine { machine, body, .. } if machine == keys::NAME => {
                let command = keys::KeysCommand::decode(body).map_err(|error| malformed(machine, error))?;
                Ok(self.execute_keys(&command).map_or_else(Outcome::Refused, Outcome::Keys))
            }
            Action::Machine { machine, body, .. } => {
                let at = self.others.binary_search_by(|each| each.name().cmp(machine));
                let at = at.map_err(|_| malformed(machine, CodecError::Contradiction { what: "no such machine" }))?;
                let outcome = self.with_machine(at, |machine, context| machine.apply(context, body));
                Ok(Outcome::Machine(outcome.map_err(|error| malformed(machine, error))?))
            }
        }
    }

    /// Has a machine do something, and carries out what it wants besides.
    fn with_machine<T>(&mut self, at: usize, work: impl FnOnce(&mut dyn Machine, &mut ApplyContext<'_>) -> T) -> T {
        let machine = self.others[at].as_mut();
        let mut context = ApplyContext::new(self.last_applied, &mut self.leases, &mut self.keys);
        let done = work(machine, &mut context);
        let (name, (events, ended)) = (machine.name(), context.finish());
        self.events.extend(events.into_iter().map(|event| (name, event)));
        self.ending.extend(ended);
        // It may have become something by users' keys alone, and then that is part of a snapshot.
        if machine.bytes() > 0 && !self.used.contains_key(name) {
            self.used.insert(name.to_owned(), 1);
        }
        done
    }

    /// Ends the leases that machines want to end. One may have others end.
    fn end_leases(&mut self) {
        while let Some(lease) = self.ending.pop_front() {
            // Named twice, it is there no more.
            let _ = self.end_lease(lease, LeaseEndReason::Revoked);
        }
    }

    fn execute_keys(&mut self, command: &keys::KeysCommand) -> Result<keys::KeysOutcome, Error> {
        let puts = command.leased_puts();
        if !puts.is_empty() {
            for at in 0..self.others.len() {
                self.with_machine(at, |machine, context| machine.before_puts(context, &puts))?;
            }
        }
        let before = self.keys.revision();
        let outcome = self.keys.apply(&self.leases, command)?;
        self.tell_changes(before);
        Ok(outcome)
    }

    /// Tells machines what has changed in keys, if they are not at this revision any more.
    fn tell_changes(&mut self, before: u64) {
        let Some(changed) = self.keys.changed_after(before) else { return };
        for at in 0..self.others.len() {
            self.with_machine(at, |machine, context| machine.keys_changed(context, &changed));
        }
    }

    fn execute_store_command(&mut self, command: &StoreCommand) -> Result<Outcome, Error> {
        match command {
            StoreCommand::OpenClient => Ok(Outcome::Client { client: self.clients.open(self.commands) }),
            StoreCommand::Grant { lease, ttl } => {
                let ttl = self.leases.grant(*lease, *ttl)?;
                Ok(Outcome::Granted { revision: self.keys.revision(), lease: *lease, ttl })
            }
            StoreCommand::Revoke { lease } => self.end_lease(*lease, LeaseEndReason::Revoked),
            StoreCommand::Expire { lease, term } if *term != self.last_applied.term => {
                Err(Error::TermPassed { lease: *lease, named: *term, term: self.last_applied.term })
            }
            StoreCommand::Expire { lease, .. } => self.end_lease(*lease, LeaseEndReason::Expired),
            StoreCommand::SetQuota { machine, bytes } => {
                if machine == keys::NAME {
                    self.keys.set_quota(*bytes);
                } else if let Some(other) = self.others.iter_mut().find(|each| each.name() == machine) {
                    other.set_quota(*bytes);
                }
                Ok(Outcome::QuotaSet)
            }
        }
    }

    fn end_lease(&mut self, lease: i64, why: LeaseEndReason) -> Result<Outcome, Error> {
        self.leases.end(lease)?;
        let before = self.keys.revision();
        self.keys.lease_ended(lease);
        let changed = self.keys.changed_after(before);
        for at in 0..self.others.len() {
            self.with_machine(at, |machine, context| {
                machine.lease_ended(context, lease, why);
                if let Some(changed) = &changed {
                    machine.keys_changed(context, changed);
                }
            });
        }
        Ok(Outcome::LeaseEnded { revision: self.keys.revision(), lease })
    }

    /// Becomes what another store is founded with, before its first entry. Keys and leases stay, but for leases that a
    /// machine says are of the former store. Revisions go on
    /// `jump` further, and are compacted there; clients are forgotten, for none of them asks this store.
    ///
    /// # Errors
    ///
    /// There are no revisions left. The state is as it was.
    pub fn found_anew(&mut self, jump: u64) -> Result<(), CodecError> {
        self.keys.jump(jump)?;
        self.clients = Clients::default();
        self.last_applied = LogId::default();
        let revision = self.keys.revision();
        self.ending = self.others.iter_mut().flat_map(|machine| machine.founded_anew(revision)).collect();
        self.end_leases();
        self.events.clear();
        Ok(())
    }

    /// A copy to write a snapshot from, while the state itself goes on. It takes a count of references for each 128
    /// keys, and shares the memory of what does not change.
    pub fn copy(&self) -> Self {
        Self {
            last_applied: self.last_applied,
            commands: self.commands,
            leases: self.leases.clone(),
            clients: self.clients.clone(),
            keys: self.keys.clone(),
            used: self.used.clone(),
            others: self.others.iter().map(|machine| machine.copy()).collect(),
            events: Vec::new(),
            ending: VecDeque::new(),
        }
    }

    /// The whole state in a number that is equal on all members that have applied the same commands. It takes as long
    /// as writing a snapshot.
    pub fn hash(&self) -> u32 {
        let mut hasher = snapshot::Hasher::default();
        self.write_snapshot(&mut hasher).expect("a hasher takes all bytes");
        hasher.finish()
    }
}
