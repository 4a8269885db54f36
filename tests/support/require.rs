//! Tests that need something of the machine: skipped, with a line that says what is missing, unless
//! `BROADCAST_TESTS_REQUIRE=all`, which makes that a failure.

use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

/// A test's name, and what it does.
pub type Test = (&'static str, fn());

/// Runs tests that need what `missing` looks for: it says what is not there and how to get it.
pub fn run(missing: Option<String>, tests: &[Test]) -> ExitCode {
    let args = Arguments::from_args();
    let required = std::env::var("BROADCAST_TESTS_REQUIRE").is_ok_and(|value| value == "all");
    if let (Some(missing), false) = (&missing, required) {
        eprintln!("skipped: {missing}");
    }
    let trials = tests.iter().map(|&(name, test)| match &missing {
        Some(missing) if required => {
            let missing = missing.clone();
            Trial::test(name, move || Err(Failed::from(missing)))
        }
        missing => Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_ignored_flag(missing.is_some()),
    });
    libtest_mimic::run(&args, trials.collect()).exit_code()
}

/// What is missing for tests that start containers.
pub fn docker() -> Option<String> {
    (!answers(Command::new("docker").arg("info"))).then(|| {
        "no Docker engine answers (`docker info`): install one and start it (docs.docker.com/engine/install)".into()
    })
}

/// What is missing for tests of the compose file.
pub fn compose() -> Option<String> {
    docker().or_else(|| {
        (!answers(Command::new("docker").args(["compose", "version"]))).then(|| {
            "`docker compose` is not installed: install Docker's compose plugin (docs.docker.com/compose/install)"
                .into()
        })
    })
}

/// Whether a command can be run, and succeeds.
pub fn answers(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
