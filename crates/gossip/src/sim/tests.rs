//! Whole runs: random scenarios with faults, a large cluster, and determinism.
//!
//! `BROADCAST_SIM_SEED=17 cargo test --lib sim::tests::random` runs the random scenario of that seed alone.

use std::{env, time::Duration};

use super::{checker::Guarantees, run::run, *};

/// How many random scenarios are run.
const RANDOM_SEEDS: u64 = 100;
/// Seeds of random scenarios that have found errors.
const REGRESSIONS: [u64; 13] = [189, 2272, 2825, 3052, 3056, 3216, 3381, 5040, 5416, 5726, 5882, 5938, 6449];

fn scenario(text: &str) -> Scenario {
    Scenario::parse("test", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// A random scenario of up to 50 nodes with short faults.
fn large(seed: u64) -> (Scenario, usize) {
    let scenario = scenario(&random::large(seed));
    let size = scenario.sizes[0];
    (scenario, size)
}

fn check(outcome: &RunOutcome, again: &str) {
    assert!(outcome.is_good(), "{:?}, {:?}\nrun it again: {again}", outcome.end, outcome.unmet);
}

/// Runs the wanted random scenarios, or the one that the environment names.
fn run_random(wanted: impl Fn(u64) -> bool) {
    let seeds = match env::var("BROADCAST_SIM_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("BROADCAST_SIM_SEED is a number");
            println!("{}", RandomScenario::of(seed).text);
            vec![seed]
        }
        Err(_) => (1..=RANDOM_SEEDS).chain(REGRESSIONS).collect(),
    };
    let scenarios: Vec<_> = seeds.into_iter().filter(|seed| wanted(*seed)).map(RandomScenario::of).collect();
    run_all(scenarios.iter().map(RandomScenario::job).collect(), |outcome| {
        let seed = outcome.seed;
        let program = format!("broadcast sim --random 1 --seed {seed}");
        format!("BROADCAST_SIM_SEED={seed} cargo test --lib sim::tests::random, or {program}")
    });
}

/// Runs all jobs, and prints how to repeat each run that went wrong.
fn run_all(jobs: Vec<Job<'_>>, repeat: impl Fn(&RunOutcome) -> String) {
    let outcomes = Batch::new(jobs).run(&RunControl::default());
    let bad: Vec<_> = outcomes.iter().filter(|outcome| !outcome.is_good()).collect();
    for outcome in &bad {
        let RunOutcome { scenario, size, seed, end, unmet, .. } = outcome;
        println!("{scenario}, {size} nodes, seed {seed}: {end:?}, {unmet:?}");
        println!("  run it again: {}", repeat(outcome));
    }
    assert!(bad.is_empty(), "{} of {} runs went wrong", bad.len(), outcomes.len());
}

/// A third of the nodes is cut off for longer than messages are kept for them: they are told what they missed.
#[test]
fn a_long_absence_skips_nothing_in_silence() {
    let text = "sizes = [6]\nprofile = \"lan\"\nduration = \"180s\"\nsettle = \"60s\"\n[workload]\npublishers = 6\nrate = 5\n\
        [[fault]]\nkind = \"partition\"\nshare = 0.34\nat = \"10s\"\nfor = \"150s\"\n[expect]\nmissed = 1000000";
    let scenario = scenario(text);
    for seed in 1..4 {
        check(&run(&scenario, 6, seed, &RunControl::default()), "cargo test --lib sim::tests::a_long_absence");
    }
}

#[test]
fn random_scenarios_break_no_promise() {
    run_random(RandomScenario::is_large);
}

#[test]
fn random_absences_and_real_networks_break_no_promise() {
    run_random(|seed| !RandomScenario::is_large(seed));
}

/// Scenarios that take too long or too much memory for a test.
const LARGE_SCENARIOS: [&str; 4] = ["lossy-50", "ten-thousand", "thousand", "rest"];

/// Runs the wanted scenarios among the shipped ones, at their smallest size.
fn run_shipped(wanted: impl Fn(&str) -> bool) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
    let files = std::fs::read_dir(folder).expect("the scenarios").map(|file| file.expect("a scenario").path());
    let texts = files.map(|path| (path.to_string_lossy().into_owned(), std::fs::read_to_string(path).expect("it")));
    let all = texts.map(|(path, text)| Scenario::parse(&path, &text).unwrap_or_else(|error| panic!("{error}")));
    let mut scenarios: Vec<Scenario> = all.filter(|scenario| wanted(&scenario.name)).collect();
    scenarios.sort_by(|one, other| one.name.cmp(&other.name));
    let jobs = scenarios.iter().flat_map(|scenario| {
        let size = scenario.sizes.iter().min().copied().expect("it has sizes");
        scenario.seeds.clone().map(move |seed| Job { scenario, size, seed })
    });
    run_all(jobs.collect(), |RunOutcome { scenario, size, seed, .. }| {
        format!("broadcast sim scenarios/{scenario}.toml --seed {seed} --size {size}")
    });
}

#[test]
fn scenarios_that_are_shipped_go_well() {
    run_shipped(|name| !LARGE_SCENARIOS.contains(&name));
}

/// The CPU time of this thread, if the system tells it: other programs must not make a test fail.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[test]
fn a_thousand_nodes_hear_everything() {
    let text = "sizes = [1000]\nstart = \"acquainted\"\nduration = \"3s\"\n[network]\nloss = 0.05\n\
        [workload]\npublishers = 2\nrate = 1\n[tuning]\ncompression = false\n[expect]\nreach = 0.999";
    let scenario = scenario(text);
    let before = cpu_time();
    let outcome = run(&scenario, 1000, 1, &RunControl::default());
    let took = cpu_time().zip(before).map_or(outcome.took, |(after, before)| after - before);
    check(&outcome, "cargo test --lib sim::tests::a_thousand");
    assert!(outcome.stats.published > 0, "{outcome:?}");
    assert!(took < Duration::from_secs(20), "it took {took:?}");
}

#[test]
fn the_same_seed_gives_the_same_run_byte_for_byte() {
    for seed in [3, 4, 5] {
        let (scenario, size) = large(seed);
        let [one, other] = [0, 1].map(|_| run(&scenario, size, seed, &RunControl::default()));
        assert_eq!((one.steps, one.digest), (other.steps, other.digest), "seed {seed}");
        assert_eq!(one.to_json()["held"], other.to_json()["held"]);
        let different = run(&scenario, size, seed + 1000, &RunControl::default());
        assert_ne!(one.digest, different.digest);
    }
}

#[test]
fn a_run_stops_at_the_step_it_is_to_stop_at_and_tells_the_last() {
    let (scenario, size) = large(3);
    let control = RunControl { until_step: Some(500), ..RunControl::default() };
    let outcome = run(&scenario, size, 3, &control);
    assert_eq!((&outcome.end, outcome.steps), (&RunEnd::Stopped, 500));
    assert_eq!(outcome.trace.len(), 40);
    assert!(outcome.trace[39].starts_with("step 499, "), "{}", outcome.trace[39]);
}

/// A network that loses everything breaks the guarantee of completeness, if there is one.
#[test]
fn what_is_promised_and_not_kept_is_a_violation() {
    let text = "sizes = [5]\nstart = \"acquainted\"\nduration = \"3s\"\nsettle = \"1s\"\n\
        [workload]\npublishers = 1\n[[fault]]\nkind = \"loss\"\nat = \"1ms\"\nfor = \"10s\"\nloss = 1\n";
    let scenario = scenario(text);
    let mut control =
        RunControl { guarantees: Some(Guarantees { complete: true, ordered: true }), ..RunControl::default() };
    // There is no time to repair it, for any protocol.
    let mut hopeless = scenario.clone();
    hopeless.settle = Duration::from_millis(1);
    let outcome = run(&hopeless, 5, 1, &control);
    let RunEnd::Violated(Violation { description, step, .. }) = &outcome.end else { panic!("{outcome:?}") };
    assert!(description.contains("lacks"), "{description}");
    // The printed command repeats the run, and shows what led to the violation.
    control.until_step = Some(*step);
    let again = run(&hopeless, 5, 1, &control);
    assert_eq!(again.end, outcome.end);
    assert!(!again.trace.is_empty());
    control.until_step = None;
    control.guarantees = Some(Guarantees { complete: false, ordered: false });
    assert_eq!(run(&scenario, 5, 1, &control).end, RunEnd::Finished);
}

#[test]
fn a_stopped_batch_ends_at_once_and_gives_what_is_done() {
    let (scenario, size) = large(3);
    let control = RunControl::default();
    control.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(Batch::new(vec![Job { scenario: &scenario, size, seed: 1 }]).run(&control).is_empty());
}
