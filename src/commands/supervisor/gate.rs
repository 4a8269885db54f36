//! Holds a command back until its supervisor has forwarded earlier signals. A terminal sends Ctrl-C to the whole foreground
//! group, and nobody knows whether the command was in it by then. While the command waits it blocks signals, so that the same
//! signal sent twice counts once.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    unistd::{close, pipe2},
};

/// The supervisor's side of the gate, which is a pipe.
#[derive(Debug)]
pub(super) struct StartGate {
    /// The command's end, which it inherits.
    theirs: OwnedFd,
    ours: File,
}

impl StartGate {
    pub(super) fn new() -> io::Result<Self> {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Self { theirs, ours: ours.into() })
    }

    /// The file descriptor in the command.
    pub(super) fn number(&self) -> RawFd {
        self.theirs.as_raw_fd()
    }

    /// Lets the command through.
    pub(super) fn open(mut self) {
        // Fails if the command has ended.
        let _ = self.ours.write_all(b"\n");
    }
}

/// Waits until the supervisor opens the gate. Gives false if the supervisor ended instead.
pub(super) fn wait(number: RawFd) -> io::Result<bool> {
    // Closes the inherited descriptor, so that the command does not get it.
    let mut gate = File::open(format!("/proc/self/fd/{number}"))?;
    close(number)?;
    Ok(gate.read(&mut [0])? > 0)
}
