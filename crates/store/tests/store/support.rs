//! A state with a log of its own.

use broadcast_store::{
    Error,
    keys::{self, Delete, KeyRange, Op, OpOutcome, Put, Range, Txn},
    machine::{Command, LogId, Outcome, State},
};

/// A member whose commands all go the way that they go in a cluster: as bytes.
#[derive(Debug, Default)]
pub(crate) struct Member {
    pub(crate) state: State,
    pub(crate) at: LogId,
}

impl Member {
    pub(crate) fn new() -> Self {
        Self { state: State::new(), at: LogId { index: 0, term: 1 } }
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        self.at.index += 1;
        let decoded = Command::decode(&command.encode()).expect("a command reads as it was written");
        assert_eq!(&decoded, command);
        let outcome = self.state.apply(self.at, &decoded).expect("a command that is known");
        assert_eq!(Outcome::decode(&outcome.encode()).as_ref(), Ok(&outcome));
        outcome
    }

    /// A command for keys; one that is refused beforehand is not proposed, and would be refused all the same.
    pub(crate) fn keys(&mut self, command: &keys::KeysCommand) -> Result<keys::KeysOutcome, Error> {
        match self.apply(&Command::keys(command)?) {
            Outcome::Keys(outcome) => Ok(outcome),
            Outcome::Refused(error) => Err(error),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn put(&mut self, key: &str, value: &str) -> u64 {
        self.keys(&keys::KeysCommand::Put(put(key, value))).expect("there is space").revision()
    }

    pub(crate) fn put_with(&mut self, put: Put) -> Result<u64, Error> {
        self.keys(&keys::KeysCommand::Put(put)).map(|outcome| outcome.revision())
    }

    pub(crate) fn delete(&mut self, keys: KeyRange) -> u64 {
        let delete = keys::KeysCommand::Delete(Delete { keys, prev_kv: false });
        self.keys(&delete).expect("deletes need no space").revision()
    }

    pub(crate) fn compact(&mut self, revision: u64) -> Result<u64, Error> {
        self.keys(&keys::KeysCommand::Compact { revision }).map(|outcome| outcome.revision())
    }

    pub(crate) fn txn(&mut self, txn: Txn) -> Result<(bool, Vec<OpOutcome>), Error> {
        match self.keys(&keys::KeysCommand::Txn(txn))? {
            keys::KeysOutcome::Txn { succeeded, responses, .. } => Ok((succeeded, responses)),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn grant(&mut self, lease: i64) {
        let outcome = self.apply(&Command::grant(lease, 60));
        assert!(matches!(outcome, Outcome::Granted { .. }), "{outcome:?}");
    }

    /// What a range has, as text.
    pub(crate) fn read(&self, range: Range) -> Vec<(String, String)> {
        let found = self.state.keys().range(&range).expect("a range that is there");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        found.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
    }

    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.state.copy().write_snapshot(&mut bytes).expect("memory takes it");
        bytes
    }

    /// Goes on from a snapshot of itself.
    pub(crate) fn restart(&mut self) {
        let before = self.snapshot();
        self.state = read(&before).expect("a snapshot reads as it was written");
        assert_eq!(self.snapshot(), before);
        self.state.keys().assert_invariants();
    }
}

pub(crate) fn read(snapshot: &[u8]) -> Result<State, broadcast_store::SnapshotError> {
    State::read_snapshot(Vec::new(), &mut &*snapshot, 1 << 30)
}

pub(crate) fn put(key: &str, value: &str) -> Put {
    Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() }
}

pub(crate) fn put_op(key: &str, value: &str) -> Op {
    Op::Put(put(key, value))
}

pub(crate) fn delete_op(keys: KeyRange) -> Op {
    Op::Delete(Delete { keys, prev_kv: true })
}

pub(crate) fn success(ops: impl Into<Vec<Op>>) -> Txn {
    Txn { success: ops.into(), ..Txn::default() }
}

pub(crate) fn key_range(key: &str, end: &str) -> KeyRange {
    KeyRange { key: key.to_owned().into(), end: end.to_owned().into() }
}
