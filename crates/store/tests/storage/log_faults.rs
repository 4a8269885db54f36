//! Damaged files, full and failing disks, and files that are somebody else's.

use std::io;
use std::sync::mpsc;

use broadcast_store::disk::{CrashOutcome, Disk, DiskFile, Ids, SimDisk};
use broadcast_store::log::{Entry, Log, LogError, LogId, LogOptions, LogSpace, Vote};
use bytes::Bytes;

const IDS: Ids = Ids { cluster: 7, node: 8 };

pub(crate) fn options() -> LogOptions {
    LogOptions { segment: 2048, reserve: 256, queue: 4096, cache: 0, read: 1 << 20 }
}

pub(crate) fn entry(index: u64, size: usize) -> Entry {
    Entry { log_id: LogId { term: 1, index }, kind: 1, payload: Bytes::from(vec![index as u8 | 1; size]) }
}

/// A log whose writer runs on a thread.
pub(crate) struct Running {
    pub(crate) log: Log<SimDisk>,
    runtime: tokio::runtime::Runtime,
    ended: mpsc::Receiver<Result<(), LogError>>,
}

impl Running {
    pub(crate) fn open(disk: &SimDisk, options: LogOptions) -> Result<Self, LogError> {
        let (log, writer) = Log::open(disk.clone(), IDS, options)?;
        let (sender, ended) = mpsc::channel();
        writer.spawn(move |result| drop(sender.send(result))).expect("a thread");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Ok(Self { log, runtime, ended })
    }

    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.runtime.block_on(self.log.append(entries, done))?;
        receiver.recv().expect("every append is answered")
    }

    fn vote(&mut self, term: u64) -> Result<(), LogError> {
        self.runtime.block_on(self.log.save_vote(Vote { term, node: 1, committed: false }))
    }

    fn entries(&self) -> Vec<Entry> {
        self.log.reader().read(.., usize::MAX).expect("the log can be read")
    }

    /// Ends the writer, and waits for it.
    fn close(self) -> Result<(), LogError> {
        drop(self.log);
        self.ended.recv().expect("the writer tells its end")
    }
}

fn filled(disk: &SimDisk) -> Vec<Entry> {
    let mut running = Running::open(disk, options()).expect("an empty log");
    for index in 0..40 {
        running.append(vec![entry(index, 100)]).expect("it is durable");
    }
    running.vote(2).expect("it is durable");
    let entries = running.entries();
    running.close().expect("nothing fails");
    entries
}

fn segments(disk: &SimDisk) -> Vec<String> {
    disk.list().expect("names").into_iter().filter(|name| name.ends_with(".log")).collect()
}

#[test]
fn damage_is_an_error_with_its_place_except_in_the_last_record() {
    let disk = SimDisk::new(1);
    let written = filled(&disk);
    let segments = segments(&disk);
    assert!(segments.len() > 2, "{segments:?}");
    let last = segments.last().expect("some");
    let mut cut = 0;
    for name in &segments {
        let file = disk.open(name).expect("it is there");
        let mut bytes = vec![0; 2048];
        file.read_exact_at(&mut bytes, 0).expect("it is that long");
        let end = bytes.iter().rposition(|byte| *byte != 0).expect("not empty") as u64;
        for at in 0..=end {
            disk.flip(name, at);
            match Log::open(disk.clone(), IDS, options()) {
                Err(LogError::Damaged { file, offset, .. }) => {
                    assert_eq!(&file, name, "byte {at}");
                    assert!(offset <= at, "{file}: byte {at}, and the error names {offset}");
                    assert!(offset == 0 || at - offset < 200, "{file}: byte {at}, and the error names {offset}");
                }
                Err(LogError::Format { .. }) => assert!((8..12).contains(&at), "{name}: byte {at}"),
                Err(error) => panic!("{name}: byte {at}: {error}"),
                // The padding of a record means nothing. The very last record, the vote, may be a torn tail.
                Ok((log, _writer)) => {
                    let read = log.reader().read(.., usize::MAX).expect("the log can be read");
                    assert_eq!(read, written, "{name}: byte {at}");
                    if log.state().vote.is_none() {
                        assert_eq!(name, last);
                        assert!(end - at < 56, "{name}: byte {at} of {end}");
                        cut += 1;
                    }
                }
            }
            // What was cut is zeroed: put back what was there, and not only that byte.
            let file = disk.open(name).expect("it is there");
            file.write_at(&bytes, 0).expect("the disk works");
            file.sync().expect("the disk works");
        }
    }
    assert!(cut > 20, "the last record is cut if any of its bytes is damaged");
    Log::open(disk, IDS, options()).expect("as it was");
}

#[test]
fn a_missing_segment_is_an_error() {
    let disk = SimDisk::new(1);
    filled(&disk);
    let segments = segments(&disk);
    disk.remove(&segments[1]).expect("it is there");
    let error = Log::open(disk.clone(), IDS, options()).expect_err("a segment is missing");
    assert!(matches!(&error, LogError::Damaged { file, .. } if *file == segments[1]), "{error}");
    // Without the first ones the rest has no beginning: nothing says that they were purged.
    disk.remove(&segments[0]).expect("it is there");
    let error = Log::open(disk, IDS, options()).expect_err("the first segments are missing");
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_log_of_another_node_or_cluster_is_an_error() {
    let disk = SimDisk::new(1);
    filled(&disk);
    for ids in [Ids { cluster: 1, ..IDS }, Ids { node: 1, ..IDS }] {
        let error = Log::open(disk.clone(), ids, options()).expect_err("somebody else's");
        assert!(matches!(error, LogError::Foreign { node: 8, cluster: 7, .. }), "{error}");
    }
}

#[test]
fn a_failed_sync_is_never_tried_again() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk, options()).expect("an empty log");
    running.append(vec![entry(0, 10)]).expect("it is durable");
    disk.set_fail_syncs(true);
    running.append(vec![entry(1, 10)]).expect_err("the sync fails");
    disk.set_fail_syncs(false);
    let syncs = disk.syncs();
    running.append(vec![entry(2, 10)]).expect_err("the log has stopped");
    running.vote(3).expect_err("the log has stopped");
    assert!(running.log.reader().vote().is_err(), "nobody reads what may not be durable");
    assert_eq!(disk.syncs(), syncs);
    let failure = running.log.failure().expect("the program must know");
    assert!(failure.contains("cannot sync"), "{failure}");
    let error = running.close().expect_err("the writer says why it ended");
    assert!(matches!(error, LogError::Io { what: "sync", .. }), "{error}");
    disk.reboot(CrashOutcome::Nothing);
    assert_eq!(Running::open(&disk, options()).expect("whole").entries().len(), 1);
}

#[test]
fn a_full_disk_refuses_proposals_and_keeps_votes() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk, options()).expect("an empty log");
    assert!(running.log.space().accepts_proposals);
    // Two segments, and no more.
    disk.set_capacity(Some(disk.used()));
    let mut next = 0;
    while running.log.space().accepts_proposals {
        running.append(vec![entry(next, 100)]).expect("it is durable");
        next += 1;
        assert!(next < 100, "the disk is never full");
    }
    // What is on its way still fits.
    let room = running.log.space();
    assert!(room.free > 1000, "{room:?}");
    while running.log.space().free >= LogSpace::bytes(100) {
        running.append(vec![entry(next, 100)]).expect("there was room for it");
        next += 1;
    }
    running.vote(2).expect("votes have a reserve");
    running.log.save_committed(Some(entry(3, 0).log_id)).expect("it has a reserve");
    running.runtime.block_on(running.log.flush()).expect("it has a reserve");
    let room = running.runtime.block_on(running.log.prepare_spare()).expect("it tries");
    assert!(!room.accepts_proposals, "{room:?}");
    // A node can start on a full disk.
    running.close().expect("nothing failed");
    let mut running = Running::open(&disk, options()).expect("the disk is full, but the log is whole");
    assert_eq!(running.entries().len() as u64, next);
    assert!(!running.log.space().accepts_proposals);
    running.vote(3).expect("votes have a reserve");
    // There is room again.
    disk.set_capacity(None);
    let room = running.runtime.block_on(running.log.prepare_spare()).expect("it tries");
    assert!(room.accepts_proposals, "{room:?}");
    for _ in 0..30 {
        running.append(vec![entry(next, 100)]).expect("it is durable");
        next += 1;
    }
    assert_eq!(running.entries().len() as u64, next);
}

#[test]
fn purging_makes_room_on_a_full_disk() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk, options()).expect("an empty log");
    disk.set_capacity(Some(disk.used()));
    let mut next = 0;
    while running.log.space().accepts_proposals {
        running.append(vec![entry(next, 100)]).expect("it is durable");
        next += 1;
    }
    running.runtime.block_on(running.log.purge(entry(next - 1, 0).log_id)).expect("it is written");
    running.runtime.block_on(running.log.flush()).expect("it is durable");
    let room = running.runtime.block_on(running.log.prepare_spare()).expect("it tries");
    assert!(room.accepts_proposals, "{room:?}");
}

#[test]
fn who_ignores_that_the_disk_is_full_stops() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk, options()).expect("an empty log");
    disk.set_capacity(Some(disk.used()));
    let mut next = 0;
    let error = loop {
        match running.append(vec![entry(next, 100)]) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("disk is full"), "{error}");
    running.vote(2).expect_err("the log has stopped");
    disk.reboot(CrashOutcome::Nothing);
    assert_eq!(Running::open(&disk, options()).expect("whole").entries().len() as u64, next);
}

#[test]
fn entries_must_follow_and_must_fit() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk, options()).expect("an empty log");
    running.append(vec![entry(5, 10)]).expect("an empty log begins anywhere");
    for wrong in [vec![entry(5, 1)], vec![entry(7, 1)], vec![entry(6, 1), entry(8, 1)]] {
        let error = running.append(wrong).expect_err("it does not follow");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
    let error = running.append(vec![entry(6, 2000)]).expect_err("larger than a segment");
    assert!(error.to_string().contains("segment has room for"), "{error}");
    running.append(vec![entry(6, 1500)]).expect("as large as it can be");
    assert_eq!(running.entries().len(), 2);
}

#[test]
fn one_sync_is_for_all_that_waits() {
    let disk = SimDisk::new(1);
    let options = LogOptions { segment: 1 << 20, queue: 1 << 20, ..options() };
    let (mut log, writer) = Log::open(disk.clone(), IDS, options).expect("an empty log");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let (sender, receiver) = mpsc::channel();
    let before = disk.syncs();
    runtime.block_on(async {
        for index in 0..100 {
            let sender = sender.clone();
            let done = Box::new(move |result: io::Result<()>| drop(sender.send(result.map(|()| index))));
            log.append(vec![entry(index, 10)], done).await.expect("there is room in the queue");
        }
        assert_eq!(log.reader().read(.., usize::MAX).expect("from memory").len(), 100, "before anything is written");
        drop(log);
        writer.run(|| std::future::ready(())).await.expect("nothing fails");
    });
    drop(sender);
    let answers: Vec<_> = receiver.iter().map(|result| result.expect("it is durable")).collect();
    assert_eq!(answers, (0..100).collect::<Vec<_>>(), "in order");
    assert_eq!(disk.syncs() - before, 1);
}

#[test]
fn what_is_not_written_yet_is_read_from_memory() {
    let disk = SimDisk::new(1);
    let options = LogOptions { segment: 1 << 20, queue: 1 << 20, ..options() };
    let mut running = Running::open(&disk, options).expect("an empty log");
    for index in 0..5000 {
        let append = running.log.append(vec![entry(index, 10)], Box::new(drop));
        running.runtime.block_on(append).expect("there is room in the queue");
        // The writer may be anywhere between the entry before and this one.
        let from = index.saturating_sub(3);
        let read = running.log.reader().read(from.., usize::MAX).expect("the log can be read");
        assert_eq!(read.len() as u64, index - from + 1);
    }
    running.close().expect("nothing fails");
}
