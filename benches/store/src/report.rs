//! The results of one round, and tables of all rounds.

use std::fmt::{self, Write as _};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// Voters of ours, by the library's client.
    Broadcast,
    /// Voters of ours, by a client of etcd.
    EtcdApi,
    /// Servers of etcd.
    Etcd,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broadcast => "broadcast",
            Self::EtcdApi => "etcd-api",
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
    #[serde(default)]
    pub(crate) get_p50: f64,
    #[serde(default)]
    pub(crate) get_p99: f64,
    #[serde(default)]
    pub(crate) gets_a_second: f64,
    /// Of all servers.
    #[serde(default)]
    pub(crate) cpu_a_get: f64,
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
            get_p50: 0.0,
            get_p99: 0.0,
            gets_a_second: 0.0,
            cpu_a_get: 0.0,
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
    /// What the ratio to etcd's should be, by the library's client, and by a client of etcd.
    goals: [Option<Goal>; 2],
}

/// What a ratio should be.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}
use Goal::{AtLeast, AtMost};

fn largest(sizes: &[u64]) -> Vec<f64> {
    sizes.iter().max().map(|size| *size as f64).into_iter().collect()
}

const MS: f64 = 1e-3;
const MIB: f64 = (1 << 20) as f64;

const ROWS: [Row; 20] = [
    Row {
        name: "put of one client alone, p50, ms",
        figures: |r| vec![r.alone_p50],
        unit: MS,
        goals: [Some(AtMost(0.7)), None],
    },
    Row { name: "p99, ms", figures: |r| vec![r.alone_p99], unit: MS, goals: [None; 2] },
    Row {
        name: "puts a second of all clients",
        figures: |r| vec![r.puts_a_second],
        unit: 1.0,
        goals: [Some(AtLeast(2.0)), Some(AtLeast(1.5))],
    },
    Row {
        name: "one of these, p50, ms",
        figures: |r| vec![r.together_p50],
        unit: MS,
        goals: [None, Some(AtMost(0.7))],
    },
    Row { name: "p99, ms", figures: |r| vec![r.together_p99], unit: MS, goals: [None; 2] },
    Row {
        name: "their CPU for one of these, µs",
        figures: |r| vec![r.cpu_a_put],
        unit: 1e-6,
        goals: [Some(AtMost(0.5)); 2],
    },
    Row {
        name: "gets a second of all clients",
        figures: |r| vec![r.gets_a_second],
        unit: 1.0,
        goals: [None, Some(AtLeast(1.5))],
    },
    Row { name: "one of these, p50, ms", figures: |r| vec![r.get_p50], unit: MS, goals: [None, Some(AtMost(0.7))] },
    Row { name: "p99, ms", figures: |r| vec![r.get_p99], unit: MS, goals: [None; 2] },
    Row {
        name: "their CPU for one of these, µs",
        figures: |r| vec![r.cpu_a_get],
        unit: 1e-6,
        goals: [None, Some(AtMost(0.5))],
    },
    Row {
        name: "memory of a server after that, MiB",
        figures: |r| largest(&r.loaded_resident),
        unit: MIB,
        goals: [Some(AtMost(0.5)); 2],
    },
    Row {
        name: "memory of a server at rest, MiB",
        figures: |r| largest(&r.rest_resident),
        unit: MIB,
        goals: [Some(AtMost(0.5)), None],
    },
    Row { name: "CPU of a server at rest, % of a core", figures: |r| vec![r.rest_cpu], unit: 0.01, goals: [None; 2] },
    Row {
        name: "lock and unlock, alone, p50, ms",
        figures: |r| vec![r.lock_alone_p50],
        unit: MS,
        goals: [Some(AtMost(0.7)), None],
    },
    Row {
        name: "locks a second of all clients",
        figures: |r| vec![r.locks_a_second],
        unit: 1.0,
        goals: [Some(AtLeast(2.0)), None],
    },
    Row {
        name: "CPU for one of these, µs",
        figures: |r| vec![r.cpu_a_lock],
        unit: 1e-6,
        goals: [Some(AtMost(0.5)), None],
    },
    Row {
        name: "from one holder to the next, p50, ms",
        figures: |r| vec![r.handover_p50],
        unit: MS,
        goals: [Some(AtMost(0.5)), None],
    },
    Row {
        name: "`true` with a lock, from the command line, p50, ms",
        figures: |r| vec![r.command_p50],
        unit: MS,
        goals: [Some(AtMost(0.7)), None],
    },
    Row {
        name: "the next one after a lost holder's TTL, s",
        figures: |r| r.lost_holders.clone(),
        unit: 1.0,
        goals: [None; 2],
    },
    Row {
        name: "longest gap when the leader is killed, s",
        figures: |r| r.gaps.clone(),
        unit: 1.0,
        goals: [Some(AtMost(1.0)), None],
    },
];

/// The median, the least and the most.
fn spread(mut figures: Vec<f64>) -> Option<(f64, f64, f64)> {
    figures.sort_unstable_by(f64::total_cmp);
    let (low, high) = (figures.get(figures.len().checked_sub(1)? / 2)?, figures.get(figures.len() / 2)?);
    Some(((low + high) / 2.0, *figures.first()?, *figures.last()?))
}

fn digits(figure: f64) -> String {
    match figure {
        figure if figure >= 100.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

impl Goal {
    /// A ratio, and whether it should have been another.
    fn judge(goal: Option<Self>, ratio: f64) -> String {
        match goal {
            None => format!("{ratio:.2}"),
            Some(AtMost(most)) => format!("{ratio:.2} (≤ {most})"),
            Some(AtLeast(least)) => format!("{ratio:.2} (≥ {least})"),
        }
    }
}

/// The reports as a table in Markdown: medians, and in parentheses the least and the most. Each ratio is to etcd, with its goal.
pub(crate) fn tables(reports: &[Report]) -> String {
    let mut out = String::from(
        "| | broadcast | ratio (goal) | by etcd's protocol | ratio (goal) | etcd |\n|---|---|---|---|---|---|\n",
    );
    for Row { name, figures, unit, goals } in &ROWS {
        let of = |system: System| {
            let rounds = reports.iter().filter(|report| report.system == system);
            spread(rounds.flat_map(figures).map(|figure| figure / unit).collect())
        };
        let cell = |found: Option<(f64, f64, f64)>| match found {
            Some((median, least, most)) => format!("{} ({}–{})", digits(median), digits(least), digits(most)),
            None => "–".into(),
        };
        let theirs = of(System::Etcd);
        write!(out, "| {name} |").expect("text grows");
        for (system, goal) in [System::Broadcast, System::EtcdApi].into_iter().zip(*goals) {
            let ours = of(system);
            let ratio = ours.zip(theirs).map(|((ours, ..), (theirs, ..))| Goal::judge(goal, ours / theirs));
            write!(out, " {} | {} |", cell(ours), ratio.unwrap_or_else(|| "–".into())).expect("text grows");
        }
        writeln!(out, " {} |", cell(theirs)).expect("text grows");
    }
    out
}
