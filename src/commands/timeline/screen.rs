//! Where the picture is drawn: how wide that is, and whether it likes colours.

use std::io::{self, IsTerminal as _};

use terminal_size::{Height, Width, terminal_size_of};

use super::{
    layout::Layout,
    order::{Node, Row, Voice},
};
use crate::log;

/// See the [module](self).
pub(super) struct Screen {
    /// The width that was set, where there is no terminal.
    width: Option<usize>,
    is_terminal: bool,
    colour: bool,
    /// How wide columns have been so far, where there is no limit.
    cell: usize,
    layout: Option<(Shape, Layout)>,
    /// What stands above the columns, and how many lines ago.
    header: String,
    lines: usize,
}

/// What a layout depends on.
type Shape = (Option<usize>, usize, Vec<Voice>);

impl Screen {
    /// Standard output: a terminal's width, or `COLUMNS`, or as wide as it takes.
    pub(super) fn stdout() -> Self {
        let columns = std::env::var("COLUMNS").ok();
        let width = columns.and_then(|columns| columns.trim().parse().ok()).filter(|width| *width > 0);
        Self::new(width, io::stdout().is_terminal(), log::colour())
    }

    fn new(width: Option<usize>, is_terminal: bool, colour: bool) -> Self {
        Self { width, is_terminal, colour, cell: 0, layout: None, header: String::new(), lines: 0 }
    }

    /// These rows, under the names of the nodes wherever those have changed or are out of sight.
    pub(super) fn draw(&mut self, nodes: &[Node], rows: &[Row]) -> String {
        let mut text = String::new();
        let (width, height) = self.size();
        if width.is_none() {
            self.cell = rows.iter().map(Layout::wanted).chain([self.cell]).max().unwrap_or_default();
        }
        let shape = (width, self.cell, nodes.iter().map(|node| node.voice).collect());
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

    /// As it is now: a terminal may change its size.
    fn size(&self) -> (Option<usize>, Option<usize>) {
        let size = if self.is_terminal { terminal_size_of(io::stdout()) } else { None };
        match size {
            // Some terminals do not say.
            Some((Width(width), Height(height))) if width > 0 => {
                (Some(width.into()), Some(height).filter(|height| *height > 4).map(usize::from))
            }
            _ => (self.width, None),
        }
    }
}
