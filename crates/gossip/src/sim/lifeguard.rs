//! Members that are slow for a time, and what the others make of it: the two experiments of the Lifeguard
//! paper (Dadgar, Phillips, Currey: arXiv 1707.00788, section V), for plain SWIM, for the parts of Lifeguard,
//! and for the node as it is shipped.
//!
//! A slow member's messages are blocked: what arrives waits in a bounded buffer, and so does what it sends,
//! while its time goes on; then all of it is worked off at once. So it finds that nobody answers it, though
//! the fault is its own. (A process that stops altogether, and its clock with it, does nobody harm: it has
//! few answers to wait for, and finds them first when it goes on.)
//!
//! | experiment | what happens | what is looked at |
//! |---|---|---|
//! | *interval* | some members are blocked, run for a moment, and are blocked again, for two minutes | false positives: members that were never blocked, declared dead |
//! | *threshold* | some members are blocked once | how long it takes until one healthy member, and until every one, has declared them dead |
//!
//! Counts are of events, as in the paper: each member that declares another dead counts. What harms are those
//! at members that are not slow themselves (the paper's FP-); the others are mistakes that stay where they
//! were made.
//!
//! From the paper are the two experiments, 128 members, the pace (memberlist's LAN preset), and `α` = 5
//! (`suspicion_mult`) with `β` = 6 (`suspicion_max_timeout_mult`) for Lifeguard and 1 for plain SWIM. The
//! two minutes, and the ranges that the numbers of slow members, durations and intervals are taken from, are
//! as remembered: its tables could not be looked up.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde_json::{Value, json};

use super::{
    batch::in_parallel,
    link::Link,
    network::{Advertises, Boot, HostId, Network},
    run::Control,
};
use crate::{
    Envelope, Event,
    config::{Profile, Retention, Tuning},
    membership::{Cohort, NodeName},
};

/// As many as in the paper.
pub const MEMBERS: usize = 128;
/// How many members are slow.
const SLOW: usize = 8;
/// With fewer members, most would be slow.
pub const FEWEST: usize = 2 * SLOW;
/// For how long they are blocked, in milliseconds.
const BLOCKED: [u64; 2] = [8_192, 32_768];
/// How long they run in between, in milliseconds.
const BETWEEN: [u64; 2] = [64, 4_096];
/// For how long.
const SLOW_FOR: Duration = Duration::from_secs(120);
/// How long the members run undisturbed before that, and after it.
const QUIET: Duration = Duration::from_secs(15);

/// A way to run a node.
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

/// Which members are slow, and when.
#[derive(Clone, Copy, Debug)]
struct Slowness {
    count: usize,
    blocked: Duration,
    /// How long they run until they are blocked again; never, if that is nothing.
    between: Option<Duration>,
    /// For how long they are blocked again and again; it ends when the last block does.
    lasts: Duration,
}

/// Both experiments.
fn experiments() -> Vec<Slowness> {
    let [short, long] = BLOCKED.map(Duration::from_millis);
    let mut all = vec![Slowness { count: SLOW, blocked: long, between: None, lasts: long }];
    for blocked in [short, long] {
        for between in BETWEEN.map(Duration::from_millis) {
            all.push(Slowness { count: SLOW, blocked, between: Some(between), lasts: SLOW_FOR });
        }
    }
    all
}

/// What came of a variant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Declarations of death of members that were not slow.
    false_positives: u64,
    /// Of these, at members that were not slow either.
    at_healthy: u64,
    /// From a member's being blocked until the first healthy member declared it dead, and until all had.
    first: Vec<Duration>,
    all: Vec<Duration>,
    /// Blocked once, for long, and not declared dead by all.
    missed: u64,
}

impl Tally {
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
    control: &'a Control,
    is_slow: Vec<bool>,
    /// When each healthy member first declared a slow one dead.
    noticed: Vec<Vec<Option<Duration>>>,
    tally: Tally,
}

fn name(host: HostId) -> String {
    format!("n{host}")
}

/// One experiment at one variant.
fn run(members: usize, tuning: &Tuning, slowness: Slowness, seed: u64, control: &Control) -> Tally {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut net = Network::new(rng.random(), Link::default());
    let hosts: Vec<HostId> =
        (0..members).map(|host| net.add_host(&name(host), Network::address(host as u32 + 1))).collect();
    let versions = crate::node::VERSIONS;
    let everybody = hosts.iter().map(|host| (net.name(*host).clone(), net.addr(*host).into(), versions));
    let cohort = Arc::new(Cohort::new(everybody));
    let limits = Retention::default();
    for host in hosts {
        net.boot(
            host,
            &Boot {
                seeds: &[],
                tuning,
                limits,
                envelope: Envelope::default(),
                replay: false,
                epoch: 1,
                advertises: Advertises::Fixed,
                acquainted: Some(&cohort),
            },
        );
    }
    let mut order: Vec<HostId> = (0..members).collect();
    let (slow, _) = order.partial_shuffle(&mut rng, slowness.count);
    let mut is_slow = vec![false; members];
    slow.iter().for_each(|host| is_slow[*host] = true);
    let noticed = vec![vec![None; members]; members];
    let mut trial = Trial { net, control, is_slow, noticed, tally: Tally::default() };
    trial.go(slow, slowness);
    trial.tally
}

impl Trial<'_> {
    fn go(&mut self, slow: &[HostId], Slowness { blocked, between, lasts, .. }: Slowness) {
        self.pass(QUIET);
        let begin = self.net.elapsed();
        loop {
            slow.iter().for_each(|host| self.net.mute(*host));
            self.pass(blocked);
            slow.iter().for_each(|host| self.net.unmute(*host));
            let Some(between) = between else { break };
            if self.net.elapsed() - begin >= lasts || self.control.stop.load(Ordering::Relaxed) {
                break;
            }
            self.pass(between);
        }
        self.pass(QUIET);
        if between.is_none() {
            self.judge(slow, begin);
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.net.elapsed() + time;
        let mut told = Vec::new();
        while !self.control.stop.load(Ordering::Relaxed) && self.net.step(end).is_some() {
            self.net.take_told(&mut told);
            for (host, event) in told.drain(..) {
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
            self.tally.false_positives += 1;
            self.tally.at_healthy += u64::from(!self.is_slow[host]);
        } else if !self.is_slow[host] {
            self.noticed[failed][host].get_or_insert(self.net.elapsed());
        }
    }

    /// How long it took to notice those that were blocked.
    fn judge(&mut self, slow: &[HostId], begin: Duration) {
        for failed in slow {
            let healthy = (0..self.is_slow.len()).filter(|host| !self.is_slow[*host]);
            let noticed: Vec<Option<Duration>> = healthy.map(|host| self.noticed[*failed][host]).collect();
            self.tally.first.extend(noticed.iter().flatten().min().map(|at| *at - begin));
            match noticed.into_iter().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max()) {
                Some(last) => self.tally.all.push(last - begin),
                None => self.tally.missed += 1,
            }
        }
    }
}

/// What came of all variants.
#[derive(Debug)]
pub struct Report {
    rows: Vec<(&'static str, Tally)>,
}

/// How many runs it takes for so many seeds.
#[must_use]
pub fn runs(seeds: usize) -> usize {
    variants().len() * experiments().len() * seeds
}

/// Runs both experiments for each variant and seed.
pub fn compare(members: usize, seeds: impl IntoIterator<Item = u64>, control: &Control) -> Report {
    let (variants, experiments, seeds) = (variants(), experiments(), Vec::from_iter(seeds));
    // Variant after variant of an experiment, so that those that are done when it is stopped compare.
    let jobs: Vec<_> =
        experiments.iter().flat_map(|experiment| seeds.iter().map(move |seed| (*experiment, *seed))).collect();
    let tallies = in_parallel(jobs.len() * variants.len(), control, |index| {
        let ((experiment, seed), variant) = (jobs[index / variants.len()], index % variants.len());
        let tally = run(members, &variants[variant].tuning, experiment, seed, control);
        (variant, tally)
    });
    let mut rows: Vec<_> = variants.iter().map(|variant| (variant.name, Tally::default())).collect();
    for (variant, tally) in tallies {
        rows[variant].1.add(tally);
    }
    for (_, tally) in &mut rows {
        tally.first.sort_unstable();
        tally.all.sort_unstable();
    }
    Report { rows }
}

/// What a share of these, which are in order, took no longer than.
fn quantile(times: &[Duration], share: f64) -> Option<Duration> {
    let rank = (times.len() as f64 * share).ceil() as usize;
    times.get(rank.max(1) - 1).copied()
}

impl Report {
    /// As text, the variants one below the other.
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
        let base = self.rows.first().map_or((0, 0), |(_, tally)| (tally.false_positives, tally.at_healthy));
        let head = ["", "FP", "of SWIM's", "FP-", "of SWIM's", "first detection, s", "known to all, s", "missed"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(self.rows.iter().map(|(name, tally)| {
            vec![
                (*name).to_owned(),
                tally.false_positives.to_string(),
                percent(tally.false_positives, base.0),
                tally.at_healthy.to_string(),
                percent(tally.at_healthy, base.1),
                seconds(&tally.first),
                seconds(&tally.all),
                tally.missed.to_string(),
            ]
        }));
        super::figures::aligned(&rows)
    }

    /// All of it, as `broadcast sim --lifeguard --json` prints it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let ms = |times: &[Duration]| {
            let time = |share| quantile(times, share).map(|time| time.as_secs_f64() * 1000.0);
            json!({ "p50": time(0.5), "p99": time(0.99), "p999": time(0.999) })
        };
        let rows = self.rows.iter().map(|(name, tally)| {
            json!({
                "name": name, "false_positives": tally.false_positives,
                "false_positives_at_healthy": tally.at_healthy, "first_detection_ms": ms(&tally.first),
                "known_to_all_ms": ms(&tally.all), "missed": tally.missed,
            })
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fewer members than in the paper, and for a shorter time, lest it take a minute.
    fn tally(tuning: &Tuning, blocked: u64, between: Option<u64>) -> Tally {
        let (blocked, between) = (Duration::from_millis(blocked), between.map(Duration::from_millis));
        let slowness = Slowness { count: SLOW, blocked, between, lasts: Duration::from_secs(33) };
        let mut tally = run(64, tuning, slowness, 1, &Control::default());
        tally.first.sort_unstable();
        tally.all.sort_unstable();
        tally
    }

    #[test]
    fn slow_members_mislead_plain_swim_and_hardly_ours() {
        let [swim, .., shipped] = variants();
        let [swim, shipped] = [&swim, &shipped].map(|variant| tally(&variant.tuning, 16_384, Some(64)));
        assert!(swim.at_healthy >= 100, "nothing to compare with: {swim:?}");
        assert!(shipped.false_positives * 50 <= swim.false_positives, "{shipped:?}, plain SWIM: {swim:?}");
        assert!(shipped.at_healthy * 50 <= swim.at_healthy, "{shipped:?}, plain SWIM: {swim:?}");
    }

    #[test]
    fn who_is_gone_is_found_no_later_than_by_plain_swim() {
        let [swim, .., shipped] = variants();
        let [swim, shipped] = [&swim, &shipped].map(|variant| tally(&variant.tuning, 32_768, None));
        for tally in [&swim, &shipped] {
            assert_eq!((tally.first.len(), tally.missed), (SLOW, 0), "{tally:?}");
        }
        for (ours, theirs) in [(&shipped.first, &swim.first), (&shipped.all, &swim.all)] {
            assert!(quantile(ours, 0.5) <= quantile(theirs, 0.5), "{shipped:?}, plain SWIM: {swim:?}");
        }
    }
}
