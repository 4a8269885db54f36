//! Runs `docker` as a child process.

use std::{ffi::OsStr, io, process::Stdio};

use tokio::{process::Command, task::JoinSet};

use crate::failure::Failure;

/// What a command has printed.
pub(super) struct DockerOutput {
    pub(super) success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs `docker` with these arguments, to its end.
pub(super) async fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<DockerOutput, Failure> {
    let mut command = Command::new("docker");
    // Ctrl-C in a terminal goes to the whole group, and docker must not stop halfway.
    command.args(args).stdin(Stdio::null()).process_group(0);
    let output = command.output().await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => no_engine("there is no program `docker`"),
        _ => Failure::other(format!("cannot run docker: {error}")),
    })?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(DockerOutput { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) })
}

/// Runs `docker`, and gives its output.
///
/// # Errors
///
/// The command failed.
pub(super) async fn output(args: &[&str]) -> Result<String, Failure> {
    let DockerOutput { success, stdout, stderr } = run(args).await?;
    if success {
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

/// Runs `docker` with each of these argument lists at the same time. The outputs are in the order of the lists.
pub(super) async fn all(commands: Vec<Vec<String>>) -> Result<Vec<DockerOutput>, Failure> {
    let mut running = JoinSet::new();
    for (at, args) in commands.into_iter().enumerate() {
        running.spawn(async move { (at, run(args).await) });
    }
    let mut outputs = running.join_all().await;
    outputs.sort_unstable_by_key(|(at, _)| *at);
    outputs.into_iter().map(|(_, output)| output).collect()
}
