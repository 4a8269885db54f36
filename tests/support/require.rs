//! Tests that need something of the machine. If it is missing, they are skipped, with a line that says what it is. With
//! `BROADCAST_TESTS_REQUIRE=all` they fail instead.

use std::{
    collections::BTreeSet,
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use libtest_mimic::{Arguments, Failed, Trial};

/// How many of the slowest tests are listed.
const SLOWEST: usize = 8;

/// A test's name, and what it does.
pub type Test = (&'static str, fn());

/// A test that needs something.
pub struct Case {
    /// Its name.
    pub name: String,
    /// What it needs that is not there, and how to get it.
    pub missing: Option<String>,
    /// What it does.
    pub test: Box<dyn FnOnce() + Send>,
}

/// Runs tests that need what `missing` looks for: it says what is not there and how to get it.
pub fn run(missing: Option<String>, tests: &[Test]) -> ExitCode {
    run_cases(&Arguments::from_args(), cases(missing.as_ref(), tests))
}

/// Tests that need the same.
pub fn cases(missing: Option<&String>, tests: &[Test]) -> Vec<Case> {
    let case = |&(name, test): &Test| Case { name: name.into(), missing: missing.cloned(), test: Box::new(test) };
    tests.iter().map(case).collect()
}

/// Runs tests that need different things.
pub fn run_cases(args: &Arguments, cases: Vec<Case>) -> ExitCode {
    let required = std::env::var("BROADCAST_TESTS_REQUIRE").is_ok_and(|value| value == "all");
    if !required {
        let missing: BTreeSet<_> = cases.iter().filter_map(|case| case.missing.as_ref()).collect();
        missing.iter().for_each(|missing| eprintln!("skipped: {missing}"));
    }
    let times = Arc::new(Mutex::new(Vec::new()));
    let trials = cases.into_iter().map(|Case { name, missing, test }| match missing {
        Some(missing) if required => Trial::test(name, move || Err(Failed::from(missing))),
        missing => {
            let (times, what) = (Arc::clone(&times), name.clone());
            Trial::test(name, move || {
                let began = Instant::now();
                test();
                times.lock().unwrap_or_else(PoisonError::into_inner).push((began.elapsed().as_secs(), what));
                Ok(())
            })
            .with_ignored_flag(missing.is_some())
        }
    });
    let code = libtest_mimic::run(args, trials.collect()).exit_code();
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort_unstable_by(|one, other| other.cmp(one));
    let slowest: Vec<_> = times.iter().take(SLOWEST).map(|(seconds, what)| format!("{what} {seconds} s")).collect();
    eprintln!("the slowest: {}", slowest.join(", "));
    code
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
