//! Whole runs: random scenarios with faults, a large cluster, and that a seed says all.
//!
//! `BROADCAST_SIM_SEED=17 cargo test --lib sim::tests::random` runs the random scenario of that seed alone.

use std::{env, fmt::Write as _, time::Duration};

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{checker::Promises, run::run, *};

/// How many random scenarios are run.
const RANDOM: u64 = 200;

fn scenario(text: &str) -> Scenario {
    Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A scenario with faults, of up to 50 nodes.
fn random(seed: u64) -> (Scenario, usize) {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let size: usize = rng.random_range(3..=50);
    let one_of = |rng: &mut Xoshiro256PlusPlus, texts: &[&'static str]| texts[rng.random_range(0..texts.len())];
    let start = one_of(&mut rng, &["join", "acquainted"]);
    let mut text = format!("sizes = [{size}]\nstart = \"{start}\"\nduration = \"12s\"\nsettle = \"60s\"\n");
    let delay = one_of(&mut rng, &["1ms", "100us..5ms", "lognormal(2ms, 0.8)", "normal(20ms, 5ms)", "1ms..80ms"]);
    let [loss, duplicate, reorder] = [0.3, 0.1, 0.2].map(|most| rng.random_range(0.0..most));
    let _ = writeln!(text, "[network]\ndelay = \"{delay}\"\nstream_timeout = \"5s\"");
    let _ = writeln!(text, "loss = {loss:.3}\nduplicate = {duplicate:.3}\nreorder = {reorder:.3}");
    let (publishers, rate) = (rng.random_range(1..=size.min(5)), rng.random_range(0.5..4.0));
    let value = rng.random_range(24..400);
    let _ = writeln!(text, "[workload]\npublishers = {publishers}\nrate = {rate:.2}\nsize = {value}");
    for _ in 0..rng.random_range(0..=4) {
        let (at, lasts) = (rng.random_range(0..12), rng.random_range(1..10));
        let fault = one_of(
            &mut rng,
            &[
                "partition\"\nshare = 0.4",
                "partition\"\none_way = true\nshare = 0.3",
                "pause\"\nshare = 0.2",
                "restart\"\nshare = 0.1",
                "restart\"\nnew_address = true",
                "leave\"",
                "join\"\ncount = 2",
                "clock\"\nstep = -5",
                "clock\"\nstep = 3600",
                "loss\"\nloss = 0.4",
            ],
        );
        let _ = writeln!(text, "[[fault]]\nkind = \"{fault}\nat = \"{at}s\"\nfor = \"{lasts}s\"");
    }
    if rng.random_bool(0.3) {
        let _ = writeln!(text, "[[fault]]\nkind = \"crash\"\nat = \"5s\"");
    }
    // A process that hangs for long may be cut loose, and is told what it missed.
    let _ = writeln!(text, "[expect]\nmissed = 1000000");
    // In the smallest clusters a crash would leave nobody to come back to.
    let text = if size <= 4 { text.replace("\"crash\"", "\"restart\"") } else { text };
    (scenario(&text), size)
}

fn check(outcome: &Outcome, again: &str) {
    assert!(outcome.is_good(), "{:?}, {:?}\nrun it again: {again}", outcome.end, outcome.short);
}

#[test]
fn random_scenarios_break_no_promise() {
    let seeds = match env::var("BROADCAST_SIM_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("BROADCAST_SIM_SEED is a number");
            println!("{:#?}", random(seed));
            seed..=seed
        }
        Err(_) => 1..=RANDOM,
    };
    let scenarios: Vec<_> = seeds.map(|seed| (seed, random(seed))).collect();
    let jobs = scenarios.iter().map(|(seed, (scenario, size))| Job { scenario, size: *size, seed: *seed });
    let outcomes = Batch::new(jobs.collect()).run(&Control::default());
    let bad: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_good()).collect();
    for outcome in &bad {
        println!("seed {}: {:?}, {:?}", outcome.seed, outcome.end, outcome.short);
    }
    if let Some(first) = bad.first() {
        let seed = first.seed;
        check(first, &format!("BROADCAST_SIM_SEED={seed} cargo test --lib sim::tests::random"));
    }
}

/// A third of them is cut off for longer than anybody is kept for: what is missing is told, and nothing is
/// skipped.
#[test]
fn a_long_absence_skips_nothing_in_silence() {
    let text = "sizes = [6]\nprofile = \"lan\"\nduration = \"180s\"\nsettle = \"60s\"\n[workload]\npublishers = 6\nrate = 5\n\
        [[fault]]\nkind = \"partition\"\nshare = 0.34\nat = \"10s\"\nfor = \"150s\"\n[expect]\nmissed = 1000000";
    let scenario = scenario(text);
    for seed in 1..4 {
        check(&run(&scenario, 6, seed, &Control::default()), "cargo test --lib sim::tests::a_long_absence");
    }
}

/// How long this thread has been computing, where the system tells: what else the machine does must not
/// make a test fail.
fn computed() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[test]
fn a_thousand_nodes_hear_everything() {
    let text = "sizes = [1000]\nstart = \"acquainted\"\nduration = \"3s\"\n[network]\nloss = 0.05\n\
        [workload]\npublishers = 2\nrate = 1\n[tuning]\ncompression = false\n[expect]\nreach = 0.999";
    let scenario = scenario(text);
    let before = computed();
    let outcome = run(&scenario, 1000, 1, &Control::default());
    let took = computed().zip(before).map_or(outcome.took, |(after, before)| after - before);
    check(&outcome, "cargo test --lib sim::tests::a_thousand");
    assert!(outcome.figures.published > 0, "{outcome:?}");
    assert!(took < Duration::from_secs(20), "it took {took:?}");
}

#[test]
fn the_same_seed_gives_the_same_run_byte_for_byte() {
    for seed in [3, 4, 5] {
        let (scenario, size) = random(seed);
        let [one, other] = [0, 1].map(|_| run(&scenario, size, seed, &Control::default()));
        assert_eq!((one.steps, one.digest), (other.steps, other.digest), "seed {seed}");
        assert_eq!(one.to_json()["held"], other.to_json()["held"]);
        let different = run(&scenario, size, seed + 1000, &Control::default());
        assert_ne!(one.digest, different.digest);
    }
}

#[test]
fn a_run_stops_at_the_step_it_is_to_stop_at_and_tells_the_last() {
    let (scenario, size) = random(3);
    let control = Control { until_step: Some(500), ..Control::default() };
    let outcome = run(&scenario, size, 3, &control);
    assert_eq!((&outcome.end, outcome.steps), (&End::Stopped, 500));
    assert_eq!(outcome.trace.len(), 40);
    assert!(outcome.trace[39].starts_with("step 499, "), "{}", outcome.trace[39]);
}

/// A network that loses everything breaks a promise of completeness, if there is one.
#[test]
fn what_is_promised_and_not_kept_is_a_violation() {
    let text = "sizes = [5]\nstart = \"acquainted\"\nduration = \"3s\"\nsettle = \"1s\"\n\
        [workload]\npublishers = 1\n[[fault]]\nkind = \"loss\"\nat = \"1ms\"\nfor = \"10s\"\nloss = 1\n";
    let scenario = scenario(text);
    let mut control = Control { promises: Some(Promises { complete: true, ordered: true }), ..Control::default() };
    // Without time to repair it, so that no protocol could.
    let mut hopeless = scenario.clone();
    hopeless.settle = Duration::from_millis(1);
    let outcome = run(&hopeless, 5, 1, &control);
    let End::Violated(Violation { what, step, .. }) = &outcome.end else { panic!("{outcome:?}") };
    assert!(what.contains("lacks"), "{what}");
    // The command that is printed to repeat it does so, and shows what led to it.
    control.until_step = Some(*step);
    let again = run(&hopeless, 5, 1, &control);
    assert_eq!(again.end, outcome.end);
    assert!(!again.trace.is_empty());
    control.until_step = None;
    control.promises = Some(Promises { complete: false, ordered: false });
    assert_eq!(run(&scenario, 5, 1, &control).end, End::Finished);
}

#[test]
fn a_stopped_batch_ends_at_once_and_gives_what_is_done() {
    let (scenario, size) = random(3);
    let control = Control::default();
    control.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(Batch::new(vec![Job { scenario: &scenario, size, seed: 1 }]).run(&control).is_empty());
}
