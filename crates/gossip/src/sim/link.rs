//! Network conditions: delay, loss, duplication and reordering of datagrams.

use std::{f64::consts::TAU, fmt, str::FromStr, time::Duration};

use rand::RngExt;
use rand_xoshiro::Xoshiro256PlusPlus;

/// A distribution of delays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Delay {
    Constant(Duration),
    Uniform(Duration, Duration),
    /// Mean and standard deviation. A delay is at least a tenth of the mean.
    Normal(Duration, Duration),
    /// Median, and the standard deviation of the logarithm.
    LogNormal(Duration, f64),
}

impl Delay {
    pub(super) fn draw(self, rng: &mut Xoshiro256PlusPlus) -> Duration {
        match self {
            Self::Constant(delay) => delay,
            Self::Uniform(low, high) => low + (high - low).mul_f64(rng.random()),
            Self::Normal(mean, deviation) => {
                let seconds = mean.as_secs_f64() + deviation.as_secs_f64() * normal(rng);
                Duration::from_secs_f64(seconds.max(mean.as_secs_f64() / 10.0))
            }
            // More than 5 deviations practically never occur. The bound keeps the product finite.
            Self::LogNormal(median, sigma) => median.mul_f64((sigma * normal(rng).clamp(-5.0, 5.0)).exp()),
        }
    }
}

/// A sample of the standard normal distribution (Box and Muller, 1958).
fn normal(rng: &mut Xoshiro256PlusPlus) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos()
}

/// `1ms`, `100us..2ms`, `normal(5ms, 1ms)` or `lognormal(1ms, 0.5)`.
impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = |text: &str| {
            humantime::parse_duration(text.trim()).ok().filter(|delay| *delay <= Duration::from_secs(60)).ok_or_else(
                || {
                    format!(
                        "\"{}\" is no delay from 0s to 1min; write a number with its unit, like 250us or 5ms",
                        text.trim()
                    )
                },
            )
        };
        let arguments = |name: &str| {
            let inner = text.trim().strip_prefix(name)?.trim().strip_prefix('(')?.strip_suffix(')')?;
            inner.split_once(',')
        };
        if let Some((mean, deviation)) = arguments("normal") {
            return Ok(Self::Normal(duration(mean)?, duration(deviation)?));
        }
        if let Some((median, sigma)) = arguments("lognormal") {
            let sigma = sigma.trim().parse().ok().filter(|sigma| (0.0..=3.0).contains(sigma));
            return Ok(Self::LogNormal(duration(median)?, sigma.ok_or("its sigma goes from 0 to 3, like 0.5")?));
        }
        if let Some((low, high)) = text.split_once("..") {
            let (low, high) = (duration(low)?, duration(high)?);
            if low > high {
                return Err("it starts above its end; write the smaller delay first".to_owned());
            }
            return Ok(Self::Uniform(low, high));
        }
        duration(text).map(Self::Constant).map_err(|_| {
            "no delay; write 5ms, 1ms..5ms, normal(5ms, 1ms) or lognormal(1ms, 0.5), of at most 1min".to_owned()
        })
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(delay) => write!(f, "{delay:?}"),
            Self::Uniform(low, high) => write!(f, "{low:?}..{high:?}"),
            Self::Normal(mean, deviation) => write!(f, "normal({mean:?}, {deviation:?})"),
            Self::LogNormal(median, sigma) => write!(f, "lognormal({median:?}, {sigma})"),
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinkConditions {
    pub(crate) delay: Delay,
    /// The share of lost datagrams.
    pub(crate) loss: f64,
    /// The share of datagrams that arrive twice.
    pub(crate) duplicate: f64,
    /// The share of datagrams that others overtake: they take `reorder_delay` longer.
    pub(crate) reorder: f64,
    pub(crate) reorder_delay: Delay,
    /// How many bytes of datagrams wait for a paused host; by default as on Linux.
    pub(crate) socket_buffer: usize,
    /// How long a stream may be blocked before it breaks.
    pub(crate) stream_timeout: Duration,
}

impl Default for LinkConditions {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            delay: Delay::Uniform(Duration::from_micros(100), ms(2)),
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_delay: Delay::Uniform(ms(5), ms(50)),
            socket_buffer: 212_992,
            stream_timeout: Duration::from_secs(15),
        }
    }
}

impl LinkConditions {
    /// The delay of each copy of a datagram; none if it is lost.
    pub(super) fn datagram(&self, rng: &mut Xoshiro256PlusPlus) -> [Option<Duration>; 2] {
        if chance(rng, self.loss) {
            return [None, None];
        }
        let first = self.copy(rng);
        let second = chance(rng, self.duplicate).then(|| self.copy(rng));
        [Some(first), second]
    }

    fn copy(&self, rng: &mut Xoshiro256PlusPlus) -> Duration {
        let mut delay = self.delay.draw(rng);
        if chance(rng, self.reorder) {
            delay += self.reorder_delay.draw(rng);
        }
        delay
    }

    /// The delay of a segment of a stream. A lost segment is sent again after TCP's shortest timeout, which doubles (RFC 6298;
    /// Linux: 200 ms).
    pub(super) fn segment(&self, rng: &mut Xoshiro256PlusPlus) -> Duration {
        let mut delay = self.delay.draw(rng);
        let mut timeout = Duration::from_millis(200);
        while chance(rng, self.loss) && timeout < Duration::from_secs(10) {
            delay += timeout;
            timeout *= 2;
        }
        delay
    }
}

/// Whether something of this probability happens. Draws no random number if that is certain not to.
fn chance(rng: &mut Xoshiro256PlusPlus, share: f64) -> bool {
    share > 0.0 && rng.random_bool(share.min(1.0))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_delay_is_read_as_it_is_written_or_refused_with_a_remedy() {
        for text in ["5ms", "100µs..2ms", "normal(5ms, 1ms)", "lognormal(1ms, 0.5)"] {
            let written = text.replace('µ', "u");
            assert_eq!(written.parse::<Delay>().expect(text).to_string(), text);
        }
        for (text, word) in [
            ("", "no delay; write"),
            ("5", "no delay; write"),
            ("2h", "no delay; write"),
            ("2ms..1ms", "the smaller delay first"),
            ("1ms..x", "\"x\" is no delay"),
            ("lognormal(1ms, 9)", "from 0 to 3"),
        ] {
            let error = text.parse::<Delay>().expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn delays_have_the_middle_and_the_spread_they_say() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        for (text, median, p95) in [
            ("5ms", 5.0, 5.0),
            ("1ms..3ms", 2.0, 2.9),
            ("normal(10ms, 2ms)", 10.0, 13.29),
            ("lognormal(4ms, 0.5)", 4.0, 9.1),
        ] {
            let delay: Delay = text.parse().expect(text);
            let mut drawn: Vec<f64> = (0..10_000).map(|_| delay.draw(&mut rng).as_secs_f64() * 1000.0).collect();
            drawn.sort_by(f64::total_cmp);
            for (place, wanted) in [(5000, median), (9500, p95)] {
                let share = drawn[place] / wanted;
                assert!((0.95..1.05).contains(&share), "{text}: {} ms, not {wanted}", drawn[place]);
            }
        }
    }

    #[test]
    fn datagrams_are_lost_and_doubled_as_often_as_asked() {
        let link = LinkConditions { loss: 0.3, duplicate: 0.1, ..LinkConditions::default() };
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let drawn: Vec<_> = (0..10_000).map(|_| link.datagram(&mut rng)).collect();
        let lost = drawn.iter().filter(|copies| copies[0].is_none()).count();
        let doubled = drawn.iter().filter(|copies| copies[1].is_some()).count();
        assert!((2850..3150).contains(&lost), "{lost}");
        assert!((630..770).contains(&doubled), "{doubled}");
    }
}
