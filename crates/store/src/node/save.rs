//! Saving a backup. The leader writes it from a copy of its state, piece by piece, as fast as the reader takes the pieces.
//!
//! The copy shares memory with the state, but keeps what changes meanwhile twice. So a voter writes few backups at a time, and
//! gives one up that nobody reads. A backup has an explicit end: whatever breaks it off, no reader takes it for a whole one.

use std::{
    io::{self, BufWriter, Write},
    sync::Arc,
    time::Duration,
};

use broadcast_session::CallResponse;
use bytes::Bytes;
use tokio::{
    runtime::Handle,
    select,
    sync::mpsc::{self, error::TrySendError},
    time::sleep,
};

use super::{
    error::{RefusalReason, StoreError},
    voter::Voter,
};
use crate::backup;

/// The bytes of a piece.
const PIECE: usize = 64 << 10;
/// How many pieces may wait for the reader.
const MAX_WAITING: usize = 4;
/// How long a piece may wait for the reader.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A backup as it is written: the bytes of a file that [`Backup::open`](crate::backup::Backup::open) reads.
///
/// ```no_run
/// # async fn run(store: broadcast_store::Store) -> Result<(), Box<dyn std::error::Error>> {
/// use std::io::Write;
///
/// let mut file = std::fs::File::create("store.backup")?;
/// let mut backup = store.save().await?;
/// while let Some(piece) = backup.next().await? {
///     file.write_all(&piece)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BackupStream(Source);

#[derive(Debug)]
enum Source {
    Local(BackupPieces),
    Remote(String, CallResponse),
}

/// The pieces of a backup that this node's voter writes.
#[derive(Debug)]
pub(super) struct BackupPieces {
    /// `None` is the end. A channel that closes without it means that the backup broke off.
    pieces: mpsc::Receiver<Option<Bytes>>,
    ended: bool,
}

impl BackupPieces {
    /// The next piece; `None` at the end. An error if the backup broke off.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ()> {
        if !self.ended {
            let piece = self.pieces.recv().await.ok_or(())?;
            self.ended = piece.is_none();
            return Ok(piece);
        }
        Ok(None)
    }
}

impl BackupStream {
    pub(super) fn local(pieces: BackupPieces) -> Self {
        Self(Source::Local(pieces))
    }

    pub(super) fn remote(name: String, answered: CallResponse) -> Self {
        Self(Source::Remote(name, answered))
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// The voter that writes the backup is lost, or waited longer than 30 s for the reader. What came before is not a backup.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let broken = |node: &str, why: &dyn std::fmt::Display| StoreError::Answer {
            node: node.into(),
            problem: format!("its backup breaks off: {why}"),
        };
        match &mut self.0 {
            Source::Local(taken) => taken.next().await.map_err(|()| {
                broken("this node", &format_args!("it stops, or nothing was taken for {READ_TIMEOUT:?}"))
            }),
            Source::Remote(name, answered) => answered.incoming.next().await.map_err(|error| broken(name, &error)),
        }
    }
}

/// Writes a backup as pieces into a channel, on a thread that may block.
struct BackupWriter {
    sender: mpsc::Sender<Option<Bytes>>,
    runtime: Handle,
}

impl BackupWriter {
    fn new(runtime: Handle) -> (Self, BackupPieces) {
        let (sender, pieces) = mpsc::channel(MAX_WAITING);
        (Self { sender, runtime }, BackupPieces { pieces, ended: false })
    }

    fn send(&self, piece: Option<Bytes>) -> io::Result<()> {
        let piece = match self.sender.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(TrySendError::Full(piece)) => piece,
        };
        // The timer is a task, which ends with its runtime; a timer on this thread would panic then.
        let mut late = self.runtime.spawn(async { sleep(READ_TIMEOUT).await });
        let result = self.runtime.block_on(async {
            select! {
                sent = self.sender.send(piece) => sent.map_err(|_| io::ErrorKind::BrokenPipe.into()),
                _ = &mut late => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        late.abort();
        result
    }
}

impl Write for BackupWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A value may be longer than a piece.
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.send(Some(Bytes::copy_from_slice(piece))).map(|()| piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Voter {
    /// Writes a backup of all that was committed when this was called, as fast as the pieces are read.
    pub(super) async fn save(&self) -> Result<BackupPieces, RefusalReason> {
        let raft = self.require_raft()?;
        let permit = Arc::clone(&self.savers).try_acquire_owned().map_err(|_| RefusalReason::Busy)?;
        raft.read_index().await.map_err(|error| Self::refusal(&raft, error))?;
        let copy = raft.state().read(|replica, _| replica.state.copy());
        let (writer, pieces) = BackupWriter::new(Handle::current());
        tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut out = BufWriter::with_capacity(PIECE, writer);
            // It fails only if nobody reads any more; then there is nobody to tell.
            if backup::write(raft.ids().cluster, &copy, &mut out).is_ok() {
                let _ = out.get_ref().send(None);
            }
            // Dropping the writer itself would try to send what is left.
            drop(out.into_parts());
        });
        Ok(pieces)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn a_backup_without_its_end_is_an_error() {
        let (pieces, taken) = BackupWriter::new(Handle::current());
        pieces.send(Some("all".into())).expect("there is room");
        pieces.send(None).expect("there is room");
        drop(pieces);
        let mut whole = BackupStream::local(taken);
        assert_eq!(whole.next().await, Ok(Some("all".into())));
        assert_eq!((whole.next().await, whole.next().await), (Ok(None), Ok(None)));

        let (pieces, taken) = BackupWriter::new(Handle::current());
        pieces.send(Some("a part".into())).expect("there is room");
        drop(pieces);
        let mut cut = BackupStream::local(taken);
        assert_eq!(cut.next().await, Ok(Some("a part".into())));
        assert!(matches!(cut.next().await, Err(StoreError::Answer { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_that_nobody_takes_is_given_up_and_takes_little_memory() {
        let (mut pieces, mut taken) = BackupWriter::new(Handle::current());
        let written = thread::spawn(move || pieces.write_all(&[7; 3 << 19]).expect_err("nobody takes it").kind());
        // A task sleeps once the queue is full; the clock stands still until then.
        while !written.is_finished() {
            thread::sleep(Duration::from_millis(1));
            tokio::time::advance(READ_TIMEOUT / 4).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(written.join().expect("it ends"), io::ErrorKind::TimedOut);
        let mut pieces = 0;
        while let Ok(piece) = taken.next().await {
            assert!(piece.expect("not the end").len() <= PIECE);
            pieces += 1;
        }
        assert_eq!(pieces, MAX_WAITING);
    }

    #[tokio::test]
    async fn whoever_takes_no_more_ends_the_writing() {
        let (mut pieces, taken) = BackupWriter::new(Handle::current());
        let written = thread::spawn(move || pieces.write_all(&[7; 3 << 19]).expect_err("nobody takes it").kind());
        drop(taken);
        assert_eq!(written.join().expect("it ends"), io::ErrorKind::BrokenPipe);
    }
}
