//! What is said while things break, and what ends it early.

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

/// The exit code of what a closed pipe ends.
const UNHEARD: u8 = 128 + 13;

/// Why something ends before it is done.
pub(super) enum Ended {
    /// It could not be done.
    Failed(Failure),
    /// Somebody wanted it, or nobody listens any more: with this exit code.
    Early(u8),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Says what happens, and notices signals between one step and the next. What is done meanwhile is never left half
/// done, nor is what undoes it.
pub(super) struct Console {
    began: Instant,
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    nobody_reads: Pin<Box<dyn Future<Output = ()>>>,
}

impl Console {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            began: Instant::now(),
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            nobody_reads: Box::pin(output::nobody_reads()),
        })
    }

    /// Counts the time from here on.
    pub(super) fn restart(&mut self) {
        self.began = Instant::now();
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// A line, with the time. Never fails: what heals is not to be ended by who has stopped reading.
    pub(super) fn say(&self, what: &str) {
        let seconds = self.began.elapsed().as_secs();
        let _ = output::write(format!("{:3}:{:02}  {what}\n", seconds / 60, seconds % 60).as_bytes());
    }

    /// Waits, and notices a signal that came before, too. Without anybody who listens there is nothing to go on for.
    pub(super) async fn rest(&mut self, time: Duration) -> Result<(), Ended> {
        let code = tokio::select! {
            biased;
            _ = self.hangup.recv() => 128 + 1,
            _ = self.interrupt.recv() => 128 + 2,
            _ = self.terminate.recv() => 128 + 15,
            () = &mut self.nobody_reads => UNHEARD,
            () = sleep(time) => return Ok(()),
        };
        Err(Ended::Early(code))
    }
}

/// What the program ends with.
pub(super) fn outcome(done: Result<ExitCode, Ended>) -> Result<ExitCode, Failure> {
    match done {
        Ok(code) => Ok(code),
        Err(Ended::Early(code)) => Ok(ExitCode::from(code)),
        Err(Ended::Failed(failure)) => Err(failure),
    }
}
