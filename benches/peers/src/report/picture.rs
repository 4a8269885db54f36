//! The figures as an SVG picture: bars with whiskers from the least to the most of all rounds. It has no script and no font of
//! its own, and adapts to the reader's light or dark colours.

use std::fmt::Write as _;

use super::{CPU, FLOOD, Figure, LATENCY_P50, LATENCY_P99, OURS, RECEIPT_P50, RECEIPT_P99, Read, Reports, rate, short};
use crate::measure::Mode;

const WIDTH: f64 = 760.0;
/// Where bars begin, and how long they are at most.
const LEFT: f64 = 170.0;
const LENGTH: f64 = 400.0;
const ROW: f64 = 24.0;
const BAR: f64 = 14.0;
const TITLE: f64 = 34.0;
/// A bar that is longer than the next one by this factor is cut off, so that the others can be seen.
const OUTLIER: f64 = 5.0;

const STYLE: &str = "\
    text { font: 13px sans-serif; fill: #1f2328 }\n    \
    .title { font-weight: bold }\n    \
    .name { text-anchor: end }\n    \
    .ours { font-weight: bold }\n    \
    .bar { fill: #8c959f }\n    \
    .tail { fill: #8c959f; opacity: 0.4 }\n    \
    .bar.ours, .tail.ours { fill: #0969da }\n    \
    .whisker { stroke: #1f2328; stroke-width: 1.5; fill: none }\n    \
    .cut { stroke: #ffffff; stroke-width: 3 }\n    \
    @media (prefers-color-scheme: dark) {\n      \
    text { fill: #e6edf3 }\n      \
    .bar, .tail { fill: #6e7681 }\n      \
    .bar.ours, .tail.ours { fill: #4493f8 }\n      \
    .whisker { stroke: #e6edf3 }\n      \
    .cut { stroke: #0d1117 }\n    \
    }\n";

/// What one part of the picture shows.
struct Panel {
    title: &'static str,
    mode: Mode,
    figure: Read,
    /// A second figure, which the bar goes on to in a lighter colour, and its name.
    tail: Option<(Read, &'static str)>,
    number: fn(f64) -> String,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "Latency in ms: from publishing to the application, p50 and p99 (less is better)",
        mode: Mode::Paced,
        figure: LATENCY_P50,
        tail: Some((LATENCY_P99, "p99")),
        number: short,
    },
    Panel {
        title: "Receipt in ms: until the publisher knows that everybody has it (less is better)",
        mode: Mode::Paced,
        figure: RECEIPT_P50,
        tail: Some((RECEIPT_P99, "p99")),
        number: short,
    },
    Panel {
        title: "Flood: deliveries a second (more is better)",
        mode: Mode::Flood,
        figure: FLOOD,
        tail: None,
        number: rate,
    },
    Panel {
        title: "CPU: seconds for a million deliveries of a flood (less is better)",
        mode: Mode::Flood,
        figure: CPU,
        tail: None,
        number: short,
    },
];

struct Bar<'a> {
    system: &'a str,
    figure: Figure,
    tail: Option<f64>,
}

impl Bar<'_> {
    fn end(&self) -> f64 {
        self.tail.unwrap_or(self.figure.median).max(self.figure.most)
    }
}

impl Reports {
    /// The whole picture.
    pub fn picture(&self) -> String {
        let (mut body, mut y) = (String::new(), 0.0);
        for panel in PANELS {
            let bar = |system| {
                let figure = self.figure(system, panel.mode, panel.figure)?;
                let tail = panel.tail.and_then(|(read, _)| self.figure(system, panel.mode, read));
                Some(Bar { system, figure, tail: tail.map(|tail| tail.median) })
            };
            let bars: Vec<_> = self.systems().into_iter().filter_map(bar).collect();
            if !bars.is_empty() {
                panel.draw(&bars, y, &mut body);
                y += TITLE + ROW * bars.len() as f64 + 10.0;
            }
        }
        let receivers = self.0.first().map_or(0, |report| report.receivers);
        let what = format!("broadcast and other systems: latency, receipts, flood and CPU with {receivers} receivers");
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" role=\"img\" aria-label=\"{what}\">\n  \
             <title>{what}</title>\n  <style>\n    {STYLE}  </style>\n{body}</svg>\n"
        )
    }
}

impl Panel {
    fn draw(&self, bars: &[Bar<'_>], y: f64, out: &mut String) {
        let mut ends: Vec<f64> = bars.iter().map(Bar::end).collect();
        ends.sort_by(|one, other| other.total_cmp(one));
        // The longest one that is no outlier, if there is more than one.
        let longest =
            ends.windows(2).find(|pair| pair[0] <= OUTLIER * pair[1]).map_or(ends[ends.len() - 1], |pair| pair[0]);
        let place = |figure: f64| LEFT + LENGTH * (figure / longest).min(1.0);
        line(out, format_args!(r#"<text class="title" x="0" y="{}">{}</text>"#, y + 22.0, self.title));
        for (at, bar) in bars.iter().enumerate() {
            let top = y + TITLE + ROW * at as f64;
            let (text, middle) = (top + BAR - 2.0, top + BAR / 2.0);
            let ours = if bar.system == OURS { " ours" } else { "" };
            let Figure { median, least, most } = bar.figure;
            let rect = |class: &str, from: f64, to: f64| {
                format!(
                    r#"<rect class="{class}{ours}" x="{from:.1}" y="{top}" width="{:.1}" height="{BAR}"/>"#,
                    (to - from).max(0.0)
                )
            };
            line(out, format_args!(r#"<text class="name{ours}" x="{}" y="{text}">{}</text>"#, LEFT - 10.0, bar.system));
            line(out, format_args!("{}", rect("bar", LEFT, place(median))));
            if let Some(tail) = bar.tail {
                line(out, format_args!("{}", rect("tail", place(median), place(tail))));
            }
            if bar.end() > longest {
                let (x, bottom) = (LEFT + LENGTH - 30.0, top + BAR);
                line(out, format_args!(r#"<path class="cut" d="M{} {bottom} L{} {top}"/>"#, x, x + 8.0));
            } else {
                let (from, to) = (place(least), place(most));
                let (upper, lower) = (middle - 4.0, middle + 4.0);
                let d = format!("M{from:.1} {upper}V{lower}M{from:.1} {middle}H{to:.1}M{to:.1} {upper}V{lower}");
                line(out, format_args!(r#"<path class="whisker" d="{d}"/>"#));
            }
            let mut told = (self.number)(median);
            if let (Some((_, name)), Some(tail)) = (self.tail, bar.tail) {
                told += &format!(", {name} {}", (self.number)(tail));
            }
            let x = place(bar.end()) + 8.0;
            line(out, format_args!(r#"<text class="value{ours}" x="{x:.1}" y="{text}">{told}</text>"#));
        }
    }
}

fn line(out: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(out, "  {element}").expect("a string takes all");
}
