//! Prints what happens during a run, and notices what ends it early: signals, and a closed output.

use std::{
    future::Future,
    io,
    pin::Pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use crate::{commands::output, failure::Failure};

/// The exit code of a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = 128 + 13;

/// Why a run ends early.
pub(super) enum Abort {
    /// It failed.
    Failed(Failure),
    /// A signal came, or nobody reads the output any more; this is the exit code.
    Stopped(u8),
}

impl From<Failure> for Abort {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Prints what happens. It notices signals only while it sleeps, so that no step is interrupted halfway, nor what undoes it.
pub(super) struct Console {
    started: Instant,
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    nobody_reads: Pin<Box<dyn Future<Output = ()>>>,
}

impl Console {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            started: Instant::now(),
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            nobody_reads: Box::pin(output::nobody_reads()),
        })
    }

    /// Counts the time from now on.
    pub(super) fn restart(&mut self) {
        self.started = Instant::now();
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints a line with the time. Never fails: a reader that has gone must not stop the healing.
    pub(super) fn print(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs();
        let _ = output::write(format!("{:3}:{:02}  {text}\n", seconds / 60, seconds % 60).as_bytes());
    }

    /// Sleeps, unless a signal came, even before this, or nobody reads the output any more.
    pub(super) async fn sleep(&mut self, time: Duration) -> Result<(), Abort> {
        let code = tokio::select! {
            biased;
            _ = self.hangup.recv() => 128 + 1,
            _ = self.interrupt.recv() => 128 + 2,
            _ = self.terminate.recv() => 128 + 15,
            () = &mut self.nobody_reads => BROKEN_PIPE,
            () = sleep(time) => return Ok(()),
        };
        Err(Abort::Stopped(code))
    }
}

/// The exit code of a run, or its failure.
pub(super) fn outcome(done: Result<ExitCode, Abort>) -> Result<ExitCode, Failure> {
    match done {
        Ok(code) => Ok(code),
        Err(Abort::Stopped(code)) => Ok(ExitCode::from(code)),
        Err(Abort::Failed(failure)) => Err(failure),
    }
}
