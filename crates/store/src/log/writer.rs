//! The queue of what is asked for, and the writer that empties it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::journal::{Journal, Turn};
use super::record::Record;
use super::view::Shared;
use super::{Entry, LogError, LogFigures, Options, Position, Reader, Room, State, Vote, recovery};
use crate::disk::{Disk, Ids};

/// Is called once, when entries are durable or will never be.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// How many things may wait for the writer.
const QUEUE: usize = 1024;
/// How many bytes of entries the writer takes at most at a time.
const TURN: usize = 8 << 20;

/// The log, for the one who changes it. Who reads it takes a [`Reader`].
#[derive(Debug)]
pub struct Log<D: Disk> {
    shared: Arc<Shared<D::File>>,
    queue: mpsc::Sender<Task>,
    bytes: Arc<Semaphore>,
    /// The number of the last thing that was asked for.
    number: u64,
    /// How far is committed, where that has not been sent to the writer yet: it goes with what comes next, so that nobody
    /// has to wake for it alone.
    committed: Option<Record>,
}

/// Writes what was asked for. It blocks, so it wants a thread of its own.
#[derive(Debug)]
pub struct Writer<D: Disk> {
    queue: mpsc::Receiver<Task>,
    journal: Journal<D>,
}

struct Task {
    number: u64,
    /// Goes before the change.
    before: Option<Record>,
    change: Change,
    done: Option<Done>,
    /// Holds room in the queue.
    permit: Option<OwnedSemaphorePermit>,
}

enum Change {
    Entries(Vec<Entry>),
    One(Record),
    /// Syncs all that was written.
    Flush,
    MakeRoom,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<D: Disk> Log<D> {
    /// Opens the log of this node, or begins one. Nothing is written until the writer runs.
    pub fn open(disk: D, ids: Ids, options: Options) -> Result<(Self, Writer<D>), LogError> {
        let journal = recovery::open(disk, ids, options)?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let bytes = Arc::new(Semaphore::new(options.queue as usize));
        let log = Self { shared: journal.shared.clone(), queue: sender, bytes, number: 0, committed: None };
        Ok((log, Writer { queue: receiver, journal }))
    }

    /// What the log knows, with all that was asked for, whether it is durable or not.
    pub fn state(&self) -> State {
        self.shared.view().state
    }

    /// One who reads the log beside this.
    pub fn reader(&self) -> Reader<D::File> {
        Reader { shared: self.shared.clone() }
    }

    /// Why the log has stopped, if it has: the process must end.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure().map(str::to_owned)
    }

    /// What it has cost since it was opened.
    pub fn figures(&self) -> Arc<LogFigures> {
        self.shared.figures.clone()
    }

    /// How much fits.
    pub fn room(&self) -> Room {
        self.watch_room().get()
    }

    /// Tells how much fits, beside who changes the log.
    pub fn watch_room(&self) -> RoomReader<D> {
        RoomReader { shared: self.shared.clone(), bytes: self.bytes.clone(), queue: self.queue.downgrade() }
    }

    /// Stores a vote. It is durable when this returns, and nobody reads it before.
    pub async fn save_vote(&mut self, vote: Vote) -> Result<(), LogError> {
        self.wait(Change::One(Record::Vote(vote))).await?;
        self.shared.view().state.vote = Some(vote);
        Ok(())
    }

    /// Appends entries. They can be read when this returns; `done` is called when they are durable, or if that fails.
    pub async fn append(&mut self, entries: Vec<Entry>, done: Done) -> Result<(), LogError> {
        self.shared.check()?;
        let most = super::journal::most(&self.shared.options);
        let mut bytes = 0;
        for entry in &entries {
            let size = Room::bytes(entry.payload.len() as u64);
            if size > most {
                return Err(LogError::TooLarge { index: entry.position.index, size, most });
            }
            bytes += size;
        }
        self.shared.view().check_order(&entries)?;
        // More than the whole queue can hold waits until the queue is empty.
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.shared.options.queue);
        let permit = self.bytes.clone().acquire_many_owned(permits).await.map_err(|_| self.stopped())?;
        let slot = self.queue.reserve().await.map_err(|_| self.stopped())?;
        self.number += 1;
        self.shared.view().append(self.number, &entries);
        let (before, change) = (self.committed.take(), Change::Entries(entries));
        slot.send(Task { number: self.number, before, change, done: Some(done), permit: Some(permit) });
        Ok(())
    }

    /// Cuts all entries after this one. It is durable before what is appended next is.
    pub async fn truncate_after(&mut self, last: Option<Position>) -> Result<(), LogError> {
        self.send(Change::One(Record::Truncate(last)), |view| view.truncate(last)).await
    }

    /// Forgets all entries up to this one, also if it is behind the last: then the log is empty and goes on after it.
    pub async fn purge(&mut self, up_to: Position) -> Result<(), LogError> {
        if self.state().purged.is_some_and(|purged| purged.index >= up_to.index) {
            return Ok(());
        }
        self.send(Change::One(Record::Purge(up_to)), |view| view.purge(up_to)).await
    }

    /// Stores how far is committed, with what is asked for next. What is ahead of the entries is not stored.
    pub fn save_committed(&mut self, committed: Option<Position>) -> Result<(), LogError> {
        let last = self.state().last.map(|last| last.index);
        if committed.map(|committed| committed.index) > last {
            return Ok(());
        }
        self.shared.check()?;
        self.shared.view().state.committed = committed;
        self.committed = Some(Record::Committed(committed));
        Ok(())
    }

    /// Waits until all that was asked for is durable.
    pub async fn flush(&mut self) -> Result<(), LogError> {
        self.wait(Change::Flush).await
    }

    /// Tries again to get a spare segment, after the disk was full.
    pub async fn make_room(&mut self) -> Result<Room, LogError> {
        self.wait(Change::MakeRoom).await?;
        Ok(self.room())
    }

    async fn send(
        &mut self,
        change: Change,
        now: impl FnOnce(&mut super::view::View<D::File>),
    ) -> Result<(), LogError> {
        self.shared.check()?;
        let slot = self.queue.reserve().await.map_err(|_| self.stopped())?;
        self.number += 1;
        now(&mut self.shared.view());
        slot.send(Task { number: self.number, before: self.committed.take(), change, done: None, permit: None });
        Ok(())
    }

    async fn wait(&mut self, change: Change) -> Result<(), LogError> {
        self.shared.check()?;
        let (sender, receiver) = oneshot::channel();
        // Whoever waited and has gone needs no answer.
        let done: Done = Box::new(move |result| drop(sender.send(result)));
        self.number += 1;
        let task = Task { number: self.number, before: self.committed.take(), change, done: Some(done), permit: None };
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
            // Whoever leads says it again.
            let change = Change::One(committed);
            let _ = self.queue.try_send(Task { number: 0, before: None, change, done: None, permit: None });
        }
    }
}

/// Tells how much fits into the log.
#[derive(Debug)]
pub struct RoomReader<D: Disk> {
    shared: Arc<Shared<D::File>>,
    bytes: Arc<Semaphore>,
    /// The log ends without waiting for this.
    queue: mpsc::WeakSender<Task>,
}

impl<D: Disk> Clone for RoomReader<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), bytes: self.bytes.clone(), queue: self.queue.clone() }
    }
}

impl<D: Disk> RoomReader<D> {
    /// How much fits now, after all that waits.
    pub fn get(&self) -> Room {
        let waiting = (self.shared.options.queue as usize).saturating_sub(self.bytes.available_permits()) as u64;
        let view = self.shared.view();
        // If the next entry does not fit into the segment in use, what is left there stays empty.
        let free = view.spare.unwrap_or(view.free);
        Room { free: free.saturating_sub(waiting), accepts_proposals: view.spare.is_some() }
    }

    /// The last entry, whether or not it is durable yet.
    pub fn last(&self) -> Option<Position> {
        self.shared.view().state.last
    }

    /// Has the writer try again to get a spare segment, beside all else, after the disk was full.
    pub fn make_room(&self) {
        if let Some(queue) = self.queue.upgrade() {
            // A queue that is full will be tried again, too.
            let task = Task { number: 0, before: None, change: Change::MakeRoom, done: None, permit: None };
            let _ = queue.try_send(task);
        }
    }

    /// Why the log has stopped, if it has.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure().map(str::to_owned)
    }
}

impl<D: Disk> Writer<D> {
    /// Runs on a thread of its own, until the [`Log`] is dropped or the disk fails; then calls `ended`.
    pub fn spawn(mut self, ended: impl FnOnce(Result<(), LogError>) + Send + 'static) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("store-log".into()).spawn(move || {
            ended(loop {
                let Some(task) = self.queue.blocking_recv() else { break Ok(()) };
                if let Err(error) = self.turn(task) {
                    break Err(error);
                }
            });
        })
    }

    /// Runs as a task of a simulation, and waits with `pause` before each turn, as a sync takes time.
    pub async fn run<P: Future<Output = ()>>(mut self, mut pause: impl FnMut() -> P) -> Result<(), LogError> {
        while let Some(task) = self.queue.recv().await {
            pause().await;
            self.turn(task)?;
        }
        Ok(())
    }

    /// Takes all that waits, writes it, syncs it once, and tells who waits.
    fn turn(&mut self, first: Task) -> Result<(), LogError> {
        let (mut turn, mut waiting) = (Turn::default(), Vec::new());
        // They are given back when what they stand for is counted as written.
        let mut permits = Vec::new();
        let mut result = Ok(());
        let (mut number, mut sync, mut make_room, mut bytes) = (0, false, false, 0);
        let mut next = Some(first);
        while let Some(task) = next.take() {
            // Not everything that is asked for has one.
            number = number.max(task.number);
            waiting.extend(task.done);
            permits.extend(task.permit);
            result = task.before.map_or(Ok(()), |record| self.journal.put(&mut turn, &record));
            result = result.and_then(|()| match task.change {
                Change::Entries(entries) => {
                    sync = true;
                    bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
                    entries.into_iter().try_for_each(|entry| self.journal.put(&mut turn, &Record::Entry(entry)))
                }
                Change::One(record) => {
                    sync |= matches!(record, Record::Vote(_));
                    self.journal.put(&mut turn, &record)
                }
                Change::Flush => {
                    sync = true;
                    Ok(())
                }
                Change::MakeRoom => {
                    make_room = true;
                    Ok(())
                }
            });
            if result.is_err() || bytes > TURN {
                break;
            }
            next = self.queue.try_recv().ok();
        }
        let result = result.and_then(|()| {
            self.journal.finish(&mut turn, sync, number)?;
            if make_room {
                self.journal.tidy(&turn, true);
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
        if result.is_ok() && !make_room {
            self.journal.tidy(&turn, false);
        }
        result
    }
}

impl<D: Disk> Drop for Writer<D> {
    fn drop(&mut self) {
        // A writer that is dropped in the middle, as a crashed node of a simulation, answers nobody any more.
        self.queue.close();
    }
}
