//! A round-trip time in the one byte that a member's record has to spare: on a logarithmic scale from 10 µs to 89 s, with
//! an error of at most 3.2 %.

use std::time::Duration;

/// Steps for each doubling.
const PER_DOUBLING: f64 = 11.0;
/// The shortest, in microseconds.
const SHORTEST: f64 = 10.0;

/// See the [module](self). 0 stands for unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rtt(u8);

impl From<Duration> for Rtt {
    fn from(rtt: Duration) -> Self {
        let micros = (rtt.as_secs_f64() * 1e6).max(SHORTEST);
        // A value out of range becomes the nearest one in it.
        let steps = ((micros / SHORTEST).log2() * PER_DOUBLING).round() as u8;
        Self(steps.saturating_add(1))
    }
}

impl Rtt {
    pub(crate) fn get(self) -> Option<Duration> {
        let steps = self.0.checked_sub(1)?;
        Some(Duration::from_secs_f64(SHORTEST * (f64::from(steps) / PER_DOUBLING).exp2() / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_close_to_the_truth() {
        assert_eq!(Rtt::default().get(), None);
        for micros in [10, 11, 87, 250, 999, 1_234, 50_000, 1_000_000, 88_000_000] {
            let truth = Duration::from_micros(micros);
            let kept = Rtt::from(truth).get().expect("it is known");
            let share = kept.as_secs_f64() / truth.as_secs_f64();
            assert!((0.968..1.033).contains(&share), "{truth:?} is kept as {kept:?}");
        }
        for (out_of_range, nearest) in
            [(Duration::ZERO, 9..=11), (Duration::from_secs(10_000), 80_000_000..=90_000_000)]
        {
            let kept = Rtt::from(out_of_range).get().expect("it is known");
            assert!(nearest.contains(&kept.as_micros()), "{out_of_range:?} is kept as {kept:?}");
        }
    }
}
