//! File descriptors that tokio waits for.

use std::{io, os::fd::AsRawFd};

use tokio::io::unix::AsyncFd;

/// Registers a file descriptor with the runtime.
#[expect(deprecated, reason = "its successor is unsafe for the sake of who would not own its descriptor; ours all do")]
pub(super) fn async_fd<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}
