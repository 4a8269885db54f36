//! Random scenarios, for fuzzing: each seed always makes the same one.
//!
//! One in five has up to 50 nodes and short faults. The others have a few nodes and the faults of real networks, for up to
//! 400 s: longer than nodes remember a dead member, or keep messages for it.

use std::fmt::Write as _;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{Job, scenario::Scenario};

/// The longest absence, in seconds.
const MAX_ABSENCE: f64 = 400.0;
/// The longest absence for which nodes keep all messages, in seconds.
const MAX_KEPT_ABSENCE: f64 = 90.0;
/// How long nodes may take to settle at the end, if some of them have ended.
const SETTLE: &str = "150s";
/// How long the workload goes on after the last fault, in seconds.
const QUIET_TIME: f64 = 15.0;

/// A random scenario.
///
/// ```
/// use broadcast::sim::RandomScenario;
///
/// let random = RandomScenario::of(17);
/// assert_eq!(random.text, RandomScenario::of(17).text);
/// assert!(random.text.contains("[workload]"));
/// ```
#[derive(Clone, Debug)]
pub struct RandomScenario {
    /// The seed that it was made from.
    pub seed: u64,
    /// The scenario's TOML text.
    pub text: String,
    /// The scenario that the text describes.
    pub scenario: Scenario,
}

impl RandomScenario {
    /// The scenario of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let text = if Self::is_large(seed) { large(seed) } else { RealisticScenario::generate(seed) };
        let scenario = Scenario::parse("random", &text).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
        Self { seed, text, scenario }
    }

    /// Whether the scenario of a seed has many nodes and short faults.
    #[must_use]
    pub fn is_large(seed: u64) -> bool {
        seed.is_multiple_of(5)
    }

    /// The job that runs it.
    #[must_use]
    pub fn job(&self) -> Job<'_> {
        Job { scenario: &self.scenario, size: self.scenario.sizes[0], seed: self.seed }
    }
}

fn one_of(rng: &mut Xoshiro256PlusPlus, texts: &[&'static str]) -> &'static str {
    texts[rng.random_range(0..texts.len())]
}

/// The text of a scenario of up to 50 nodes with short faults.
pub(super) fn large(seed: u64) -> String {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let size: usize = rng.random_range(3..=50);
    let start = one_of(&mut rng, &["join", "acquainted"]);
    let mut text = String::new();
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
    // The others give up on a process that hangs for long, and tell it what it missed.
    let _ = writeln!(text, "[expect]\nmissed = 1000000");
    // In the smallest clusters, a crash might leave no seed.
    if size <= 4 {
        text = text.replace("\"crash\"", "\"restart\"");
    }
    // Nodes learn what they have missed of an ended origin after two minutes.
    let settle = if ["crash", "restart", "leave"].iter().any(|end| text.contains(end)) { SETTLE } else { "60s" };
    format!("sizes = [{size}]\nstart = \"{start}\"\nduration = \"12s\"\nsettle = \"{settle}\"\n{text}")
}

/// Writes scenarios of a few nodes with the faults of real networks.
struct RealisticScenario {
    rng: Xoshiro256PlusPlus,
    size: usize,
    faults: String,
    /// When the last fault is over, in seconds.
    end: f64,
    /// The longest that a node may be away in all, in seconds.
    away: f64,
    /// UDP is blocked for good.
    streams_only: bool,
    /// There are forged messages that a node has left.
    forged: bool,
}

impl RealisticScenario {
    fn generate(seed: u64) -> String {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let size = rng.random_range(3..=9);
        let mut scenario =
            Self { rng, size, faults: String::new(), end: 5.0, away: 0.0, streams_only: false, forged: false };
        for _ in 0..scenario.rng.random_range(1..=3) {
            scenario.add_fault();
        }
        scenario.write()
    }

    fn write(mut self) -> String {
        let rng = &mut self.rng;
        let (size, start) = (self.size, one_of(rng, &["join", "acquainted"]));
        let profile = one_of(rng, &["local", "lan", "lan"]);
        let mut text = format!("sizes = [{size}]\nstart = \"{start}\"\nprofile = \"{profile}\"\n");
        let duration = self.end + QUIET_TIME;
        let _ = writeln!(text, "duration = \"{}\"\nsettle = \"{SETTLE}\"", seconds(duration));
        if rng.random_bool(0.4) {
            let _ = writeln!(text, "clocks = \"{}\"", one_of(rng, &["3s", "1h", "2days", "30days"]));
        }
        let delay = one_of(rng, &["1ms", "100us..5ms", "lognormal(2ms, 0.8)", "1ms..80ms"]);
        // With loss, nodes that have only streams would come and go.
        let lossless = rng.random_bool(0.5) || self.streams_only;
        let loss = if lossless { 0.0 } else { rng.random_range(0.0..0.2) };
        let _ = writeln!(text, "[network]\ndelay = \"{delay}\"\nloss = {loss:.3}");
        // About the same number of messages for all but the shortest durations.
        let (publishers, most) = (rng.random_range(1..=3), (400.0 / duration).clamp(0.5, 5.0));
        let (rate, value) = (rng.random_range(0.2..most), one_of(rng, &["24", "200", "200", "1250"]));
        let _ = writeln!(text, "[workload]\npublishers = {publishers}\nrate = {rate:.2}\nsize = {value}");
        text.push_str(&self.faults);
        // Nodes give up sooner on messages of a node that has allegedly left.
        if self.away > MAX_KEPT_ABSENCE || (self.forged && self.away > 0.0) {
            text.push_str("[expect]\nmissed = 1000000\n");
        }
        text
    }

    /// A duration whose logarithm is uniform, so that short ones are as frequent as long ones.
    fn absence(&mut self) -> f64 {
        MAX_ABSENCE.powf(self.rng.random::<f64>())
    }

    fn fault(&mut self, kind: &str, at: f64, lasts: Option<f64>, more: &str) {
        let _ = writeln!(self.faults, "[[fault]]\nkind = \"{kind}\"\nat = \"{}\"", seconds(at));
        if let Some(lasts) = lasts {
            let _ = writeln!(self.faults, "for = \"{}\"", seconds(lasts));
        }
        self.faults.push_str(more);
        self.end = self.end.max(at + lasts.unwrap_or_default());
    }

    fn add_fault(&mut self) {
        let at = self.rng.random_range(1.0..10.0);
        match self.rng.random_range(0..16) {
            kind @ 0..=3 => {
                let lasts = self.absence();
                self.away += lasts;
                let (kind, more) = match kind {
                    0 => ("pause", String::new()),
                    1 => ("partition", "share = 0.34\n".to_owned()),
                    2 => ("partition", "count = 1\none_way = true\n".to_owned()),
                    _ => ("partition", format!("count = {}\none_way = true\n", self.size - 1)),
                };
                self.fault(kind, at, Some(lasts), &more);
            }
            4 => self.restart_twice(at),
            5 => {
                let lasts = self.restart_time();
                self.fault("restart", at, Some(lasts), "");
            }
            6 => {
                let lasts = self.restart_time();
                self.fault("leave", at, Some(lasts), "");
            }
            7 => self.fault("move", at, None, ""),
            8 => self.fault("move", at, None, "named = true\n"),
            9 => {
                let lasts = self.rng.random_bool(0.5).then(|| self.absence());
                self.fault("source", at, lasts, "count = 2\n");
            }
            10 => {
                let step = one_of(&mut self.rng, &["-172800", "-3600", "-5", "172800"]);
                let lasts = self.restart_time();
                self.fault("clock", at, Some(lasts), &format!("step = {step}\n"));
            }
            11 => {
                let step = one_of(&mut self.rng, &["-172800", "172800"]);
                self.fault("clock", at, None, &format!("hosts = [0, 1]\nrunning = true\nstep = {step}\n"));
                self.fault("restart", at + 2.0, Some(0.5), "hosts = [1]\n");
            }
            kind @ 12..=14 => {
                let lasts = self.rng.random_bool(0.5).then(|| self.absence());
                self.streams_only |= kind == 12 && lasts.is_none();
                let of = one_of(
                    &mut self.rng,
                    &["share = 1.0\n", "", "one_way = true\n", "pair = true\n", "pair = true\none_way = true\n"],
                );
                let (kind, what) = match kind {
                    12 => ("no_udp", ""),
                    13 => ("mtu_hole", "mtu = 1280\n"),
                    _ => ("slow_link", "bytes_per_second = 62500\n"),
                };
                self.fault(kind, at, lasts, &format!("{of}{what}"));
            }
            _ => {
                self.forged = true;
                for again in 0..self.rng.random_range(1..=4) {
                    self.fault("forge", at + f64::from(again) * 3.0, None, "hosts = [0]\n");
                }
            }
        }
    }

    /// An origin restarts twice while another node receives nothing.
    fn restart_twice(&mut self, at: f64) {
        let (origin, deaf) = (self.size - 1, self.size - 2);
        let gap = self.rng.random_range(0.2..1.5);
        let others: Vec<String> = (0..self.size).filter(|host| *host != deaf).map(|host| host.to_string()).collect();
        let hosts = others.join(", ");
        self.fault("partition", at, Some(2.0 * gap + 0.5), &format!("hosts = [{hosts}]\none_way = true\n"));
        for restart in [at + 0.2, at + 0.2 + gap] {
            self.fault("restart", restart, Some(0.05), &format!("hosts = [{origin}]\n"));
        }
    }

    /// The time between a node's end and its restart.
    fn restart_time(&mut self) -> f64 {
        [0.05, 0.3, 1.0, 3.0, 10.0, 60.0][self.rng.random_range(0..6)]
    }
}

fn seconds(seconds: f64) -> String {
    format!("{:.0}ms", (seconds * 1000.0).max(1.0))
}
