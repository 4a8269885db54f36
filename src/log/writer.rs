//! Writes the log on a thread of its own, so that a blocked output never holds up the node: other nodes would soon take it
//! for failed.
//!
//! Up to [`MAX_WAITING`] bytes of lines wait for the thread. What does not fit is lost and counted; once everything that waited
//! is written, the log says how many lines were lost there, and why.
//!
//! # What can go wrong
//!
//! - *A slow reader, or a stopped terminal*: lines wait.
//! - *A full disk*, or any other error: the thread tries again every [`RETRY`], and continues a line where it stopped. So
//!   lines stay whole, except the last one of a program that ends while the disk is full.
//! - *Nobody reads any more*: the program is notified, and lines are thrown away.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, ThreadId},
    time::Duration,
};

use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter;

/// How much may wait to be written, in bytes.
const MAX_WAITING: usize = 1 << 20;
/// How long to wait after an error.
const RETRY: Duration = Duration::from_millis(100);

/// See the [module](self).
#[derive(Clone)]
pub(super) struct BackgroundWriter {
    lines: mpsc::Sender<Output>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
    thread: ThreadId,
}

enum Output {
    Line(Vec<u8>),
    Flushed(mpsc::Sender<()>),
}

impl BackgroundWriter {
    /// Starts the thread. `out` must not buffer: what it kept back would count as written.
    pub(super) fn start(out: impl Write + Send + 'static, closed: Arc<Notify>) -> io::Result<Self> {
        let (lines, received) = mpsc::channel();
        let (waiting, lost) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        let (still_waiting, lost_so_far) = (Arc::clone(&waiting), Arc::clone(&lost));
        let write = move || write_all(out, received, &still_waiting, &lost_so_far, &closed);
        let thread = thread::Builder::new().name("log".into()).spawn(write)?.thread().id();
        Ok(Self { lines, waiting, lost, thread })
    }

    /// Waits until everything so far is written, but no longer than `time`.
    pub(super) fn flush_for(&self, time: Duration) {
        let (done, flushed) = mpsc::channel();
        if self.lines.send(Output::Flushed(done)).is_ok() {
            // In time or not, there is nothing more to do.
            let _ = flushed.recv_timeout(time);
        }
    }
}

fn write_all(
    mut out: impl Write,
    received: mpsc::Receiver<Output>,
    waiting: &AtomicUsize,
    lost: &AtomicU64,
    closed: &Notify,
) {
    let mut failed = None;
    for output in received {
        match output {
            Output::Line(line) => {
                if !write_line(&mut out, &line, &mut failed) {
                    closed.notify_one();
                }
                let left = waiting.fetch_sub(line.len(), Ordering::Relaxed) - line.len();
                if left == 0 {
                    report_lost(lost.swap(0, Ordering::Relaxed), failed.take());
                }
            }
            Output::Flushed(done) => {
                // Whoever waits may have given up.
                let _ = done.send(());
            }
        }
    }
}

/// Writes a whole line, however long that takes, and keeps the last error in `failed`. Gives whether anybody still reads.
fn write_line(out: &mut impl Write, line: &[u8], failed: &mut Option<io::Error>) -> bool {
    let mut rest = line;
    while !rest.is_empty() {
        let error = match out.write(rest) {
            Ok(0) => io::ErrorKind::WriteZero.into(),
            Ok(written) => {
                rest = &rest[written..];
                continue;
            }
            Err(error) => error,
        };
        match error.kind() {
            io::ErrorKind::Interrupted => {}
            io::ErrorKind::BrokenPipe => return false,
            _ => {
                *failed = Some(error);
                thread::sleep(RETRY);
            }
        }
    }
    true
}

fn report_lost(missed: u64, failed: Option<io::Error>) {
    match failed {
        _ if missed == 0 => {}
        None => tracing::error!(
            event = "log_lost",
            missed,
            "{missed} lines of the log were lost here, because what reads this output is too slow"
        ),
        Some(error) => tracing::error!(
            event = "log_lost",
            missed,
            %error,
            "{missed} lines of the log were lost here, because they could not be written: {error}; check the disk"
        ),
    }
}

impl MakeWriter<'_> for BackgroundWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Write for BackgroundWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let waiting = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        // The thread's own message about lost lines must not be lost.
        let fits = waiting == 0 || waiting + bytes.len() <= MAX_WAITING || thread::current().id() == self.thread;
        if fits {
            // Cannot fail: the thread lives as long as the program.
            let _ = self.lines.send(Output::Line(bytes.to_vec()));
        } else {
            self.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// How long anything may take that is waited for.
    const SOON: Duration = Duration::from_secs(60);

    /// A terminal that is held until something can be received.
    struct Held(Arc<Mutex<Vec<u8>>>, mpsc::Receiver<()>);

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Not held any longer when nobody holds it.
            let _ = self.1.recv();
            self.0.lock().expect("nobody panicked with it").write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_held_terminal_holds_nobody_up_and_what_is_lost_is_counted() {
        let (hold, held) = mpsc::channel();
        let out = Arc::new(Mutex::new(Vec::new()));
        let mut writer = BackgroundWriter::start(Held(Arc::clone(&out), held), Arc::default()).expect("a thread");
        let line = [b'x'; 1 << 10];
        for _ in 0..2 * MAX_WAITING / line.len() {
            writer.write_all(&line).expect("it takes everything");
        }
        assert_eq!(writer.lost.load(Ordering::Relaxed), 1 << 10);
        drop(hold);
        writer.flush_for(SOON);
        assert_eq!(out.lock().expect("nobody panicked with it").len(), MAX_WAITING);
        assert_eq!(writer.lost.load(Ordering::Relaxed), 0, "it was told");
    }

    /// A disk with so much room.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn make_room(&self, bytes: usize) {
            self.0.lock().expect("nobody panicked with it").1 += bytes;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().expect("nobody panicked with it").0.clone()).expect("text was written")
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut disk = self.0.lock().expect("nobody panicked with it");
            let (written, room) = &mut *disk;
            let count = bytes.len().min(*room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= count;
            written.write(&bytes[..count])
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_goes_on_where_a_full_disk_cut_it_off() {
        let disk = Disk::default();
        let mut writer = BackgroundWriter::start(disk.clone(), Arc::default()).expect("a thread");
        let lines: String = (0..100).map(|i| format!("{{\"line\":{i}}}\n")).collect();
        for line in lines.split_inclusive('\n') {
            writer.write_all(line.as_bytes()).expect("it takes everything");
        }
        // Within a line.
        disk.make_room(lines.len() / 2 + 3);
        writer.flush_for(2 * RETRY);
        assert!(disk.text().len() <= lines.len() / 2 + 3);
        disk.make_room(lines.len());
        writer.flush_for(SOON);
        assert_eq!(disk.text(), lines);
    }

    #[test]
    fn what_a_full_disk_loses_is_counted_and_forgotten_once_it_is_told() {
        let disk = Disk::default();
        let mut writer = BackgroundWriter::start(disk.clone(), Arc::default()).expect("a thread");
        let line = format!("{}\n", "x".repeat((1 << 10) - 1));
        for _ in 0..3 * MAX_WAITING / line.len() {
            writer.write_all(line.as_bytes()).expect("it takes everything");
        }
        assert_eq!(writer.lost.load(Ordering::Relaxed), 2 << 10);
        disk.make_room(usize::MAX / 2);
        writer.flush_for(SOON);
        assert_eq!(disk.text(), line.repeat(1 << 10), "what waited is written, and whole");
        assert_eq!(writer.lost.load(Ordering::Relaxed), 0, "it was told");
    }

    #[test]
    fn when_nobody_reads_that_is_told_and_nobody_is_held_up() {
        let (reader, pipe) = io::pipe().expect("the system has pipes");
        drop(reader);
        let closed = Arc::new(Notify::new());
        let mut writer = BackgroundWriter::start(pipe, Arc::clone(&closed)).expect("a thread");
        writer.write_all(b"a line\n").expect("it takes everything");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let told = runtime.block_on(async { tokio::time::timeout(SOON, closed.notified()).await });
        told.expect("it is told");
        writer.flush_for(SOON);
        assert_eq!(writer.waiting.load(Ordering::Relaxed), 0);
    }
}
