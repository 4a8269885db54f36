//! How slow members disturb failure detection: the two experiments of the Lifeguard paper (Dadgar, Phillips, Currey:
//! arXiv 1707.00788, section V), for plain SWIM, for the parts of Lifeguard, and for the node as it is shipped.
//!
//! A slow member's messages are blocked: what arrives waits in a bounded buffer, and so does what it sends, while its time goes
//! on. Then it handles all of them at once. So it gets no answers, although the fault is its own. (A process that is stopped
//! altogether, with its clock, does no harm: it waits for few answers, and finds them when it goes on.)
//!
//! | experiment | what happens | what is measured |
//! |---|---|---|
//! | *interval* | some members are blocked, run for a moment, and are blocked again, for two minutes | false positives: members that were never blocked are declared dead |
//! | *threshold* | some members are blocked once | how long it takes until one healthy member, and until every one, has declared them dead |
//!
//! As in the paper, each declaration counts. Harmful are those by members that are not slow themselves (the paper's FP-); the
//! others stay where they were made.
//!
//! From the paper are the two experiments, 128 members, the pace (memberlist's LAN preset), and `α` = 5
//! (`suspicion_mult`) with `β` = 6 (`suspicion_max_timeout_mult`) for Lifeguard and 1 for plain SWIM. The two minutes, and the
//! numbers of slow members, durations and intervals, are not checked against the paper's tables.

use std::{sync::atomic::Ordering, time::Duration};

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::{Value, json};

use super::{
    batch::in_parallel,
    link::LinkConditions,
    network::{BootOptions, HostId, Network, host_name},
    run::RunControl,
};
use crate::{
    Event,
    config::{Profile, Tuning},
    membership::NodeName,
};

/// How many members there are, as in the paper.
pub const MEMBERS: usize = 128;
/// How many members are slow.
const SLOW: usize = 8;
/// The smallest number of members: with fewer, most would be slow.
pub const MIN_MEMBERS: usize = 2 * SLOW;
/// How long they are blocked, in milliseconds.
const BLOCKED: [u64; 2] = [8_192, 32_768];
/// How long they run in between, in milliseconds.
const BETWEEN: [u64; 2] = [64, 4_096];
/// How long they are slow.
const SLOW_FOR: Duration = Duration::from_secs(120);
/// How long the members run undisturbed before and after.
const QUIET: Duration = Duration::from_secs(15);

/// A configuration to compare.
struct Variant {
    name: &'static str,
    tuning: Tuning,
}

/// Plain SWIM first, the node as it is shipped last.
fn variants() -> [Variant; 5] {
    let shipped = Profile::Lan.tuning();
    let lifeguard = Tuning { suspicion_mult: 5, ..shipped.clone() };
    let swim = Tuning { awareness_max_multiplier: 1, suspicion_max_timeout_mult: 1, buddy: false, ..lifeguard.clone() };
    let (probe, suspicion) = (lifeguard.awareness_max_multiplier, lifeguard.suspicion_max_timeout_mult);
    [
        ("plain SWIM", swim.clone()),
        ("+ local health", Tuning { awareness_max_multiplier: probe, ..swim.clone() }),
        ("+ shrinking suspicion", Tuning { suspicion_max_timeout_mult: suspicion, ..swim }),
        ("all three (Lifeguard)", lifeguard),
        ("broadcast, as shipped", shipped),
    ]
    .map(|(name, tuning)| Variant { name, tuning })
}

/// How many members are slow, and when.
#[derive(Clone, Copy, Debug)]
struct SlowPeriods {
    count: usize,
    blocked: Duration,
    /// How long they run until they are blocked again; `None` if they are blocked once.
    between: Option<Duration>,
    /// How long blocks recur; it ends with the last block.
    lasts: Duration,
}

/// Both experiments.
fn experiments() -> Vec<SlowPeriods> {
    let [short, long] = BLOCKED.map(Duration::from_millis);
    let mut all = vec![SlowPeriods { count: SLOW, blocked: long, between: None, lasts: long }];
    for blocked in [short, long] {
        for between in BETWEEN.map(Duration::from_millis) {
            all.push(SlowPeriods { count: SLOW, blocked, between: Some(between), lasts: SLOW_FOR });
        }
    }
    all
}

/// How well a variant detects failures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct DetectionStats {
    /// How often members that were not slow were declared dead.
    false_positives: u64,
    /// How many of these declarations came from members that were not slow either.
    at_healthy: u64,
    /// The times from a member's block until the first healthy member declared it dead, and until all had.
    first: Vec<Duration>,
    all: Vec<Duration>,
    /// Members that were blocked once, for long, and not declared dead by all.
    missed: u64,
}

impl DetectionStats {
    fn add(&mut self, other: Self) {
        self.false_positives += other.false_positives;
        self.at_healthy += other.at_healthy;
        self.first.extend(other.first);
        self.all.extend(other.all);
        self.missed += other.missed;
    }
}

struct Trial<'a> {
    net: Network,
    control: &'a RunControl,
    is_slow: Vec<bool>,
    /// When each healthy member first declared a slow one dead.
    noticed: Vec<Vec<Option<Duration>>>,
    stats: DetectionStats,
}

/// Runs one experiment with one variant.
fn run(members: usize, tuning: &Tuning, periods: SlowPeriods, seed: u64, control: &RunControl) -> DetectionStats {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut net = Network::new(rng.random(), LinkConditions::default());
    for host in 0..members {
        net.add_host(&host_name(host), Network::address(host as u32 + 1));
    }
    let cohort = net.cohort(members);
    for host in 0..members {
        net.boot(host, &BootOptions { cohort: Some(&cohort), ..BootOptions::new(tuning) });
    }
    let mut order: Vec<HostId> = (0..members).collect();
    let (slow, _) = order.partial_shuffle(&mut rng, periods.count);
    let mut is_slow = vec![false; members];
    slow.iter().for_each(|host| is_slow[*host] = true);
    let noticed = vec![vec![None; members]; members];
    let mut trial = Trial { net, control, is_slow, noticed, stats: DetectionStats::default() };
    trial.run(slow, periods);
    trial.stats
}

impl Trial<'_> {
    fn run(&mut self, slow: &[HostId], SlowPeriods { blocked, between, lasts, .. }: SlowPeriods) {
        self.advance(QUIET);
        let begin = self.net.elapsed();
        loop {
            slow.iter().for_each(|host| self.net.mute(*host));
            self.advance(blocked);
            slow.iter().for_each(|host| self.net.unmute(*host));
            let Some(between) = between else { break };
            if self.net.elapsed() - begin >= lasts || self.control.stop.load(Ordering::Relaxed) {
                break;
            }
            self.advance(between);
        }
        self.advance(QUIET);
        if between.is_none() {
            self.measure_detection(slow, begin);
        }
    }

    fn advance(&mut self, time: Duration) {
        let end = self.net.elapsed() + time;
        let mut notifications = Vec::new();
        while !self.control.stop.load(Ordering::Relaxed) && self.net.step(end).is_some() {
            self.net.drain_notifications(&mut notifications);
            for (host, event) in notifications.drain(..) {
                if let Err(Event::Failed(member)) = event {
                    self.notice(host, &member.name);
                }
            }
        }
        self.control.simulated.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }

    fn notice(&mut self, host: HostId, failed: &NodeName) {
        let failed = (0..self.is_slow.len()).find(|other| self.net.name(*other) == failed).expect("one of the hosts");
        if !self.is_slow[failed] {
            self.stats.false_positives += 1;
            self.stats.at_healthy += u64::from(!self.is_slow[host]);
        } else if !self.is_slow[host] {
            self.noticed[failed][host].get_or_insert(self.net.elapsed());
        }
    }

    /// Measures how long it took to detect the members that were blocked.
    fn measure_detection(&mut self, slow: &[HostId], begin: Duration) {
        for failed in slow {
            let healthy = (0..self.is_slow.len()).filter(|host| !self.is_slow[*host]);
            let noticed: Vec<Option<Duration>> = healthy.map(|host| self.noticed[*failed][host]).collect();
            self.stats.first.extend(noticed.iter().flatten().min().map(|at| *at - begin));
            match noticed.into_iter().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max()) {
                Some(last) => self.stats.all.push(last - begin),
                None => self.stats.missed += 1,
            }
        }
    }
}

/// The results of all variants. [`compare`] makes one.
#[derive(Debug)]
pub struct LifeguardReport {
    rows: Vec<(&'static str, DetectionStats)>,
}

/// How many runs [`compare`] makes for so many seeds.
#[must_use]
pub fn runs(seeds: usize) -> usize {
    variants().len() * experiments().len() * seeds
}

/// Runs both experiments for each variant and seed.
///
/// ```no_run
/// use broadcast::sim::{RunControl, lifeguard};
///
/// let report = lifeguard::compare(lifeguard::MEMBERS, [1], &RunControl::default());
/// println!("{}", report.table());
/// ```
pub fn compare(members: usize, seeds: impl IntoIterator<Item = u64>, control: &RunControl) -> LifeguardReport {
    let (variants, experiments, seeds) = (variants(), experiments(), Vec::from_iter(seeds));
    // All variants of an experiment one after the other, so that the results compare if the runs are stopped.
    let jobs: Vec<_> =
        experiments.iter().flat_map(|experiment| seeds.iter().map(move |seed| (*experiment, *seed))).collect();
    let results = in_parallel(jobs.len() * variants.len(), control, |index| {
        let ((experiment, seed), variant) = (jobs[index / variants.len()], index % variants.len());
        let stats = run(members, &variants[variant].tuning, experiment, seed, control);
        (variant, stats)
    });
    let mut rows: Vec<_> = variants.iter().map(|variant| (variant.name, DetectionStats::default())).collect();
    for (variant, stats) in results {
        rows[variant].1.add(stats);
    }
    for (_, stats) in &mut rows {
        stats.first.sort_unstable();
        stats.all.sort_unstable();
    }
    LifeguardReport { rows }
}

/// A quantile of sorted times.
fn quantile(times: &[Duration], share: f64) -> Option<Duration> {
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.max(1) - 1).copied()
}

impl LifeguardReport {
    /// The results as a table, with a row for each variant.
    #[must_use]
    pub fn table(&self) -> String {
        let percent = |of: u64, all: u64| match all {
            0 => "–".to_owned(),
            all => format!("{:.2} %", of as f64 / all as f64 * 100.0),
        };
        let seconds = |times: &[Duration]| {
            let time =
                |share| quantile(times, share).map_or("–".to_owned(), |time| format!("{:.1}", time.as_secs_f64()));
            [0.5, 0.99, 0.999].map(time).join(" / ")
        };
        let base = self.rows.first().map_or((0, 0), |(_, stats)| (stats.false_positives, stats.at_healthy));
        let head = ["", "FP", "of SWIM's", "FP-", "of SWIM's", "first detection, s", "known to all, s", "missed"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.rows.iter().map(|(name, stats)| {
            vec![
                (*name).to_owned(),
                stats.false_positives.to_string(),
                percent(stats.false_positives, base.0),
                stats.at_healthy.to_string(),
                percent(stats.at_healthy, base.1),
                seconds(&stats.first),
                seconds(&stats.all),
                stats.missed.to_string(),
            ]
        }));
        super::outcome::aligned(&rows)
    }

    /// The results as `broadcast sim --lifeguard --json` prints them.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let ms = |times: &[Duration]| {
            let time = |share| quantile(times, share).map(|time| time.as_secs_f64() * 1000.0);
            json!({ "p50": time(0.5), "p99": time(0.99), "p999": time(0.999) })
        };
        let rows = self.rows.iter().map(|(name, stats)| {
            json!({
                "name": name, "false_positives": stats.false_positives,
                "false_positives_at_healthy": stats.at_healthy, "first_detection_ms": ms(&stats.first),
                "known_to_all_ms": ms(&stats.all), "missed": stats.missed,
            })
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With fewer members than in the paper and for a shorter time, to be fast.
    fn stats(tuning: &Tuning, blocked: u64, between: Option<u64>) -> DetectionStats {
        let (blocked, between) = (Duration::from_millis(blocked), between.map(Duration::from_millis));
        let periods = SlowPeriods { count: SLOW, blocked, between, lasts: Duration::from_secs(33) };
        let mut stats = run(64, tuning, periods, 1, &RunControl::default());
        stats.first.sort_unstable();
        stats.all.sort_unstable();
        stats
    }

    #[test]
    fn slow_members_mislead_plain_swim_and_hardly_ours() {
        let [swim, .., shipped] = variants();
        let [swim, shipped] = [&swim, &shipped].map(|variant| stats(&variant.tuning, 16_384, Some(64)));
        assert!(swim.at_healthy >= 100, "nothing to compare with: {swim:?}");
        assert!(shipped.false_positives * 50 <= swim.false_positives, "{shipped:?}, plain SWIM: {swim:?}");
        assert!(shipped.at_healthy * 50 <= swim.at_healthy, "{shipped:?}, plain SWIM: {swim:?}");
    }

    #[test]
    fn who_is_gone_is_found_no_later_than_by_plain_swim() {
        let [swim, .., shipped] = variants();
        let [swim, shipped] = [&swim, &shipped].map(|variant| stats(&variant.tuning, 32_768, None));
        for stats in [&swim, &shipped] {
            assert_eq!((stats.first.len(), stats.missed), (SLOW, 0), "{stats:?}");
        }
        for (ours, theirs) in [(&shipped.first, &swim.first), (&shipped.all, &swim.all)] {
            assert!(quantile(ours, 0.5) <= quantile(theirs, 0.5), "{shipped:?}, plain SWIM: {swim:?}");
        }
    }
}
