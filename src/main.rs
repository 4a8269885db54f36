//! The `broadcast` program: it runs a node (`broadcast node`), and has the commands that operate nodes over HTTP.
//!
//! | module | what it is for |
//! |---|---|
//! | [`commands`] | one module for each command, and the parts of the HTTP API that the program adds |
//! | [`settings`] | flags and environment variables, parsed and checked |
//! | [`roles`] | what a node does: receiver, sender, voter |
//! | [`store`] | the replicated store and the locks of a node |
//! | [`log`] | the log, as text or as JSON |
//! | [`data`] | the data directory |

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
mod version;
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
            // If nobody can read it, the exit code says it too.
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
    // Does not wait for a name lookup that still runs.
    runtime.shutdown_background();
    result
}
