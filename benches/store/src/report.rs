//! The results of one round, and tables of all rounds.

use std::fmt::{self, Write as _};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum System {
    /// Voters of ours.
    Broadcast,
    /// Servers of etcd.
    Etcd,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
            Self::Etcd => "etcd",
        })
    }
}

/// One round of one system. Times are in seconds, memory in bytes for each server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) system: System,
    pub(crate) rest_resident: Vec<u64>,
    /// Of one core, for one server.
    pub(crate) rest_cpu: f64,
    pub(crate) alone_p50: f64,
    pub(crate) alone_p99: f64,
    pub(crate) together_p50: f64,
    pub(crate) together_p99: f64,
    pub(crate) puts_a_second: f64,
    /// Of all servers.
    pub(crate) cpu_a_put: f64,
    pub(crate) loaded_resident: Vec<u64>,
    pub(crate) gaps: Vec<f64>,
    /// To take a lock and to release it.
    #[serde(default)]
    pub(crate) lock_alone_p50: f64,
    #[serde(default)]
    pub(crate) locks_a_second: f64,
    /// Of all servers.
    #[serde(default)]
    pub(crate) cpu_a_lock: f64,
    #[serde(default)]
    pub(crate) handover_p50: f64,
    /// To run `true` with a lock, from the command line.
    #[serde(default)]
    pub(crate) command_p50: f64,
    /// How long after the TTL of lost holders.
    #[serde(default)]
    pub(crate) lost_holders: Vec<f64>,
}

impl Report {
    pub(crate) fn new(system: System) -> Self {
        Self {
            system,
            rest_resident: Vec::new(),
            rest_cpu: 0.0,
            alone_p50: 0.0,
            alone_p99: 0.0,
            together_p50: 0.0,
            together_p99: 0.0,
            puts_a_second: 0.0,
            cpu_a_put: 0.0,
            loaded_resident: Vec::new(),
            gaps: Vec::new(),
            lock_alone_p50: 0.0,
            locks_a_second: 0.0,
            cpu_a_lock: 0.0,
            handover_p50: 0.0,
            command_p50: 0.0,
            lost_holders: Vec::new(),
        }
    }
}

/// One line of the table.
struct Row {
    name: &'static str,
    /// What one round has of it.
    figures: fn(&Report) -> Vec<f64>,
    unit: f64,
    /// The most that the ratio should be; the least, if it is negative.
    goal: Option<f64>,
}

fn largest(sizes: &[u64]) -> Vec<f64> {
    sizes.iter().max().map(|size| *size as f64).into_iter().collect()
}

const MS: f64 = 1e-3;
const MIB: f64 = (1 << 20) as f64;

const ROWS: [Row; 16] = [
    Row { name: "put of one client alone, p50, ms", figures: |r| vec![r.alone_p50], unit: MS, goal: Some(0.7) },
    Row { name: "p99, ms", figures: |r| vec![r.alone_p99], unit: MS, goal: None },
    Row { name: "puts a second of all clients", figures: |r| vec![r.puts_a_second], unit: 1.0, goal: Some(-2.0) },
    Row { name: "one of these, p50, ms", figures: |r| vec![r.together_p50], unit: MS, goal: None },
    Row { name: "p99, ms", figures: |r| vec![r.together_p99], unit: MS, goal: None },
    Row { name: "their CPU for one of these, µs", figures: |r| vec![r.cpu_a_put], unit: 1e-6, goal: Some(0.5) },
    Row {
        name: "memory of a server after that, MiB",
        figures: |r| largest(&r.loaded_resident),
        unit: MIB,
        goal: Some(0.5),
    },
    Row { name: "memory of a server at rest, MiB", figures: |r| largest(&r.rest_resident), unit: MIB, goal: Some(0.5) },
    Row { name: "CPU of a server at rest, % of a core", figures: |r| vec![r.rest_cpu], unit: 0.01, goal: None },
    Row { name: "lock and unlock, alone, p50, ms", figures: |r| vec![r.lock_alone_p50], unit: MS, goal: Some(0.7) },
    Row { name: "locks a second of all clients", figures: |r| vec![r.locks_a_second], unit: 1.0, goal: Some(-2.0) },
    Row { name: "CPU for one of these, µs", figures: |r| vec![r.cpu_a_lock], unit: 1e-6, goal: Some(0.5) },
    Row { name: "from one holder to the next, p50, ms", figures: |r| vec![r.handover_p50], unit: MS, goal: Some(0.5) },
    Row {
        name: "`true` with a lock, from the command line, p50, ms",
        figures: |r| vec![r.command_p50],
        unit: MS,
        goal: Some(0.7),
    },
    Row {
        name: "the next one after a lost holder's TTL, s",
        figures: |r| r.lost_holders.clone(),
        unit: 1.0,
        goal: None,
    },
    Row { name: "longest gap when the leader is killed, s", figures: |r| r.gaps.clone(), unit: 1.0, goal: Some(1.0) },
];

/// The median, the least and the most.
fn spread(mut figures: Vec<f64>) -> Option<(f64, f64, f64)> {
    figures.sort_unstable_by(f64::total_cmp);
    Some((*figures.get(figures.len() / 2)?, *figures.first()?, *figures.last()?))
}

fn digits(figure: f64) -> String {
    match figure {
        figure if figure >= 100.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

/// The reports as a table in Markdown: medians, and in parentheses the least and the most.
pub(crate) fn tables(reports: &[Report]) -> String {
    let mut out = String::from("| | broadcast | etcd | ratio | goal |\n|---|---|---|---|---|\n");
    for Row { name, figures, unit, goal } in &ROWS {
        let of = |system: System| {
            let rounds = reports.iter().filter(|report| report.system == system);
            spread(rounds.flat_map(figures).map(|figure| figure / unit).collect())
        };
        let (ours, theirs) = (of(System::Broadcast), of(System::Etcd));
        let cell = |found: Option<(f64, f64, f64)>| match found {
            Some((median, least, most)) => format!("{} ({}–{})", digits(median), digits(least), digits(most)),
            None => "–".into(),
        };
        let ratio = ours.zip(theirs).map(|((ours, ..), (theirs, ..))| ours / theirs);
        let ratio = ratio.map_or_else(|| "–".into(), |ratio| format!("{ratio:.2}"));
        let goal = match goal {
            Some(least) if *least < 0.0 => format!("≥ {}", -least),
            Some(most) => format!("≤ {most}"),
            None => "–".into(),
        };
        writeln!(out, "| {name} | {} | {} | {ratio} | {goal} |", cell(ours), cell(theirs)).expect("text grows");
    }
    out
}
