//! What a command prints besides a log: results on standard output, warnings on standard error.
//!
//! That whoever reads the output has gone is never a failure: `broadcast … | head` has seen enough.

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

use super::client::ApiResponse;
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// Prints `text` as it is.
///
/// # Errors
///
/// It cannot be written, to a full disk for example.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    match write(text.as_ref()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(unwritable(&error)),
        _ => Ok(()),
    }
}

/// Prints a line.
pub(super) fn print_line(text: &str) -> Result<(), Failure> {
    print(format!("{text}\n"))
}

/// Prints a node's response: its JSON with `--json`, otherwise `text` of it.
pub(super) fn print_response(
    args: &ClientArgs,
    response: &ApiResponse,
    text: impl FnOnce(&ApiResponse) -> String,
) -> Result<(), Failure> {
    if args.json { print_json(response) } else { print(text(response)) }
}

/// Prints the JSON of a node's response, on one line.
pub(super) fn print_json(response: &ApiResponse) -> Result<(), Failure> {
    print_line(&visible::escaped_json(&response.text))
}

/// Writes all of `text` at once.
pub(super) fn write(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}

/// Prints without holding up the other tasks of the runtime, since the reader may be slow. Gives whether anybody still reads.
pub(super) async fn print_in_background(text: String) -> Result<bool, Failure> {
    if text.is_empty() {
        return Ok(true);
    }
    let written = task::spawn_blocking(move || write(text.as_bytes())).await.map_err(io::Error::other);
    match written.and_then(|written| written) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(unwritable(&error)),
    }
}

/// Ends when the reader of standard output has gone, if that is a pipe.
pub(super) async fn nobody_reads() {
    let gone = task::spawn_blocking(|| {
        let stdout = io::stdout();
        loop {
            // No event is asked for: poll reports the end of the pipe all the same.
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

/// Warns whoever looks at standard error.
pub(super) fn warn(text: &str) {
    // Nobody may look, and the command goes on.
    let _ = writeln!(io::stderr(), "warning: {text}");
}

fn unwritable(error: &io::Error) -> Failure {
    Failure::other(format!("cannot write to standard output: {error}"))
}
