//! Standard output: what a command prints besides a log.

use std::io::{self, Write as _};

use super::Failure;

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

pub(super) fn unwritable(error: &io::Error) -> Failure {
    Failure::other(format!("cannot write to standard output: {error}"))
}
