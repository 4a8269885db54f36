//! Faults on purpose, for tests of how a cluster copes with a bad network.

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use super::ConfigError;

/// The longest [delay](Faults::delay).
pub const MAX_DELAY: Duration = Duration::from_secs(60);

/// Faults of the network, on purpose, in the datagrams that a node *sends*: if every node has the same faults, each
/// datagram suffers them once. Connections (TCP) are left alone.
///
/// The default is no fault. A node that has these in its [`Config`](crate::Config) can get others while it runs, by
/// [`Handle::set_faults`](crate::Handle::set_faults).
///
/// As text they are `loss=0.3,duplicate=0.05,delay=5ms..50ms,seed=7`, in any order; what is left out is the default.
/// `ready` is the default of all:
///
/// ```
/// use broadcast::Faults;
///
/// let faults: Faults = "loss=0.3,delay=5ms..50ms".parse()?;
/// assert_eq!(faults.loss, 0.3);
/// assert_eq!(faults.duplicate, 0.0);
/// # Ok::<(), broadcast::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Faults {
    /// The share of datagrams that are lost, from 0 to 1; 0 by default.
    pub loss: f64,
    /// The share of the others that are sent twice, from 0 to 1; 0 by default.
    pub duplicate: f64,
    /// For how long each copy is held back, evenly distributed; a range also reorders them. At most [`MAX_DELAY`] (60 s);
    /// 0 by default.
    pub delay: RangeInclusive<Duration>,
    /// Makes the random choices repeatable. By default they differ from run to run.
    pub seed: Option<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { loss: 0.0, duplicate: 0.0, delay: Duration::ZERO..=Duration::ZERO, seed: None }
    }
}

impl Faults {
    /// Whether there is no fault: nothing is lost, doubled or delayed.
    #[must_use]
    pub fn is_inactive(&self) -> bool {
        *self == Self { seed: self.seed, ..Self::default() }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.problem().map_or(Ok(()), |problem| Err(ConfigError::Faults { value: self.to_string(), problem }))
    }

    fn problem(&self) -> Option<&'static str> {
        if !(0.0..=1.0).contains(&self.loss) || !(0.0..=1.0).contains(&self.duplicate) {
            Some("a share is a number from 0 to 1, like loss=0.3")
        } else if self.delay.is_empty() {
            Some("a delay begins with the shorter one, like delay=5ms..50ms")
        } else if *self.delay.end() > MAX_DELAY {
            const { assert!(MAX_DELAY.as_secs() == 60) };
            Some("a delay is at most 60s")
        } else {
            None
        }
    }

    fn set(&mut self, text: &str) -> Result<(), &'static str> {
        let (fault, value) = text.split_once('=').ok_or("write it as loss=0.3,duplicate=0.05,delay=5ms..50ms")?;
        let (fault, value) = (fault.trim(), value.trim());
        let share = || value.parse().map_err(|_| "a share is a number from 0 to 1, like loss=0.3");
        match fault {
            "loss" => self.loss = share()?,
            "duplicate" => self.duplicate = share()?,
            "delay" => {
                let (shortest, longest) = value.split_once("..").unwrap_or((value, value));
                self.delay = delay(shortest)?..=delay(longest)?;
            }
            "seed" => self.seed = Some(value.parse().map_err(|_| "a seed is a number from 0 to 2^64 - 1")?),
            _ => return Err("the faults there are: loss, duplicate, delay, and seed to repeat them"),
        }
        Ok(())
    }
}

fn delay(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text.trim())
        .map_err(|_| "a delay is a duration or two, like delay=5ms or delay=5ms..50ms")
}

impl FromStr for Faults {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let mut faults = Self::default();
        if text.trim() == "ready" {
            return Ok(faults);
        }
        let set = text.split(',').try_for_each(|fault| faults.set(fault));
        match set.err().or(faults.problem()) {
            Some(problem) => Err(ConfigError::Faults { value: text.into(), problem }),
            None => Ok(faults),
        }
    }
}

/// In the form that [`from_str`](Self::from_str) reads.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { loss, duplicate, delay, seed } = self;
        let [shortest, longest] = [delay.start(), delay.end()].map(|delay| humantime::format_duration(*delay));
        write!(f, "loss={loss},duplicate={duplicate},delay={shortest}..{longest}")?;
        seed.map_or(Ok(()), |seed| write!(f, ",seed={seed}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_in_any_order_and_print_as_they_are_read() {
        let ms = Duration::from_millis;
        for (text, faults) in [
            (" ready", Faults::default()),
            ("loss=0.3", Faults { loss: 0.3, ..Faults::default() }),
            ("delay=5ms", Faults { delay: ms(5)..=ms(5), ..Faults::default() }),
            (
                " delay = 5ms .. 1s , duplicate=1,loss=0,seed=18446744073709551615",
                Faults { duplicate: 1.0, delay: ms(5)..=ms(1000), seed: Some(u64::MAX), ..Faults::default() },
            ),
        ] {
            assert_eq!(text.parse(), Ok(faults.clone()), "{text}");
            assert_eq!(faults.to_string().parse(), Ok(faults), "{text}");
        }
    }

    #[test]
    fn without_any_fault_they_are_inactive() {
        for (text, at_rest) in [
            ("ready", true),
            ("loss=0,seed=1", true),
            ("loss=0.1", false),
            ("duplicate=0.1", false),
            ("delay=0ms..1ms", false),
        ] {
            assert_eq!(text.parse::<Faults>().map(|faults| faults.is_inactive()), Ok(at_rest), "{text}");
        }
    }

    #[test]
    fn what_is_no_fault_is_named_with_its_remedy() {
        for (text, remedy) in [
            ("", "write it as loss=0.3,"),
            ("ready,loss=0.3", "write it as loss=0.3,"),
            ("lossy", "write it as loss=0.3,"),
            ("loss=0.3,", "write it as loss=0.3,"),
            ("loss=30%", "a share is a number from 0 to 1"),
            ("loss=1.1", "a share is a number from 0 to 1"),
            ("duplicate=-0.1", "a share is a number from 0 to 1"),
            ("loss=NaN", "a share is a number from 0 to 1"),
            ("delay=5", "a delay is a duration or two"),
            ("delay=5ms..", "a delay is a duration or two"),
            ("delay=50ms..5ms", "begins with the shorter one"),
            ("delay=0ms..61s", "at most 60s"),
            ("seed=-1", "a seed is a number"),
            ("los=0.3", "the faults there are: loss, duplicate, delay"),
        ] {
            let error = text.parse::<Faults>().expect_err(text).to_string();
            assert!(
                error.starts_with(&format!("{text:?} are not valid faults: ")) && error.contains(remedy),
                "{error}"
            );
        }
    }
}
