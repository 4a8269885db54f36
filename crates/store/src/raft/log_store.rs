//! The log as openraft's.

use std::fmt::Debug;
use std::io;
use std::ops::RangeBounds;

use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, base::BoxStream};

use super::codec;
use super::types::{RaftEntry, RaftLogId, RaftVote, StoreTypes};
use crate::disk::Disk;
use crate::log::{Log, LogReader, bounds};

/// The log as openraft's.
#[derive(Debug)]
pub struct LogStore<D: Disk> {
    log: Log<D>,
}

impl<D: Disk> LogStore<D> {
    /// Takes the log for openraft. Keep a [`space_reader`](Log::space_reader) before.
    pub fn new(log: Log<D>) -> Self {
        Self { log }
    }
}

/// Reads the log for openraft.
#[derive(Debug)]
pub struct LogStoreReader<F> {
    reader: LogReader<F>,
}

impl<F> Clone for LogStoreReader<F> {
    fn clone(&self) -> Self {
        Self { reader: self.reader.clone() }
    }
}

impl<F: crate::disk::DiskFile> LogStoreReader<F> {
    async fn read<C: StoreTypes>(&self, start: u64, end: u64, limit: usize) -> io::Result<Vec<RaftEntry>> {
        let found = self.reader.find(start..end, limit)?;
        // The newest are in memory; what is not may have to wait for the disk.
        let entries = if found.in_memory() { found.read() } else { C::blocking(move || found.read()).await? };
        entries?.into_iter().map(codec::raft_entry).collect()
    }
}

impl<C: StoreTypes, F: crate::disk::DiskFile> RaftLogReader<C> for LogStoreReader<F> {
    // Its callers ask for few entries, and want all of them: there is no limit of bytes here.
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<RaftEntry>> {
        let (start, end) = bounds(&range);
        self.read::<C>(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.reader.vote()?.map(codec::raft_vote))
    }

    // For replication: 300 entries may be 450 MB, and one request must be far less.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntry>> {
        let limit = self.reader.options().read;
        self.read::<C>(start, end, limit).await
    }

    // For applying: as many as fit into memory at a time.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<RaftEntry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let state = (self.clone(), start, end, Vec::new().into_iter());
        let entries = stream::try_unfold(state, |(reader, mut next, end, mut read)| async move {
            if read.as_slice().is_empty() {
                let limit = reader.reader.options().read;
                read = reader.read::<C>(next, end, limit).await?.into_iter();
                next = read.as_slice().last().map_or(end, |last| last.log_id.index + 1);
            }
            Ok(read.next().map(|entry| (entry, (reader, next, end, read))))
        });
        Box::pin(entries) as BoxStream<'static, io::Result<RaftEntry>>
    }
}

impl<C: StoreTypes, D: Disk> RaftLogStorage<C> for LogStore<D> {
    type LogReader = LogStoreReader<D::File>;

    async fn get_log_state(&mut self) -> io::Result<LogState<C>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(codec::raft_log_id),
            last_log_id: state.last.map(codec::raft_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> LogStoreReader<D::File> {
        LogStoreReader { reader: self.log.reader() }
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        Ok(self.log.save_vote(codec::vote(vote)).await?)
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        Ok(self.log.save_committed(committed.as_ref().map(codec::log_id))?)
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        Ok(self.log.state().committed.map(codec::raft_log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(codec::entry).collect();
        Ok(self.log.append(entries, Box::new(|result| callback.io_completed(result))).await?)
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        Ok(self.log.truncate_after(last.as_ref().map(codec::log_id)).await?)
    }

    async fn purge(&mut self, up_to: RaftLogId) -> io::Result<()> {
        Ok(self.log.purge(codec::log_id(&up_to)).await?)
    }
}
