//! When to stop waiting for a lock: a signal came, or the time is over.
//!
//! A request is not dropped at once then: if it were granted at that moment, nobody would end the session. So after a signal,
//! the waiter still listens for a moment, to learn which session to end.

use std::{io, time::Duration};

use nix::sys::signal::Signal;

use super::super::supervisor::{BootTime, BootTimer, ForwardedSignals};

/// How long to wait for an answer that is due: beyond the time limit, and after a signal.
const GRACE: Duration = Duration::from_secs(2);

/// Watches for a reason to stop.
#[derive(Debug)]
pub(super) struct StopCondition<'a> {
    signals: &'a ForwardedSignals,
    timer: BootTimer,
    /// When to stop at the latest.
    until: Option<BootTime>,
    signal: Option<Signal>,
    is_over: bool,
}

impl<'a> StopCondition<'a> {
    /// `wait` is the time limit, from now on.
    pub(super) fn new(signals: &'a ForwardedSignals, wait: Option<Duration>) -> io::Result<Self> {
        let until = wait.map(|wait| BootTime::now() + wait.saturating_add(GRACE));
        Ok(Self { signals, timer: BootTimer::new()?, until, signal: None, is_over: false })
    }

    /// Waits for the next reason to stop: after a signal, there may be a second one. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        if let Some(until) = self.until {
            self.timer.set(until)?;
        }
        tokio::select! {
            signal = self.signals.next() => {
                let signal = signal?.signal;
                // Whoever sends a second signal does not want to wait.
                self.is_over |= self.signal.replace(signal).is_some();
                let soon = BootTime::now() + GRACE;
                self.until = Some(self.until.map_or(soon, |until| until.min(soon)));
            }
            fired = self.timer.fired() => {
                fired?;
                self.is_over = true;
            }
        }
        Ok(())
    }

    /// The signal, if one came.
    pub(super) fn signal(&self) -> Option<Signal> {
        self.signal
    }

    /// Whether to stop at once.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}
