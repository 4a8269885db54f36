//! A store with locks.

use broadcast_lock::{
    LockSessionConfig, Locks, Mode, Name,
    message::{
        AcquireCommand, EntryChange, EntryState, FIRST_SESSION_ID, LockCommand, LockEvent, LockOutcome, LockQuery,
    },
};
use broadcast_store::{
    keys::{self, Compare, CompareOp, CompareTarget, Delete, KeyRange, KeyValue, Op, OpOutcome, Put, Range, Txn},
    machine::{self, LogId, QueryContext},
};
use serde::de::DeserializeOwned;

pub(crate) const TERM: u64 = 3;

pub(crate) struct State {
    pub(crate) state: machine::State,
}

pub(crate) fn name(name: &str) -> Name {
    Name::new(name).expect("a name")
}

/// The id of a session that tests call by a small number.
pub(crate) const fn sid(session: i64) -> i64 {
    FIRST_SESSION_ID | session
}

pub(crate) fn config() -> LockSessionConfig {
    LockSessionConfig {
        ttl: 10,
        lock_delay: 0,
        release_on_failure: false,
        node: "node1".into(),
        label: String::new(),
        since: 1,
    }
}

pub(crate) fn acquire(session: i64, lock: &str, mode: Mode) -> AcquireCommand {
    AcquireCommand { mode, ..several(session, &[lock]) }
}

pub(crate) fn several(session: i64, locks: &[&str]) -> AcquireCommand {
    let names = locks.iter().map(|lock| name(lock)).collect();
    AcquireCommand {
        session: sid(session),
        open: None,
        names,
        mode: Mode::Exclusive,
        waits: true,
        value: Default::default(),
        since: 2,
    }
}

impl State {
    pub(crate) fn new(sessions: &[i64]) -> Self {
        let mut state = Self { state: machine::State::with(vec![Locks::machine()]) };
        for session in sessions {
            assert_eq!(
                state.execute(&LockCommand::OpenSession { session: sid(*session), config: config() }),
                LockOutcome::Done
            );
        }
        state
    }

    pub(crate) fn locks(&self) -> &Locks {
        self.state.machine().expect("it has locks")
    }

    pub(crate) fn apply(&mut self, command: &machine::Command) -> machine::Outcome {
        let at = LogId { index: self.state.last_applied().index + 1, term: TERM };
        let outcome = self.state.apply(at, command).expect("it is known");
        self.locks().assert_invariants();
        outcome
    }

    pub(crate) fn execute(&mut self, command: &LockCommand) -> LockOutcome {
        let command = machine::Command::machine("locks", 1, command.encode()).expect("it is small");
        self.state.check(&command).expect("it can be read");
        match self.apply(&command) {
            machine::Outcome::Machine(outcome) => postcard::from_bytes(&outcome).expect("an outcome"),
            other => panic!("{other:?}"),
        }
    }

    /// Enters a queue: gives the token, and whether it is granted.
    pub(crate) fn enqueue(&mut self, acquire: AcquireCommand) -> (u64, bool) {
        match self.execute(&LockCommand::Acquire(acquire)) {
            LockOutcome::Queued { token, granted } => (token, granted),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn release(&mut self, session: i64, token: u64) {
        let released = self.execute(&LockCommand::Release { session: sid(session), token, name: None });
        assert_eq!(released, LockOutcome::Released { tokens: vec![token] });
    }

    pub(crate) fn ask<T: DeserializeOwned>(&self, query: &LockQuery) -> T {
        let query = postcard::to_allocvec(query).expect("it can be written");
        let view = QueryContext { leases: self.state.leases(), left: &|_| None };
        let answer = self.state.query("locks", &view, &query).expect("it has locks").expect("it can be read");
        postcard::from_bytes(&answer).expect("an answer")
    }

    pub(crate) fn entry_states(&self, tokens: &[u64]) -> Vec<EntryState> {
        self.ask(&LockQuery::EntryStates(tokens.into()))
    }

    pub(crate) fn take_events(&mut self) -> Vec<(u64, EntryChange)> {
        let told = self.state.take_events().into_iter();
        told.map(|(_, event)| LockEvent::decode(&event).expect("an event"))
            .map(|event| (event.token, event.change))
            .collect()
    }

    /// Carries out a command for users' keys.
    pub(crate) fn keys(&mut self, command: &keys::KeysCommand) -> machine::Outcome {
        self.apply(&machine::Command::keys(command).expect("it is small"))
    }

    /// Enters a queue as clients of etcd do: gives its token, and whether they take it for granted; nothing if they have one.
    pub(crate) fn enter(&mut self, lease: i64, lock: &str) -> Option<(u64, bool)> {
        let key = format!("{lock}/{lease:x}");
        let oldest = Op::Range(Range {
            limit: 1,
            order: keys::SortOrder::Ascend,
            target: keys::SortTarget::Create,
            keys: KeyRange::prefix(format!("{lock}/")),
            ..Range::default()
        });
        let is_new =
            Compare { keys: KeyRange::one(key.clone()), op: CompareOp::Equal, target: CompareTarget::Create(0) };
        let put = Op::Put(Put { key: key.into(), lease, ..Put::default() });
        let txn = Txn { compare: vec![is_new], success: vec![put, oldest.clone()], failure: vec![oldest] };
        match self.keys(&keys::KeysCommand::Txn(txn)) {
            machine::Outcome::Keys(keys::KeysOutcome::Txn { revision, succeeded: true, responses }) => {
                let [_, OpOutcome::Range(oldest)] = &responses[..] else { panic!("{responses:?}") };
                Some((revision, oldest.kvs[0].create_revision == revision))
            }
            machine::Outcome::Keys(keys::KeysOutcome::Txn { succeeded: false, .. }) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Deletes the key of an entry; tells whether it was there.
    pub(crate) fn delete(&mut self, lease: i64, lock: &str) -> bool {
        let keys = KeyRange::one(format!("{lock}/{lease:x}"));
        match self.keys(&keys::KeysCommand::Delete(Delete { keys, prev_kv: false })) {
            machine::Outcome::Keys(keys::KeysOutcome::Delete(outcome)) => outcome.deleted == 1,
            other => panic!("{other:?}"),
        }
    }

    /// All keys that begin so.
    pub(crate) fn listed(&self, prefix: &str) -> Vec<KeyValue> {
        let range = Range { keys: KeyRange::prefix(prefix.to_owned()), ..Range::default() };
        let found = self.state.keys().range(&range).expect("it can be read");
        found.kvs.iter().map(|kv| KeyValue::clone(kv)).collect()
    }
}
