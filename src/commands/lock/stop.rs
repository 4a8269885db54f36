//! When waiting for a lock ends without one: a signal came, or the time that was given is over.
//!
//! A request that is under way is not simply dropped then: if it was granted at that very moment, nobody would end the
//! session. So a signal leaves a moment to hear which session it is.

use std::{io, time::Duration};

use nix::sys::signal::Signal;

use super::super::supervisor::{BootTime, BootTimer, PassedSignals};

/// How long an answer is waited for that a node owes: how much longer than asked a request takes, and how long it is heard
/// out after a signal.
const ANSWER: Duration = Duration::from_secs(2);

/// A reason to stop, once there is one.
#[derive(Debug)]
pub(super) struct Stop<'a> {
    signals: &'a PassedSignals,
    timer: BootTimer,
    /// When nothing is waited for any more.
    until: Option<BootTime>,
    signal: Option<Signal>,
    is_over: bool,
}

impl<'a> Stop<'a> {
    /// Of what may wait so long, from now on.
    pub(super) fn new(signals: &'a PassedSignals, wait: Option<Duration>) -> io::Result<Self> {
        let until = wait.map(|wait| BootTime::now() + wait.saturating_add(ANSWER));
        Ok(Self { signals, timer: BootTimer::new()?, until, signal: None, is_over: false })
    }

    /// Waits for the first reason to stop, and for the one after that. Drop-safe.
    pub(super) async fn next(&mut self) -> io::Result<()> {
        if let Some(until) = self.until {
            self.timer.set(until)?;
        }
        tokio::select! {
            signal = self.signals.next() => {
                let signal = signal?.signal;
                // Who sends another one does not want to wait.
                self.is_over |= self.signal.replace(signal).is_some();
                let soon = BootTime::now() + ANSWER;
                self.until = Some(self.until.map_or(soon, |until| until.min(soon)));
            }
            fired = self.timer.fired() => {
                fired?;
                self.is_over = true;
            }
        }
        Ok(())
    }

    /// The signal that came.
    pub(super) fn signal(&self) -> Option<Signal> {
        self.signal
    }

    /// Whether nothing is waited for any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}
