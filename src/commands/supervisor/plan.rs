//! When to send a command SIGTERM and SIGKILL. It has no clock and no side effects: the time and the state of the command go
//! in, and what to do comes out.

use std::time::Duration;

use super::clock::BootTime;

/// How often SIGKILL is repeated, for what was started meanwhile.
pub(super) const KILL_INTERVAL: Duration = Duration::from_millis(10);
/// How long SIGKILL is repeated. A process that hangs on a disk outlasts it, and so does one that may not be killed.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Until when a command may run. Both moments move on while the lock is kept alive, and come at once when it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// When it gets SIGTERM. From then on it will end, even if the deadlines move on.
    pub(crate) terminate: BootTime,
    /// When it gets SIGKILL, with everything that it has started.
    pub(crate) kill: BootTime,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Code(u8),
    Signal(u8),
}

impl ExitStatus {
    /// The code as a shell shows it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal | 0x80,
        }
    }
}

/// Why a supervisor has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandOutcome {
    /// The command ended by itself.
    Ended(ExitStatus),
    /// The command had to end.
    Lost {
        /// Whether some of its processes could not be killed.
        something_left: bool,
    },
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait until this moment.
    Wait(BootTime),
    /// Send SIGTERM, then wait until this moment.
    Terminate(BootTime),
    /// Send SIGKILL, then wait until this moment.
    Kill(BootTime),
    /// Finish.
    End(CommandOutcome),
}

/// The state of a command's termination.
#[derive(Debug, Default)]
pub(super) struct TerminationPlan {
    /// When to kill the command; set once SIGTERM was sent.
    kill: Option<BootTime>,
}

impl TerminationPlan {
    /// The next step. `ended` is how the command itself ended, if it has. `is_alive` is whether the command or anything that
    /// it started still runs, which matters only after SIGTERM.
    pub(super) fn step(
        &mut self,
        now: BootTime,
        deadlines: Deadlines,
        ended: Option<ExitStatus>,
        is_alive: bool,
    ) -> Step {
        let Some(kill) = self.kill else {
            // After the deadline, something else killed it: the watchdog, for example.
            if let Some(exit) = ended.filter(|_| now < deadlines.kill) {
                return Step::End(CommandOutcome::Ended(exit));
            }
            if now < deadlines.terminate {
                return Step::Wait(deadlines.terminate);
            }
            self.kill = Some(deadlines.kill);
            return Step::Terminate(deadlines.kill);
        };
        // Deadlines that move on come too late now, but an earlier one counts.
        let kill = *self.kill.insert(kill.min(deadlines.kill));
        if !is_alive {
            Step::End(CommandOutcome::Lost { something_left: false })
        } else if now < kill {
            Step::Wait(kill)
        } else if now < kill + KILL_TIMEOUT {
            Step::Kill(now + KILL_INTERVAL)
        } else {
            Step::End(CommandOutcome::Lost { something_left: true })
        }
    }

    /// Whether SIGTERM was sent or is due: then it matters what still runs.
    pub(super) fn is_ending(&self, now: BootTime, deadlines: Deadlines) -> bool {
        self.kill.is_some() || now >= deadlines.terminate.min(deadlines.kill)
    }

    /// When everything is killed, as far as is known now.
    pub(super) fn kill_at(&self, deadlines: Deadlines) -> BootTime {
        self.kill.map_or(deadlines.kill, |kill| kill.min(deadlines.kill))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::at(Duration::from_millis(millis))
    }

    fn deadlines(terminate: u64, kill: u64) -> Deadlines {
        Deadlines { terminate: at(terminate), kill: at(kill) }
    }

    #[test]
    fn a_command_that_ends_by_itself_ends_well() {
        let mut plan = TerminationPlan::default();
        assert_eq!(plan.step(at(1), deadlines(10, 20), None, true), Step::Wait(at(10)));
        assert_eq!(plan.step(at(2), deadlines(15, 25), None, true), Step::Wait(at(15)), "it was kept alive");
        let exit = ExitStatus::Code(3);
        // What it left behind is its own matter.
        assert_eq!(plan.step(at(15), deadlines(15, 25), Some(exit), true), Step::End(CommandOutcome::Ended(exit)));
        assert_eq!([exit.code(), ExitStatus::Signal(15).code(), ExitStatus::Signal(9).code()], [3, 143, 137]);
    }

    #[test]
    fn a_lost_one_is_asked_and_then_killed_until_nothing_is_left() {
        let mut plan = TerminationPlan::default();
        assert_eq!(plan.step(at(10), deadlines(10, 20), None, true), Step::Terminate(at(20)));
        assert_eq!(plan.step(at(11), deadlines(90, 99), None, true), Step::Wait(at(20)), "too late to be kept alive");
        assert_eq!(
            plan.step(at(12), deadlines(90, 99), Some(ExitStatus::Code(0)), true),
            Step::Wait(at(20)),
            "others run on"
        );
        assert_eq!(plan.step(at(20), deadlines(90, 99), Some(ExitStatus::Code(0)), true), Step::Kill(at(30)));
        assert_eq!(plan.step(at(30), deadlines(90, 99), Some(ExitStatus::Code(0)), true), Step::Kill(at(40)));
        let lost = Step::End(CommandOutcome::Lost { something_left: false });
        assert_eq!(plan.step(at(31), deadlines(90, 99), Some(ExitStatus::Code(0)), false), lost);
        let left = Step::End(CommandOutcome::Lost { something_left: true });
        assert_eq!(plan.step(at(5020), deadlines(90, 99), Some(ExitStatus::Code(0)), true), left);
    }

    #[test]
    fn the_end_may_come_earlier_than_it_was_told() {
        let mut plan = TerminationPlan::default();
        assert_eq!(plan.step(at(10), deadlines(10, 20), None, true), Step::Terminate(at(20)));
        assert_eq!(plan.step(at(11), deadlines(11, 15), None, true), Step::Wait(at(15)));
        assert_eq!(plan.step(at(15), deadlines(90, 99), None, true), Step::Kill(at(25)));
    }

    #[test]
    fn what_the_watchdog_ended_is_lost() {
        let mut plan = TerminationPlan::default();
        assert_eq!(plan.kill_at(deadlines(10, 20)), at(20));
        assert_eq!(plan.step(at(21), deadlines(10, 20), Some(ExitStatus::Signal(9)), false), Step::Terminate(at(20)));
        let lost = Step::End(CommandOutcome::Lost { something_left: false });
        assert_eq!(plan.step(at(21), deadlines(10, 20), Some(ExitStatus::Signal(9)), false), lost);
        assert_eq!(plan.kill_at(deadlines(90, 99)), at(20));
    }

    #[test]
    fn a_machine_that_slept_kills_at_once() {
        let mut plan = TerminationPlan::default();
        assert_eq!(plan.step(at(99), deadlines(10, 20), None, true), Step::Terminate(at(20)));
        assert_eq!(plan.step(at(99), deadlines(10, 20), None, true), Step::Kill(at(109)));
    }
}
