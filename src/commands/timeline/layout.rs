//! Lays rows out in columns of equal width, to fit a terminal, or as wide as the texts need.
//!
//! A text that is too long for its column becomes shorter, in the same way in all columns, and is cut only if that is not
//! enough. If there is no room for a column for each node, the last column is for all others.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthChar as _;

use super::{
    entry::{EntryKind, LAMPORT_KEY, MessageText},
    order::{Cell, Column, Node, Row, Witness},
};
use crate::{
    commands::natural_order::natural_key,
    log::{DIM, PREFIXES, RESET},
};

/// The narrowest column that is well readable, and the narrowest of all.
const NARROW: usize = 20;
const NARROWEST: usize = 12;
/// Without a terminal, columns grow in steps of this width, so that they seldom do.
const STEP: usize = 4;
/// The widest picture, without a terminal.
const MAX_WIDTH: usize = 10_000;
const BOLD: &str = "\x1b[1m";
/// What separates columns.
const WIDE: &str = " | ";
const TIGHT: &str = "|";

/// The layout for one width and one list of nodes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// From left to right.
    columns: Vec<Column>,
    /// The nodes that share the last column.
    others: Vec<Column>,
    /// The width of a column.
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
    /// A layout of this width; without one, with columns of at least `cell`.
    pub(super) fn new(nodes: &[Node], width: Option<usize>, cell: usize) -> Self {
        let mut columns: Vec<_> = (0..nodes.len()).collect();
        columns.sort_by(|a, b| natural_key(&nodes[*a].name).cmp(&natural_key(&nodes[*b].name)));
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
        // The last column is for all others.
        let room = ((width + TIGHT.len()) / (NARROWEST + TIGHT.len())).clamp(1, count);
        let others = if room < count { columns.split_off(room - 1) } else { Vec::new() };
        Self { columns, others, cell: each(TIGHT, room).max(1), between: TIGHT }
    }

    /// The column width that a row needs.
    pub(super) fn wanted(row: &Row) -> usize {
        let verbs = row.cells.values().map(|cell| cell.kind).chain([EntryKind::Received]);
        let widest =
            verbs.map(|kind| text_width(&full(kind, &row.message)) + 2 * usize::from(kind == EntryKind::Sent)).max();
        widest.unwrap_or_default().next_multiple_of(STEP)
    }

    /// The names of the nodes, and a rule below.
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

    /// The line of a row.
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
        // The same wording in all columns.
        let wording = Wording::of(message, self.cell);
        let texts: Vec<_> = contents
            .iter()
            .map(|content| match content {
                Content::Nothing => (String::new(), false),
                Content::Happened(cell) => (wording.text(*cell, message, self.cell), cell.kind == EntryKind::Sent),
                Content::Text(text) => (wording.with(text, message, self.cell), false),
            })
            .collect();
        let paint = colour_of(*sender);
        let cells =
            texts.iter().map(|(text, is_sending)| (&**text, format!("{}{paint}", if *is_sending { BOLD } else { "" })));
        self.line(cells, colour) + "\n"
    }

    /// The text of the last column for the nodes that share it: who sent the message, or how many have it.
    fn folded(&self, nodes: &[Node], cells: &BTreeMap<Column, Cell>) -> Option<String> {
        let cells: Vec<_> = self.others.iter().filter_map(|other| Some((*other, cells.get(other)?.kind))).collect();
        let (first, kind) = cells.first()?;
        Some(match kind {
            EntryKind::Sent => format!("{}:", nodes[*first].name),
            _ => format!("{} of {}:", cells.len(), self.others.len()),
        })
    }

    /// Joins cells to a line, without blanks at its end.
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

/// How the text of a cell is worded, the longest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wording {
    /// `received broadcast msg: key=I am node2 value=0`, as in the log.
    Log,
    /// `received key=I am node2 value=0`
    Plain,
    /// `received I am node2=0`
    Short,
    /// `recv node2=0`
    Terse,
}

const WORDINGS: [Wording; 4] = [Wording::Log, Wording::Plain, Wording::Short, Wording::Terse];

impl Wording {
    /// The longest wording with which the message's cells fit.
    fn of(message: &MessageText, room: usize) -> Self {
        let fits = |wording: &Self| {
            // A sending that others report is in parentheses.
            let sending = Cell { kind: EntryKind::Sent, by_others: true };
            let received = Cell { kind: EntryKind::Received, by_others: false };
            [sending, received].into_iter().all(|cell| text_width(&wording.whole(cell, message)) <= room)
        };
        WORDINGS.into_iter().find(fits).unwrap_or(Self::Terse)
    }

    fn verb(self, kind: EntryKind) -> &'static str {
        match (kind, self) {
            (EntryKind::Sent, _) => "send",
            (EntryKind::Received, Self::Terse) => "recv",
            (EntryKind::Received, _) => "received",
            (EntryKind::Acknowledged, Self::Log | Self::Plain) => "acknowledged",
            (EntryKind::Acknowledged, _) => "ack",
        }
    }

    fn whole(self, cell: Cell, message: &MessageText) -> String {
        self.around(cell, &format!("{} {}", self.verb(cell.kind), self.words(message)))
    }

    fn words(self, MessageText { key, value, .. }: &MessageText) -> String {
        match self {
            Self::Log => format!("broadcast msg: key={key} value={value}"),
            Self::Plain => format!("key={key} value={value}"),
            Self::Short => format!("{key}={value}"),
            Self::Terse => format!("{}={value}", terse(key)),
        }
    }

    /// Puts a sending that only others report into parentheses.
    fn around(self, cell: Cell, text: &str) -> String {
        if cell.by_others && cell.kind == EntryKind::Sent { format!("({text})") } else { text.into() }
    }

    /// The text of a cell, cut to fit.
    fn text(self, cell: Cell, message: &MessageText, room: usize) -> String {
        let whole = self.whole(cell, message);
        if text_width(&whole) <= room {
            return whole;
        }
        // "acknowledged" is longer than "received", for which the wording was chosen.
        if cell.kind == EntryKind::Acknowledged {
            let mut shorter = WORDINGS.into_iter().map(|wording| wording.whole(cell, message));
            if let Some(text) = shorter.find(|text| text_width(text) <= room) {
                return text;
            }
        }
        let around = 2 * usize::from(cell.by_others && cell.kind == EntryKind::Sent);
        let text = self.with(self.verb(cell.kind), message, room.saturating_sub(around));
        fitted(&self.around(cell, &text), room)
    }

    /// The message after a word, cut to fit so that some of the key and some of the value remain.
    fn with(self, word: &str, message: &MessageText, room: usize) -> String {
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

fn full(kind: EntryKind, message: &MessageText) -> String {
    Wording::Log.whole(Cell { kind, by_others: false }, message)
}

/// A sender's key without `I am `.
fn terse(key: &str) -> &str {
    key.strip_prefix(LAMPORT_KEY).filter(|name| !name.is_empty()).unwrap_or(key)
}

fn heading(node: &Node) -> String {
    match node.witness {
        Witness::Itself => format!("{} says", node.name),
        Witness::Unknown | Witness::Others => format!("{} (others say)", node.name),
    }
}

fn colour_of(column: Option<Column>) -> &'static str {
    column.map_or("", |column| PREFIXES[column % PREFIXES.len()])
}

/// How many columns a text takes in a terminal.
pub(super) fn text_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or_default()
}

/// A text, cut to fit.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commands::timeline::order::Timeline;

    fn timeline(names: &[&str]) -> Timeline {
        let mut timeline = Timeline::default();
        names.iter().for_each(|name| assert!(timeline.add_node(name, Witness::Itself).is_some()));
        timeline
    }

    fn row(key: &str, value: &str, sender: Column, kind: EntryKind, columns: &[Column]) -> Row {
        let cell = Cell { kind, by_others: false };
        let cells = columns.iter().map(|column| (*column, cell)).collect();
        Row { message: MessageText::new(key, value), sender: Some(sender), cells }
    }

    fn picture(names: &[&str], width: usize, key: &str, value: &str) -> String {
        let timeline = timeline(names);
        let layout = Layout::new(timeline.nodes(), Some(width), 0);
        let others: Vec<_> = (0..names.len()).filter(|column| *column != 1).collect();
        let rows = [row(key, value, 1, EntryKind::Sent, &[1]), row(key, value, 1, EntryKind::Received, &others)];
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
            let line = layout.row(timeline.nodes(), &row("key", "17", 1, EntryKind::Acknowledged, &[0]), false);
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
        let line = layout.row(timeline.nodes(), &row("k", "1", 9, EntryKind::Sent, &[9]), false);
        assert_eq!(line, "            |            |            |node10: k=1\n");
    }

    #[test]
    fn colours_are_the_senders_and_take_no_room() {
        let timeline = timeline(&["node1", "node2"]);
        let layout = Layout::new(timeline.nodes(), Some(63), 0);
        let row = row("k", "1", 1, EntryKind::Sent, &[1]);
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
            kind in 0..3usize,
            by_others: bool,
            columns in prop::collection::vec(0..40usize, 0..40),
        ) {
            let mut timeline = Timeline::default();
            for name in &names {
                timeline.add_node(&crate::visible::escaped(name), Witness::Itself);
            }
            let kind = [EntryKind::Sent, EntryKind::Received, EntryKind::Acknowledged][kind];
            let cell = Cell { kind, by_others };
            let cells = columns.iter().map(|column| (column % timeline.nodes().len(), cell)).collect();
            let row = Row { message: MessageText::new(&key, &value), sender: None, cells };
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
