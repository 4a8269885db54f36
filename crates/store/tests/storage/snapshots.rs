//! Snapshots: whole or not there, whenever the process ends.

use std::io::{self, Read};

use broadcast_store::disk::{CrashOutcome, Disk, DiskFile, SimDisk};
use broadcast_store::log::LogId;
use broadcast_store::raft::{SimTypeConfig, StateMachine};
use broadcast_store::snapshot::{SnapshotFile, SnapshotFileError, SnapshotMeta, Snapshots};
use futures_util::stream;
use openraft::entry::RaftEntry;
use openraft::impls::leader_id_std;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{EntryOf, LogIdOf};
use openraft::vote::RaftLeaderId;

use crate::table::Table;

const CLUSTER: u64 = 7;

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta { last: Some(LogId { term: 3, index }), membership: b"node1, node2".to_vec() }
}

fn state(index: u64) -> Vec<u8> {
    (0..150_000 + index).map(|at| ((at * index) >> 3) as u8).collect()
}

fn write(snapshots: &Snapshots<SimDisk>, index: u64) -> Result<SnapshotFile<SimDisk>, SnapshotFileError> {
    snapshots.write(&meta(index), |out| out.write_all(&state(index)))
}

fn read(
    snapshots: &Snapshots<SimDisk>,
    file: &SnapshotFile<SimDisk>,
) -> Result<(SnapshotMeta, Vec<u8>), SnapshotFileError> {
    snapshots.read(file, |input| {
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes).map(|_| bytes)
    })
}

fn open(disk: &SimDisk, purged: Option<u64>) -> Result<Snapshots<SimDisk>, SnapshotFileError> {
    Snapshots::open(disk.clone(), CLUSTER, purged.map(|index| LogId { term: 3, index }))
}

fn files(disk: &SimDisk) -> Vec<String> {
    disk.list().expect("names").into_iter().filter(|name| name.contains("snapshot")).collect()
}

#[test]
fn a_newer_snapshot_takes_the_place_of_the_older() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk, None).expect("none");
    assert!(snapshots.current().is_none());
    let first = write(&snapshots, 5).expect("written");
    let second = write(&snapshots, 10).expect("written");
    assert_eq!(files(&disk).len(), 1);
    assert_eq!(read(&snapshots, &first).expect("who has it can still send it"), (meta(5), state(5)));
    // One that took longer to build than a newer one to come is not kept.
    let late = write(&snapshots, 7).expect("written");
    assert_eq!(read(&snapshots, &late).expect("whole"), (meta(7), state(7)));
    drop((first, second, late));
    assert_eq!(files(&disk).len(), 1);
    disk.reboot(CrashOutcome::Nothing);
    let snapshots = open(&disk, Some(10)).expect("the log goes on after it");
    let (found, file) = snapshots.current().expect("the newest");
    assert_eq!(found, meta(10));
    assert_eq!(read(&snapshots, &file).expect("whole"), (meta(10), state(10)));
}

#[test]
fn wherever_the_process_ends_there_is_a_whole_snapshot() {
    let steps = |until: &dyn Fn(&SimDisk)| {
        let disk = SimDisk::new(0);
        until(&disk);
        disk.steps()
    };
    let first = steps(&|disk| drop(write(&open(disk, None).expect("none"), 5).expect("written")));
    let both = steps(&|disk| {
        let snapshots = open(disk, None).expect("none");
        write(&snapshots, 5).expect("written");
        write(&snapshots, 10).expect("written");
    });
    assert!(both > first + 10, "{first}, {both}");
    let mut newer = 0;
    for end in 1..=both - first + 1 {
        for landing in [CrashOutcome::Nothing, CrashOutcome::Torn, CrashOutcome::Everything, CrashOutcome::ProcessOnly]
        {
            let disk = SimDisk::new(end);
            let snapshots = open(&disk, None).expect("none");
            write(&snapshots, 5).expect("written");
            disk.end_after(end);
            let durable = write(&snapshots, 10).is_ok();
            disk.reboot(landing);
            let snapshots = open(&disk, Some(5)).unwrap_or_else(|error| panic!("step {end}, {landing:?}: {error}"));
            let (found, file) = snapshots.current().expect("one of both");
            let last = found.last.expect("it has entries").index;
            assert!(last == 10 || !durable, "step {end}, {landing:?}: the newer one was durable");
            assert_eq!(read(&snapshots, &file).expect("whole"), (meta(last), state(last)));
            assert_eq!(files(&disk).len(), 1, "step {end}, {landing:?}: nothing is left over");
            newer += u64::from(last == 10);
            // The log may be purged up to what was found: it must not be lost now.
            disk.reboot(CrashOutcome::Nothing);
            open(&disk, Some(last)).unwrap_or_else(|error| panic!("step {end}, {landing:?}, without power: {error}"));
        }
    }
    assert!(newer > 3, "sometimes the newer one is there");
}

#[test]
fn an_older_snapshot_does_only_if_the_log_goes_on_after_it() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk, None).expect("none");
    let first = write(&snapshots, 5).expect("written");
    let older = files(&disk).pop().expect("one");
    write(&snapshots, 10).expect("written");
    let newer = files(&disk).pop().expect("one");
    // As after a crash before the older one was removed.
    let (file, mut bytes) = (disk.create(&older).expect("a file"), vec![0; first.size() as usize]);
    first.read_at(&mut bytes, 0).expect("it is open");
    file.write_at(&bytes, 0).expect("the disk works");
    file.sync().expect("the disk works");
    disk.flip(&newer, 100_000);
    let error = open(&disk, Some(7)).expect_err("the entries 6 and 7 are gone");
    assert!(matches!(error, SnapshotFileError::Gap { purged: 7, snapshot: Some(5), .. }), "{error}");
    assert!(error.to_string().contains(&newer), "{error}");
    assert_eq!(files(&disk), [older.clone(), newer], "nothing is removed that may help");
    let snapshots = open(&disk, Some(5)).expect("the log has all entries since");
    assert_eq!(snapshots.current().expect("the older one").0, meta(5));
    disk.flip(&older, 70);
    open(&disk, Some(0)).expect_err("none can be read, and the log does not begin at the first entry");
    assert!(open(&disk, None).expect("the log has all entries").current().is_none());
}

#[test]
fn damage_and_strangers_are_errors() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk, None).expect("none");
    let file = write(&snapshots, 5).expect("written");
    let name = files(&disk).pop().expect("one");
    for at in (0..64).chain((64..file.size()).step_by(997)).chain(file.size() - 8..file.size()) {
        disk.flip(&name, at);
        // The bytes of the header that mean nothing yet have a checksum too.
        let error = read(&snapshots, &file).expect_err("damaged");
        let known = matches!(error, SnapshotFileError::Damaged { .. } | SnapshotFileError::Format { .. });
        assert!(known, "byte {at}: {error}");
        disk.flip(&name, at);
    }
    let copied = |size: usize, more: &[u8]| {
        let mut bytes = vec![0; size];
        file.read_at(&mut bytes, 0).expect("it can be read");
        let mut incoming = snapshots.receive().expect("there is room");
        bytes.chunks(1000).for_each(|piece| incoming.write(piece).expect("there is room"));
        incoming.write(more).expect("there is room");
        read(&snapshots, &incoming.finish().expect("whole"))
    };
    let size = file.size() as usize;
    assert_eq!(copied(size, b"").expect("whole"), (meta(5), state(5)));
    for short in [0, 10, 63, 64, 80, 5000, size - 8, size - 1] {
        assert!(matches!(copied(short, b""), Err(SnapshotFileError::Damaged { .. })), "cut after {short}");
    }
    assert!(matches!(copied(size, b"x"), Err(SnapshotFileError::Damaged { .. })), "too long");
    assert_eq!(files(&disk), [name], "what was received is gone with who had it");
    let error = Snapshots::open(disk, 8, None).expect_err("of another cluster");
    assert!(matches!(error, SnapshotFileError::Foreign { found: 7, expected: 8, .. }), "{error}");
}

#[test]
fn a_full_disk_leaves_the_older_snapshot() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk, None).expect("none");
    write(&snapshots, 5).expect("written");
    disk.set_capacity(Some(disk.used() + 100_000));
    let error = write(&snapshots, 10).expect_err("the disk is full");
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::StorageFull);
    assert_eq!(files(&disk).len(), 1, "what was written of it is gone");
    assert_eq!(snapshots.current().expect("the older one").0, meta(5));
}

#[test]
fn whoever_reads_gets_no_damaged_byte() {
    let disk = SimDisk::new(1);
    let snapshots = open(&disk, None).expect("none");
    let file = write(&snapshots, 5).expect("written");
    let name = files(&disk).pop().expect("one");
    disk.flip(&name, 100_000);
    let mut given = Vec::new();
    let result = snapshots.read(&file, |input: &mut dyn Read| input.read_to_end(&mut given));
    result.expect_err("damaged");
    assert!(given.len() >= 60_000, "{}", given.len());
    assert_eq!(given, state(5)[..given.len()]);
}

type Machine = StateMachine<SimTypeConfig, Table, SimDisk>;

async fn apply(machine: &mut Machine, indexes: std::ops::Range<u64>) {
    let blank = |index| {
        let leader = leader_id_std::LeaderId::<u64, u64>::new(1, 1).to_committed();
        Ok((EntryOf::<SimTypeConfig>::new_blank(LogIdOf::<SimTypeConfig>::new(leader, index)), None))
    };
    machine.apply(stream::iter(indexes.map(blank))).await.expect("the table takes blank entries");
}

#[test]
fn a_node_goes_on_without_a_snapshot_on_a_full_disk() {
    SimTypeConfig::run(async {
        let disk = SimDisk::new(1);
        let mut machine = Machine::new(Table::default(), open(&disk, None).expect("none"));
        apply(&mut machine, 0..10).await;
        disk.set_capacity(Some(0));
        let mut builder = machine.try_create_snapshot_builder(false).await.expect("nothing is known against it");
        let built = builder.build_snapshot().await.expect("a full disk does not stop the node");
        assert_eq!((built.meta.last_log_id, built.snapshot.size()), (None, 0));
        assert!(machine.get_current_snapshot().await.expect("none").is_none());
        disk.set_capacity(None);
        apply(&mut machine, 10..600).await;
        let mut builder = machine.try_create_snapshot_builder(false).await.expect("nothing is known against it");
        let built = builder.build_snapshot().await.expect("there is room");
        assert_eq!(built.meta.last_log_id.expect("it has entries").index, 599);
        // Full again, with one that is there.
        disk.set_capacity(Some(disk.used()));
        apply(&mut machine, 600..610).await;
        let mut builder = machine.try_create_snapshot_builder(false).await.expect("nothing is known against it");
        let again = builder.build_snapshot().await.expect("a full disk does not stop the node");
        assert_eq!(again.meta, built.meta, "openraft ignores what is not newer");
    });
}
