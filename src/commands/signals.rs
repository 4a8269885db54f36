//! The signals that tell the program to stop, SIGINT and SIGTERM.

use std::{future::Future, io, process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use super::output;
use crate::failure::Failure;

/// How long goodbyes may take, so that the process ends within 2 seconds.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(1800);

/// Receives the signals from now on, in place of the system's default, which ends the process.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

/// One of the signals, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopSignal {
    Interrupt = 2,
    Terminate = 15,
}

impl StopSignal {
    /// Why the node leaves, as the log says it.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Interrupt => "told to stop (SIGINT)",
            Self::Terminate => "told to stop (SIGTERM)",
        }
    }
}

impl StopSignals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// The next signal, as the exit code of a program that it ends.
    pub(super) async fn exit_code(&mut self) -> ExitCode {
        ExitCode::from(128 + self.next().await as u8)
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }

    /// Waits until goodbyes are said. One more signal ends the wait.
    pub(super) async fn while_leaving(mut self, leaving: impl Future) -> ExitCode {
        tokio::select! {
            _ = timeout(GOODBYE_TIMEOUT, leaving) => ExitCode::SUCCESS,
            code = self.exit_code() => code,
        }
    }
}

/// Runs what prints without end, until it fails, nobody reads its output any more, or a signal comes.
pub(super) async fn run_until_stopped(
    printing: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    let mut signals = StopSignals::new().map_err(Failure::other)?;
    tokio::select! {
        ended = printing => ended,
        () = output::nobody_reads() => Ok(ExitCode::SUCCESS),
        code = signals.exit_code() => Ok(code),
    }
}
