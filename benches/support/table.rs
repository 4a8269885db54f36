//! The reports of several systems side by side, in Markdown: of several runs of a system the median one,
//! with the worst that any of them lost, repeated or put out of order.

use super::measure::{Mode, Report, Spread};

/// `reports` has one JSON object a line.
pub fn table(reports: &str) -> Result<String, serde_json::Error> {
    let reports = reports.lines().map(serde_json::from_str).collect::<Result<Vec<Report>, _>>()?;
    let mut systems: Vec<&str> = Vec::new();
    for report in &reports {
        if !systems.contains(&&*report.system) {
            systems.push(&report.system);
        }
    }
    let mut out = String::from(
        "| | latency p50 / p99 / max | receipt p50 / p99 | delivered | duplicates | out of order | flood | CPU |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for system in systems {
        let of = |mode| reports.iter().filter(move |report| report.system == system && report.mode == mode);
        let (paced, flood) = (median(of(Mode::Paced)), median(of(Mode::Flood)));
        let spread = |spread: Option<Spread>| spread.map(|Spread { p50, p99, .. }| format!("{p50:.2} / {p99:.2}"));
        let latency = paced.and_then(|paced| paced.latency_ms);
        let max = latency.map_or(String::new(), |latency| format!(" / {:.2} ms", latency.max));
        let receipt = spread(paced.and_then(|paced| paced.receipt_ms)).map(|receipt| receipt + " ms");
        let worst = |rank: fn(&Report) -> u64, cell: fn(&Report) -> String| {
            let cell = |mode| of(mode).max_by_key(|report| rank(report)).map_or("–".into(), cell);
            format!("{}; {}", cell(Mode::Paced), cell(Mode::Flood))
        };
        let rate = flood.map(|flood| format!("{:.0} k deliveries/s", flood.deliveries_per_second / 1e3));
        let cpu = flood.and_then(|flood| flood.cpu_seconds_per_million).map(|cpu| format!("{cpu:.2} s a million"));
        let cells = [
            system.to_owned(),
            spread(latency).unwrap_or("–".into()) + &max,
            receipt.unwrap_or("–".into()),
            worst(|report| report.expected - report.delivered, Report::share),
            worst(|report| report.duplicates, |report| report.duplicates.to_string()),
            worst(|report| report.disordered, |report| report.disordered.to_string()),
            rate.unwrap_or("–".into()),
            cpu.unwrap_or("–".into()),
        ];
        out += &format!("| {} |\n", cells.join(" | "));
    }
    Ok(out)
}

/// The median run, by latency or, where that was not measured, by throughput.
fn median<'a>(reports: impl Iterator<Item = &'a Report>) -> Option<&'a Report> {
    let mut reports: Vec<_> = reports.collect();
    let rank = |report: &Report| report.latency_ms.map_or(-report.deliveries_per_second, |latency| latency.p50);
    reports.sort_by(|one, other| rank(one).total_cmp(&rank(other)));
    reports.get(reports.len() / 2).copied()
}
