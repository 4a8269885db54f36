//! A clock that keeps counting while the machine is suspended (`CLOCK_BOOTTIME`), and a timer that follows it. By any other
//! clock, a laptop that wakes up would believe that it still holds a lock which others have long had.

use std::{
    io,
    ops::Add,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    time::Duration,
};

use broadcast_store::node::since_boot;
use nix::sys::{
    time::TimeSpec,
    timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::io::unix::AsyncFd;

use super::async_fd::async_fd;

/// A moment, as the time since the machine was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BootTime(Duration);

impl BootTime {
    pub(crate) fn now() -> Self {
        Self(since_boot())
    }

    /// The moment that long after the machine started.
    pub(crate) fn at(since_start: Duration) -> Self {
        Self(since_start)
    }

    pub(crate) fn since_start(self) -> Duration {
        self.0
    }

    /// The time since `earlier`; zero, if that is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Sets a timer of [`timer`] to fire at this moment only.
    pub(super) fn set(self, timer: &TimerFd) -> io::Result<()> {
        // Zero would disarm the timer.
        let at = TimeSpec::from(self.0.max(Duration::from_nanos(1)));
        Ok(timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?)
    }

    /// The moment that long before.
    pub(crate) fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0 + time)
    }
}

/// A timer of this clock, not set yet.
pub(super) fn timer() -> io::Result<TimerFd> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    Ok(TimerFd::new(timerfd::ClockId::CLOCK_BOOTTIME, flags)?)
}

/// A timer that fires at a moment, or as soon as the machine wakes up after it.
#[derive(Debug)]
pub(crate) struct BootTimer(AsyncFd<Timer>);

#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl BootTimer {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(async_fd(Timer(timer()?))?))
    }

    /// Sets it to fire at this moment only.
    pub(crate) fn set(&self, at: BootTime) -> io::Result<()> {
        at.set(&self.0.get_ref().0)
    }

    /// Waits until it fires.
    pub(crate) async fn fired(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(fired) = ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) {
                return fired;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_timer_fires_at_its_moment_and_not_before() {
        let timer = BootTimer::new().expect("a timer");
        let at = BootTime::now() + Duration::from_millis(30);
        timer.set(at).expect("it is set");
        timer.fired().await.expect("it fires");
        assert!(BootTime::now() >= at);
        // One that has fired and is set anew waits anew.
        timer.set(BootTime::now()).expect("it is set");
        let at = BootTime::now() + Duration::from_millis(30);
        timer.set(at).expect("it is set");
        timer.fired().await.expect("it fires");
        assert!(BootTime::now() >= at);
        timer.set(BootTime::at(Duration::ZERO)).expect("it is set");
        timer.fired().await.expect("the past is at once");
    }

    #[test]
    fn moments_do_not_go_below_the_start() {
        let (early, late) = (BootTime::at(Duration::from_secs(1)), BootTime::at(Duration::from_secs(3)));
        assert_eq!((late.since(early), early.since(late)), (Duration::from_secs(2), Duration::ZERO));
        assert_eq!(early.before(Duration::from_secs(5)), BootTime::at(Duration::ZERO));
    }
}
