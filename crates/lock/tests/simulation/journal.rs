//! What the machine of locks has done, entry by entry, as the first voter to apply each entry has it. All others must do
//! the same.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use broadcast_lock::{
    Locks, Mode, Name,
    message::{Holder, LockCommand, LockOutcome, LockQuery, LockState},
};
use broadcast_store::{
    CodecError, SnapshotError,
    machine::{ApplyContext, LeaseEndReason, Machine, QueryContext, SectionReader, SectionWriter},
};
use bytes::Bytes;

use crate::voter::now;

/// The locks that clients use.
pub(crate) const LOCKS: [&str; 5] = ["a", "a/b", "c", "register", "election"];

/// One of [`LOCKS`].
pub(crate) fn name(lock: usize) -> Name {
    Name::new(LOCKS[lock]).expect("a name")
}

/// What an entry of the log had the machine do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum MachineEvent {
    Command(LockCommand, LockOutcome),
    LeaseEnded(i64, LeaseEndReason),
}

/// An entry of a queue, as the machine has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QueueEntry {
    pub(crate) token: u64,
    pub(crate) session: i64,
    pub(crate) mode: Mode,
}

/// Who holds a lock and who waits for it, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Queue {
    pub(crate) held: Vec<QueueEntry>,
    pub(crate) waiting: Vec<QueueEntry>,
}

/// An entry of the log, and how the locks were after it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) event: MachineEvent,
    /// In the order of [`LOCKS`].
    pub(crate) queues: Vec<Queue>,
    pub(crate) revision: u64,
}

/// All entries of a run.
#[derive(Default)]
pub(crate) struct Journal {
    /// By index, and the number of the step among those that the entry led to, with the time when the first voter applied it.
    pub(crate) steps: BTreeMap<(u64, u32), (Duration, Step)>,
    pub(crate) problems: Vec<String>,
}

thread_local! {
    // Machines are made by a function that knows nothing of the run; a run has one thread.
    static JOURNAL: RefCell<Journal> = RefCell::default();
}

/// Begins a new journal, and gives the one before.
pub(crate) fn take() -> Journal {
    JOURNAL.take()
}

/// What voters have done otherwise than others.
pub(crate) fn problems() -> Vec<String> {
    JOURNAL.with_borrow(|journal| journal.problems.clone())
}

/// The locks, as a voter has them. They note in the journal what they do.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordingLocks {
    pub(crate) locks: Locks,
    /// The index of the last entry, and how many steps it has led to so far.
    last: (u64, u32),
}

impl RecordingLocks {
    pub(crate) fn machine() -> Box<dyn Machine> {
        Box::<Self>::default()
    }

    fn queue(&self, context: &ApplyContext<'_>, lock: usize) -> Queue {
        let view = QueryContext { leases: context.leases(), left: &|_| None };
        let query = postcard::to_allocvec(&LockQuery::Lock(name(lock))).expect("it can be written");
        let query = self.locks.query(&view, &query).expect("it can be read");
        let lock: Option<LockState> = postcard::from_bytes(&query).expect("an query");
        let entry = |holder: &Holder| QueueEntry { token: holder.token, session: holder.session, mode: holder.mode };
        lock.map_or_else(Queue::default, |lock| Queue {
            held: lock.holders.iter().map(entry).collect(),
            waiting: lock.queue.iter().map(entry).collect(),
        })
    }

    fn note(&mut self, context: &ApplyContext<'_>, event: MachineEvent) {
        let index = context.log_id().index;
        self.last = (index, if self.last.0 == index { self.last.1 + 1 } else { 0 });
        let index = self.last;
        let queues = (0..LOCKS.len()).map(|lock| self.queue(context, lock)).collect();
        let step = Step { event, queues, revision: context.revision() };
        JOURNAL.with_borrow_mut(|journal| match journal.steps.get(&index) {
            Some((_, before)) if *before != step => {
                journal.problems.push(format!("entry {index:?} led to {before:?} at one voter, and here to {step:?}"));
            }
            Some(_) => {}
            None => {
                if catch_unwind(AssertUnwindSafe(|| self.locks.assert_invariants())).is_err() {
                    journal.problems.push(format!("the locks contradict themselves after entry {index:?}: {step:?}"));
                }
                journal.steps.insert(index, (now(), step));
            }
        });
    }
}

impl Machine for RecordingLocks {
    fn name(&self) -> &'static str {
        self.locks.name()
    }

    fn version(&self) -> u16 {
        self.locks.version()
    }

    fn check(&self, body: &[u8]) -> Result<(), CodecError> {
        self.locks.check(body)
    }

    fn apply(&mut self, context: &mut ApplyContext<'_>, body: &[u8]) -> Result<Bytes, CodecError> {
        let answer = self.locks.apply(context, body)?;
        let command = postcard::from_bytes(body).expect("it was applied");
        let outcome = postcard::from_bytes(&answer).expect("an outcome");
        self.note(context, MachineEvent::Command(command, outcome));
        Ok(answer)
    }

    fn query(&self, context: &QueryContext<'_>, query: &[u8]) -> Result<Bytes, CodecError> {
        self.locks.query(context, query)
    }

    fn lease_ended(&mut self, context: &mut ApplyContext<'_>, lease: i64, why: LeaseEndReason) {
        self.locks.lease_ended(context, lease, why);
        self.note(context, MachineEvent::LeaseEnded(lease, why));
    }

    fn guaranteed_ttl(&self, lease: i64) -> Option<i64> {
        self.locks.guaranteed_ttl(lease)
    }

    fn bytes(&self) -> u64 {
        self.locks.bytes()
    }

    fn set_quota(&mut self, bytes: u64) {
        self.locks.set_quota(bytes);
    }

    fn copy(&self) -> Box<dyn Machine> {
        Box::new(self.clone())
    }

    fn write(&self, sink: &mut SectionWriter<'_>) -> io::Result<()> {
        self.locks.write(sink)
    }

    fn read(&mut self, source: &mut SectionReader<'_>) -> Result<(), SnapshotError> {
        self.locks.read(source)
    }
}
