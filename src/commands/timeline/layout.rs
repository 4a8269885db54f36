//! Lays rows out in columns of one width, as wide as the terminal, or as the picture wants to be.
//!
//! A cell that is too long for its column is said in fewer words, in the same way in all columns, and cut only where that
//! does not do. Where there are more nodes than columns have room, the last column is about all the others.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthChar as _;

use super::{
    entry::{LAMPORT_KEY, Message, What},
    order::{Cell, Column, Node, Row, Voice},
};
use crate::log::{DIM, PREFIXES, RESET};

/// The narrowest column in which most can still be told, and one that is narrower in need.
const NARROW: usize = 20;
const NARROWEST: usize = 12;
/// Where there is no terminal, columns grow in steps of this, so that they seldom do.
const STEP: usize = 4;
/// The widest picture.
const MAX_WIDTH: usize = 10_000;
const BOLD: &str = "\x1b[1m";
/// Between columns.
const WIDE: &str = " | ";
const TIGHT: &str = "|";

/// How the picture is laid out, as long as neither its width nor its nodes change.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// From left to right.
    columns: Vec<Column>,
    /// Those that share the last column.
    others: Vec<Column>,
    /// How wide a column is.
    cell: usize,
    between: &'static str,
}

/// What is written into a cell.
enum Content<'a> {
    Nothing,
    Happened(Cell),
    Text(&'a str),
}

impl Layout {
    /// With so much width; or, where there is no limit, with columns of at least `cell`.
    pub(super) fn new(nodes: &[Node], width: Option<usize>, cell: usize) -> Self {
        let mut columns: Vec<_> = (0..nodes.len()).collect();
        columns.sort_by(|a, b| natural(&nodes[*a].name).cmp(&natural(&nodes[*b].name)));
        let Some(width) = width else {
            let widest = columns.iter().map(|column| text_width(&heading(&nodes[*column]))).max().unwrap_or_default();
            let most = (MAX_WIDTH / columns.len().max(1)).max(NARROWEST);
            return Self { columns, others: Vec::new(), cell: cell.max(widest).min(most), between: WIDE };
        };
        let count = columns.len().max(1);
        let each = |between: &str, count: usize| {
            (width + between.len()).checked_div(count).unwrap_or_default().saturating_sub(between.len())
        };
        for (between, least) in [(WIDE, NARROW), (TIGHT, NARROWEST)] {
            if each(between, count) >= least {
                return Self { columns, others: Vec::new(), cell: each(between, count), between };
            }
        }
        // The last of so many columns is that of all others.
        let room = ((width + TIGHT.len()) / (NARROWEST + TIGHT.len())).clamp(1, count);
        let others = if room < count { columns.split_off(room - 1) } else { Vec::new() };
        Self { columns, others, cell: each(TIGHT, room).max(1), between: TIGHT }
    }

    /// How wide a column has to be for this row.
    pub(super) fn wanted(row: &Row) -> usize {
        let verbs = row.cells.values().map(|cell| cell.what).chain([What::Received]);
        let widest =
            verbs.map(|what| text_width(&full(what, &row.message)) + 2 * usize::from(what == What::Sent)).max();
        widest.unwrap_or_default().next_multiple_of(STEP)
    }

    /// Who says what stands below, and a rule.
    pub(super) fn header(&self, nodes: &[Node], colour: bool) -> String {
        let mut cells: Vec<_> = self
            .columns
            .iter()
            .map(|column| (fitted(&heading(&nodes[*column]), self.cell), colour_of(Some(*column))))
            .collect();
        if !self.others.is_empty() {
            cells.push((fitted(&format!("{} others", self.others.len()), self.cell), ""));
        }
        let rules = vec!["-".repeat(self.cell); cells.len()];
        let corner = self.between.replace(' ', "-");
        let rule = rules.join(&corner);
        let cells = cells.iter().map(|(text, colour)| (&**text, format!("{BOLD}{colour}")));
        let names = self.line(cells, colour);
        if colour { format!("{names}\n{DIM}{rule}{RESET}\n") } else { format!("{names}\n{rule}\n") }
    }

    pub(super) fn row(&self, nodes: &[Node], row: &Row, colour: bool) -> String {
        let Row { message, sender, cells } = row;
        let folded = self.folded(nodes, cells);
        let mut contents: Vec<_> = self
            .columns
            .iter()
            .map(|column| cells.get(column).map_or(Content::Nothing, |cell| Content::Happened(*cell)))
            .collect();
        if !self.others.is_empty() {
            contents.push(folded.as_deref().map_or(Content::Nothing, Content::Text));
        }
        // Said alike in all columns.
        let form = Form::of(message, self.cell);
        let texts: Vec<_> = contents
            .iter()
            .map(|content| match content {
                Content::Nothing => (String::new(), false),
                Content::Happened(cell) => (form.text(*cell, message, self.cell), cell.what == What::Sent),
                Content::Text(text) => (form.with(text, message, self.cell), false),
            })
            .collect();
        let paint = colour_of(*sender);
        let cells =
            texts.iter().map(|(text, is_sending)| (&**text, format!("{}{paint}", if *is_sending { BOLD } else { "" })));
        self.line(cells, colour) + "\n"
    }

    /// What is said of those that share the last column: who has sent it, or how many have it.
    fn folded(&self, nodes: &[Node], cells: &BTreeMap<Column, Cell>) -> Option<String> {
        let said: Vec<_> = self.others.iter().filter_map(|other| Some((*other, cells.get(other)?.what))).collect();
        let (first, what) = said.first()?;
        Some(match what {
            What::Sent => format!("{}:", nodes[*first].name),
            _ => format!("{} of {}:", said.len(), self.others.len()),
        })
    }

    /// One line, without blanks at its end.
    fn line<'a>(&self, cells: impl Iterator<Item = (&'a str, String)>, colour: bool) -> String {
        let mut line = String::new();
        let mut blanks = 0;
        for (i, (text, paint)) in cells.enumerate() {
            if i > 0 {
                line.extend(std::iter::repeat_n(' ', std::mem::take(&mut blanks)));
                let between = if colour { format!("{DIM}{}{RESET}", self.between) } else { self.between.into() };
                line.push_str(&between);
            }
            if colour && !text.is_empty() && !paint.is_empty() {
                line.extend([&*paint, text, RESET]);
            } else {
                line.push_str(text);
            }
            blanks = self.cell.saturating_sub(text_width(text));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// How many words a cell has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As in the log.
    Log,
    /// `received key=I am node2 value=0`
    Plain,
    /// `received I am node2=0`
    Short,
    /// `recv node2=0`
    Terse,
}

const FORMS: [Form; 4] = [Form::Log, Form::Plain, Form::Short, Form::Terse];

impl Form {
    /// The longest one in which this message's cells have room.
    fn of(message: &Message, room: usize) -> Self {
        let fits = |form: &Self| {
            // One that others tell of has parentheses.
            let sending = Cell { what: What::Sent, by_others: true };
            let received = Cell { what: What::Received, by_others: false };
            [sending, received].into_iter().all(|cell| text_width(&form.whole(cell, message)) <= room)
        };
        FORMS.into_iter().find(fits).unwrap_or(Self::Terse)
    }

    fn verb(self, what: What) -> &'static str {
        match (what, self) {
            (What::Sent, _) => "send",
            (What::Received, Self::Terse) => "recv",
            (What::Received, _) => "received",
            (What::Acknowledged, Self::Log | Self::Plain) => "acknowledged",
            (What::Acknowledged, _) => "ack",
        }
    }

    fn whole(self, cell: Cell, message: &Message) -> String {
        self.around(cell, &format!("{} {}", self.verb(cell.what), self.words(message)))
    }

    fn words(self, Message { key, value, .. }: &Message) -> String {
        match self {
            Self::Log => format!("broadcast msg: key={key} value={value}"),
            Self::Plain => format!("key={key} value={value}"),
            Self::Short => format!("{key}={value}"),
            Self::Terse => format!("{}={value}", terse(key)),
        }
    }

    /// A sending that only others tell of stands in parentheses.
    fn around(self, cell: Cell, text: &str) -> String {
        if cell.by_others && cell.what == What::Sent { format!("({text})") } else { text.into() }
    }

    /// In so much room.
    fn text(self, cell: Cell, message: &Message, room: usize) -> String {
        let whole = self.whole(cell, message);
        if text_width(&whole) <= room {
            return whole;
        }
        // An acknowledgement has a longer word than a reception.
        if cell.what == What::Acknowledged {
            let mut shorter = FORMS.into_iter().map(|form| form.whole(cell, message));
            if let Some(text) = shorter.find(|text| text_width(text) <= room) {
                return text;
            }
        }
        let around = 2 * usize::from(cell.by_others && cell.what == What::Sent);
        let text = self.with(self.verb(cell.what), message, room.saturating_sub(around));
        fitted(&self.around(cell, &text), room)
    }

    /// The message behind another word, in so much room: where it has to be cut, both key and value have a part of it.
    fn with(self, word: &str, message: &Message, room: usize) -> String {
        let whole = format!("{word} {}", self.words(message));
        if text_width(&whole) <= room {
            return whole;
        }
        let (key, value) = (terse(&message.key), &message.value);
        let left = room.saturating_sub(text_width(word) + 2);
        let value_room = text_width(value).min((left / 2).max(left.saturating_sub(text_width(key))));
        let (key, value) = (fitted(key, left - value_room), fitted(value, value_room));
        fitted(&format!("{word} {key}={value}"), room)
    }
}

fn full(what: What, message: &Message) -> String {
    Form::Log.whole(Cell { what, by_others: false }, message)
}

/// A sender's key says its name, and no more.
fn terse(key: &str) -> &str {
    key.strip_prefix(LAMPORT_KEY).filter(|name| !name.is_empty()).unwrap_or(key)
}

fn heading(node: &Node) -> String {
    match node.voice {
        Voice::Own => format!("{} says", node.name),
        Voice::Unknown | Voice::Others => format!("{} (others say)", node.name),
    }
}

fn colour_of(column: Option<Column>) -> &'static str {
    column.map_or("", |column| PREFIXES[column % PREFIXES.len()])
}

/// How many columns of a terminal a text takes.
pub(super) fn text_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or_default()
}

/// A text in so much room, cut where it is longer.
fn fitted(text: &str, room: usize) -> String {
    if text_width(text) <= room {
        return text.into();
    }
    let mut fitted = String::new();
    let mut left = room.saturating_sub(1);
    for c in text.chars() {
        let width = char_width(c);
        if width > left {
            break;
        }
        left -= width;
        fitted.push(c);
    }
    if room > 0 {
        fitted.push('…');
    }
    fitted
}

/// Orders names as people do: node2 before node10.
fn natural(name: &str) -> Vec<(String, u64, usize)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let words = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, behind) = rest.split_at(words);
        let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
        let (number, behind) = behind.split_at(digits);
        let value = if number.is_empty() { 0 } else { number.parse().unwrap_or(u64::MAX) };
        parts.push((text.to_owned(), value, number.len()));
        rest = behind;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commands::timeline::order::Timeline;

    fn timeline(names: &[&str]) -> Timeline {
        let mut timeline = Timeline::default();
        names.iter().for_each(|name| assert!(timeline.add_node(name, Voice::Own).is_some()));
        timeline
    }

    fn row(key: &str, value: &str, sender: Column, what: What, columns: &[Column]) -> Row {
        let cell = Cell { what, by_others: false };
        let cells = columns.iter().map(|column| (*column, cell)).collect();
        Row { message: Message::new(key, value), sender: Some(sender), cells }
    }

    fn picture(names: &[&str], width: usize, key: &str, value: &str) -> String {
        let timeline = timeline(names);
        let layout = Layout::new(timeline.nodes(), Some(width), 0);
        let others: Vec<_> = (0..names.len()).filter(|column| *column != 1).collect();
        let rows = [row(key, value, 1, What::Sent, &[1]), row(key, value, 1, What::Received, &others)];
        let rows = rows.iter().map(|row| layout.row(timeline.nodes(), row, false));
        layout.header(timeline.nodes(), false) + &rows.collect::<String>()
    }

    #[test]
    fn the_narrower_the_fewer_words() {
        let three = ["node1", "node2", "node3"];
        for (width, send, received) in [
            (150, "send broadcast msg: key=I am node2 value=17", "received broadcast msg: key=I am node2 value=17"),
            (120, "send key=I am node2 value=17", "received key=I am node2 value=17"),
            (80, "send I am node2=17", "received I am node2=17"),
            (60, "send node2=17", "recv node2=17"),
            (40, "send nod…=17", "recv nod…=17"),
            (38, "send nod…=17", "recv nod…=17"),
        ] {
            let picture = picture(&three, width, "I am node2", "17");
            let lines: Vec<_> = picture.lines().collect();
            assert_eq!(
                lines[0].split('|').map(str::trim).collect::<Vec<_>>(),
                three.map(|name| format!("{name} says"))
            );
            assert_eq!(text_width(lines[1]), width - (width - 2 * if width < 66 { 1 } else { 3 }) % 3, "{picture}");
            let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
            assert_eq!(cells(lines[2]), ["", send, ""]);
            assert_eq!(cells(lines[3]), [received, "", received]);
        }
    }

    #[test]
    fn an_acknowledgement_has_as_many_words_as_have_room() {
        let timeline = timeline(&["node1", "node2"]);
        for (width, text) in
            [(103, "acknowledged broadcast msg: key=key value=17"), (80, "acknowledged key=key value=17")]
        {
            let layout = Layout::new(timeline.nodes(), Some(width), 0);
            let line = layout.row(timeline.nodes(), &row("key", "17", 1, What::Acknowledged, &[0]), false);
            assert_eq!(line.split(" |").next().map(str::trim_end), Some(text));
        }
    }

    #[test]
    fn a_long_message_keeps_some_of_its_key_and_of_its_value() {
        let key = "cache:drop:".repeat(9);
        let value = format!("[{}]", "1,".repeat(99));
        let shown = picture(&["node1", "node2"], 103, &key, &value);
        let cells: Vec<_> = shown.lines().nth(2).expect("a row").split(" | ").collect();
        assert_eq!(cells[1], "send cache:drop:cache:drop…=[1,1,1,1,1,1,1,1,1,1,…");
    }

    #[test]
    fn nodes_that_have_no_room_share_a_column() {
        let names: Vec<_> = (1..=12).map(|i| format!("node{i}")).collect();
        let names: Vec<_> = names.iter().map(|name| &**name).collect();
        let expected = "\
node1 says  |node2 says  |node3 says  |9 others
------------|------------|------------|------------
            |send k=1    |            |
received k=1|            |received k=1|9 of 9: k=1
";
        assert_eq!(picture(&names, 51, "k", "1"), expected);
        let timeline = timeline(&names);
        let layout = Layout::new(timeline.nodes(), Some(51), 0);
        let line = layout.row(timeline.nodes(), &row("k", "1", 9, What::Sent, &[9]), false);
        assert_eq!(line, "            |            |            |node10: k=1\n");
    }

    #[test]
    fn colours_are_the_senders_and_take_no_room() {
        let timeline = timeline(&["node1", "node2"]);
        let layout = Layout::new(timeline.nodes(), Some(63), 0);
        let row = row("k", "1", 1, What::Sent, &[1]);
        let coloured = layout.row(timeline.nodes(), &row, true);
        let blanks = " ".repeat(30);
        let colour = PREFIXES[1];
        assert_eq!(coloured, format!("{blanks}{DIM} | {RESET}{BOLD}{colour}send key=k value=1{RESET}\n"));
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_screen(
            names in prop::collection::btree_set("\\PC{1,20}|node[0-9]{1,3}", 1..40),
            width in 1..200usize,
            key in "(I am )?\\PC{0,30}|[日本語]{0,30}",
            value in "\\PC{0,60}",
            what in 0..3usize,
            by_others: bool,
            columns in prop::collection::vec(0..40usize, 0..40),
        ) {
            let mut timeline = Timeline::default();
            for name in &names {
                timeline.add_node(&crate::visible::escaped(name), Voice::Own);
            }
            let what = [What::Sent, What::Received, What::Acknowledged][what];
            let cell = Cell { what, by_others };
            let cells = columns.iter().map(|column| (column % timeline.nodes().len(), cell)).collect();
            let row = Row { message: Message::new(&key, &value), sender: None, cells };
            let layout = Layout::new(timeline.nodes(), Some(width), 0);
            let text = layout.header(timeline.nodes(), false) + &layout.row(timeline.nodes(), &row, false);
            prop_assert_eq!(text.lines().count(), 3);
            for line in text.lines() {
                prop_assert!(text_width(line) <= width, "{} of {}: {:?}", text_width(line), width, line);
                prop_assert!(line.chars().all(|c| !c.is_control()));
            }
        }
    }
}
