//! Standard output: what a command prints besides a log.

use std::{
    future::pending,
    io::{self, Write as _},
    os::fd::AsFd as _,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::task;

use crate::failure::Failure;

/// Prints this, as it is. That whoever reads has read enough, and is gone, is no failure.
///
/// # Errors
///
/// It cannot be written, to a disk that is full, say.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    match write(text.as_ref()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritable(&error)),
        _ => Ok(()),
    }
}

/// The same, for a line.
pub(super) fn print_line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n"))
}

/// All of it, at once.
pub(super) fn write(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

/// The same where others go on meanwhile: whoever reads may be slow.
pub(super) async fn print_slowly(text: String) -> io::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    task::spawn_blocking(move || write(text.as_bytes())).await.map_err(io::Error::other)?
}

/// Ends when the reader of stdout has gone, if it is a pipe's.
pub(super) async fn nobody_reads() {
    let gone = task::spawn_blocking(|| {
        let stdout = io::stdout();
        loop {
            // No event is asked for: only an end is told.
            let mut end = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
            match poll(&mut end, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                polled => return polled.is_ok(),
            }
        }
    });
    if !gone.await.unwrap_or_default() {
        pending().await
    }
}

pub(super) fn unwritable(error: &io::Error) -> Failure {
    Failure::other(format!("cannot write to standard output: {error}"))
}
