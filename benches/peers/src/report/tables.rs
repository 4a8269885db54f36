//! The figures as Markdown tables: the median of all rounds, and in parentheses the least and the most; for lost, duplicate and
//! reordered messages, the worst round.

use super::{
    CPU, FLOOD, Figure, LATENCY_MAX, LATENCY_P50, LATENCY_P99, OURS, RECEIPT_P50, RECEIPT_P99, Ratio, Read, Reports,
    rate, short,
};
use crate::measure::{Mode, Report};

impl Reports {
    /// Latency, flood, and how this crate compares with others.
    pub fn tables(&self) -> String {
        let mut out = String::new();
        let figures = [LATENCY_P50, LATENCY_P99, LATENCY_MAX, RECEIPT_P50, RECEIPT_P99];
        row(&mut out, ["ms", "latency p50", "p99", "max", "receipt p50", "p99"].map(String::from));
        row(&mut out, [const { "---" }; 6].map(String::from));
        for system in self.systems() {
            let cell = |read: Read| cell(self.figure(system, Mode::Paced, read), short);
            row(&mut out, std::iter::once(name(system)).chain(figures.map(cell)));
        }
        out.push('\n');
        let titles = ["", "delivered", "duplicates", "out of order", "flood, deliveries/s", "CPU s a million"];
        row(&mut out, titles.map(String::from));
        row(&mut out, [const { "---" }; 6].map(String::from));
        for system in self.systems() {
            row(
                &mut out,
                [
                    name(system),
                    self.worst(
                        system,
                        |report| report.expected - report.delivered,
                        |report| report.share().replace(".0 %", " %"),
                    ),
                    self.worst(system, |report| report.duplicates, |report| report.duplicates.to_string()),
                    self.worst(system, |report| report.disordered, |report| report.disordered.to_string()),
                    cell(self.figure(system, Mode::Flood, FLOOD), rate),
                    cell(self.figure(system, Mode::Flood, CPU), short),
                ],
            );
        }
        let ratios = self.ratios();
        if !ratios.is_empty() {
            out.push('\n');
            row(&mut out, ["broadcast, in the same round".into(), "ratio".into()]);
            row(&mut out, [const { "---" }; 2].map(String::from));
            for Ratio { what, figure } in ratios {
                let two = |figure| format!("{figure:.2}");
                row(&mut out, [what, cell(Some(figure), two)]);
            }
        }
        out
    }

    /// Of the round that `rank` puts last: when paced, and of the flood if that is not the same.
    fn worst(&self, system: &str, rank: fn(&Report) -> u64, cell: fn(&Report) -> String) -> String {
        let worst = |mode| {
            let reports = self.of(system, mode).filter(|report| report.system == system);
            reports.max_by_key(|report| rank(report)).map(cell)
        };
        match (worst(Mode::Paced), worst(Mode::Flood)) {
            (Some(paced), Some(flood)) if paced != flood => format!("{paced}; {flood}"),
            (paced, flood) => paced.or(flood).unwrap_or("–".into()),
        }
    }
}

fn name(system: &str) -> String {
    if system == OURS { format!("**{system}**") } else { system.into() }
}

fn cell(figure: Option<Figure>, number: fn(f64) -> String) -> String {
    let Some(Figure { median, least, most }) = figure else { return "–".into() };
    if least == most {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(least), number(most))
}

fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
    out.push('|');
    for cell in cells {
        *out += &match &*cell {
            "---" => "---|".to_owned(),
            "" => " |".to_owned(),
            cell => format!(" {cell} |"),
        };
    }
    out.push('\n');
}
