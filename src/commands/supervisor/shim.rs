//! The child before it becomes the command. It is this program once more, since only the child itself can request the signal
//! that it gets when its parent dies (`PR_SET_PDEATHSIG`), and join a control group before it starts anything.
//!
//! A program that is setuid or has capabilities loses that signal (prctl(2)).

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt,
    io::{self, Write as _},
    os::{
        fd::RawFd,
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Command, ExitCode},
};

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{Pid, getppid},
};

use super::{cgroup::Cgroup, gate, signals};
use crate::visible::quote;

/// The first argument of such a process. No command of this program has this name.
const ENTRY: &str = "--supervised";
/// Stands for no folder, or no group.
pub(super) const NONE: &str = "-";
/// Exit codes as in env(1) and timeout(1).
const FAILED: u8 = 125;
pub(crate) const CANNOT_RUN: u8 = 126;
pub(crate) const NOT_FOUND: u8 = 127;

/// A program to run, with its arguments.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) name: OsString,
    pub(crate) args: Vec<OsString>,
    /// Variables for it, besides those of this process.
    pub(crate) env: Vec<(&'static str, OsString)>,
}

impl Program {
    /// The program of a command line; nothing, if that is empty.
    pub(crate) fn of(command: Vec<OsString>) -> Option<Self> {
        let mut args = command.into_iter();
        Some(Self { name: args.next()?, args: args.collect(), env: Vec::new() })
    }

    /// Whether there is a file of this name in `PATH`. It may not be executable.
    pub(crate) fn exists(&self) -> bool {
        if self.name.as_bytes().contains(&b'/') {
            return Path::new(&self.name).exists();
        }
        let Some(path) = env::var_os("PATH") else { return true };
        env::split_paths(&path).any(|folder| folder.join(&self.name).exists())
    }

    /// Becomes the program. If that fails, says why on standard error, and gives the exit code.
    pub(crate) fn exec(&self) -> u8 {
        let error = Command::new(&self.name).args(&self.args).envs(self.env.iter().cloned()).exec();
        let (code, problem) = match error.kind() {
            io::ErrorKind::NotFound => (NOT_FOUND, &"there is no such program" as &dyn fmt::Display),
            _ => (CANNOT_RUN, &error as &dyn fmt::Display),
        };
        print_error(format_args!("{} cannot be run: {problem}", quote(&self.name.to_string_lossy())));
        code
    }
}

/// The command line that starts such a child.
pub(super) fn command(parent: Pid, gate: RawFd, group: Option<&Path>, program: &Program) -> Command {
    // This finds the program even if its file was replaced or removed meanwhile.
    let mut command = Command::new("/proc/self/exe");
    let group = group.map_or(OsStr::new(NONE), Path::as_os_str);
    command.arg0("broadcast").arg(ENTRY).args([parent.to_string(), gate.to_string()]).arg(group);
    command.arg(&program.name).args(&program.args).envs(program.env.iter().cloned());
    command
}

/// Becomes the command, if this process was started for that; otherwise gives nothing.
pub(super) fn enter() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    if args.next()? != ENTRY {
        return None;
    }
    let mut number = || args.next()?.to_str()?.parse::<i32>().ok();
    let (parent, gate) = (number()?, number()?);
    let group = args.next()?;
    let program = Program::of(args.collect())?;
    Some(match prepare(Pid::from_raw(parent), gate, &group) {
        Ok(()) => program.exec().into(),
        Err(problem) => {
            print_error(problem);
            FAILED.into()
        }
    })
}

fn prepare(parent: Pid, gate: RawFd, group: &OsStr) -> Result<(), String> {
    set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("the end of its supervisor cannot be heard of: {error}"))?;
    const ENDED: &str = "its supervisor has ended";
    if getppid() != parent {
        return Err(ENDED.into());
    }
    if group != NONE {
        // If it cannot join, it is killed by its process id, and so is what it starts.
        let _ = Cgroup::join(Path::new(group));
    }
    if !gate::wait(gate).map_err(|error| format!("its supervisor cannot be waited for: {error}"))? {
        return Err(ENDED.into());
    }
    signals::unblock().map_err(|error| format!("its signals cannot be set: {error}"))
}

fn print_error(problem: impl fmt::Display) {
    // If nobody can read it, the exit code says it too.
    let _ = writeln!(io::stderr(), "error: {problem}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_as_a_shell_does() {
        let exists = |name: &str| Program::of(vec![name.into()]).expect("a name").exists();
        assert!(exists("sh") && exists("/bin/sh"));
        assert!(!exists("no-such-program-as-this") && !exists("/no/such/program"));
        assert!(Program::of(Vec::new()).is_none());
    }
}
