//! Draws the picture as entries come, until there are no more.
//!
//! What was collected is gathered first, as long as it keeps coming, and put in order; what happens now is drawn as it
//! comes. Both go through the same [`Timeline`], by one clock: it follows the times in what was collected, and goes on
//! by itself where nothing comes. So old logs look as they would have when they were written.

use std::{
    io,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    entry::Entry,
    history::ordered,
    line::{self, Line},
    order::{MAX_NODES, Row, Timeline, Voice},
    screen::Screen,
};
use crate::{
    commands::{follow::warn, output},
    failure::Failure,
};

/// When nothing more has come for so long, what was collected is drawn.
const PAUSE: Duration = Duration::from_millis(100);
/// What has just happened is drawn after that long, even if more keeps coming.
const LIVE: Duration = Duration::from_millis(250);
/// After that long nothing is held any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// What happened longer ago than that is not live.
const RECENT: Duration = Duration::from_secs(5);
/// How much is gathered at most, in entries; each takes no more than some 2 KB, and 300 bytes usually.
const MAX_GATHERED: usize = 50_000;
/// How many rows are put into one text.
const ROWS: usize = 10_000;
/// How many inputs are taken between two looks at what can be drawn.
const INPUTS: usize = 1024;

/// What a picture is made of.
#[derive(Debug)]
pub(super) enum Input {
    /// A line of a log that was collected.
    Line(String),
    /// Something that has happened just now.
    Entry(Entry),
    /// There is a node.
    Node { name: String, voice: Voice },
    /// A node is there and receives messages, or it is gone.
    Expect { name: String, is_there: bool },
}

/// See the [module](self).
pub(super) struct Drawing {
    timeline: Timeline,
    screen: Screen,
    clock: Clock,
    gathered: Vec<Entry>,
    /// When the first and the last of those came.
    came: Option<(Instant, Instant)>,
    rows: Vec<Row>,
    /// What is due until then is in those.
    looked: Duration,
    /// How many entries there were.
    entries: u64,
}

/// The time of what is drawn, and when it was that.
struct Clock(Duration, Instant);

impl Clock {
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
            clock: Clock(Duration::ZERO, Instant::now()),
            gathered: Vec::new(),
            came: None,
            rows: Vec::new(),
            looked: Duration::ZERO,
            entries: 0,
        }
    }

    /// Draws what comes in, until nothing will come any more.
    ///
    /// It may be stopped at any time, and started again. It ends earlier, with `false`, when nobody looks any longer.
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
                        for input in std::iter::from_fn(|| inputs.try_recv().ok()).take(INPUTS) {
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

    /// Draws the rest. Gives how many entries there were.
    pub(super) async fn finish(&mut self) -> Result<u64, Failure> {
        self.put_in_order();
        self.collect_rows();
        self.clock.set(self.clock.now() + PATIENCE);
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
                Some(Line::Entry(entry)) => {
                    self.timeline.add_node(&entry.node, Voice::Own);
                    self.gathered.push(entry);
                    let now = Instant::now();
                    self.came = Some((self.came.map_or(now, |(first, _)| first), now));
                    if self.gathered.len() >= MAX_GATHERED {
                        self.put_in_order();
                    }
                }
                Some(Line::Node(name)) => {
                    self.timeline.add_node(&name, Voice::Own);
                }
                None => {}
            },
            Input::Entry(entry) => {
                self.entries += 1;
                self.timeline.take(self.clock.now(), entry);
            }
            Input::Node { name, voice } => {
                self.timeline.add_node(&name, voice);
            }
            Input::Expect { name, is_there } => self.timeline.expect(&name, is_there),
        }
    }

    /// Whether what was collected is to be drawn.
    fn gathered_enough(&self) -> bool {
        self.gathered_until().is_some_and(|until| until <= Instant::now())
    }

    fn gathered_until(&self) -> Option<Instant> {
        let (first, last) = self.came?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let newest = Duration::from_millis(self.gathered.last()?.time);
        let is_live = now.abs_diff(newest) < RECENT;
        Some(if is_live { (first + LIVE).min(last + PAUSE) } else { last + PAUSE })
    }

    fn put_in_order(&mut self) {
        self.came = None;
        for (time, entry) in ordered(std::mem::take(&mut self.gathered)) {
            self.clock.set(time);
            self.collect_rows();
            self.entries += 1;
            self.timeline.take(self.clock.now(), entry);
        }
    }

    /// Collects the rows there are by now, as they would have come if it had been looked at all the time.
    fn collect_rows(&mut self) {
        let now = self.clock.now();
        while let Some(due) = self.timeline.due(self.looked).filter(|due| *due < now) {
            self.looked = due;
            self.rows.extend(std::iter::from_fn(|| self.timeline.row(due)));
        }
        self.looked = now;
        self.rows.extend(std::iter::from_fn(|| self.timeline.row(now)));
    }

    /// When there is something to be done, if nothing comes before.
    fn due(&self) -> Option<Instant> {
        let now = self.clock.now();
        let row = self.timeline.due(now).map(|due| Instant::now() + (due - now));
        [row, self.gathered_until()].into_iter().flatten().min()
    }

    /// Prints the rows there are; whether somebody looks.
    async fn print(&mut self) -> Result<bool, Failure> {
        let rows = std::mem::take(&mut self.rows);
        for rows in rows.chunks(ROWS) {
            let text = self.screen.draw(self.timeline.nodes(), rows);
            match output::print_slowly(text).await {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                Err(error) => return Err(output::unwritable(&error)),
            }
        }
        Ok(true)
    }
}
