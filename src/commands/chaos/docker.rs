//! `docker`, as a child process.

use std::{ffi::OsStr, io, process::Stdio};

use tokio::{process::Command, task::JoinSet};

use crate::failure::Failure;

/// What a command has printed, whether it succeeded or not.
pub(super) struct Printed {
    pub(super) good: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs `docker` with these arguments, to its end.
pub(super) async fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Printed, Failure> {
    let mut command = Command::new("docker");
    // Ctrl-C in a terminal is for the whole group: what docker does is not to end halfway.
    command.args(args).stdin(Stdio::null()).process_group(0);
    let output = command.output().await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => no_engine("there is no program `docker`"),
        _ => Failure::other(format!("cannot run docker: {error}")),
    })?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Printed { good: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) })
}

/// The same, where a failure is one, and what it prints is wanted.
pub(super) async fn need(args: &[&str]) -> Result<String, Failure> {
    let Printed { good, stdout, stderr } = run(args).await?;
    if good {
        return Ok(stdout.trim().into());
    }
    let why = stderr.trim();
    if why.contains("docker daemon") {
        return Err(no_engine(why));
    }
    Err(Failure::other(format!("docker {} failed: {why}", args.join(" "))))
}

fn no_engine(why: &str) -> Failure {
    Failure::other(format!(
        "no Docker engine answers ({why}): install one and start it (docs.docker.com/engine/install)"
    ))
}

/// Runs `docker` with each of these arguments at the same time, and gives what it prints, in their order.
pub(super) async fn all(commands: Vec<Vec<String>>) -> Result<Vec<Printed>, Failure> {
    let mut running = JoinSet::new();
    for (at, args) in commands.into_iter().enumerate() {
        running.spawn(async move { (at, run(args).await) });
    }
    let mut printed = running.join_all().await;
    printed.sort_unstable_by_key(|(at, _)| *at);
    printed.into_iter().map(|(_, printed)| printed).collect()
}
