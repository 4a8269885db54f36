//! Runs a command that has to be over by a deadline, with all that it starts.
//!
//! - **The deadline** is a moment of [`BootTime`], and moves on while somebody says so. SIGTERM comes first, then SIGKILL.
//! - **Its end with its supervisor**: the command is killed when this process is, by the kernel ([`shim`]).
//! - **What it starts** is ended with it. It is in a control group where one can be made ([`cgroup`]). Everywhere it is
//!   in a process group, or in sight as a descendant, since what loses its parent becomes a child of the supervisor
//!   ([`tree`]). What the command leaves behind when it ends *by itself* is left alone.
//! - **Signals** that the supervisor gets are passed on.
//! - **A terminal**: where there is one, the command stays in the process group of its supervisor, as in a shell without
//!   job control. So it reads the terminal, Ctrl-C and Ctrl-Z reach both, `fg` and pipes work as without a supervisor. What
//!   the terminal sent has reached the command already, and is not passed on. Where there is no terminal the command
//!   has a process group of its own, which gets each signal as a whole.
//! - **Its supervisor's own weakness**: a second process ends the command by the deadline while the supervisor is stopped,
//!   and what it has started when the supervisor is killed ([`watchdog`]). If both are stopped, as in a container that is
//!   paused or a virtual machine, nothing ends it: only a fencing token protects from that.

mod cgroup;
mod clock;
mod gate;
mod plan;
mod shim;
mod signals;
mod tree;
mod watchdog;
mod watched;

use std::{fs::File, io, os::unix::process::CommandExt as _, process::ExitCode, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        prctl::set_child_subreaper,
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgid, getpid},
};
use tokio::{
    signal::unix::{self, SignalKind},
    sync::watch,
};

use self::{
    cgroup::Cgroup,
    gate::Gate,
    plan::{Plan, Step},
    signals::PassedSignal,
    watchdog::{Reach, Watchdog},
};
pub(crate) use self::{
    clock::{BootTime, BootTimer},
    plan::{Exit, Limits, Outcome},
    shim::{NOT_FOUND, Program},
    signals::PassedSignals,
};

/// How long after one watchdog the next one is started.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// What a command is said to have died of, if that has no name.
const FIRST_REAL_TIME: u8 = 34;

/// Does what this process was started for, if that was by a supervisor; otherwise this gives nothing. To be called first
/// of all.
pub(crate) fn enter() -> Option<ExitCode> {
    shim::enter().or_else(watchdog::enter)
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Supervisor {
    command: Pid,
    /// How it ended, if it has.
    ended: Option<Exit>,
    has_own_group: bool,
    /// Removed while the watchdog is there, which does so otherwise.
    cgroup: Option<Cgroup>,
    /// Gone where it cannot be started, has ended, or cannot be told anything; another one is started then.
    watchdog: Option<Watchdog>,
    /// When one was started last.
    watched_at: BootTime,
    /// What all of the command has in its environment.
    mark: String,
    children: unix::Signal,
    timer: BootTimer,
    /// Children of this process that were there before, as it may have become what it is by `exec`.
    others: Vec<Pid>,
}

impl Supervisor {
    /// Starts it, with a variable in its environment that nothing else has, by which what it starts is found. To be called
    /// from the thread that lives as long as the process: the command dies with it.
    ///
    /// It begins once it is watched over until `limits`, and got what signals came before there was anything to pass them on
    /// to: one that is to end it does so before it has begun.
    pub(crate) fn start(
        program: &Program,
        (name, value): (&str, &str),
        signals: &PassedSignals,
        limits: Limits,
    ) -> io::Result<Self> {
        let (children, timer) = (unix::signal(SignalKind::child())?, BootTimer::new()?);
        set_child_subreaper(true)?;
        let cgroup = Cgroup::new();
        let gate = Gate::new()?;
        let mut command = shim::command(getpid(), gate.number(), cgroup.as_ref().map(Cgroup::path), program);
        command.env(name, value);
        let has_own_group = File::open("/dev/tty").is_err();
        if has_own_group {
            command.process_group(0);
        }
        let others = tree::children(getpid());
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other("there is no /proc/self/exe; mount /proc"),
            _ => error,
        })?;
        let pid = i32::try_from(child.id()).expect("the system's process ids are such numbers");
        let command = Pid::from_raw(pid);
        let mark = format!("{name}={value}");
        let (ended, watchdog, watched_at) = (None, None, BootTime::at(Duration::ZERO));
        let mut supervisor =
            Self { command, ended, has_own_group, watchdog, watched_at, mark, cgroup, children, timer, others };
        supervisor.watch(limits.kill);
        // What a terminal sent, too: whether the command was there by then is not known.
        while let Ok(Some(PassedSignal { signal, .. })) = signals.pending() {
            // It may have ended.
            let _ = kill(command, signal);
        }
        gate.open();
        Ok(supervisor)
    }

    /// Has a watchdog that knows when all is to be over, as far as there can be one: without it the command still ends with
    /// this process, and by its deadline while this runs.
    fn watch(&mut self, kill: BootTime) {
        let now = BootTime::now();
        if self.watchdog.is_none() && now >= self.watched_at + WATCH_AGAIN {
            self.watched_at = now;
            let reach = Reach {
                supervisor: getpid(),
                group: self.is_group_known().then_some(self.command),
                cgroup: self.cgroup.as_ref().map(Cgroup::path),
                others: &self.others,
                mark: &self.mark,
            };
            self.watchdog = Watchdog::start(&reach, kill).ok();
        }
        self.watchdog.take_if(|watchdog| watchdog.tell(kill).is_err());
    }

    /// Waits until it has ended, and ends it when its time is over.
    ///
    /// # Errors
    ///
    /// The system does not tell any more what happens. Then it is killed.
    pub(crate) async fn run(mut self, signals: &PassedSignals, limits: watch::Receiver<Limits>) -> io::Result<Outcome> {
        let outcome = self.supervise(signals, limits).await;
        if outcome.is_err() {
            self.kill();
        }
        outcome
    }

    async fn supervise(&mut self, signals: &PassedSignals, mut limits: watch::Receiver<Limits>) -> io::Result<Outcome> {
        let mut plan = Plan::default();
        loop {
            self.reap()?;
            let (now, until) = (BootTime::now(), *limits.borrow_and_update());
            self.watch(plan.kill_at(until));
            let is_alive = plan.is_ending(now, until) && self.children().next().is_some();
            let next = match plan.step(now, until, self.ended, is_alive) {
                Step::End(outcome) => return Ok(outcome),
                Step::Wait(next) => next,
                Step::Ask(next) => {
                    // One that is stopped stays so: it shall not run on without the lock.
                    self.signal(Signal::SIGTERM);
                    self.signal_outside(Signal::SIGTERM);
                    next
                }
                Step::Kill(next) => {
                    self.kill();
                    next
                }
            };
            // It may be time for another watchdog before that.
            let again = self.watchdog.is_none().then(|| now.max(self.watched_at + WATCH_AGAIN));
            self.timer.set(again.map_or(next, |again| next.min(again)))?;
            tokio::select! {
                biased;
                fired = self.timer.fired() => fired?,
                _ = self.children.recv() => {}
                signal = signals.next() => self.pass_on(signal?),
                // If nobody moves them any more, they stay.
                Ok(()) = limits.changed() => {}
            }
        }
    }

    /// Takes note of what has ended.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.command => {
                    self.ended = Some(Exit::Code(u8::try_from(code & 0xff).unwrap_or_default()));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.command => {
                    self.ended = Some(Exit::Signal(u8::try_from(signal as i32).unwrap_or_default()));
                }
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    self.watchdog.take_if(|watchdog| watchdog.has_ended(pid));
                    // Its number may be given to what the command starts.
                    self.others.retain(|other| *other != pid);
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                // Somebody has died of a signal that has no name here: a real-time one.
                Err(Errno::EINVAL) if self.ended.is_none() && kill(self.command, None) == Err(Errno::ESRCH) => {
                    self.ended = Some(Exit::Signal(FIRST_REAL_TIME));
                }
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn pass_on(&self, PassedSignal { signal, by_terminal }: PassedSignal) {
        if self.has_own_group || !by_terminal {
            self.signal(signal);
        }
    }

    /// Sends a signal to the command and what it has started, as far as that is in its process group, where it has one.
    fn signal(&self, signal: Signal) {
        // What is gone needs none.
        if self.is_group_known() {
            let _ = killpg(self.command, signal);
        } else {
            self.descendants().for_each(|pid| _ = kill(pid, signal));
        }
    }

    /// Sends a signal to what has left the process group that gets it as a whole.
    fn signal_outside(&self, signal: Signal) {
        if self.is_group_known() {
            let is_outside = |pid: &Pid| getpgid(Some(*pid)).is_ok_and(|group| group != self.command);
            self.descendants().filter(is_outside).for_each(|pid| _ = kill(pid, signal));
        }
    }

    /// What the command is and has started, at any depth.
    fn descendants(&self) -> impl Iterator<Item = Pid> {
        let watchdog = self.watchdog.as_ref().and_then(|watchdog| watchdog.pid);
        let but: Vec<Pid> = self.others.iter().copied().chain(watchdog).collect();
        tree::descendants(getpid(), &but).into_iter()
    }

    /// Ends the command and what it has started. Those whose parents have ended become children of this process, so
    /// that doing so again reaches all of them.
    fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            Cgroup::kill(cgroup.path());
        }
        if self.is_group_known() {
            let _ = killpg(self.command, Signal::SIGKILL);
        }
        // To look at all processes takes time, where there are many or much else is to be done.
        let is_other = |pid| self.is_watchdog(pid) || self.others.contains(&pid);
        tree::listed(getpid(), is_other).into_iter().for_each(|pid| _ = kill(pid, Signal::SIGKILL));
        self.children().for_each(|pid| _ = kill(pid, Signal::SIGKILL));
    }

    /// The children of this process that run, but for the watchdog and those that were there before the command.
    fn children(&self) -> impl Iterator<Item = Pid> {
        tree::children(getpid()).into_iter().filter(|pid| !self.is_watchdog(*pid) && !self.others.contains(pid))
    }

    fn is_watchdog(&self, pid: Pid) -> bool {
        self.watchdog.as_ref().is_some_and(|watchdog| watchdog.pid == Some(pid))
    }

    /// Whether the group is surely its own: once the command has ended and nothing is left in the group, the number may be
    /// somebody else's.
    fn is_group_known(&self) -> bool {
        self.has_own_group && self.ended.is_none()
    }
}
