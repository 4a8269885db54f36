//! The results of several rounds: the median, the least and the most of each figure; and ratios of this crate's figures to those
//! of other systems in the same round, so that a machine that is slow for a minute disturbs them least.

mod picture;
mod tables;

use super::measure::{Mode, Report};

/// What this crate is called in reports.
const OURS: &str = "broadcast";
const FLOOR: &str = "bare UDP";
const NATS: &str = "NATS";
const REDIS: &str = "Redis pub/sub";
const ZENOH: &str = "Zenoh";

/// A figure over all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Figure {
    /// `None` of none.
    fn of(mut rounds: Vec<f64>) -> Option<Self> {
        rounds.sort_by(f64::total_cmp);
        let (least, most) = (*rounds.first()?, *rounds.last()?);
        let middle = (rounds[(rounds.len() - 1) / 2], rounds[rounds.len() / 2]);
        Some(Self { median: f64::midpoint(middle.0, middle.1), least, most })
    }
}

/// A figure of a report, if it has that.
type Read = fn(&Report) -> Option<f64>;

const LATENCY_P50: Read = |report| Some(report.latency_ms?.p50);
const LATENCY_P99: Read = |report| Some(report.latency_ms?.p99);
const LATENCY_MAX: Read = |report| Some(report.latency_ms?.max);
const RECEIPT_P50: Read = |report| Some(report.receipt_ms?.p50);
const RECEIPT_P99: Read = |report| Some(report.receipt_ms?.p99);
const FLOOD: Read = |report| Some(report.deliveries_per_second);
const CPU: Read = |report| report.cpu_seconds_per_million;

/// A figure of this crate divided by one of others.
struct Ratio {
    what: String,
    figure: Figure,
}

/// The reports of all rounds, in the order in which they were made.
pub struct Reports(Vec<Report>);

impl Reports {
    /// `text` has one JSON object a line.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        text.lines().map(serde_json::from_str).collect::<Result<_, _>>().map(Self)
    }

    /// The names of all systems. This crate with encryption is not one of them.
    fn systems(&self) -> Vec<&str> {
        let mut systems: Vec<&str> = Vec::new();
        for report in self.0.iter().filter(|report| !is_encrypted(&report.system)) {
            if !systems.contains(&&*report.system) {
                systems.push(&report.system);
            }
        }
        systems
    }

    /// The reports of a system by the beginning of its name, a round each.
    fn of(&self, system: &str, mode: Mode) -> impl Iterator<Item = &Report> {
        let encrypted = is_encrypted(system);
        let is_it = move |name: &str| name.starts_with(system) && is_encrypted(name) == encrypted;
        self.0.iter().filter(move |report| report.mode == mode && is_it(&report.system))
    }

    fn rounds(&self, system: &str, mode: Mode, read: Read) -> Vec<f64> {
        // One that is called as another one begins is not that one.
        let exact = self.of(system, mode).any(|report| report.system == system);
        self.of(system, mode).filter(|report| !exact || report.system == system).filter_map(read).collect()
    }

    fn figure(&self, system: &str, mode: Mode, read: Read) -> Option<Figure> {
        Figure::of(self.rounds(system, mode, read))
    }

    /// Those ratios that can be told of what was measured.
    fn ratios(&self) -> Vec<Ratio> {
        let ratio = |what: &str, ours: Vec<f64>, theirs: Vec<f64>| {
            let figure = Figure::of(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect())?;
            Some(Ratio { what: what.into(), figure })
        };
        let of = |system, mode, read| self.rounds(system, mode, read);
        let brokers = [of(NATS, Mode::Paced, LATENCY_P50), of(REDIS, Mode::Paced, LATENCY_P50)];
        let better = brokers[0].iter().zip(&brokers[1]).map(|(one, other)| one.min(*other)).collect();
        let ours = |mode, read| of(OURS, mode, read);
        let mut ratios = vec![
            ratio(
                "latency p50 / that of bare UDP",
                ours(Mode::Paced, LATENCY_P50),
                of(FLOOR, Mode::Paced, LATENCY_P50),
            ),
            ratio("latency p50 / that of the better broker", ours(Mode::Paced, LATENCY_P50), better),
            ratio(
                "receipt p50 / that of bare UDP",
                ours(Mode::Paced, RECEIPT_P50),
                of(FLOOR, Mode::Paced, RECEIPT_P50),
            ),
            ratio("flood / that of NATS", ours(Mode::Flood, FLOOD), of(NATS, Mode::Flood, FLOOD)),
            ratio("flood / that of Zenoh", ours(Mode::Flood, FLOOD), of(ZENOH, Mode::Flood, FLOOD)),
            ratio("CPU / that of NATS", ours(Mode::Flood, CPU), of(NATS, Mode::Flood, CPU)),
        ];
        let mut encrypted: Vec<&str> =
            self.0.iter().map(|report| &*report.system).filter(|name| is_encrypted(name)).collect();
        encrypted.sort_unstable();
        encrypted.dedup();
        for name in encrypted {
            let how = name.trim_start_matches(OURS).trim_start_matches(", ");
            let what = format!("flood with {how} / plain flood");
            ratios.push(ratio(&what, of(name, Mode::Flood, FLOOD), ours(Mode::Flood, FLOOD)));
        }
        ratios.into_iter().flatten().collect()
    }
}

fn is_encrypted(system: &str) -> bool {
    system.starts_with("broadcast, AES")
}

/// With three digits.
fn short(figure: f64) -> String {
    let decimals = match figure {
        f if f >= 100.0 => 0,
        f if f >= 10.0 => 1,
        f if f >= 1.0 => 2,
        _ => 3,
    };
    format!("{figure:.decimals$}")
}

/// So many a second.
fn rate(figure: f64) -> String {
    match figure {
        f if f >= 1e6 => format!("{:.2} M", f / 1e6),
        f if f >= 1e4 => format!("{:.0} k", f / 1e3),
        f => format!("{f:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(system: &str, mode: &str, p50: f64, rate: f64) -> String {
        format!(
            r#"{{"system":"{system}","mode":"{mode}","receivers":12,"senders":1,"msgs":10,"size":64,"expected":120,"#,
        ) + &format!(
            r#""delivered":120,"duplicates":0,"disordered":0,"seconds":1.0,"latency_ms":{{"p50":{p50},"p99":2.0,"#,
        ) + &format!(r#""max":3.0}},"receipt_ms":null,"deliveries_per_second":{rate},"cpu_seconds_per_million":1.0}}"#,)
    }

    fn reports() -> Reports {
        let lines = [
            report("bare UDP", "paced", 0.2, 0.0),
            report("bare UDP, late receipts", "paced", 0.1, 0.0),
            report("broadcast", "paced", 0.3, 0.0),
            report("broadcast", "flood", 1.0, 1e6),
            report("broadcast, AES-256, labelled", "flood", 1.0, 9e5),
            report("bare UDP", "paced", 0.4, 0.0),
            report("bare UDP, late receipts", "paced", 0.1, 0.0),
            report("broadcast", "paced", 0.4, 0.0),
            report("broadcast", "flood", 1.0, 2e6),
            report("broadcast, AES-256, labelled", "flood", 1.0, 1.6e6),
        ];
        Reports::parse(&lines.join("\n")).expect("reports")
    }

    #[test]
    fn a_figure_is_the_median_and_the_extremes() {
        assert_eq!(Figure::of(vec![3.0, 1.0, 2.0]), Some(Figure { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Figure::of(vec![3.0, 1.0]), Some(Figure { median: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(Figure::of(vec![]), None);
    }

    #[test]
    fn ratios_are_those_of_each_round() {
        let ratios = reports().ratios();
        let told: Vec<_> =
            ratios.iter().map(|Ratio { what, figure }| (&**what, short(figure.least), short(figure.most))).collect();
        let expected = [
            ("latency p50 / that of bare UDP", "1.00".to_owned(), "1.50".to_owned()),
            ("flood with AES-256, labelled / plain flood", "0.800".to_owned(), "0.900".to_owned()),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn encrypted_floods_are_no_system_of_their_own() {
        assert_eq!(reports().systems(), ["bare UDP", "bare UDP, late receipts", "broadcast"]);
        assert_eq!(reports().figure("bare UDP", Mode::Paced, LATENCY_P50).map(|figure| figure.least), Some(0.2));
    }

    #[test]
    fn all_of_it_is_in_the_tables_and_the_picture() {
        let (tables, picture) = (reports().tables(), reports().picture());
        assert!(tables.contains("| **broadcast** | 0.350 (0.300–0.400) |"), "{tables}");
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n") && picture.contains("bare UDP, late"));
        assert!(!picture.contains("<script"));
    }
}
