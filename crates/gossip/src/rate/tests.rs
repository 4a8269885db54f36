//! The rate limiter, under a clock of the test's own.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// How many of so many attempts at one time succeed.
fn taken(limiter: &mut RateLimiter, now: Instant, cost: Duration, burst: Duration, attempts: usize) -> usize {
    (0..attempts).filter(|_| limiter.take(now, cost, burst)).count()
}

#[test]
fn so_many_may_happen_at_once_and_as_many_a_second_after_that() {
    for count in [1, 10, 256] {
        let (start, cost, mut limiter) = (Instant::now(), SECOND / count, RateLimiter::default());
        let count = count as usize;
        assert_eq!(taken(&mut limiter, start, cost, SECOND, 1000), count);
        assert_eq!(taken(&mut limiter, start + SECOND, cost, SECOND, 1000), count, "all is paid off");
        let later = (1..=100).map(|i| taken(&mut limiter, start + SECOND + i * SECOND / 10, cost, SECOND, 1000));
        assert_eq!(later.sum::<usize>(), 10 * count);
        // A long rest saves no more than one burst.
        assert_eq!(taken(&mut limiter, start + 1000 * SECOND, cost, SECOND, 1000), count);
    }
}

#[test]
fn what_is_large_is_taken_whole_and_paid_off_before_the_next() {
    let (start, mut limiter) = (Instant::now(), RateLimiter::default());
    let after = |millis| start + Duration::from_millis(millis);
    assert!(limiter.take(start, SECOND * 9 / 10, SECOND));
    assert!(limiter.take(start, 3 * SECOND, SECOND), "less than a burst was owed");
    assert!(!limiter.take(after(2900), SECOND / 10, SECOND), "a whole burst is owed");
    assert!(limiter.take(after(2901), SECOND / 10, SECOND));
}

#[test]
fn without_a_burst_there_is_a_pause_between_any_two() {
    let (start, mut limiter) = (Instant::now(), RateLimiter::default());
    let after = |millis| start + Duration::from_millis(millis);
    let mut take = |now| limiter.take(now, SECOND, Duration::ZERO);
    assert!(take(start));
    assert!(!take(start) && !take(after(999)), "what is refused costs nothing");
    assert!(take(after(1000)));
    assert!(!take(after(1999)));
    assert!(take(after(5000)));
}

#[test]
fn a_clock_that_goes_back_gives_nothing_away() {
    let (start, mut limiter) = (Instant::now(), RateLimiter::default());
    let later = start + 10 * SECOND;
    assert!(limiter.take(later, SECOND, Duration::ZERO));
    assert!(!limiter.take(start, SECOND, Duration::ZERO));
    assert!(limiter.take(later + SECOND, SECOND, Duration::ZERO));
}
