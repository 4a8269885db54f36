//! The signals that a supervisor takes instead of being ended by them.
//!
//! They are blocked and read from a file descriptor (signalfd(2)), which tells who sent them: what a terminal sends
//! reaches the whole foreground group anyway. One that is ignored, as `nohup` has it of SIGHUP, stays ignored: it is not
//! among them, as one that is blocked would be told all the same.

use std::{fs, io};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use tokio::io::unix::AsyncFd;

use super::watched::watched;

/// `SI_KERNEL` of sigaction(2): no process sent it. Of these signals it is a terminal that does.
const BY_KERNEL: i32 = 0x80;

/// The signals that are passed on.
const PASSED_ON: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM];

/// Those of them that /proc/self/status does not have as ignored.
fn taken(status: &str) -> SigSet {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    PASSED_ON.into_iter().filter(|signal| ignored >> (*signal as i32 - 1) & 1 == 0).collect()
}

/// Takes them from now on, for the rest of the process.
#[derive(Debug)]
pub(crate) struct PassedSignals(AsyncFd<SignalFd>);

/// One that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PassedSignal {
    pub(crate) signal: Signal,
    /// Whether a terminal sent it, as Ctrl-C does, and so to the whole foreground group.
    pub(crate) by_terminal: bool,
}

impl PassedSignals {
    /// To be called before any thread is started that could take them.
    pub(crate) fn new() -> io::Result<Self> {
        let taken = taken(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        taken.thread_block()?;
        let signals = SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self(watched(signals)?))
    }

    /// The next one. Drop-safe.
    pub(crate) async fn next(&self) -> io::Result<PassedSignal> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.pending()? {
                Some(signal) => return Ok(signal),
                None => ready.clear_ready(),
            }
        }
    }

    /// The next one that has come already.
    pub(crate) fn pending(&self) -> io::Result<Option<PassedSignal>> {
        while let Some(info) = self.0.get_ref().read_signal()? {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            if let Some(signal) = signal {
                return Ok(Some(PassedSignal { signal, by_terminal: info.ssi_code == BY_KERNEL }));
            }
        }
        Ok(None)
    }
}

/// Has them end this process again, and what it becomes: a child has what its parent blocks.
pub(super) fn unblock() -> io::Result<()> {
    Ok(PASSED_ON.into_iter().collect::<SigSet>().thread_unblock()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_not_taken() {
        let signals = |status: &str| taken(status).iter().collect::<Vec<_>>();
        assert_eq!(signals("Name:\tx\nSigIgn:\t0000000000001000\n"), PASSED_ON, "SIGPIPE is");
        assert_eq!(signals("SigIgn:\t0000000000001001\n"), PASSED_ON[1..], "SIGHUP is");
        assert_eq!(signals("SigIgn:\t0000000000001007\n"), PASSED_ON[3..]);
        assert_eq!(signals(""), PASSED_ON);
    }
}
