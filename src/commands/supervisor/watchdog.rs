//! A second process that ends a command if the supervisor cannot: because the supervisor is stopped (SIGSTOP, Ctrl-Z) when
//! the deadline comes, or was killed and left behind what its command had started.
//!
//! It is this program once more. The supervisor writes the deadline into a pipe; when the pipe closes, the supervisor is
//! gone. The watchdog is in a process group of its own, where no terminal stops it, and handles no signals.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::Path,
    process::{ChildStdin, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{Signal, kill, killpg},
        wait::waitpid,
    },
    unistd::{Pid, getpid, getppid},
};

use super::{
    cgroup::Cgroup,
    clock::{BootTime, timer},
    plan::{KILL_INTERVAL, KILL_TIMEOUT},
    shim::NONE,
    tree,
};

/// The first argument of such a process. No command of this program has this name.
const ENTRY: &str = "--watching";

/// The processes that belong to a command, and how to find them.
#[derive(Debug)]
pub(super) struct ProcessScope<'a> {
    pub(super) supervisor: Pid,
    /// The command's process group, if it has its own.
    pub(super) group: Option<Pid>,
    pub(super) cgroup: Option<&'a Path>,
    /// Children of the supervisor that do not belong to the command.
    pub(super) others: &'a [Pid],
    /// `NAME=VALUE` in the environment of everything that the command starts, and of nothing else.
    pub(super) mark: &'a str,
}

/// The supervisor's side of the watchdog, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// None once the watchdog has ended.
    pub(super) pid: Option<Pid>,
    pipe: ChildStdin,
    /// The deadline that it was told last.
    told: Option<BootTime>,
}

/// A moment as the pipe carries it.
fn number(at: BootTime) -> String {
    at.since_start().as_nanos().to_string()
}

fn moment(number: &str) -> Option<BootTime> {
    Some(BootTime::at(Duration::from_nanos(number.parse().ok()?)))
}

impl Watchdog {
    /// Starts it with the first deadline.
    pub(super) fn start(scope: &ProcessScope<'_>, kill: BootTime) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        let group = scope.group.map_or_else(|| NONE.to_owned(), |group| group.to_string());
        let cgroup = scope.cgroup.map_or(OsStr::new(NONE), Path::as_os_str);
        let others: Vec<String> = scope.others.iter().map(Pid::to_string).collect();
        command.arg0("broadcast").arg(ENTRY).args([number(kill), scope.supervisor.to_string(), group]).arg(cgroup);
        command.arg(others.join(",")).arg(scope.mark);
        // Marks it as part of this command, and not of an outer one.
        command.envs(scope.mark.split_once('='));
        command.process_group(0).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("the system's process ids are such numbers"));
        let pipe = child.stdin.take().expect("it is piped");
        let watchdog = Self { pid: Some(pid), pipe, told: Some(kill) };
        // A full pipe must not block the supervisor, which has a deadline, too.
        fcntl(&watchdog.pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(watchdog)
    }

    /// Tells it the deadline. If this fails, the watchdog must not run on with an old one.
    pub(super) fn tell(&mut self, kill: BootTime) -> io::Result<()> {
        if self.told.replace(kill) == Some(kill) {
            return Ok(());
        }
        self.pipe.write_all((number(kill) + "\n").as_bytes())
    }
}

impl Watchdog {
    /// Takes note that a process has ended. Gives whether that was the watchdog.
    pub(super) fn has_ended(&mut self, pid: Pid) -> bool {
        self.pid.take_if(|own| *own == pid).is_some()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Before the pipe closes, which would mean that the supervisor is gone.
        if let Some(pid) = self.pid.take()
            && kill(pid, Signal::SIGKILL).is_ok()
        {
            let _ = waitpid(pid, None);
        }
    }
}

/// Runs the watchdog, if this process was started for that; otherwise gives nothing.
pub(super) fn enter() -> Option<ExitCode> {
    let mut args = env::args_os().skip(1);
    if args.next()? != ENTRY {
        return None;
    }
    let text = |arg: OsString| arg.into_string().ok();
    let kill = moment(&text(args.next()?)?)?;
    let supervisor = Pid::from_raw(text(args.next()?)?.parse().ok()?);
    let group = text(args.next()?)?.parse().ok().map(Pid::from_raw);
    let cgroup = args.next()?;
    let others: Vec<Pid> =
        text(args.next()?)?.split(',').filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect();
    let mark = text(args.next()?)?;
    let cgroup = (cgroup != NONE).then(|| Path::new(&cgroup));
    Some(match watch(&ProcessScope { supervisor, group, cgroup, others: &others, mark: &mark }, kill) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

impl ProcessScope<'_> {
    /// Kills all processes until none is left.
    fn end(&self) {
        let began = BootTime::now();
        // Only once: later the number may belong to another group.
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
        while self.kill() && BootTime::now().since(began) < KILL_TIMEOUT {
            thread::sleep(KILL_INTERVAL);
        }
        if let Some(cgroup) = self.cgroup.filter(|_| !self.has_supervisor()) {
            drop(Cgroup::adopt(cgroup));
        }
    }

    /// Sends SIGKILL to all processes. Gives whether there were any.
    fn kill(&self) -> bool {
        if let Some(cgroup) = self.cgroup {
            Cgroup::kill(cgroup);
        }
        let mut found_any = false;
        let mut end = |found: Vec<Pid>| {
            for pid in found.into_iter().filter(|pid| *pid != getpid()) {
                found_any = true;
                // It may have ended meanwhile.
                let _ = kill(pid, Signal::SIGKILL);
            }
        };
        if self.has_supervisor() {
            // First what the kernel lists at once: looking through all processes takes time.
            let others: Vec<Pid> = self.others.iter().copied().chain([getpid()]).collect();
            end(tree::listed(self.supervisor, |pid| others.contains(&pid)));
            end(tree::descendants(self.supervisor, &others));
        }
        end(tree::marked(self.mark));
        // Dying processes count as well: the control group cannot be removed before they are gone.
        found_any || self.cgroup.is_some_and(|cgroup| !Cgroup::is_empty(cgroup))
    }

    /// Whether the supervisor still exists, running or stopped.
    fn has_supervisor(&self) -> bool {
        getppid() == self.supervisor
    }
}

fn watch(scope: &ProcessScope<'_>, kill: BootTime) -> io::Result<()> {
    let (timer, mut input) = (timer()?, io::stdin().lock());
    kill.set(&timer)?;
    let (mut kill, mut rest) = (Some(kill), Vec::new());
    loop {
        let mut ready = [PollFd::new(input.as_fd(), PollFlags::POLLIN), PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled?,
        };
        // A new deadline counts before the old one passes.
        if ready[0].any() == Some(true) {
            let mut bytes = [0; 4096];
            let length = input.read(&mut bytes)?;
            if length == 0 {
                scope.end();
                return Ok(());
            }
            rest.extend_from_slice(&bytes[..length]);
            if let Some(at) = last_line(&mut rest) {
                kill = Some(at);
                at.set(&timer)?;
            }
        }
        if kill.take_if(|kill| BootTime::now() >= *kill).is_some() {
            timer.unset()?;
            // It watches on: the supervisor may still be killed, and leave its control group behind.
            scope.end();
        }
    }
}

/// The moment in the last complete line. The rest after it stays in `text`.
fn last_line(text: &mut Vec<u8>) -> Option<BootTime> {
    let end = text.iter().rposition(|byte| *byte == b'\n')?;
    let rest = text.split_off(end + 1);
    let whole = std::mem::replace(text, rest);
    moment(std::str::from_utf8(&whole).ok()?.lines().last()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_line_counts() {
        let mut text = b"1000000000\n2000000000\n30000".to_vec();
        assert_eq!(last_line(&mut text), Some(BootTime::at(Duration::from_secs(2))));
        assert_eq!(last_line(&mut text), None);
        text.extend_from_slice(b"00000\n");
        assert_eq!(last_line(&mut text), Some(BootTime::at(Duration::from_secs(3))));
        assert!(text.is_empty());
    }
}
