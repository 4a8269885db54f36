//! Numbers for random tests, and which seeds they run.

use std::{
    cell::RefCell,
    io::{self, Write as _},
    panic,
    sync::Once,
};

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// A generator for tests: all it gives follows from the seed.
pub(crate) struct Random(Xoshiro256PlusPlus);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0.next_u64()
    }
}

thread_local! {
    /// How to repeat what runs on this thread.
    static REPEAT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs a test with each seed, or with that of `BROADCAST_TESTS_STORE_SEED`, or with those of `BROADCAST_TESTS_STORE_SEEDS`, as `1000` or
/// `1000..2000`; tells which one failed. It tells so while it panics: a simulation that panics in the middle of a step may hang
/// when its tasks are dropped.
pub(crate) fn seeds(name: &str, seeds: std::ops::Range<u64>, test: impl Fn(u64)) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            print(info);
            // Not by a macro: what that prints is kept until the test has ended.
            let _ = REPEAT.try_with(|repeat| writeln!(io::stderr(), "{}", repeat.borrow()));
        }));
    });
    let run = |seed: u64| {
        let (package, tests) = (env!("CARGO_PKG_NAME"), env!("CARGO_CRATE_NAME"));
        REPEAT.set(format!(
            "{name} fails with seed {seed}: BROADCAST_TESTS_STORE_SEED={seed} cargo test -p {package} --test {tests} {name}"
        ));
        test(seed);
        REPEAT.take();
    };
    let variable = |name: &str| std::env::var(name).ok();
    let number = |text: &str| -> u64 { text.parse().expect("a seed is a number") };
    match (variable("BROADCAST_TESTS_STORE_SEED"), variable("BROADCAST_TESTS_STORE_SEEDS")) {
        (Some(seed), _) => run(number(&seed)),
        (None, Some(many)) => {
            let (from, to) = many.split_once("..").unwrap_or(("0", &many));
            (number(from)..number(to)).for_each(run);
        }
        (None, None) => seeds.for_each(run),
    }
}
