//! The error that ends a command: one line for standard error, and the exit code.

use std::{fmt, io, process::ExitCode};

/// Why a command failed, in one line that says what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// An argument or a setting is not valid: exit code 2.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), code: 2 }
    }

    /// Anything else failed: exit code 1.
    pub(crate) fn other(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// The system refuses what every run needs, like a thread or a signal handler.
    #[must_use]
    pub(crate) fn start(error: io::Error) -> Self {
        Self::other(format!("cannot start: {error}"))
    }

    /// The same with another exit code in place of 1. Wrong usage stays 2.
    #[must_use]
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code: if self.code == 1 { code } else { self.code }, ..self }
    }

    /// The exit code of the process.
    #[must_use]
    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
