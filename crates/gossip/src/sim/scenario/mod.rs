//! Scenarios: TOML files that describe a simulation and its expected results.

mod fault;

use std::{fmt, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

pub(crate) use self::fault::{Fault, FaultKind};
use super::link::{Delay, LinkConditions};
use crate::config::{Profile, Tuning};

/// The scenario that is run when no file is given.
pub const DEFAULT: &str = include_str!("../../../../../scenarios/default.toml");
/// The largest number of nodes in a simulation.
pub const MAX_SIZE: usize = 20_000;

/// Why a scenario is invalid. [`Scenario::parse`] has an example.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// The file is not TOML, or has an unknown key or an invalid value.
    #[error("{file}:{line}: {text}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// The text of the line.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A value is impossible in this scenario.
    #[error("{file}: {key}: {problem}")]
    Key {
        /// The file.
        file: String,
        /// The key of the value.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The description of a simulation; `docs/simulator.md` explains each key. [`Scenario::parse`] reads one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The name in reports; by default the file's name.
    #[serde(default)]
    pub name: String,
    /// A description of one line.
    #[serde(default)]
    pub about: String,
    /// The numbers of nodes at the start. The scenario is run for each.
    #[serde(deserialize_with = "sizes")]
    pub sizes: Vec<usize>,
    /// The seeds. The scenario is run for each.
    #[serde(default = "one_seed", deserialize_with = "seeds")]
    pub seeds: RangeInclusive<u64>,
    #[serde(default)]
    pub(crate) start: Start,
    #[serde(default, deserialize_with = "profile")]
    pub(crate) profile: Profile,
    /// How long nodes publish and faults begin.
    #[serde(deserialize_with = "duration")]
    pub(crate) duration: Duration,
    /// How long after that, and after the last fault, everything must have been delivered.
    #[serde(default = "half_a_minute", deserialize_with = "duration")]
    pub(crate) settle: Duration,
    #[serde(default)]
    pub(crate) tuning: Overrides,
    #[serde(default)]
    pub(crate) network: NetworkSection,
    /// How wrong the wall clocks of hosts are at most. Each is set at random, in either direction.
    #[serde(default, deserialize_with = "clock_error")]
    pub(crate) clocks: Option<Duration>,
    #[serde(default)]
    pub(crate) workload: Workload,
    #[serde(default, rename = "fault")]
    pub(crate) faults: Vec<Fault>,
    #[serde(default)]
    pub(crate) expect: Expect,
}

/// How the cluster forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Start {
    /// All nodes start at once and join through the first three.
    #[default]
    Join,
    /// All nodes know each other from the start.
    Acquainted,
}

/// Settings that differ from the profile.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Overrides {
    #[serde(default, deserialize_with = "some_duration")]
    push_pull_interval: Option<Duration>,
    #[serde(default, deserialize_with = "some_duration")]
    probe_interval: Option<Duration>,
    #[serde(default, deserialize_with = "some_duration")]
    gossip_interval: Option<Duration>,
    compression: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NetworkSection {
    #[serde(default, deserialize_with = "delay")]
    delay: Option<Delay>,
    #[serde(default, deserialize_with = "share")]
    loss: Option<f64>,
    #[serde(default, deserialize_with = "share")]
    duplicate: Option<f64>,
    #[serde(default, deserialize_with = "share")]
    reorder: Option<f64>,
    #[serde(default, deserialize_with = "delay")]
    reorder_delay: Option<Delay>,
    socket_buffer: Option<usize>,
    #[serde(default, deserialize_with = "some_duration")]
    stream_timeout: Option<Duration>,
}

/// How much which hosts publish.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Workload {
    pub(crate) publishers: usize,
    /// Messages per second of each publisher.
    pub(crate) rate: f64,
    /// Bytes of each value.
    pub(crate) size: usize,
    /// The hosts that publish, from 0; chosen at random if there are none.
    pub(crate) hosts: Vec<usize>,
}

impl Default for Workload {
    fn default() -> Self {
        Self { publishers: 0, rate: 1.0, size: 64, hosts: Vec::new() }
    }
}

/// The expected results of a run.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    /// The least share of the owed messages that are delivered.
    #[serde(default, deserialize_with = "share")]
    pub(crate) reach: Option<f64>,
    pub(crate) duplicates: Option<u64>,
    pub(crate) disorder: Option<u64>,
    /// How many messages may be reported as missed; by default none.
    pub(crate) missed: Option<u64>,
    pub(crate) hops: Option<u64>,
    /// How many copies arrive for each delivery.
    pub(crate) copies: Option<f64>,
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) latency_p99: Option<Duration>,
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) latency_max: Option<Duration>,
    /// Of each node per second, without streams.
    pub(crate) packet_bytes: Option<f64>,
    /// Of a node and second.
    pub(crate) packets: Option<f64>,
    /// Of a node and second.
    pub(crate) stream_bytes: Option<f64>,
    /// The time until every node has detected a failure.
    #[serde(default, deserialize_with = "some_duration")]
    pub(crate) detect: Option<Duration>,
    pub(crate) false_alarms: Option<u64>,
}

impl Scenario {
    /// Parses the text of a scenario file. `file` is for error messages, and the default of the name.
    ///
    /// # Errors
    ///
    /// The text is not a valid scenario.
    ///
    /// ```
    /// use broadcast::sim::Scenario;
    ///
    /// let scenario = Scenario::parse("small.toml", "sizes = [5]\nduration = \"10s\"")?;
    /// assert_eq!((scenario.name.as_str(), scenario.sizes), ("small", vec![5]));
    /// let error = Scenario::parse("small.toml", "sizes = []\nduration = \"10s\"").unwrap_err();
    /// assert!(error.to_string().starts_with("small.toml:1: sizes = []: give one or more sizes"));
    /// # Ok::<(), broadcast::sim::ScenarioError>(())
    /// ```
    pub fn parse(file: &str, text: &str) -> Result<Self, ScenarioError> {
        let mut scenario: Self = toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let before = &text[..span.start.min(text.len())];
            let begin = before.rfind('\n').map_or(0, |at| at + 1);
            let shown = text[begin..].lines().next().unwrap_or_default().trim();
            ScenarioError::Line {
                file: file.to_owned(),
                line: before.matches('\n').count() + 1,
                text: if shown.is_empty() { "the file".to_owned() } else { shown.to_owned() },
                problem: error.message().trim().replace('\n', "; "),
            }
        })?;
        if scenario.name.is_empty() {
            let stem = std::path::Path::new(file).file_stem();
            scenario.name = stem.map_or_else(|| file.to_owned(), |stem| stem.to_string_lossy().into_owned());
        }
        scenario.check().map_err(|(key, problem)| ScenarioError::Key { file: file.to_owned(), key, problem })?;
        Ok(scenario)
    }

    /// The same scenario with another number of nodes.
    ///
    /// # Errors
    ///
    /// The scenario is impossible with so many nodes.
    pub fn at_size(mut self, size: usize) -> Result<Self, ScenarioError> {
        self.sizes = vec![size];
        let checked = self.check();
        checked.map_err(|(key, problem)| ScenarioError::Key { file: self.name.clone(), key, problem })?;
        Ok(self)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let refuse = |key: &str, problem: &dyn fmt::Display| Err((key.to_owned(), problem.to_string()));
        let Workload { publishers, rate, size, .. } = self.workload;
        let smallest = self.sizes.iter().min().copied().unwrap_or_default();
        if publishers > smallest {
            let problem = format!("there are only {smallest} nodes in the smallest size; give that many or fewer");
            return refuse(&format!("workload.publishers = {publishers}"), &problem);
        }
        if !(0.001..=100_000.0).contains(&rate) {
            return refuse(&format!("workload.rate = {rate}"), &"give 0.001 to 100000 messages a second");
        }
        if !(24..=1_000_000).contains(&size) {
            return refuse(&format!("workload.size = {size}"), &"give 24 to 1000000 bytes");
        }
        if let Some(host) = self.workload.hosts.iter().find(|host| **host >= smallest) {
            let problem = format!("there is no host {host} in the smallest size; give 0 to {}", smallest - 1);
            return refuse("workload.hosts", &problem);
        }
        for (index, fault) in self.faults.iter().enumerate() {
            if let Err((name, problem)) = fault.check(smallest) {
                return refuse(&format!("fault {} ({}): {name}", index + 1, fault.kind.name()), &problem);
            }
            if let Some(at) = fault.at.filter(|at| *at > self.duration) {
                let key = format!("fault {} ({}): at = {at:?}", index + 1, fault.kind.name());
                let duration = self.duration;
                let problem = format!(
                    "it would never happen, as the duration is {duration:?}; give an earlier time, or a longer duration"
                );
                return refuse(&key, &problem);
            }
        }
        Ok(())
    }

    pub(super) fn link(&self) -> LinkConditions {
        let (given, usual) = (&self.network, LinkConditions::default());
        LinkConditions {
            delay: given.delay.unwrap_or(usual.delay),
            loss: given.loss.unwrap_or(usual.loss),
            duplicate: given.duplicate.unwrap_or(usual.duplicate),
            reorder: given.reorder.unwrap_or(usual.reorder),
            reorder_delay: given.reorder_delay.unwrap_or(usual.reorder_delay),
            socket_buffer: given.socket_buffer.unwrap_or(usual.socket_buffer),
            stream_timeout: given.stream_timeout.unwrap_or(usual.stream_timeout),
        }
    }

    pub(super) fn tuning(&self) -> Tuning {
        let (given, usual) = (&self.tuning, self.profile.tuning());
        Tuning {
            push_pull_interval: given.push_pull_interval.unwrap_or(usual.push_pull_interval),
            probe_interval: given.probe_interval.unwrap_or(usual.probe_interval),
            probe_timeout: given.probe_interval.map_or(usual.probe_timeout, |interval| interval / 2),
            gossip_interval: given.gossip_interval.unwrap_or(usual.gossip_interval),
            compression: given.compression.unwrap_or(usual.compression),
            ..usual
        }
    }
}

/// Parses one seed, or a range like `1..5`, both ends included.
///
/// ```
/// assert_eq!(broadcast::sim::parse_seeds("1..5"), Ok(1..=5));
/// ```
pub fn parse_seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number =
        |text: &str| text.trim().parse::<u64>().map_err(|_| "no seeds; write one, like 7, or a range, like 1..5");
    let (first, last) = match text.split_once("..") {
        Some((first, last)) => (number(first)?, number(last.trim_start_matches('='))?),
        None => (number(text)?, number(text)?),
    };
    if first > last || last - first >= 1_000_000 {
        return Err("a range of seeds goes upwards, over a million at most".to_owned());
    }
    Ok(first..=last)
}

fn one_seed() -> RangeInclusive<u64> {
    1..=1
}

fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

fn sizes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<usize>, D::Error> {
    let sizes = Vec::deserialize(from)?;
    if sizes.is_empty() || sizes.iter().any(|size| !(1..=MAX_SIZE).contains(size)) {
        return Err(D::Error::custom(format_args!("give one or more sizes from 1 to {MAX_SIZE}, like [13, 50]")));
    }
    Ok(sizes)
}

fn seeds<'de, D: Deserializer<'de>>(from: D) -> Result<RangeInclusive<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "no seeds; write one, like 7, or a range, like \"1..5\"")]
    enum Seeds {
        One(u64),
        Range(String),
    }
    match Seeds::deserialize(from)? {
        Seeds::One(seed) => Ok(seed..=seed),
        Seeds::Range(text) => parse_seeds(&text).map_err(D::Error::custom),
    }
}

fn profile<'de, D: Deserializer<'de>>(from: D) -> Result<Profile, D::Error> {
    Profile::named(&String::deserialize(from)?)
        .ok_or_else(|| D::Error::custom("no profile; write \"local\", \"lan\" or \"wan\""))
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let duration = any_duration(from)?;
    if (Duration::from_millis(1)..=DAY).contains(&duration) {
        Ok(duration)
    } else {
        Err(D::Error::custom("out of range; write a duration from 1ms to 1day"))
    }
}

fn any_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    const WRITE: &str = "no duration; write a number with its unit, like \"250ms\", \"3s\" or \"1m\"";
    let text = String::deserialize(from).map_err(|_| D::Error::custom(WRITE))?;
    humantime::parse_duration(text.trim()).map_err(|_| D::Error::custom(WRITE))
}

/// When a fault begins, which may be at once.
fn start_time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let time = any_duration(from)?;
    if time <= DAY { Ok(Some(time)) } else { Err(D::Error::custom("out of range; write a time from 0s to 1day")) }
}

/// How wrong clocks are: up to ten years.
fn clock_error<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let time = any_duration(from)?;
    if time <= DAY * 3650 {
        Ok(Some(time))
    } else {
        Err(D::Error::custom("out of range; write a time of up to 10years"))
    }
}

fn some_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

fn delay<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Delay>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(D::Error::custom)
}

fn share<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let share = f64::deserialize(from)?;
    if (0.0..=1.0).contains(&share) {
        Ok(Some(share))
    } else {
        Err(D::Error::custom("a share goes from 0 to 1, like 0.05"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Scenario::parse("a.toml", text).expect_err(text).to_string()
    }

    #[test]
    fn every_scenario_that_is_shipped_is_one() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");
        let mut count = 0;
        for file in std::fs::read_dir(folder).expect("the scenarios") {
            let path = file.expect("a scenario").path();
            let text = std::fs::read_to_string(&path).expect("a scenario");
            let scenario = Scenario::parse(&path.to_string_lossy(), &text).unwrap_or_else(|error| panic!("{error}"));
            assert!(!scenario.about.is_empty(), "{path:?} does not say what it is about");
            count += 1;
        }
        assert!(count >= 7, "{count}");
    }

    #[test]
    fn a_file_that_cannot_be_is_refused_in_one_line_with_key_value_and_remedy() {
        let base = "sizes = [5]\nduration = \"1s\"\n";
        let with = |more: &str| refused(&format!("{base}{more}"));
        for (more, line) in [
            ("[network]\nloss = 1.5", "a.toml:4: loss = 1.5: a share goes from 0 to 1, like 0.05"),
            ("[network]\ndelay = \"soon\"", "a.toml:4: delay = \"soon\": no delay; write 5ms, 1ms..5ms"),
            ("settle = \"soon\"", "a.toml:3: settle = \"soon\": no duration; write a number with its unit"),
            ("settle = 5", "a.toml:3: settle = 5: no duration; write a number with its unit"),
            ("seeds = \"x\"", "a.toml:3: seeds = \"x\": no seeds; write one, like 7, or a range"),
            ("profile = \"moon\"", "a.toml:3: profile = \"moon\": no profile; write \"local\""),
            ("colour = 1", "a.toml:3: colour = 1: unknown field `colour`, expected one of"),
            ("[[fault]]\nkind = \"fire\"", "a.toml:4: kind = \"fire\": unknown variant `fire`, expected one of"),
            ("start = = 1", "a.toml:3: start = = 1: "),
            ("[workload]\npublishers = 9", "a.toml: workload.publishers = 9: there are only 5 nodes"),
            ("[workload]\nrate = 0", "a.toml: workload.rate = 0: give 0.001 to"),
            ("[workload]\nsize = 1", "a.toml: workload.size = 1: give 24 to"),
            ("[[fault]]\nkind = \"pause\"\nfor = \"1s\"", "a.toml: fault 1 (pause): at, every: give one of them"),
            ("[[fault]]\nkind = \"pause\"\nat = \"1s\"", "a.toml: fault 1 (pause): for: say how long"),
            (
                "[[fault]]\nkind = \"crash\"\nat = \"1s\"\n[[fault]]\nkind = \"leave\"\nat = \"1001ms\"",
                "a.toml: fault 2 (leave): at = 1.001s: it would never happen, as the duration is 1s; give an earlier time",
            ),
            ("[[fault]]\nkind = \"clock\"\nat = \"1s\"", "a.toml: fault 1 (clock): step: a clock needs it"),
            ("[[fault]]\nkind = \"crash\"\nat = \"1s\"\ncount = 6", "a.toml: fault 1 (crash): count: give 1 to 5"),
        ] {
            let error = with(more);
            assert!(error.starts_with(line), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
        assert!(refused("sizes = []\nduration = \"1s\"").contains("sizes = []: give one or more sizes"));
        assert!(refused("sizes = [5]").contains("missing field `duration`"));
    }

    #[test]
    fn seeds_are_one_or_a_range() {
        assert_eq!(parse_seeds("7"), Ok(7..=7));
        assert_eq!(parse_seeds("1..5"), Ok(1..=5));
        assert_eq!(parse_seeds("1..=5"), Ok(1..=5));
        for text in ["", "x", "5..1", "1..", "0..99999999"] {
            assert!(parse_seeds(text).is_err(), "{text}");
        }
    }
}
