//! The outcome of a run: its statistics, whether they meet the scenario's expectations, and the report on many runs.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{histogram::LatencyHistogram, scenario::Expect};

/// The statistics of a run. [`RunOutcome::to_json`] returns all of them.
#[derive(Clone, Debug, Default)]
pub struct RunStats {
    pub(super) published: u64,
    /// The share of the owed messages that were delivered; `None` if nothing was published.
    pub(super) reach: Option<f64>,
    pub(super) duplicates: u64,
    /// Deliveries after a later message of the same origin.
    pub(super) disorder: u64,
    pub(super) missed: u64,
    /// From publication to each delivery.
    pub(super) latency: LatencyHistogram,
    /// From publication to the last delivery.
    pub(super) last: LatencyHistogram,
    /// The largest number of hops of any message; `None` if nodes do not count them.
    pub(super) hops: Option<u8>,
    /// How many copies arrived for each delivery.
    pub(super) copies: Option<f64>,
    /// Of each node, per second; so are the next two.
    pub(super) packets: f64,
    pub(super) packet_bytes: f64,
    pub(super) stream_bytes: f64,
    /// From a failure to its detection by each node.
    pub(super) detect: LatencyHistogram,
    pub(super) false_alarms: u64,
    /// The largest size of each thing that can grow.
    pub(super) held: BTreeMap<&'static str, usize>,
}

/// A broken invariant. [`RunEnd::Violated`] has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is wrong.
    pub description: String,
    /// The step of the run.
    pub step: u64,
    /// The virtual time since the run's start.
    pub at: Duration,
}

/// How a run ended. [`RunOutcome::end`] has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// The run finished, and all guarantees held.
    Finished,
    /// A guarantee was broken.
    Violated(Violation),
    /// The run was stopped.
    Stopped,
}

/// The outcome of a run. [`RunControl`](super::RunControl) has an example.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// The scenario's name.
    pub scenario: String,
    /// How many nodes there were at the start.
    pub size: usize,
    /// The seed of all randomness.
    pub seed: u64,
    /// How it ended.
    pub end: RunEnd,
    /// The statistics.
    pub stats: RunStats,
    /// How many steps it took.
    pub steps: u64,
    /// A digest of everything that happened. Equal runs have equal digests.
    pub digest: u64,
    /// How long it took in virtual time.
    pub simulated: Duration,
    /// How long it took in real time.
    pub took: Duration,
    /// The scenario's expectations that were not met, with the results.
    pub unmet: Vec<String>,
    /// The last steps, if a trace was requested.
    pub trace: Vec<String>,
}

impl RunOutcome {
    /// Whether all guarantees held and all expectations were met.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.end == RunEnd::Finished && self.unmet.is_empty()
    }

    /// The outcome as `broadcast sim --json` prints it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let RunStats { latency, last, detect, .. } = &self.stats;
        let f = &self.stats;
        let ms = |took: Option<Duration>| took.map(|took| took.as_secs_f64() * 1000.0);
        let end = match &self.end {
            RunEnd::Finished => json!("finished"),
            RunEnd::Stopped => json!("stopped"),
            RunEnd::Violated(Violation { description, step, at }) => {
                json!({ "violated": description, "step": step, "at_seconds": at.as_secs_f64() })
            }
        };
        json!({
            "scenario": self.scenario, "nodes": self.size, "seed": self.seed, "end": end, "short": self.unmet,
            "steps": self.steps, "digest": format!("{:016x}", self.digest),
            "simulated_seconds": self.simulated.as_secs_f64(), "wall_seconds": self.took.as_secs_f64(),
            "published": f.published, "reach": f.reach, "duplicates": f.duplicates, "disorder": f.disorder,
            "missed": f.missed, "hops": f.hops, "copies": f.copies,
            "latency_ms": {
                "p50": ms(latency.quantile(0.5)), "p99": ms(latency.quantile(0.99)), "max": ms(latency.max()),
            },
            "last_ms": { "p50": ms(last.quantile(0.5)), "p99": ms(last.quantile(0.99)), "max": ms(last.max()) },
            "node_second": {
                "packets": f.packets, "packet_bytes": f.packet_bytes, "stream_bytes": f.stream_bytes,
            },
            "detect_ms": { "p50": ms(detect.quantile(0.5)), "max": ms(detect.max()) },
            "false_alarms": f.false_alarms,
            "held": f.held,
        })
    }
}

impl Expect {
    /// The expectations that are not met, with the results.
    pub(super) fn unmet(&self, stats: &RunStats) -> Vec<String> {
        let mut unmet = Vec::new();
        if let (Some(wanted), Some(reach)) = (self.reach, stats.reach)
            && reach < wanted
        {
            unmet.push(format!("reach is {:.4} %, at least {} % is wanted", reach * 100.0, wanted * 100.0));
        }
        let numbers = [
            ("duplicates", Some(stats.duplicates as f64), self.duplicates.map(|most| most as f64)),
            ("disorder", Some(stats.disorder as f64), self.disorder.map(|most| most as f64)),
            ("missed", Some(stats.missed as f64), self.missed.map(|most| most as f64)),
            ("hops", stats.hops.map(f64::from), self.hops.map(|most| most as f64)),
            ("copies", stats.copies, self.copies),
            ("packets", Some(stats.packets), self.packets),
            ("packet_bytes", Some(stats.packet_bytes), self.packet_bytes),
            ("stream_bytes", Some(stats.stream_bytes), self.stream_bytes),
            ("false_alarms", Some(stats.false_alarms as f64), self.false_alarms.map(|most| most as f64)),
        ];
        for (name, got, most) in numbers {
            if let (Some(got), Some(most)) = (got, most)
                && got > most
            {
                unmet.push(format!("{name} is {}, at most {most} is wanted", rounded(got)));
            }
        }
        let times = [
            ("latency_p99", stats.latency.quantile(0.99), self.latency_p99),
            ("latency_max", stats.latency.max(), self.latency_max),
            ("detect", stats.detect.max(), self.detect),
        ];
        for (name, got, most) in times {
            if let (Some(got), Some(most)) = (got, most)
                && got > most
            {
                unmet.push(format!("{name} is {}, at most {most:?} is wanted", time(Some(got))));
            }
        }
        unmet
    }
}

/// A table with a row for each scenario and size: the worst result of all seeds, and the mean of rates.
///
/// ```
/// assert!(broadcast::sim::table(&[]).starts_with("scenario"));
/// ```
#[must_use]
pub fn table(outcomes: &[RunOutcome]) -> String {
    let mut groups: Vec<((&str, usize), Vec<&RunOutcome>)> = Vec::new();
    for outcome in outcomes {
        let key = (&*outcome.scenario, outcome.size);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, group)) => group.push(outcome),
            None => groups.push((key, vec![outcome])),
        }
    }
    let head = [
        "scenario",
        "nodes",
        "runs",
        "good",
        "reach",
        "dup",
        "disorder",
        "missed",
        "p50",
        "p99",
        "last",
        "hops",
        "copies",
        "B/node/s",
        "pkt/node/s",
        "TCP B/node/s",
        "detect",
        "alarms",
        "sim/wall",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(groups.iter().map(|((scenario, size), group)| row(scenario, *size, group)));
    aligned(&rows)
}

/// Aligns the cells of rows in columns.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut table = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // The first column is text, the others are numbers.
            let _ = if column == 0 { write!(table, "{cell:<width$}") } else { write!(table, "  {cell:>width$}") };
        }
        table.push('\n');
    }
    table
}

fn row(scenario: &str, size: usize, group: &[&RunOutcome]) -> Vec<String> {
    let stats = || group.iter().map(|outcome| &outcome.stats);
    let merged = |of: fn(&RunStats) -> &LatencyHistogram| {
        let mut all = LatencyHistogram::default();
        stats().for_each(|stats| all.merge(of(stats)));
        all
    };
    let mean = |of: fn(&RunStats) -> Option<f64>| {
        let all: Vec<f64> = stats().filter_map(of).collect();
        if all.is_empty() { "–".to_owned() } else { rounded(all.iter().sum::<f64>() / all.len() as f64) }
    };
    let (latency, last, detect) = (merged(|f| &f.latency), merged(|f| &f.last), merged(|f| &f.detect));
    let reach = stats().filter_map(|stats| stats.reach).min_by(f64::total_cmp);
    let simulated: f64 = group.iter().map(|outcome| outcome.simulated.as_secs_f64()).sum();
    let took: f64 = group.iter().map(|outcome| outcome.took.as_secs_f64()).sum();
    vec![
        scenario.to_owned(),
        size.to_string(),
        group.len().to_string(),
        group.iter().filter(|outcome| outcome.is_good()).count().to_string(),
        reach.map_or_else(|| "–".into(), share),
        stats().map(|f| f.duplicates).sum::<u64>().to_string(),
        stats().map(|f| f.disorder).sum::<u64>().to_string(),
        stats().map(|f| f.missed).sum::<u64>().to_string(),
        time(latency.quantile(0.5)),
        time(latency.quantile(0.99)),
        time(last.max()),
        stats().filter_map(|f| f.hops).max().map_or_else(|| "–".into(), |hops| hops.to_string()),
        mean(|f| f.copies),
        mean(|f| Some(f.packet_bytes)),
        mean(|f| Some(f.packets)),
        mean(|f| Some(f.stream_bytes)),
        time(detect.max()),
        stats().map(|f| f.false_alarms).sum::<u64>().to_string(),
        rounded(simulated / took.max(1e-9)),
    ]
}

/// Rounds down, so that 100 % means all.
fn share(share: f64) -> String {
    let percent = (share * 10_000.0).floor() / 100.0;
    if share >= 1.0 { "100 %".to_owned() } else { format!("{percent:.2} %") }
}

fn rounded(number: f64) -> String {
    if number == number.round() || number >= 100.0 {
        format!("{number:.0}")
    } else if number >= 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.2}")
    }
}

fn time(time: Option<Duration>) -> String {
    match time {
        None => "–".to_owned(),
        Some(time) if time >= Duration::from_secs(1) => format!("{:.1} s", time.as_secs_f64()),
        Some(time) => format!("{:.1} ms", time.as_secs_f64() * 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_short_is_named_with_what_is_wanted() {
        let expect = Expect {
            reach: Some(1.0),
            copies: Some(1.5),
            hops: Some(8),
            detect: Some(Duration::from_secs(5)),
            ..Expect::default()
        };
        let mut stats = RunStats { reach: Some(1.0), copies: Some(1.5), hops: Some(8), ..RunStats::default() };
        assert_eq!(expect.unmet(&stats), Vec::<String>::new());
        (stats.reach, stats.copies, stats.hops) = (Some(0.999_999), Some(1.71), Some(9));
        stats.detect.add(Duration::from_secs(7));
        assert_eq!(
            expect.unmet(&stats),
            [
                "reach is 99.9999 %, at least 100 % is wanted",
                "hops is 9, at most 8 is wanted",
                "copies is 1.71, at most 1.5 is wanted",
                "detect is 7.0 s, at most 5s is wanted",
            ]
        );
    }

    #[test]
    fn almost_all_is_not_all() {
        assert_eq!(share(1.0), "100 %");
        assert_eq!(share(0.999_999_9), "99.99 %");
    }
}
