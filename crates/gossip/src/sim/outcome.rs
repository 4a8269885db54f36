//! What came of a run: the figures, whether they are what the scenario expects, and the report on many.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{histogram::LatencyHistogram, scenario::Expect};

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub struct RunStats {
    pub(super) published: u64,
    /// The share of what must be delivered that was; `None` when nothing was published.
    pub(super) reach: Option<f64>,
    pub(super) duplicates: u64,
    /// Deliveries after a later message of the same origin.
    pub(super) disorder: u64,
    pub(super) missed: u64,
    /// From publishing to each delivery.
    pub(super) latency: LatencyHistogram,
    /// From publishing to the last delivery.
    pub(super) last: LatencyHistogram,
    /// On the longest way of any message; `None` when nodes do not count.
    pub(super) hops: Option<u8>,
    /// Copies that arrived for each delivery.
    pub(super) copies: Option<f64>,
    /// A node and second.
    pub(super) packets: f64,
    pub(super) packet_bytes: f64,
    pub(super) stream_bytes: f64,
    /// From a failure to each node's noticing.
    pub(super) detect: LatencyHistogram,
    pub(super) false_alarms: u64,
    /// The most that a node held of each thing.
    pub(super) held: BTreeMap<&'static str, usize>,
}

/// What broke an invariant, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In words.
    pub description: String,
    /// At which step of the run.
    pub step: u64,
    /// How long after its start, by the virtual clock.
    pub at: Duration,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// To its end, and nothing promised was broken.
    Finished,
    /// A promise was broken.
    Violated(Violation),
    /// It was told to stop there.
    Stopped,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// The name of what was run.
    pub scenario: String,
    /// With how many nodes at the start.
    pub size: usize,
    /// What all that was random came from.
    pub seed: u64,
    /// How it ended.
    pub end: RunEnd,
    /// What was measured.
    pub stats: RunStats,
    /// How many steps it took.
    pub steps: u64,
    /// Equal runs have equal ones.
    pub digest: u64,
    /// By the virtual clock.
    pub simulated: Duration,
    /// By the clock on the wall.
    pub took: Duration,
    /// What was missed of what the scenario expects, in words.
    pub unmet: Vec<String>,
    /// The last steps, where they were asked for.
    pub trace: Vec<String>,
}

impl RunOutcome {
    /// Whether all is as it must be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.end == RunEnd::Finished && self.unmet.is_empty()
    }

    /// All of it, as `broadcast sim --json` prints it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let RunStats { latency, last, detect, .. } = &self.stats;
        let f = &self.stats;
        let ms = |took: Option<Duration>| took.map(|took| took.as_secs_f64() * 1000.0);
        let end = match &self.end {
            RunEnd::Finished => json!("finished"),
            RunEnd::Stopped => json!("stopped"),
            RunEnd::Violated(Violation { description, step, at }) => {
                json!({ "violated": what, "step": step, "at_seconds": at.as_secs_f64() })
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
    /// Where the figures fall short, in words.
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

/// One line for each scenario and size: the worst of its seeds, and the mean of what is a rate.
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

/// Rows of as many cells each, in columns.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut table = String::new();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Words to the left, numbers to the right.
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

/// Not rounded up to 100 % when something lacks.
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
