//! The `broadcast` program: one node, its roles from the environment, and the commands that speak to nodes.

#![deny(missing_docs, unreachable_pub)]

mod commands;
mod data;
mod failed_holders;
mod failure;
mod lock_times;
mod log;
mod nearest;
mod roles;
mod settings;
mod store;
mod visible;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use self::failure::Failure;

/// Messages are often freed by another thread than the one that received them: with glibc's allocator a flood reaches two
/// thirds of what it does with this one. Programs that embed the library choose their own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = commands::enter() {
        return code;
    }
    match run() {
        Ok(code) => code,
        Err(failure) => {
            // Nobody reads it: the exit code says it too.
            let _ = writeln!(io::stderr(), "error: {failure}");
            failure.code()
        }
    }
}

fn run() -> Result<ExitCode, Failure> {
    let cli = commands::parse()?;
    // One thread: a node waits far more than it works, and a thread costs memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::start)?;
    let result = runtime.block_on(cli.run());
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    result
}
