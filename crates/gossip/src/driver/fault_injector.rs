//! Loss, duplication and delay that are injected on purpose into what a node sends, for tests on a real network.
//!
//! It is a layer between the event loop and the UDP socket, as smoltcp's `fault_injector` is one between its interface and
//! its device. Every datagram goes in by [`FaultInjector::send`]. The copies that survive come out by
//! [`FaultInjector::poll`], each when its delay is over.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use tracing::warn;

use crate::{Faults, node::Transmit};

/// How many bytes of delayed datagrams are held at most; further ones are lost.
const MAX_HELD: usize = 32 << 20;
/// The memory that a delayed datagram takes besides its payload, in bytes.
const OVERHEAD: usize = 128;

/// See the [module](self).
pub(super) struct FaultInjector {
    node: String,
    faults: Faults,
    rng: Xoshiro256PlusPlus,
    /// By due time, and in the order of arrival among those due at the same time.
    held: BTreeMap<(Instant, u64), Transmit>,
    held_bytes: usize,
    copies: u64,
    counts: Counts,
}

/// What the injector has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    datagrams: u64,
    lost: u64,
    duplicated: u64,
    /// Copies that were dropped because too many bytes are held.
    crowded_out: u64,
}

impl FaultInjector {
    /// `seed` is for faults that have no seed of their own.
    pub(super) fn new(node: &str, faults: Faults, seed: u64) -> Self {
        let mut injector = Self {
            node: node.to_owned(),
            faults: Faults::default(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            held: BTreeMap::new(),
            held_bytes: 0,
            copies: 0,
            counts: Counts::default(),
        };
        if !faults.is_inactive() {
            injector.set(faults);
        }
        injector
    }

    /// Replaces the faults. Datagrams that are held already stay delayed. Logs a warning, so that nobody takes these faults
    /// for real ones.
    pub(super) fn set(&mut self, mut faults: Faults) {
        let node = &self.node;
        if faults.is_inactive() {
            warn!(node, event = "faults", "faults are off: this node sends normally again");
        } else {
            let seed = *faults.seed.get_or_insert_with(|| self.rng.random());
            self.rng = Xoshiro256PlusPlus::seed_from_u64(seed);
            warn!(
                node,
                event = "faults",
                %faults,
                "faults are on, for tests only: what this node sends suffers {faults}; to start without them, unset \
                 `faults`"
            );
        }
        self.faults = faults;
    }

    /// The faults, if there are any now.
    pub(super) fn faults(&self) -> Option<&Faults> {
        Some(&self.faults).filter(|faults| !faults.is_inactive())
    }

    /// Takes a datagram, to be lost, duplicated or delayed.
    pub(super) fn send(&mut self, now: Instant, transmit: Transmit) {
        self.counts.datagrams += 1;
        for delay in draw_delays(&self.faults, &mut self.rng, &mut self.counts).into_iter().flatten() {
            let size = transmit.payload.len() + OVERHEAD;
            if self.held_bytes + size > MAX_HELD {
                self.counts.crowded_out += 1;
                continue;
            }
            self.held_bytes += size;
            self.copies += 1;
            self.held.insert((now + delay, self.copies), transmit.clone());
        }
    }

    /// A datagram that is due.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Transmit> {
        let first = self.held.first_entry().filter(|first| first.key().0 <= now)?;
        let transmit = first.remove();
        self.held_bytes -= transmit.payload.len() + OVERHEAD;
        Some(transmit)
    }

    /// When the next one is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.held.first_key_value().map(|((due, _), _)| *due)
    }
}

impl Drop for FaultInjector {
    fn drop(&mut self) {
        let Counts { datagrams, lost, duplicated, crowded_out } = self.counts;
        if datagrams == 0 {
            return;
        }
        warn!(
            node = self.node,
            event = "faults",
            datagrams,
            lost,
            duplicated,
            crowded_out,
            "of {datagrams} datagrams, {lost} were lost and {duplicated} sent twice on purpose; \
             {crowded_out} more were lost because too many were held back"
        );
    }
}

/// The delay of each copy of a datagram: none if it is lost, two if it is duplicated.
fn draw_delays(faults: &Faults, rng: &mut impl RngExt, counts: &mut Counts) -> [Option<Duration>; 2] {
    if rng.random_bool(faults.loss) {
        counts.lost += 1;
        return [None, None];
    }
    let twice = rng.random_bool(faults.duplicate);
    counts.duplicated += u64::from(twice);
    [true, twice].map(|sent| sent.then(|| rng.random_range(faults.delay.clone())))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn injector(faults: &str) -> FaultInjector {
        FaultInjector::new("node1", faults.parse().expect("faults"), 1)
    }

    fn transmit(payload: impl Into<Bytes>) -> Transmit {
        Transmit { to: "127.0.0.1:7946".parse().expect("an address"), payload: payload.into() }
    }

    /// Sends so many at once, and gives which arrive after how many microseconds.
    fn arrivals(injector: &mut FaultInjector, count: u32) -> Vec<(u32, u128)> {
        let start = Instant::now();
        for i in 0..count {
            injector.send(start, transmit(i.to_be_bytes().to_vec()));
        }
        let mut arrived = Vec::new();
        while let Some(due) = injector.poll_timeout() {
            while let Some(transmit) = injector.poll(due) {
                let i = u32::from_be_bytes(transmit.payload[..].try_into().expect("four bytes"));
                arrived.push((i, (due - start).as_micros()));
            }
        }
        arrived
    }

    #[test]
    fn rates_are_those_asked_for() {
        const COUNT: u32 = 100_000;
        let mut injector = injector("loss=0.3,duplicate=0.05,delay=5ms..50ms");
        let arrived = arrivals(&mut injector, COUNT);
        let Counts { datagrams, lost, duplicated, crowded_out } = injector.counts;
        assert_eq!((datagrams, crowded_out), (u64::from(COUNT), 0));
        assert_eq!(arrived.len() as u64, datagrams - lost + duplicated);
        assert_eq!(injector.held_bytes, 0);

        // Within five standard deviations of what is expected: sqrt(n p (1 - p)), and for an even spread
        // of width w, w / sqrt(12 n).
        let near = |what: &str, value: f64, expected: f64, deviation: f64| {
            assert!((value - expected).abs() < 5.0 * deviation, "{what}: {value}, not {expected}");
        };
        near("lost", lost as f64, 30_000.0, 145.0);
        near("duplicated", duplicated as f64, 3_500.0, 58.0);
        let delays = arrived.iter().map(|(_, delay)| *delay as f64);
        near("delay", delays.sum::<f64>() / arrived.len() as f64, 27_500.0, 48.0);
        let (first, last) = (arrived[0].1, arrived[arrived.len() - 1].1);
        assert!((5_000..5_100).contains(&first) && (49_900..=50_000).contains(&last), "{first} to {last}");
        assert!(!arrived.is_sorted_by_key(|(i, _)| *i), "a range reorders");
    }

    #[test]
    fn without_a_delay_all_goes_at_once_in_order_and_copies_stay_two() {
        let arrived = arrivals(&mut injector("duplicate=1"), 3);
        assert_eq!(arrived, [(0, 0), (0, 0), (1, 0), (1, 0), (2, 0), (2, 0)]);
        assert_eq!(arrivals(&mut injector("delay=7ms"), 2), [(0, 7000), (1, 7000)]);
        assert_eq!(arrivals(&mut injector("loss=1"), 100), []);
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let run =
            |seed: u64| arrivals(&mut injector(&format!("loss=0.5,duplicate=0.5,delay=0ms..9ms,seed={seed}")), 100);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn faults_change_and_what_was_held_back_still_comes() {
        let (mut injector, now) = (injector("ready"), Instant::now());
        assert_eq!(injector.faults(), None);
        injector.set("delay=1s".parse().expect("faults"));
        assert!(injector.faults().is_some_and(|faults| faults.seed.is_some()), "they can be repeated");
        injector.send(now, transmit("held back"));
        injector.set(Faults::default());
        assert_eq!((injector.faults(), injector.poll_timeout()), (None, Some(now + Duration::from_secs(1))));
        assert!(injector.poll(now + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn what_is_held_back_is_bounded() {
        let mut injector = injector("delay=1s");
        let (now, datagram) = (Instant::now(), transmit(vec![0; 1 << 16]));
        for _ in 0..1000 {
            injector.send(now, datagram.clone());
        }
        assert!(injector.held_bytes <= MAX_HELD && injector.held.len() > 500, "{} held", injector.held.len());
        assert_eq!(injector.counts.crowded_out, 1000 - injector.held.len() as u64);
        while injector.poll(now + Duration::from_secs(1)).is_some() {}
        assert_eq!(injector.held_bytes, 0);
    }
}
