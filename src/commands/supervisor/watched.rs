//! File descriptors that are waited for.

use std::{io, os::fd::AsRawFd};

use tokio::io::unix::AsyncFd;

/// Has the runtime wait for what this owns.
#[expect(deprecated, reason = "its successor is unsafe for the sake of who would not own its descriptor; ours all do")]
pub(super) fn watched<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}
