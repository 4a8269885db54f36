//! Why the program ends without having done what it was told, and its exit code.

use std::{fmt, io, process::ExitCode};

/// Why the program ends without having done what it was told.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    code: u8,
}

impl Failure {
    /// A setting cannot be.
    pub(crate) fn usage(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), code: 2 }
    }

    /// The settings are fine, and yet.
    pub(crate) fn other(what: impl fmt::Display) -> Self {
        Self { what: what.to_string(), code: 1 }
    }

    /// The system does not give what it takes to run at all.
    #[must_use]
    pub(crate) fn start(error: io::Error) -> Self {
        Self::other(format!("cannot start: {error}"))
    }

    /// With another exit code, where it is 1.
    #[must_use]
    pub(crate) fn with_code(self, code: u8) -> Self {
        Self { code: if self.code == 1 { code } else { self.code }, ..self }
    }

    /// The process' exit code: 2 for settings that cannot be, otherwise 1 unless it says otherwise.
    #[must_use]
    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
