//! Saving a backup: the leader writes it from a copy of its state, piece by piece, as fast as whoever asked takes it.
//!
//! The copy, and what has changed since it was made, is in memory as long as the backup goes. So there are few at one time,
//! and one that nobody takes is given up. Its end is told: whatever breaks a backup off, it is not taken for a whole one.

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
    error::{Said, StoreError},
    voter::Voter,
};
use crate::backup;

/// The bytes of a piece.
const PIECE: usize = 64 << 10;
/// The pieces that wait to be taken.
const PIECES: usize = 4;
/// How long a piece may wait to be taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// A backup on its way: the bytes of a file that [`Backup::open`](crate::backup::Backup::open) reads.
#[derive(Debug)]
pub struct BackupStream(Source);

#[derive(Debug)]
enum Source {
    Here(Taken),
    There(String, CallResponse),
}

/// What a voter writes of a backup, for who takes it.
#[derive(Debug)]
pub(super) struct Taken {
    /// Nothing is the end; without it, the backup was broken off.
    pieces: mpsc::Receiver<Option<Bytes>>,
    ended: bool,
}

impl Taken {
    /// The next bytes; nothing at the end. An error if it was broken off.
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
    pub(super) fn here(taken: Taken) -> Self {
        Self(Source::Here(taken))
    }

    pub(super) fn there(name: String, answered: CallResponse) -> Self {
        Self(Source::There(name, answered))
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    ///
    /// The voter that writes it is lost, or has waited for longer than 30 s until more was taken. What came is not all.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        let broken = |node: &str, why: &dyn std::fmt::Display| StoreError::Answer {
            node: node.into(),
            problem: format!("its backup breaks off: {why}"),
        };
        match &mut self.0 {
            Source::Here(taken) => taken.next().await.map_err(|()| {
                broken("this node", &format_args!("it stops, or nothing was taken for {TAKEN_WITHIN:?}"))
            }),
            Source::There(name, answered) => answered.incoming.next().await.map_err(|error| broken(name, &error)),
        }
    }
}

/// Gives pieces to whoever takes them.
struct Pieces {
    to: mpsc::Sender<Option<Bytes>>,
    runtime: Handle,
}

impl Pieces {
    fn new(runtime: Handle) -> (Self, Taken) {
        let (to, pieces) = mpsc::channel(PIECES);
        (Self { to, runtime }, Taken { pieces, ended: false })
    }

    fn give(&self, piece: Option<Bytes>) -> io::Result<()> {
        let piece = match self.to.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Closed(_)) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(TrySendError::Full(piece)) => piece,
        };
        // The task also ends with its runtime. A timer here would panic then.
        let mut late = self.runtime.spawn(async { sleep(TAKEN_WITHIN).await });
        let given = self.runtime.block_on(async {
            select! {
                sent = self.to.send(piece) => sent.map_err(|_| io::ErrorKind::BrokenPipe.into()),
                _ = &mut late => Err(io::ErrorKind::TimedOut.into()),
            }
        });
        late.abort();
        given
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A value may be long, and comes as it is.
        let piece = &bytes[..bytes.len().min(PIECE)];
        self.give(Some(Bytes::copy_from_slice(piece))).map(|()| piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Voter {
    /// Writes a backup of all that was agreed on when this was called, as fast as its pieces are taken.
    pub(super) async fn save(&self) -> Result<Taken, Said> {
        let raft = self.need()?;
        let place = Arc::clone(&self.savers).try_acquire_owned().map_err(|_| Said::Busy)?;
        raft.confirm().await.map_err(|error| Self::said(&raft, error))?;
        let copy = raft.state().read(|replica, _| replica.state.copy());
        let (pieces, taken) = Pieces::new(Handle::current());
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut out = BufWriter::with_capacity(PIECE, pieces);
            // It fails when nobody takes the pieces any more; then there is nobody to tell.
            if backup::write(raft.ids().cluster, &copy, &mut out).is_ok() {
                let _ = out.get_ref().give(None);
            }
            // What is left of one that failed is nothing to wait for.
            drop(out.into_parts());
        });
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[tokio::test]
    async fn a_backup_without_its_end_is_an_error() {
        let (pieces, taken) = Pieces::new(Handle::current());
        pieces.give(Some("all".into())).expect("there is room");
        pieces.give(None).expect("there is room");
        drop(pieces);
        let mut whole = BackupStream::here(taken);
        assert_eq!(whole.next().await, Ok(Some("all".into())));
        assert_eq!((whole.next().await, whole.next().await), (Ok(None), Ok(None)));

        let (pieces, taken) = Pieces::new(Handle::current());
        pieces.give(Some("a part".into())).expect("there is room");
        drop(pieces);
        let mut cut = BackupStream::here(taken);
        assert_eq!(cut.next().await, Ok(Some("a part".into())));
        assert!(matches!(cut.next().await, Err(StoreError::Answer { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_backup_that_nobody_takes_is_given_up_and_takes_little_memory() {
        let (mut pieces, mut taken) = Pieces::new(Handle::current());
        let written = thread::spawn(move || pieces.write_all(&[7; 3 << 19]).expect_err("nobody takes it").kind());
        // A task sleeps once the queue is full; the clock stands still until then.
        while !written.is_finished() {
            thread::sleep(Duration::from_millis(1));
            tokio::time::advance(TAKEN_WITHIN / 4).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(written.join().expect("it ends"), io::ErrorKind::TimedOut);
        let mut pieces = 0;
        while let Ok(piece) = taken.next().await {
            assert!(piece.expect("not the end").len() <= PIECE);
            pieces += 1;
        }
        assert_eq!(pieces, PIECES);
    }

    #[tokio::test]
    async fn whoever_takes_no_more_ends_the_writing() {
        let (mut pieces, taken) = Pieces::new(Handle::current());
        let written = thread::spawn(move || pieces.write_all(&[7; 3 << 19]).expect_err("nobody takes it").kind());
        drop(taken);
        assert_eq!(written.join().expect("it ends"), io::ErrorKind::BrokenPipe);
    }
}
