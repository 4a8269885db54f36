//! The replicated state, Raft's *state machine*: separate machines, and what they share.
//!
//! # Machines
//!
//! A [`State`] is a set of [machines](Machine). Users' [keys] are one. Others are registered when the state is made,
//! the same on every member of a release. Each machine has its own name, commands, quota and section of the snapshot.
//! A command names its machine, and only that machine reads it, so no command for keys can reach another machine's data.
//!
//! All machines share the [leases](Leases). When one ends, the same command tells each machine.
//!
//! ```
//! use broadcast_store::{LogId, machine::{Command, Outcome, State}};
//!
//! let mut state = State::new();
//! let granted = state.apply(LogId { term: 1, index: 1 }, &Command::grant(7, 60))?;
//! assert_eq!(granted, Outcome::Granted { revision: 1, lease: 7, ttl: 60 });
//! # Ok::<(), broadcast_store::ApplyError>(())
//! ```
//!
//! # What is pure
//!
//! [`State::apply`] depends only on the state, the command, and the log id of its entry: not on a clock, a random number, the
//! gossip, a setting of this node, or the order of a hash map. What depends on time, the leader proposes: [`LeaseTimers`] and
//! [`Compactor`](crate::keys::Compactor) tell it what is due, and the command says what to do.
//!
//! # Versions
//!
//! Each machine has a version, and each command says in which version it appeared. A leader proposes a command only
//! if all voters know it: see [`CommandVersions`]. A member that meets an unknown command [stops](crate::ApplyError): to skip
//! it would give the member another state. A machine's section of a snapshot has the highest version of the commands that led
//! to it. So a member of an earlier release reads the snapshot of a later one, until a new command is in use; and until then
//! both write the same bytes.
//!
//! # Retries
//!
//! A client that gets no answer sends its command again, with the same [`RequestId`]. The state keeps the outcomes of each
//! client's last requests, so it applies a command once, and answers a repetition as the first time.

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

/// The version of the newest of the state's own commands, which are for leases, clients and quotas.
pub const VERSION: u16 = 1;

/// By how much revisions jump when a store is founded from a backup, and the clock does not say how far. A store makes fewer
/// changes within hours, so no revision means two things. etcd's manual advises the same (`--bump-revision`).
pub const REVISION_JUMP: u64 = 1_000_000_000;

/// The versions that every release knows.
const FIRST: [(&str, u16); 2] = [(NAME, 1), (keys::NAME, 1)];

/// What a machine can read besides itself while it answers a query. See [`Machine::query`].
pub struct QueryContext<'a> {
    /// All leases.
    pub leases: &'a Leases,
    /// How long a lease has left; only the leader knows.
    pub left: &'a dyn Fn(i64) -> Option<Duration>,
}

/// Why a lease has ended. See [`Machine::lease_ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEndReason {
    /// Somebody revoked it.
    Revoked,
    /// Nobody kept it alive.
    Expired,
}

/// A machine: a part of the replicated state with commands of its own. It must be pure: what it does depends only on itself, the
/// context and the command.
///
/// `tests/store/counter.rs` of this crate is a small machine, and `broadcast-lock` a large one.
///
/// ```
/// use broadcast_store::machine::{Machine, Machines};
///
/// fn registered(new: fn() -> Box<dyn Machine>) -> Machines {
///     Machines::default().with(new)
/// }
/// # let _ = registered;
/// ```
pub trait Machine: Any + Debug + Send + Sync {
    /// The machine's name, which no other has. It must stay the same in all releases.
    fn name(&self) -> &'static str;

    /// The version of the newest command that the machine knows.
    fn version(&self) -> u16;

    /// Checks that the machine can decode the body of a command. One that it cannot would stop all members, so it is not
    /// proposed.
    ///
    /// # Errors
    ///
    /// The body is malformed.
    fn check(&self, body: &[u8]) -> Result<(), CodecError>;

    /// Applies a command. Returns the outcome in the machine's own encoding; a refusal is an outcome, too.
    ///
    /// # Errors
    ///
    /// The body is malformed. The node stops.
    fn apply(&mut self, context: &mut ApplyContext<'_>, body: &[u8]) -> Result<Bytes, CodecError>;

    /// Answers a query, in the machine's own encoding. [`Store::query`](crate::Store::query) asks it.
    ///
    /// # Errors
    ///
    /// The question is malformed.
    fn query(&self, context: &QueryContext<'_>, question: &[u8]) -> Result<Bytes, CodecError>;

    /// A lease has ended: end whatever depended on it.
    fn lease_ended(&mut self, context: &mut ApplyContext<'_>, lease: i64, why: LeaseEndReason);

    /// A command may put these keys, which have leases. What the machine does now comes before that.
    ///
    /// # Errors
    ///
    /// The command is refused.
    fn before_puts(&mut self, context: &mut ApplyContext<'_>, puts: &[&keys::Put]) -> Result<(), Error> {
        let _ = (context, puts);
        Ok(())
    }

    /// Users' keys have changed: each as it is now, or its [tombstone](keys::KeyValue::is_tombstone). Changes that machines make to
    /// keys do not come here.
    fn keys_changed(&mut self, context: &mut ApplyContext<'_>, changed: &[Arc<keys::KeyValue>]) {
        let _ = (context, changed);
    }

    /// For how many seconds a client that keeps a lease alive may rely on it, if that is less than its time to live: locks
    /// subtract their lock-delay.
    fn guaranteed_ttl(&self, lease: i64) -> Option<i64> {
        let _ = lease;
        None
    }

    /// A new store begins with this state, at this revision, from a backup or one voter's directory. What the former store agreed
    /// on later is lost. Returns the leases that belong to the former store, and end now.
    fn founded_anew(&mut self, revision: u64) -> Vec<i64> {
        let _ = revision;
        Vec::new()
    }

    /// About how many bytes the machine takes.
    fn bytes(&self) -> u64;

    /// Sets how many bytes the machine may take. It has to refuse what would be more.
    fn set_quota(&mut self, bytes: u64);

    /// A copy to write a snapshot from. It has to be cheap, for commands wait meanwhile: use a [`CowMap`].
    fn copy(&self) -> Box<dyn Machine>;

    /// Writes the machine's section of a snapshot, so that a machine of version [`SectionWriter::version`] can read it: that is
    /// the highest version of its commands so far. Machines in the same state must write the same bytes. A machine without
    /// commands so far, and that never had [bytes](Machine::bytes), is not called: it is as it was made.
    ///
    /// # Errors
    ///
    /// The writer fails.
    fn write(&self, sink: &mut SectionWriter<'_>) -> io::Result<()>;

    /// Reads the machine's section of a snapshot into an empty machine. If that fails, the machine is not used.
    ///
    /// # Errors
    ///
    /// The reader fails, or the section is malformed: [`SnapshotError::Malformed`].
    fn read(&mut self, source: &mut SectionReader<'_>) -> Result<(), SnapshotError>;
}

/// The machines that a store has besides users' keys. All voters should have the same: a command that one of them does not know
/// is refused until that voter is upgraded.
///
/// ```
/// use broadcast_store::{StoreConfig, machine::Machines};
///
/// // Add machines with `Machines::with`; `broadcast_lock::Locks::machine` makes one.
/// let config = StoreConfig::default().machines(Machines::default());
/// # let _ = config;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Machines(Vec<fn() -> Box<dyn Machine>>);

impl Machines {
    /// Adds a machine, as a function that makes an empty one.
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

/// All that the members agree on. See the [module](self) for an example.
#[derive(Debug)]
pub struct State {
    last_applied: LogId,
    /// How many commands have been applied. An entry may have several commands, so this tells them apart, and indexes do not.
    commands: u64,
    leases: Leases,
    clients: Clients,
    keys: Keys,
    /// The highest version of each machine's commands so far.
    used: BTreeMap<String, u16>,
    /// The machines besides users' keys, in the order of their names.
    others: Vec<Box<dyn Machine>>,
    /// Events that machines have emitted since they were last taken. They are not part of the replicated state.
    events: Vec<(&'static str, Bytes)>,
    /// Leases that the current command still has to end.
    ending: VecDeque<i64>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// An empty state with only users' keys.
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

    /// The log id of the last applied entry.
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

    /// A machine besides users' keys, by its type.
    pub fn machine<M: Machine>(&self) -> Option<&M> {
        self.others.iter().find_map(|machine| (machine.as_ref() as &dyn Any).downcast_ref())
    }

    /// Queries a machine by its name; `None` if there is none of that name.
    pub fn query(
        &self,
        machine: &str,
        context: &QueryContext<'_>,
        question: &[u8],
    ) -> Option<Result<Bytes, CodecError>> {
        self.find(machine).map(|machine| machine.query(context, question))
    }

    /// For how many seconds a client that keeps a lease alive may rely on it; `None` if it has ended.
    pub fn guaranteed_ttl(&self, lease: i64) -> Option<i64> {
        let ttl = self.leases.ttl(lease)?;
        Some(self.others.iter().filter_map(|machine| machine.guaranteed_ttl(lease)).fold(ttl, i64::min))
    }

    /// The events that machines have emitted since the last call, with the machines' names.
    pub fn take_events(&mut self) -> Vec<(&'static str, Bytes)> {
        std::mem::take(&mut self.events)
    }

    fn find(&self, machine: &str) -> Option<&dyn Machine> {
        self.others.iter().find(|each| each.name() == machine).map(Box::as_ref)
    }

    /// Checks that a command can be applied here. One that cannot would stop every member that reads it in the log.
    ///
    /// # Errors
    ///
    /// Why not, in words.
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

    /// The version of a machine in this release; 0 if it has none of that name.
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

    /// The versions of commands that every member knows, whatever its release: those that the log has had, and the first.
    pub fn versions_in_use(&self) -> CommandVersions {
        self.used.iter().map(|(machine, version)| (machine.as_str(), *version)).chain(FIRST).collect()
    }

    /// Whether every member knows a command for certain. It is called for each command, so it makes no list of all versions.
    pub fn is_known_to_all(&self, command: &Command) -> bool {
        let (machine, version) = command.required_version();
        let first = FIRST.iter().any(|(name, first)| *name == machine && version <= *first);
        first || self.used.get(machine).is_some_and(|used| version <= *used)
    }

    /// Applies a command. The entries of a log come in their order; an entry may have several commands.
    ///
    /// # Errors
    ///
    /// The member has to stop, for it cannot do what the others do. The state must not be used any more.
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

    /// Calls a machine, and collects the events and the ended leases that it leaves in its context.
    fn with_machine<T>(&mut self, at: usize, work: impl FnOnce(&mut dyn Machine, &mut ApplyContext<'_>) -> T) -> T {
        let machine = self.others[at].as_mut();
        let mut context = ApplyContext::new(self.last_applied, &mut self.leases, &mut self.keys);
        let done = work(machine, &mut context);
        let (name, (events, ended)) = (machine.name(), context.finish());
        self.events.extend(events.into_iter().map(|event| (name, event)));
        self.ending.extend(ended);
        // Users' keys alone may have changed it; then it has to be in snapshots from now on.
        if machine.bytes() > 0 && !self.used.contains_key(name) {
            self.used.insert(name.to_owned(), 1);
        }
        done
    }

    /// Ends the leases that machines want to end. The end of one may end others.
    fn end_leases(&mut self) {
        while let Some(lease) = self.ending.pop_front() {
            // A lease that was named twice has ended already.
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

    /// Turns this into the first state of a new store (etcd's snapshot restore and `--force-new-cluster`). Keys and leases stay,
    /// except for leases that a machine says are of the former store. Revisions go on `jump` further, and are compacted there.
    /// Clients are forgotten, for none of them asks this store.
    ///
    /// # Errors
    ///
    /// There are no revisions left. The state is unchanged.
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

    /// A copy to write a snapshot from, while the state itself goes on. It is cheap, and shares the memory of what does not
    /// change; see [`CowMap`].
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

    /// A hash of the whole state. It is equal on all members that have applied the same commands. It takes as long as writing a
    /// snapshot.
    pub fn hash(&self) -> u32 {
        let mut hasher = snapshot::Hasher::default();
        self.write_snapshot(&mut hasher).expect("a hasher takes all bytes");
        hasher.finish()
    }
}

/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `LogId`")]
pub type At = LogId;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `ApplyContext`")]
pub type Context<'a> = ApplyContext<'a>;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `QueryContext`")]
pub type View<'a> = QueryContext<'a>;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `SectionWriter`")]
pub type Sink<'a> = SectionWriter<'a>;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `SectionReader`")]
pub type Source<'a> = SectionReader<'a>;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `LeaseEndReason`")]
pub type LeaseEnd = LeaseEndReason;
