//! The queue of writes, and the writer that empties it: group commit.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::journal::{Journal, WriteBatch};
use super::record::Record;
use super::view::SharedLog;
use super::{Entry, LogError, LogId, LogOptions, LogReader, LogSpace, LogState, LogStats, Vote, recovery};
use crate::disk::{Disk, Ids};

/// Called once, when entries are durable or never will be. See [`Log::append`].
pub type DurableCallback = Box<dyn FnOnce(io::Result<()>) + Send>;

/// How many writes may wait for the writer.
const QUEUE: usize = 1024;
/// How many bytes of entries the writer takes into one batch.
const BATCH: usize = 8 << 20;

/// The log, for its one owner, who changes it. Others read it with a [`LogReader`].
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use broadcast_store::{LogId, disk::{Folder, Ids}, log::{Entry, Log, LogOptions}};
///
/// let folder = Folder::open("/tmp/log")?;
/// let (mut log, writer) = Log::open(folder, Ids { cluster: 1, node: 1 }, LogOptions::default())?;
/// writer.spawn(|ended| println!("{ended:?}"))?;
/// let entry = Entry { log_id: LogId { term: 1, index: 0 }, kind: 1, payload: "hello".into() };
/// log.append(vec![entry], Box::new(|result| println!("durable: {result:?}"))).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Log<D: Disk> {
    shared: Arc<SharedLog<D::File>>,
    queue: mpsc::Sender<WriteTask>,
    bytes: Arc<Semaphore>,
    /// The number of the last write.
    number: u64,
    /// The committed log id, if the writer does not have it yet. It goes with the next write, so that it alone wakes nobody.
    committed: Option<Record>,
}

/// Writes and syncs the log. It blocks, so it needs a thread of its own. See [`Log`].
#[derive(Debug)]
pub struct LogWriter<D: Disk> {
    queue: mpsc::Receiver<WriteTask>,
    journal: Journal<D>,
}

struct WriteTask {
    number: u64,
    /// A record that goes before the write itself.
    before: Option<Record>,
    change: WriteOp,
    done: Option<DurableCallback>,
    /// The room that it takes in the queue.
    permit: Option<OwnedSemaphorePermit>,
}

enum WriteOp {
    Entries(Vec<Entry>),
    One(Record),
    /// Syncs all that was written.
    Flush,
    PrepareSpare,
}

impl std::fmt::Debug for WriteTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTask").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log of this node, or begins one. Nothing is written before the writer runs.
    pub fn open(disk: D, ids: Ids, options: LogOptions) -> Result<(Self, LogWriter<D>), LogError> {
        let journal = recovery::open(disk, ids, options)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let bytes = Arc::new(Semaphore::new(options.queue as usize));
        let log = Self { shared: journal.shared.clone(), queue: sender, bytes, number: 0, committed: None };
        Ok((log, LogWriter { queue: receiver, journal }))
    }

    /// The state of the log with all writes so far, durable or not.
    pub fn state(&self) -> LogState {
        self.shared.view().state
    }

    /// A reader of the log.
    pub fn reader(&self) -> LogReader<D::File> {
        LogReader { shared: self.shared.clone() }
    }

    /// Why the log has stopped, if it has: the process must end.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure().map(str::to_owned)
    }

    /// What the writer has measured since the log was opened.
    pub fn stats(&self) -> Arc<LogStats> {
        self.shared.stats.clone()
    }

    /// How much fits into the log.
    pub fn space(&self) -> LogSpace {
        self.space_reader().get()
    }

    /// A handle that tells others how much fits into the log.
    pub fn space_reader(&self) -> LogSpaceReader<D> {
        LogSpaceReader { shared: self.shared.clone(), bytes: self.bytes.clone(), queue: self.queue.downgrade() }
    }

    /// Writes a vote. It is durable when this returns, and nobody reads it before.
    pub async fn save_vote(&mut self, vote: Vote) -> Result<(), LogError> {
        self.wait(WriteOp::One(Record::Vote(vote))).await?;
        self.shared.view().state.vote = Some(vote);
        Ok(())
    }

    /// Appends entries. Everybody can read them when this returns. `done` is called when they are durable, or if that fails.
    pub async fn append(&mut self, entries: Vec<Entry>, done: DurableCallback) -> Result<(), LogError> {
        self.shared.check()?;
        let most = super::journal::max_entry_bytes(&self.shared.options);
        let mut bytes = 0;
        for entry in &entries {
            let size = LogSpace::bytes(entry.payload.len() as u64);
            if size > most {
                return Err(LogError::TooLarge { index: entry.log_id.index, size, most });
            }
            bytes += size;
        }
        self.shared.view().check_order(&entries)?;
        // An append larger than the whole queue waits until the queue is empty.
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.shared.options.queue);
        let permit = self.bytes.clone().acquire_many_owned(permits).await.map_err(|_| self.stopped())?;
        let slot = self.queue.reserve().await.map_err(|_| self.stopped())?;
        self.number += 1;
        self.shared.view().append(self.number, &entries);
        let (before, change) = (self.committed.take(), WriteOp::Entries(entries));
        slot.send(WriteTask { number: self.number, before, change, done: Some(done), permit: Some(permit) });
        Ok(())
    }

    /// Truncates the log after this entry. That is durable before later appends are.
    pub async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), LogError> {
        self.send(WriteOp::One(Record::Truncate(last)), |view| view.truncate(last)).await
    }

    /// Purges all entries up to this one, for they are in a snapshot. If it is after the last entry, the log is empty and goes on
    /// after it.
    pub async fn purge(&mut self, up_to: LogId) -> Result<(), LogError> {
        if self.state().purged.is_some_and(|purged| purged.index >= up_to.index) {
            return Ok(());
        }
        self.send(WriteOp::One(Record::Purge(up_to)), |view| view.purge(up_to)).await
    }

    /// Writes the committed log id, with the next write. One that is ahead of the entries is ignored.
    pub fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), LogError> {
        let last = self.state().last.map(|last| last.index);
        if committed.map(|committed| committed.index) > last {
            return Ok(());
        }
        self.shared.check()?;
        self.shared.view().state.committed = committed;
        self.committed = Some(Record::Committed(committed));
        Ok(())
    }

    /// Waits until all writes so far are durable.
    pub async fn flush(&mut self) -> Result<(), LogError> {
        self.wait(WriteOp::Flush).await
    }

    /// Tries again to get a spare segment, after the disk was full.
    pub async fn prepare_spare(&mut self) -> Result<LogSpace, LogError> {
        self.wait(WriteOp::PrepareSpare).await?;
        Ok(self.space())
    }

    async fn send(
        &mut self,
        change: WriteOp,
        now: impl FnOnce(&mut super::view::LogView<D::File>),
    ) -> Result<(), LogError> {
        self.shared.check()?;
        let slot = self.queue.reserve().await.map_err(|_| self.stopped())?;
        self.number += 1;
        now(&mut self.shared.view());
        slot.send(WriteTask { number: self.number, before: self.committed.take(), change, done: None, permit: None });
        Ok(())
    }

    async fn wait(&mut self, change: WriteOp) -> Result<(), LogError> {
        self.shared.check()?;
        let (sender, receiver) = oneshot::channel();
        // Whoever waited and has gone needs no answer.
        let done: DurableCallback = Box::new(move |result| drop(sender.send(result)));
        self.number += 1;
        let task =
            WriteTask { number: self.number, before: self.committed.take(), change, done: Some(done), permit: None };
        self.queue.send(task).await.map_err(|_| self.stopped())?;
        match receiver.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(LogError::Stopped(error.to_string())),
            Err(_) => Err(self.stopped()),
        }
    }

    fn stopped(&self) -> LogError {
        LogError::Stopped(self.shared.failure().unwrap_or("its writer has ended").to_owned())
    }
}

impl<D: Disk> Drop for Log<D> {
    fn drop(&mut self) {
        if let Some(committed) = self.committed.take() {
            // If it is lost, the next leader sends it again.
            let change = WriteOp::One(committed);
            let _ = self.queue.try_send(WriteTask { number: 0, before: None, change, done: None, permit: None });
        }
    }
}

/// Tells others than the log's owner how much fits into the log. [`Log::space_reader`] makes it.
#[derive(Debug)]
pub struct LogSpaceReader<D: Disk> {
    shared: Arc<SharedLog<D::File>>,
    bytes: Arc<Semaphore>,
    /// The log ends without waiting for this.
    queue: mpsc::WeakSender<WriteTask>,
}

impl<D: Disk> Clone for LogSpaceReader<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), bytes: self.bytes.clone(), queue: self.queue.clone() }
    }
}

impl<D: Disk> LogSpaceReader<D> {
    /// How much fits now, after all that waits.
    pub fn get(&self) -> LogSpace {
        let waiting = (self.shared.options.queue as usize).saturating_sub(self.bytes.available_permits()) as u64;
        let view = self.shared.view();
        // If the next entry does not fit into the segment in use, what is left there stays empty.
        let free = view.spare.unwrap_or(view.free);
        LogSpace { free: free.saturating_sub(waiting), accepts_proposals: view.spare.is_some() }
    }

    /// Up to which entry a purge gives room back: files go as a whole, and the one in use stays.
    pub fn removable(&self) -> Option<u64> {
        self.shared.view().sealed
    }

    /// The last entry, whether or not it is durable yet.
    pub fn last(&self) -> Option<LogId> {
        self.shared.view().state.last
    }

    /// Makes the writer try again to get a spare segment, after the disk was full.
    pub fn prepare_spare(&self) {
        if let Some(queue) = self.queue.upgrade() {
            // A queue that is full will be tried again, too.
            let task = WriteTask { number: 0, before: None, change: WriteOp::PrepareSpare, done: None, permit: None };
            let _ = queue.try_send(task);
        }
    }

    /// Why the log has stopped, if it has.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure().map(str::to_owned)
    }
}

impl<D: Disk> LogWriter<D> {
    /// Runs on a thread of its own until the [`Log`] is dropped or the disk fails; then calls `ended`.
    pub fn spawn(mut self, ended: impl FnOnce(Result<(), LogError>) + Send + 'static) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("store-log".into()).spawn(move || {
            ended(loop {
                let Some(task) = self.queue.blocking_recv() else { break Ok(()) };
                if let Err(error) = self.write_batch(task) {
                    break Err(error);
                }
            });
        })
    }

    /// Runs as a task of a simulation. `pause` comes before each batch, as a sync takes time.
    pub async fn run<P: Future<Output = ()>>(mut self, mut pause: impl FnMut() -> P) -> Result<(), LogError> {
        while let Some(task) = self.queue.recv().await {
            pause().await;
            self.write_batch(task)?;
        }
        Ok(())
    }

    /// Takes all that waits, writes it, syncs once, and calls back.
    fn write_batch(&mut self, first: WriteTask) -> Result<(), LogError> {
        let (mut batch, mut waiting) = (WriteBatch::default(), Vec::new());
        // They are given back when what they stand for is counted as written.
        let mut permits = Vec::new();
        let mut result = Ok(());
        let (mut number, mut sync, mut prepare_spare, mut bytes) = (0, false, false, 0);
        let mut next = Some(first);
        while let Some(task) = next.take() {
            // Not everything that is asked for has one.
            number = number.max(task.number);
            waiting.extend(task.done);
            permits.extend(task.permit);
            result = task.before.map_or(Ok(()), |record| self.journal.put(&mut batch, &record));
            result = result.and_then(|()| match task.change {
                WriteOp::Entries(entries) => {
                    sync = true;
                    bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
                    entries.into_iter().try_for_each(|entry| self.journal.put(&mut batch, &Record::Entry(entry)))
                }
                WriteOp::One(record) => {
                    sync |= matches!(record, Record::Vote(_));
                    self.journal.put(&mut batch, &record)
                }
                WriteOp::Flush => {
                    sync = true;
                    Ok(())
                }
                WriteOp::PrepareSpare => {
                    prepare_spare = true;
                    Ok(())
                }
            });
            if result.is_err() || bytes > BATCH {
                break;
            }
            next = self.queue.try_recv().ok();
        }
        let result = result.and_then(|()| {
            self.journal.finish(&mut batch, sync, number)?;
            if prepare_spare {
                self.journal.tidy(&batch, true);
            }
            Ok(())
        });
        if let Err(error) = &result {
            self.journal.shared.fail(&error.to_string());
            self.queue.close();
            // Those who wait behind this turn must know it too.
            while let Ok(task) = self.queue.try_recv() {
                waiting.extend(task.done);
            }
        }
        drop(permits);
        for done in waiting {
            done(result.as_ref().map(|_| ()).map_err(|error| io::Error::other(error.to_string())));
        }
        if result.is_ok() && !prepare_spare {
            self.journal.tidy(&batch, false);
        }
        result
    }
}

impl<D: Disk> Drop for LogWriter<D> {
    fn drop(&mut self) {
        // A writer that is dropped in the middle, as a crashed node of a simulation, answers nobody any more.
        self.queue.close();
    }
}
