//! Faults done on purpose to what a node sends, on its way to the real socket.
//!
//! A layer between the event loop and the UDP socket, as smoltcp's `fault_injector` is one between its
//! interface and its device: every datagram goes in by [`Faulty::send`], and what is left of it, as many
//! copies as that is and when their time has come, comes out by [`Faulty::poll`].

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use tracing::warn;

use crate::{Faults, node::Transmit};

/// What is held back at most, in bytes; what comes beyond is lost.
const MAX_HELD: usize = 32 << 20;
/// What a datagram costs beside its bytes.
const OVERHEAD: usize = 128;

/// See the [module](self).
pub(super) struct Faulty {
    node: String,
    faults: Faults,
    rng: Xoshiro256PlusPlus,
    /// By when they are due and, of those due at a time, in the order in which they came.
    held: BTreeMap<(Instant, u64), Transmit>,
    held_bytes: usize,
    copies: u64,
    counts: Counts,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    datagrams: u64,
    lost: u64,
    duplicated: u64,
    /// Copies for which there was no room.
    crowded_out: u64,
}

impl Faulty {
    /// `seed` counts where the faults have none, now or later.
    pub(super) fn new(node: &str, faults: Faults, seed: u64) -> Self {
        let mut faulty = Self {
            node: node.to_owned(),
            faults: Faults::default(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            held: BTreeMap::new(),
            held_bytes: 0,
            copies: 0,
            counts: Counts::default(),
        };
        if !faults.at_rest() {
            faulty.set(faults);
        }
        faulty
    }

    /// From now on these are the faults; what is held back stays so. Tells of it: nobody shall take these faults
    /// for real ones.
    pub(super) fn set(&mut self, mut faults: Faults) {
        let node = &self.node;
        if faults.at_rest() {
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

    /// What is suffered, if anything is.
    pub(super) fn faults(&self) -> Option<&Faults> {
        Some(&self.faults).filter(|faults| !faults.at_rest())
    }

    /// Takes a datagram that is to be sent.
    pub(super) fn send(&mut self, now: Instant, transmit: Transmit) {
        self.counts.datagrams += 1;
        for delay in fate(&self.faults, &mut self.rng, &mut self.counts).into_iter().flatten() {
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

impl Drop for Faulty {
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

/// For how long each copy of a datagram is held back; no copy, no delay.
fn fate(faults: &Faults, rng: &mut impl RngExt, counts: &mut Counts) -> [Option<Duration>; 2] {
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

    fn faulty(faults: &str) -> Faulty {
        Faulty::new("node1", faults.parse().expect("faults"), 1)
    }

    fn transmit(payload: impl Into<Bytes>) -> Transmit {
        Transmit { to: "127.0.0.1:7946".parse().expect("an address"), payload: payload.into() }
    }

    /// Sends so many at once, and gives which arrive after how many microseconds.
    fn arrivals(faulty: &mut Faulty, count: u32) -> Vec<(u32, u128)> {
        let start = Instant::now();
        for i in 0..count {
            faulty.send(start, transmit(i.to_be_bytes().to_vec()));
        }
        let mut arrived = Vec::new();
        while let Some(due) = faulty.poll_timeout() {
            while let Some(transmit) = faulty.poll(due) {
                let i = u32::from_be_bytes(transmit.payload[..].try_into().expect("four bytes"));
                arrived.push((i, (due - start).as_micros()));
            }
        }
        arrived
    }

    #[test]
    fn rates_are_those_asked_for() {
        const COUNT: u32 = 100_000;
        let mut faulty = faulty("loss=0.3,duplicate=0.05,delay=5ms..50ms");
        let arrived = arrivals(&mut faulty, COUNT);
        let Counts { datagrams, lost, duplicated, crowded_out } = faulty.counts;
        assert_eq!((datagrams, crowded_out), (u64::from(COUNT), 0));
        assert_eq!(arrived.len() as u64, datagrams - lost + duplicated);
        assert_eq!(faulty.held_bytes, 0);

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
        let arrived = arrivals(&mut faulty("duplicate=1"), 3);
        assert_eq!(arrived, [(0, 0), (0, 0), (1, 0), (1, 0), (2, 0), (2, 0)]);
        assert_eq!(arrivals(&mut faulty("delay=7ms"), 2), [(0, 7000), (1, 7000)]);
        assert_eq!(arrivals(&mut faulty("loss=1"), 100), []);
    }

    #[test]
    fn the_same_seed_makes_the_same_choices() {
        let run = |seed: u64| arrivals(&mut faulty(&format!("loss=0.5,duplicate=0.5,delay=0ms..9ms,seed={seed}")), 100);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn faults_change_and_what_was_held_back_still_comes() {
        let (mut faulty, now) = (faulty("ready"), Instant::now());
        assert_eq!(faulty.faults(), None);
        faulty.set("delay=1s".parse().expect("faults"));
        assert!(faulty.faults().is_some_and(|faults| faults.seed.is_some()), "they can be repeated");
        faulty.send(now, transmit("held back"));
        faulty.set(Faults::default());
        assert_eq!((faulty.faults(), faulty.poll_timeout()), (None, Some(now + Duration::from_secs(1))));
        assert!(faulty.poll(now + Duration::from_secs(1)).is_some());
    }

    #[test]
    fn what_is_held_back_is_bounded() {
        let mut faulty = faulty("delay=1s");
        let (now, datagram) = (Instant::now(), transmit(vec![0; 1 << 16]));
        for _ in 0..1000 {
            faulty.send(now, datagram.clone());
        }
        assert!(faulty.held_bytes <= MAX_HELD && faulty.held.len() > 500, "{} held", faulty.held.len());
        assert_eq!(faulty.counts.crowded_out, 1000 - faulty.held.len() as u64);
        while faulty.poll(now + Duration::from_secs(1)).is_some() {}
        assert_eq!(faulty.held_bytes, 0);
    }
}
