//! When a command is asked to end, and when it is killed. Pure: the moment, and what became of the command, come in; what
//! is to be done goes out.

use std::time::Duration;

use super::clock::BootTime;

/// How often SIGKILL is repeated, for what was started meanwhile.
const AGAIN: Duration = Duration::from_millis(10);
/// How long SIGKILL is repeated. What a disk that does not answer holds up outlasts it, and so does what may not be killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Until when a command may run. The moments move on as the lock is kept alive, and are at once when it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// When it gets SIGTERM. From then on it is ending, whatever comes.
    pub(crate) ask: BootTime,
    /// When it gets SIGKILL, with all that it has started.
    pub(crate) kill: BootTime,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(u8),
    Signal(u8),
}

impl Exit {
    /// As a shell shows it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => signal | 0x80,
        }
    }
}

/// How it came that nothing is supervised any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The command ended by itself.
    Ended(Exit),
    /// It had to end.
    Lost {
        /// Whether something of it could not be ended.
        something_left: bool,
    },
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing until this moment.
    Wait(BootTime),
    /// Send SIGTERM; then nothing until this moment.
    Ask(BootTime),
    /// Send SIGKILL; then nothing until this moment.
    Kill(BootTime),
    /// All is over.
    End(Outcome),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Set once it was asked to end: when it is killed.
    kill: Option<BootTime>,
}

impl Plan {
    /// `ended` is how the command itself ended, if it has; `is_alive` whether anything runs that it has started, or it
    /// itself, and matters once it was asked to end.
    pub(super) fn step(&mut self, now: BootTime, limits: Limits, ended: Option<Exit>, is_alive: bool) -> Step {
        let Some(kill) = self.kill else {
            // Later than that it was ended, by the watchdog say.
            if let Some(exit) = ended.filter(|_| now < limits.kill) {
                return Step::End(Outcome::Ended(exit));
            }
            if now < limits.ask {
                return Step::Wait(limits.ask);
            }
            self.kill = Some(limits.kill);
            return Step::Ask(limits.kill);
        };
        // What keeps the lock alive now comes too late, but the end may come even earlier.
        let kill = *self.kill.insert(kill.min(limits.kill));
        if !is_alive {
            Step::End(Outcome::Lost { something_left: false })
        } else if now < kill {
            Step::Wait(kill)
        } else if now < kill + PATIENCE {
            Step::Kill(now + AGAIN)
        } else {
            Step::End(Outcome::Lost { something_left: true })
        }
    }

    /// Whether it is to end, or soon will be asked to: then it matters what still runs.
    pub(super) fn is_ending(&self, now: BootTime, limits: Limits) -> bool {
        self.kill.is_some() || now >= limits.ask.min(limits.kill)
    }

    /// When all of it is killed, as it is known now.
    pub(super) fn kill_at(&self, limits: Limits) -> BootTime {
        self.kill.map_or(limits.kill, |kill| kill.min(limits.kill))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::at(Duration::from_millis(millis))
    }

    fn limits(ask: u64, kill: u64) -> Limits {
        Limits { ask: at(ask), kill: at(kill) }
    }

    #[test]
    fn a_command_that_ends_by_itself_ends_well() {
        let mut plan = Plan::default();
        assert_eq!(plan.step(at(1), limits(10, 20), None, true), Step::Wait(at(10)));
        assert_eq!(plan.step(at(2), limits(15, 25), None, true), Step::Wait(at(15)), "it was kept alive");
        let exit = Exit::Code(3);
        // What it left behind is its own matter.
        assert_eq!(plan.step(at(15), limits(15, 25), Some(exit), true), Step::End(Outcome::Ended(exit)));
        assert_eq!([exit.code(), Exit::Signal(15).code(), Exit::Signal(9).code()], [3, 143, 137]);
    }

    #[test]
    fn a_lost_one_is_asked_and_then_killed_until_nothing_is_left() {
        let mut plan = Plan::default();
        assert_eq!(plan.step(at(10), limits(10, 20), None, true), Step::Ask(at(20)));
        assert_eq!(plan.step(at(11), limits(90, 99), None, true), Step::Wait(at(20)), "too late to be kept alive");
        assert_eq!(plan.step(at(12), limits(90, 99), Some(Exit::Code(0)), true), Step::Wait(at(20)), "others run on");
        assert_eq!(plan.step(at(20), limits(90, 99), Some(Exit::Code(0)), true), Step::Kill(at(30)));
        assert_eq!(plan.step(at(30), limits(90, 99), Some(Exit::Code(0)), true), Step::Kill(at(40)));
        let lost = Step::End(Outcome::Lost { something_left: false });
        assert_eq!(plan.step(at(31), limits(90, 99), Some(Exit::Code(0)), false), lost);
        let left = Step::End(Outcome::Lost { something_left: true });
        assert_eq!(plan.step(at(5020), limits(90, 99), Some(Exit::Code(0)), true), left);
    }

    #[test]
    fn the_end_may_come_earlier_than_it_was_told() {
        let mut plan = Plan::default();
        assert_eq!(plan.step(at(10), limits(10, 20), None, true), Step::Ask(at(20)));
        assert_eq!(plan.step(at(11), limits(11, 15), None, true), Step::Wait(at(15)));
        assert_eq!(plan.step(at(15), limits(90, 99), None, true), Step::Kill(at(25)));
    }

    #[test]
    fn what_the_watchdog_ended_is_lost() {
        let mut plan = Plan::default();
        assert_eq!(plan.kill_at(limits(10, 20)), at(20));
        assert_eq!(plan.step(at(21), limits(10, 20), Some(Exit::Signal(9)), false), Step::Ask(at(20)));
        let lost = Step::End(Outcome::Lost { something_left: false });
        assert_eq!(plan.step(at(21), limits(10, 20), Some(Exit::Signal(9)), false), lost);
        assert_eq!(plan.kill_at(limits(90, 99)), at(20));
    }

    #[test]
    fn a_machine_that_slept_kills_at_once() {
        let mut plan = Plan::default();
        assert_eq!(plan.step(at(99), limits(10, 20), None, true), Step::Ask(at(20)));
        assert_eq!(plan.step(at(99), limits(10, 20), None, true), Step::Kill(at(109)));
    }
}
