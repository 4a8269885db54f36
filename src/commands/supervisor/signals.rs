//! The signals that a supervisor forwards to its command, instead of being ended by them.
//!
//! They are blocked and read from a file descriptor (signalfd(2)), which tells who sent them: what a terminal sends reaches
//! the whole foreground group anyway. A signal that is ignored, like SIGHUP under `nohup`, stays ignored. It is not blocked,
//! since signalfd would report it nevertheless.

use std::{fs, io};

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use tokio::io::unix::AsyncFd;

use super::async_fd::async_fd;

/// `SI_KERNEL` of sigaction(2): no process sent the signal. These signals then come from a terminal.
const BY_KERNEL: i32 = 0x80;

/// The signals that are forwarded.
const FORWARDED: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM];

/// Those of them that are not ignored, according to /proc/self/status.
fn not_ignored(status: &str) -> SigSet {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    FORWARDED.into_iter().filter(|signal| ignored >> (*signal as i32 - 1) & 1 == 0).collect()
}

/// Receives the signals from now on, for the rest of the process.
#[derive(Debug)]
pub(crate) struct ForwardedSignals(AsyncFd<SignalFd>);

/// A signal that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ForwardedSignal {
    pub(crate) signal: Signal,
    /// Whether a terminal sent it to the whole foreground group, as with Ctrl-C.
    pub(crate) by_terminal: bool,
}

impl ForwardedSignals {
    /// Must be called before any thread starts that could receive the signals.
    pub(crate) fn new() -> io::Result<Self> {
        let signals = not_ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Self(async_fd(signals)?))
    }

    /// The next signal. Cancel-safe.
    pub(crate) async fn next(&self) -> io::Result<ForwardedSignal> {
        loop {
            let mut ready = self.0.readable().await?;
            match self.pending()? {
                Some(signal) => return Ok(signal),
                None => ready.clear_ready(),
            }
        }
    }

    /// A signal that has come already.
    pub(crate) fn pending(&self) -> io::Result<Option<ForwardedSignal>> {
        while let Some(info) = self.0.get_ref().read_signal()? {
            let signal = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            if let Some(signal) = signal {
                return Ok(Some(ForwardedSignal { signal, by_terminal: info.ssi_code == BY_KERNEL }));
            }
        }
        Ok(None)
    }
}

/// Unblocks the signals in this process and what it becomes: a child inherits what its parent blocks.
pub(super) fn unblock() -> io::Result<()> {
    Ok(FORWARDED.into_iter().collect::<SigSet>().thread_unblock()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_not_taken() {
        let signals = |status: &str| not_ignored(status).iter().collect::<Vec<_>>();
        assert_eq!(signals("Name:\tx\nSigIgn:\t0000000000001000\n"), FORWARDED, "SIGPIPE is");
        assert_eq!(signals("SigIgn:\t0000000000001001\n"), FORWARDED[1..], "SIGHUP is");
        assert_eq!(signals("SigIgn:\t0000000000001007\n"), FORWARDED[3..]);
        assert_eq!(signals(""), FORWARDED);
    }
}
