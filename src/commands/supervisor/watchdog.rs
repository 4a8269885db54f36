//! A second process that ends a command where its supervisor cannot: because that is stopped (SIGSTOP, Ctrl-Z) when the
//! deadline comes, or was killed and left behind what its command had started.
//!
//! It is this program once more. A pipe tells it the deadline, and by its end that the supervisor is gone. It is in a
//! process group of its own, where no terminal stops it, and takes no signal but those that nobody can refuse.

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
    shim::NONE,
    tree,
};

/// The first argument of such a process. No command of this program is called like that.
const ENTRY: &str = "--watching";
/// How often SIGKILL is repeated, and how long.
const AGAIN: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// What belongs to a command.
#[derive(Debug)]
pub(super) struct Reach<'a> {
    pub(super) supervisor: Pid,
    /// The process group, if it is its own.
    pub(super) group: Option<Pid>,
    pub(super) cgroup: Option<&'a Path>,
    /// Children of the supervisor that do not belong to it.
    pub(super) others: &'a [Pid],
    /// `NAME=VALUE` in the environment of all that it starts, and of nothing else.
    pub(super) mark: &'a str,
}

/// The process, as its supervisor has it. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Gone once it has ended.
    pub(super) pid: Option<Pid>,
    pipe: ChildStdin,
    told: Option<BootTime>,
}

/// A moment, as the process is told of it.
fn number(at: BootTime) -> String {
    at.since_start().as_nanos().to_string()
}

fn moment(number: &str) -> Option<BootTime> {
    Some(BootTime::at(Duration::from_nanos(number.parse().ok()?)))
}

impl Watchdog {
    /// Starts it; from its first moment on it knows when all of it is to be over.
    pub(super) fn start(reach: &Reach<'_>, kill: BootTime) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        let group = reach.group.map_or_else(|| NONE.to_owned(), |group| group.to_string());
        let cgroup = reach.cgroup.map_or(OsStr::new(NONE), Path::as_os_str);
        let others: Vec<String> = reach.others.iter().map(Pid::to_string).collect();
        command.arg0("broadcast").arg(ENTRY).args([number(kill), reach.supervisor.to_string(), group]).arg(cgroup);
        command.arg(others.join(",")).arg(reach.mark);
        // Among what belongs to this command, and not to another that this one is part of.
        command.envs(reach.mark.split_once('='));
        command.process_group(0).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("the system's process ids are such numbers"));
        let pipe = child.stdin.take().expect("it is piped");
        let watchdog = Self { pid: Some(pid), pipe, told: Some(kill) };
        // A deadline does not wait for whoever is told.
        fcntl(&watchdog.pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(watchdog)
    }

    /// Tells when all of it is to be over. Where that cannot be told, it must not go by what it was told before.
    pub(super) fn tell(&mut self, kill: BootTime) -> io::Result<()> {
        if self.told.replace(kill) == Some(kill) {
            return Ok(());
        }
        self.pipe.write_all((number(kill) + "\n").as_bytes())
    }
}

impl Watchdog {
    /// Takes note that a process has ended; tells whether it was this one.
    pub(super) fn has_ended(&mut self, pid: Pid) -> bool {
        self.pid.take_if(|own| *own == pid).is_some()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Before the end of the pipe would tell it that its supervisor is gone.
        if let Some(pid) = self.pid.take()
            && kill(pid, Signal::SIGKILL).is_ok()
        {
            let _ = waitpid(pid, None);
        }
    }
}

/// Watches, if that is what this process was started for; otherwise this gives nothing. To be called first of all.
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
    Some(match watch(&Reach { supervisor, group, cgroup, others: &others, mark: &mark }, kill) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}

impl Reach<'_> {
    /// Ends all of it, for good.
    fn end(&self) {
        let began = BootTime::now();
        // Later on the number may be somebody else's.
        if let Some(group) = self.group {
            let _ = killpg(group, Signal::SIGKILL);
        }
        while self.kill() && BootTime::now().since(began) < PATIENCE {
            thread::sleep(AGAIN);
        }
        if let Some(cgroup) = self.cgroup.filter(|_| !self.has_supervisor()) {
            drop(Cgroup::of(cgroup));
        }
    }

    /// Sends SIGKILL to all that is there; tells whether anything was.
    fn kill(&self) -> bool {
        if let Some(cgroup) = self.cgroup {
            Cgroup::kill(cgroup);
        }
        let mut found_any = false;
        let mut end = |found: Vec<Pid>| {
            for pid in found.into_iter().filter(|pid| *pid != getpid()) {
                found_any = true;
                // What is gone needs none.
                let _ = kill(pid, Signal::SIGKILL);
            }
        };
        if self.has_supervisor() {
            // To look at all processes takes time, where there are many or much else is to be done.
            let others: Vec<Pid> = self.others.iter().copied().chain([getpid()]).collect();
            end(tree::listed(self.supervisor, |pid| others.contains(&pid)));
            end(tree::descendants(self.supervisor, &others));
        }
        end(tree::marked(self.mark));
        // What is about to die still counts: the group can only be removed after that.
        found_any || self.cgroup.is_some_and(|cgroup| !Cgroup::is_empty(cgroup))
    }

    /// Whether it is there, be it that it is stopped.
    fn has_supervisor(&self) -> bool {
        getppid() == self.supervisor
    }
}

fn watch(reach: &Reach<'_>, kill: BootTime) -> io::Result<()> {
    let (timer, mut input) = (timer()?, io::stdin().lock());
    kill.set(&timer)?;
    let (mut kill, mut rest) = (Some(kill), Vec::new());
    loop {
        let mut ready = [PollFd::new(input.as_fd(), PollFlags::POLLIN), PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled?,
        };
        // What moves the deadline on comes before the deadline.
        if ready[0].any() == Some(true) {
            let mut bytes = [0; 4096];
            let length = input.read(&mut bytes)?;
            if length == 0 {
                reach.end();
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
            // A supervisor that is stopped may still be killed, and leave its control group behind.
            reach.end();
        }
    }
}

/// The moment in the last whole line; what comes behind it is kept.
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
