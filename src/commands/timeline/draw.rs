//! Draws the picture as entries come, until there are no more.
//!
//! Lines of collected logs are gathered as long as they keep coming, and put in order first. What happens now is drawn as it
//! comes. Both go through the same [`Timeline`], by one clock, which follows the times in the logs, and goes on by itself
//! when nothing comes. So old logs look as they would have when they were written.

use std::time::{Duration, SystemTime};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    entry::Entry,
    history::ordered,
    line::{self, LogLine},
    order::{MAX_NODES, Row, Timeline, Witness},
    screen::Screen,
};
use crate::{
    commands::output::{self, warn},
    failure::Failure,
};

/// After a pause this long, gathered entries are drawn.
const PAUSE: Duration = Duration::from_millis(100);
/// Entries about what has just happened are gathered for this long at most.
const LIVE_DELAY: Duration = Duration::from_millis(250);
/// By then the timeline holds nothing back any more.
const DRAIN_TIME: Duration = Duration::from_secs(60);
/// What happened longer ago is not live.
const RECENT: Duration = Duration::from_secs(5);
/// How many entries are gathered at most. Each takes 300 bytes usually, and some 2 KB at most.
const MAX_GATHERED: usize = 50_000;
/// How many rows are printed at once.
const ROWS_AT_ONCE: usize = 10_000;
/// How many inputs are taken before rows are drawn again.
const INPUTS_AT_ONCE: usize = 1024;

/// What goes into a picture.
#[derive(Debug)]
pub(super) enum Input {
    /// A line of a collected log.
    Line(String),
    /// Something that has happened just now.
    Entry(Entry),
    /// There is a node.
    Node { name: String, witness: Witness },
    /// A node can receive messages, or is gone.
    Expect { name: String, is_there: bool },
}

/// See the [module](self).
pub(super) struct Drawing {
    timeline: Timeline,
    screen: Screen,
    clock: PictureClock,
    gathered: Vec<Entry>,
    /// When the first and the last of the gathered entries came.
    gathered_at: Option<(Instant, Instant)>,
    rows: Vec<Row>,
    /// `rows` has everything that was due by then.
    rows_until: Duration,
    /// How many entries have been drawn, or will be.
    entries: u64,
}

/// The time in the picture, and when it was set.
struct PictureClock(Duration, Instant);

impl PictureClock {
    fn now(&self) -> Duration {
        self.0 + self.1.elapsed()
    }

    fn set(&mut self, to: Duration) {
        (self.0, self.1) = (to.max(self.now()), Instant::now());
    }
}

impl Drawing {
    pub(super) fn new(screen: Screen) -> Self {
        Self {
            timeline: Timeline::default(),
            screen,
            clock: PictureClock(Duration::ZERO, Instant::now()),
            gathered: Vec::new(),
            gathered_at: None,
            rows: Vec::new(),
            rows_until: Duration::ZERO,
            entries: 0,
        }
    }

    /// Draws inputs until their sender is gone; or until nobody looks any more, and then gives false. Cancel-safe.
    pub(super) async fn run(&mut self, inputs: &mut mpsc::Receiver<Input>) -> Result<bool, Failure> {
        loop {
            let due = self.due();
            let wait = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => {
                        self.take(input);
                        for input in std::iter::from_fn(|| inputs.try_recv().ok()).take(INPUTS_AT_ONCE) {
                            self.take(input);
                        }
                    }
                    None => return Ok(true),
                },
                () = wait => {}
            }
            if self.gathered_enough() {
                self.put_in_order();
            }
            self.collect_rows();
            if !self.print().await? {
                return Ok(false);
            }
        }
    }

    /// Draws the rest. Gives the number of all entries.
    pub(super) async fn finish(&mut self) -> Result<u64, Failure> {
        self.put_in_order();
        self.collect_rows();
        self.clock.set(self.clock.now() + DRAIN_TIME);
        self.collect_rows();
        self.print().await?;
        if self.timeline.left_out() > 0 {
            warn(&format!(
                "{} lines are of more than {MAX_NODES} nodes, and are not drawn; leave some logs out",
                self.timeline.left_out()
            ));
        }
        Ok(self.entries)
    }

    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Line(line) => match line::read(&line) {
                Some(LogLine::Entry(entry)) => {
                    self.timeline.add_node(&entry.node, Witness::Itself);
                    self.gathered.push(entry);
                    let now = Instant::now();
                    self.gathered_at = Some((self.gathered_at.map_or(now, |(first, _)| first), now));
                    if self.gathered.len() >= MAX_GATHERED {
                        self.put_in_order();
                    }
                }
                Some(LogLine::Node(name)) => {
                    self.timeline.add_node(&name, Witness::Itself);
                }
                None => {}
            },
            Input::Entry(entry) => {
                self.entries += 1;
                self.timeline.take(self.clock.now(), entry);
            }
            Input::Node { name, witness } => {
                self.timeline.add_node(&name, witness);
            }
            Input::Expect { name, is_there } => self.timeline.expect(&name, is_there),
        }
    }

    /// Whether it is time to draw gathered entries.
    fn gathered_enough(&self) -> bool {
        self.gathered_until().is_some_and(|until| until <= Instant::now())
    }

    fn gathered_until(&self) -> Option<Instant> {
        let (first, last) = self.gathered_at?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let newest = Duration::from_millis(self.gathered.last()?.time);
        let is_live = now.abs_diff(newest) < RECENT;
        Some(if is_live { (first + LIVE_DELAY).min(last + PAUSE) } else { last + PAUSE })
    }

    fn put_in_order(&mut self) {
        self.gathered_at = None;
        for (time, entry) in ordered(std::mem::take(&mut self.gathered)) {
            self.clock.set(time);
            self.collect_rows();
            self.entries += 1;
            self.timeline.take(self.clock.now(), entry);
        }
    }

    /// Collects all rows that are due by now, in the order in which they became due.
    fn collect_rows(&mut self) {
        let now = self.clock.now();
        while let Some(due) = self.timeline.due(self.rows_until).filter(|due| *due < now) {
            self.rows_until = due;
            self.rows.extend(std::iter::from_fn(|| self.timeline.row(due)));
        }
        self.rows_until = now;
        self.rows.extend(std::iter::from_fn(|| self.timeline.row(now)));
    }

    /// When to continue, if no input comes before.
    fn due(&self) -> Option<Instant> {
        let now = self.clock.now();
        let row = self.timeline.due(now).map(|due| Instant::now() + (due - now));
        [row, self.gathered_until()].into_iter().flatten().min()
    }

    /// Prints the collected rows. Gives whether anybody still looks.
    async fn print(&mut self) -> Result<bool, Failure> {
        let rows = std::mem::take(&mut self.rows);
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let text = self.screen.draw(self.timeline.nodes(), rows);
            if !output::print_in_background(text).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
