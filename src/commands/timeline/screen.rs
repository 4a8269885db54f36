//! The screen on which the picture is drawn: its size, and whether it has colours.

use std::io::{self, IsTerminal as _};

use terminal_size::{Height, Width, terminal_size_of};

use super::{
    layout::Layout,
    order::{Node, Row, Witness},
};
use crate::log;

/// See the [module](self).
pub(super) struct Screen {
    /// The width that the user set, for output that is not a terminal.
    width: Option<usize>,
    is_terminal: bool,
    colour: bool,
    /// The column width so far, if there is no limit.
    cell: usize,
    layout: Option<(Shape, Layout)>,
    /// The header that was drawn last.
    header: String,
    /// How many lines were drawn since, with the header's own.
    lines: usize,
}

/// What a layout depends on: the width, the column width, and the headings.
type Shape = (Option<usize>, usize, Vec<Witness>);

impl Screen {
    /// Standard output: as wide as the terminal, or as `COLUMNS` says, or without a limit.
    pub(super) fn stdout() -> Self {
        let columns = std::env::var("COLUMNS").ok();
        let width = columns.and_then(|columns| columns.trim().parse().ok()).filter(|width| *width > 0);
        Self::new(width, io::stdout().is_terminal(), log::colour())
    }

    fn new(width: Option<usize>, is_terminal: bool, colour: bool) -> Self {
        Self { width, is_terminal, colour, cell: 0, layout: None, header: String::new(), lines: 0 }
    }

    /// Draws rows, with the header again if it has changed or scrolled away.
    pub(super) fn draw(&mut self, nodes: &[Node], rows: &[Row]) -> String {
        let mut text = String::new();
        let (width, height) = self.size();
        if width.is_none() {
            self.cell = rows.iter().map(Layout::wanted).chain([self.cell]).max().unwrap_or_default();
        }
        let shape = (width, self.cell, nodes.iter().map(|node| node.witness).collect());
        let layout = match self.layout.take() {
            Some((before, layout)) if before == shape => layout,
            _ => Layout::new(nodes, width, self.cell),
        };
        let header = layout.header(nodes, self.colour);
        for row in rows {
            let out_of_sight = height.is_some_and(|height| self.lines + 1 >= height);
            if self.header != header || out_of_sight {
                if !self.header.is_empty() {
                    text.push('\n');
                }
                text.push_str(&header);
                self.header.clone_from(&header);
                self.lines = 2;
            }
            text.push_str(&layout.row(nodes, row, self.colour));
            self.lines += 1;
        }
        self.layout = Some((shape, layout));
        text
    }

    /// Width and height now: a terminal may be resized.
    fn size(&self) -> (Option<usize>, Option<usize>) {
        let size = if self.is_terminal { terminal_size_of(io::stdout()) } else { None };
        match size {
            // Some terminals report zero.
            Some((Width(width), Height(height))) if width > 0 => {
                (Some(width.into()), Some(height).filter(|height| *height > 4).map(usize::from))
            }
            _ => (self.width, None),
        }
    }
}
