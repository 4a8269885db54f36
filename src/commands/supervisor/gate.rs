//! What a command waits at before it begins, until its supervisor has passed on what came before: a terminal tells the whole
//! foreground group of Ctrl-C, and nobody knows whether the command was in it by then. While it waits it blocks signals, so
//! that the same one twice is one.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    unistd::{close, pipe2},
};

/// As the supervisor has it: a pipe.
#[derive(Debug)]
pub(super) struct Gate {
    /// The command's end, which it inherits.
    theirs: OwnedFd,
    ours: File,
}

impl Gate {
    pub(super) fn new() -> io::Result<Self> {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Self { theirs, ours: ours.into() })
    }

    /// What it is called in the command.
    pub(super) fn number(&self) -> RawFd {
        self.theirs.as_raw_fd()
    }

    /// Lets the command through.
    pub(super) fn open(mut self) {
        // It may have ended.
        let _ = self.ours.write_all(b"\n");
    }
}

/// Waits until the supervisor opens it; gives whether it did, and has not ended instead.
pub(super) fn wait(number: RawFd) -> io::Result<bool> {
    // A descriptor of one's own; the one that was inherited is not for the command.
    let mut gate = File::open(format!("/proc/self/fd/{number}"))?;
    close(number)?;
    Ok(gate.read(&mut [0])? > 0)
}
