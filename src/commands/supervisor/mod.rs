//! Runs a command that must be over by a deadline, with everything it starts.
//!
//! - **The deadline** is a moment of [`BootTime`], which its owner moves on. SIGTERM comes first, then SIGKILL ([`plan`]).
//! - **If the supervisor dies**, the kernel kills the command ([`shim`]).
//! - **What the command starts** ends with it. That is in a control group, if one can be made ([`cgroup`]), and always in a
//!   process group or among the supervisor's descendants: a process that loses its parent becomes a child of the supervisor
//!   ([`tree`]). What the command leaves behind when it ends *by itself* runs on.
//! - **Signals** to the supervisor are forwarded ([`signals`]).
//! - **With a terminal**, the command stays in the process group of its supervisor, as in a shell without job control. So it
//!   can read the terminal, Ctrl-C and Ctrl-Z reach both, and `fg` and pipes work as without a supervisor. What the terminal
//!   sends reaches the command directly, and is not forwarded. Without a terminal, the command has a process group of its
//!   own, which gets each signal as a whole.
//! - **If the supervisor is stopped**, a second process ends the command by the deadline; if the supervisor is killed, it ends
//!   what the command has started ([`watchdog`]). If both are stopped, as in a paused container or virtual machine, nothing
//!   ends the command: only a fencing token protects against that.

mod async_fd;
mod cgroup;
mod clock;
mod gate;
mod plan;
mod shim;
mod signals;
mod tree;
mod watchdog;

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
    gate::StartGate,
    plan::{Step, TerminationPlan},
    signals::ForwardedSignal,
    watchdog::{ProcessScope, Watchdog},
};
pub(crate) use self::{
    clock::{BootTime, BootTimer},
    plan::{CommandOutcome, Deadlines, ExitStatus},
    shim::{NOT_FOUND, Program},
    signals::ForwardedSignals,
};

/// How long after a watchdog was started the next one may be.
const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);
/// The signal that is reported for a command that died of a real-time signal, which has no name here.
const FIRST_REAL_TIME: u8 = 34;

/// Runs this process as a supervisor's helper, if it was started as one; otherwise gives nothing. Must be called before
/// anything else.
pub(crate) fn enter() -> Option<ExitCode> {
    shim::enter().or_else(watchdog::enter)
}

/// A command while it runs.
#[derive(Debug)]
pub(crate) struct Supervisor {
    command: Pid,
    /// How the command ended, if it has.
    ended: Option<ExitStatus>,
    has_own_group: bool,
    /// Removed while the watchdog still runs, which would remove it otherwise.
    cgroup: Option<Cgroup>,
    /// None if it could not be started, has ended, or cannot be told the deadline; then another one is started.
    watchdog: Option<Watchdog>,
    /// When the last watchdog was started.
    watchdog_started: BootTime,
    /// The variable that marks the command and everything it starts.
    mark: String,
    children: unix::Signal,
    timer: BootTimer,
    /// Children that this process had before: a process that becomes this program by `exec` keeps its children.
    others: Vec<Pid>,
}

impl Supervisor {
    /// Starts the command, with a variable in its environment that nothing else has, by which what it starts is found. Must be
    /// called on the thread that lives as long as the process, because the command dies with that thread.
    ///
    /// The command begins once a watchdog knows the deadlines, and once signals that came earlier were forwarded: one that is
    /// to end the command does so before it begins.
    pub(crate) fn start(
        program: &Program,
        (name, value): (&str, &str),
        signals: &ForwardedSignals,
        deadlines: Deadlines,
    ) -> io::Result<Self> {
        let (children, timer) = (unix::signal(SignalKind::child())?, BootTimer::new()?);
        set_child_subreaper(true)?;
        let cgroup = Cgroup::new();
        let gate = StartGate::new()?;
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
        let (ended, watchdog, watchdog_started) = (None, None, BootTime::at(Duration::ZERO));
        let mut supervisor =
            Self { command, ended, has_own_group, watchdog, watchdog_started, mark, cgroup, children, timer, others };
        supervisor.watch(deadlines.kill);
        // Also those from a terminal: nobody knows whether the command was there by then.
        while let Ok(Some(ForwardedSignal { signal, .. })) = signals.pending() {
            // Fails if the command has ended.
            let _ = kill(command, signal);
        }
        gate.open();
        Ok(supervisor)
    }

    /// Sees to it that a watchdog runs and knows when to kill, as far as possible. Without one, the command still ends with
    /// this process, and by its deadline while this process runs.
    fn watch(&mut self, kill: BootTime) {
        let now = BootTime::now();
        if self.watchdog.is_none() && now >= self.watchdog_started + WATCHDOG_INTERVAL {
            self.watchdog_started = now;
            let scope = ProcessScope {
                supervisor: getpid(),
                group: self.is_group_known().then_some(self.command),
                cgroup: self.cgroup.as_ref().map(Cgroup::path),
                others: &self.others,
                mark: &self.mark,
            };
            self.watchdog = Watchdog::start(&scope, kill).ok();
        }
        self.watchdog.take_if(|watchdog| watchdog.tell(kill).is_err());
    }

    /// Waits until the command has ended, and ends it by its deadlines.
    ///
    /// # Errors
    ///
    /// The system no longer reports signals or processes. Then the command is killed.
    pub(crate) async fn run(
        mut self,
        signals: &ForwardedSignals,
        deadlines: watch::Receiver<Deadlines>,
    ) -> io::Result<CommandOutcome> {
        let outcome = self.supervise(signals, deadlines).await;
        if outcome.is_err() {
            self.kill();
        }
        outcome
    }

    async fn supervise(
        &mut self,
        signals: &ForwardedSignals,
        mut deadlines: watch::Receiver<Deadlines>,
    ) -> io::Result<CommandOutcome> {
        let mut plan = TerminationPlan::default();
        loop {
            self.reap()?;
            let (now, until) = (BootTime::now(), *deadlines.borrow_and_update());
            self.watch(plan.kill_at(until));
            let is_alive = plan.is_ending(now, until) && self.children().next().is_some();
            let next = match plan.step(now, until, self.ended, is_alive) {
                Step::End(outcome) => return Ok(outcome),
                Step::Wait(next) => next,
                Step::Terminate(next) => {
                    // A stopped command is not continued: it must not run on without the lock.
                    self.signal(Signal::SIGTERM);
                    self.signal_outside(Signal::SIGTERM);
                    next
                }
                Step::Kill(next) => {
                    self.kill();
                    next
                }
            };
            // Another watchdog may be due earlier.
            let again = self.watchdog.is_none().then(|| now.max(self.watchdog_started + WATCHDOG_INTERVAL));
            self.timer.set(again.map_or(next, |again| next.min(again)))?;
            tokio::select! {
                biased;
                fired = self.timer.fired() => fired?,
                _ = self.children.recv() => {}
                signal = signals.next() => self.forward(signal?),
                // If the sender is gone, the deadlines stay.
                Ok(()) = deadlines.changed() => {}
            }
        }
    }

    /// Reaps processes that have ended.
    fn reap(&mut self) -> io::Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.command => {
                    self.ended = Some(ExitStatus::Code(u8::try_from(code & 0xff).unwrap_or_default()));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.command => {
                    self.ended = Some(ExitStatus::Signal(u8::try_from(signal as i32).unwrap_or_default()));
                }
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    self.watchdog.take_if(|watchdog| watchdog.has_ended(pid));
                    // The command may start a process that gets the same number.
                    self.others.retain(|other| *other != pid);
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                // A process died of a real-time signal, which has no name here.
                Err(Errno::EINVAL) if self.ended.is_none() && kill(self.command, None) == Err(Errno::ESRCH) => {
                    self.ended = Some(ExitStatus::Signal(FIRST_REAL_TIME));
                }
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn forward(&self, ForwardedSignal { signal, by_terminal }: ForwardedSignal) {
        if self.has_own_group || !by_terminal {
            self.signal(signal);
        }
    }

    /// Sends a signal to the command's process group; without one, to everything that the command has started.
    fn signal(&self, signal: Signal) {
        // A process may have ended meanwhile.
        if self.is_group_known() {
            let _ = killpg(self.command, signal);
        } else {
            self.descendants().for_each(|pid| _ = kill(pid, signal));
        }
    }

    /// Sends a signal to what has left the command's process group.
    fn signal_outside(&self, signal: Signal) {
        if self.is_group_known() {
            let is_outside = |pid: &Pid| getpgid(Some(*pid)).is_ok_and(|group| group != self.command);
            self.descendants().filter(is_outside).for_each(|pid| _ = kill(pid, signal));
        }
    }

    /// The command and everything that it has started.
    fn descendants(&self) -> impl Iterator<Item = Pid> {
        let watchdog = self.watchdog.as_ref().and_then(|watchdog| watchdog.pid);
        let but: Vec<Pid> = self.others.iter().copied().chain(watchdog).collect();
        tree::descendants(getpid(), &but).into_iter()
    }

    /// Kills the command and what it has started. A process whose parent has ended becomes a child of this process, so
    /// repeating this reaches all of them.
    fn kill(&self) {
        if let Some(cgroup) = &self.cgroup {
            Cgroup::kill(cgroup.path());
        }
        if self.is_group_known() {
            let _ = killpg(self.command, Signal::SIGKILL);
        }
        // First what the kernel lists at once: looking through all processes takes time.
        let is_other = |pid| self.is_watchdog(pid) || self.others.contains(&pid);
        tree::listed(getpid(), is_other).into_iter().for_each(|pid| _ = kill(pid, Signal::SIGKILL));
        self.children().for_each(|pid| _ = kill(pid, Signal::SIGKILL));
    }

    /// The running children of this process, without the watchdog and those that were there before the command.
    fn children(&self) -> impl Iterator<Item = Pid> {
        tree::children(getpid()).into_iter().filter(|pid| !self.is_watchdog(*pid) && !self.others.contains(pid))
    }

    fn is_watchdog(&self, pid: Pid) -> bool {
        self.watchdog.as_ref().is_some_and(|watchdog| watchdog.pid == Some(pid))
    }

    /// Whether the process group surely is the command's: once the command has ended and the group is empty, its number may
    /// belong to somebody else.
    fn is_group_known(&self) -> bool {
        self.has_own_group && self.ended.is_none()
    }
}
