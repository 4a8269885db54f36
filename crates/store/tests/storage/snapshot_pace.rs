//! When a state machine has snapshots built.

use broadcast_store::disk::SimDisk;
use broadcast_store::log::LogOptions;
use broadcast_store::raft::{Proposal, SimTypeConfig, StateMachine};
use broadcast_store::snapshot::Snapshots;
use futures_util::stream;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::{Entry, EntryPayload, testing::log_id};

use crate::log_faults::{Running, entry, options};
use crate::table::{Table, command};

type C = SimTypeConfig;

struct Machine {
    machine: StateMachine<C, Table, SimDisk>,
    next: u64,
}

impl Machine {
    fn new() -> Self {
        let snapshots = Snapshots::open(SimDisk::new(1), 1, None).expect("no snapshots");
        Self { machine: StateMachine::new(Table::default(), snapshots), next: 0 }
    }

    /// Applies so many entries of this size, to sixteen keys.
    async fn apply(&mut self, entries: u64, size: usize) {
        let value = vec![7; size];
        let entry = |index| {
            let payload = EntryPayload::Normal(Proposal(command(index % 16, &value)));
            Ok((Entry { log_id: log_id::<C>(1, 1, index), payload }, None))
        };
        let from = self.next;
        self.next += entries;
        let entries: Vec<_> = (from..self.next).map(entry).collect();
        self.machine.apply(stream::iter(entries)).await.expect("they can be applied");
    }

    /// Builds a snapshot if it is wanted; gives whether it is.
    async fn snapshot(&mut self, force: bool) -> bool {
        let Some(mut builder) = self.machine.try_create_snapshot_builder(force).await else { return false };
        builder.build_snapshot().await.expect("the disk works");
        true
    }
}

#[test]
fn a_snapshot_writes_no_more_than_the_log_has_since_the_last_one() {
    C::run(async {
        let mut machine = Machine::new();
        machine.apply(1, 10).await;
        assert!(machine.snapshot(false).await, "there is none");
        machine.apply(1, 10).await;
        assert!(machine.snapshot(false).await, "it is small");
        // 1.6 MB in sixteen keys.
        machine.apply(16, 100_000).await;
        assert!(machine.snapshot(false).await, "the last one is small");
        machine.apply(15, 100_000).await;
        assert!(!machine.snapshot(false).await, "it would write more than the log");
        machine.apply(1, 100_000).await;
        assert!(machine.snapshot(false).await);
        assert!(!machine.snapshot(false).await);
        assert!(machine.snapshot(true).await, "a new voter needs it");
    });
}

#[test]
fn a_start_replays_so_many_entries_at_most() {
    C::run(async {
        let mut machine = Machine::new();
        machine.apply(16, 1_000_000).await;
        assert!(machine.snapshot(false).await);
        machine.apply(99_000, 1).await;
        // They take fewer bytes of the log than the last snapshot has.
        let before = machine.snapshot(false).await;
        machine.apply(1000, 1).await;
        assert!(!before && machine.snapshot(false).await);
    });
}

#[test]
fn a_snapshot_is_not_put_off_if_it_makes_room_in_the_log() {
    let disk = SimDisk::new(2);
    let mut running = Running::open(&disk, LogOptions { segment: 4096, ..options() }).expect("an empty log");
    // Two segments, and no more.
    disk.set_capacity(Some(disk.used()));
    for index in 0.. {
        running.append(vec![entry(index, 100)]).expect("it is durable");
        if !running.log.space().accepts_proposals {
            break;
        }
    }
    let log = running.log.space_reader();
    let removable = log.removable().expect("a segment is full");
    C::run(async {
        let mut machine = Machine::new();
        machine.machine = machine.machine.with_log(log);
        machine.apply(removable, 200_000).await;
        assert!(machine.snapshot(false).await, "there is none");
        machine.apply(4, 10).await;
        assert!(machine.snapshot(false).await, "it gives a segment back");
        machine.apply(4, 10).await;
        assert!(!machine.snapshot(false).await, "the last one does already");
    });
}
