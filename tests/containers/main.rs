//! Tests that need a Docker engine: nodes in containers, the compose file, the Swarm stack, and `broadcast chaos`.
//!
//! They are a package of their own, so that no other test waits until testcontainers is built.

#[path = "../support/mod.rs"]
mod support;

mod chaos;
mod compose;
mod nemesis;
mod nodes;
mod swarm;

use std::process::ExitCode;

use support::{docker, require};

/// Nearly all of the time the tests wait for nodes to notice each other.
const THREADS: usize = 5;

fn main() -> ExitCode {
    if nemesis::was_client() {
        return ExitCode::SUCCESS;
    }
    let mut args = libtest_mimic::Arguments::from_args();
    args.test_threads.get_or_insert(THREADS);
    // The longest come first.
    let cases = [nemesis::cases(), swarm::cases(), chaos::cases(), compose::cases(), nodes::cases()];
    let code = require::run_cases(&args, cases.into_iter().flatten().collect());
    docker::clean_up();
    code
}
