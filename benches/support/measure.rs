//! The measurement, which is the same for this crate and the other systems: stamped values, each receiver's tally of them, and
//! the report.

use std::{
    fmt::Write as _,
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// If nothing arrives for so long, the remaining messages count as lost.
const STALL: Duration = Duration::from_secs(5);
/// The number of hexadecimal digits at the start of a value: its sender, its number, and its time of sending.
const STAMP: usize = 4 + 16 + 16;

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// So many a second: how late they are.
    Paced,
    /// As fast as they are taken: how many arrive a second.
    Flood,
}

/// What is sent, by whom and how.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// How messages are sent.
    #[arg(long, value_enum)]
    pub mode: Mode,
    /// Messages in all.
    #[arg(long)]
    pub msgs: u64,
    /// Messages a second, when paced.
    #[arg(long, default_value_t = 200)]
    pub rate: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 64)]
    pub size: usize,
}

impl Load {
    /// How long to wait from one message to the next, when paced.
    pub fn period(&self) -> Duration {
        Duration::from_secs(1) / u32::try_from(self.rate.max(1)).unwrap_or(u32::MAX)
    }
}

/// The start of the run, from which stamps count.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    fn nanos(self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a run ends within centuries")
    }

    /// A value of `size` bytes, if the stamp is not longer.
    pub fn stamp(self, sender: usize, number: u64, size: usize) -> String {
        let mut value = String::with_capacity(size.max(STAMP));
        write!(value, "{sender:04x}{number:016x}{:016x}", self.nanos()).expect("memory takes all");
        value.extend(std::iter::repeat_n('x', size.saturating_sub(STAMP)));
        value
    }
}

/// What one receiver has received.
#[derive(Debug)]
pub struct Tally {
    clock: Clock,
    timed: bool,
    /// For each sender: the received numbers, as a bit set, and the number after the largest one.
    received: Vec<(Vec<u64>, u64)>,
    delivered: Arc<AtomicU64>,
    duplicates: u64,
    disordered: u64,
    /// In nanoseconds.
    latencies: Vec<u64>,
}

impl Tally {
    /// `delivered` is the counter of all receivers together.
    pub fn new(clock: Clock, mode: Mode, delivered: &Arc<AtomicU64>) -> Self {
        let delivered = Arc::clone(delivered);
        let timed = mode == Mode::Paced;
        Self { clock, timed, received: Vec::new(), delivered, duplicates: 0, disordered: 0, latencies: Vec::new() }
    }

    /// Records that a value has reached the application.
    pub fn record(&mut self, value: &[u8]) {
        let field = |at: usize, len: usize| {
            let digits = value.get(at..at + len).and_then(|digits| str::from_utf8(digits).ok());
            digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).expect("values are stamped")
        };
        let (sender, number) = (field(0, 4) as usize, field(4, 16));
        if self.received.len() <= sender {
            self.received.resize(sender + 1, (Vec::new(), 0));
        }
        let (bits, next) = &mut self.received[sender];
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        if bits[word] & bit != 0 {
            self.duplicates += 1;
            return;
        }
        bits[word] |= bit;
        self.disordered += u64::from(number < *next);
        *next = (number + 1).max(*next);
        if self.timed {
            self.latencies.push(self.clock.nanos() - field(20, 16));
        }
        self.delivered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Percentiles of times, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    /// The percentiles of times in nanoseconds; `None` if there are none.
    pub fn of(mut nanos: Vec<u64>) -> Option<Self> {
        nanos.sort_unstable();
        let last = nanos.len().checked_sub(1)?;
        let at = |share: f64| nanos[(share * last as f64) as usize] as f64 / 1e6;
        Some(Self { p50: at(0.5), p99: at(0.99), max: at(1.0) })
    }
}

/// A run in progress.
#[derive(Debug)]
pub struct Run {
    began: Instant,
    cpu: Option<f64>,
    processes: Vec<u32>,
}

impl Run {
    /// Begins a run. `others` are the processes that take part besides this one.
    pub fn begin(others: &[u32]) -> Self {
        let mut processes = others.to_vec();
        processes.push(std::process::id());
        Self { began: Instant::now(), cpu: cpu_seconds(&processes), processes }
    }

    /// Waits until `delivered` is `expected`, or does not grow any more. Returns the time that the run took, and its CPU time in
    /// seconds.
    pub async fn end(self, delivered: &AtomicU64, expected: u64) -> (Duration, Option<f64>) {
        let (mut seen, mut since) = (delivered.load(Ordering::Relaxed), Instant::now());
        while seen < expected && since.elapsed() < STALL {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let now = delivered.load(Ordering::Relaxed);
            if now > seen {
                (seen, since) = (now, Instant::now());
            }
        }
        let cpu = cpu_seconds(&self.processes).zip(self.cpu).map(|(after, before)| after - before);
        (since - self.began, cpu)
    }
}

/// The CPU time of processes in seconds, as Linux counts it, in hundredths.
fn cpu_seconds(processes: &[u32]) -> Option<f64> {
    let ticks = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The command's name, in parentheses, may contain spaces. User and system time are fields 14 and 15.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
        Some(user + system)
    };
    processes.iter().map(ticks).sum::<Option<u64>>().map(|ticks| ticks as f64 / 100.0)
}

/// The results of a run; with `--json`, one object on a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub system: String,
    pub mode: Mode,
    /// How many receivers get each message.
    pub receivers: usize,
    pub senders: usize,
    pub msgs: u64,
    pub size: usize,
    pub expected: u64,
    pub delivered: u64,
    pub duplicates: u64,
    pub disordered: u64,
    pub seconds: f64,
    /// From publication to the application, if paced.
    pub latency_ms: Option<Percentiles>,
    /// From publication until the publisher knows that every member has it, if paced.
    pub receipt_ms: Option<Percentiles>,
    pub deliveries_per_second: f64,
    pub cpu_seconds_per_million: Option<f64>,
}

impl Report {
    pub fn new(
        system: &str,
        load: &Load,
        (receivers, senders): (usize, usize),
        (took, cpu): (Duration, Option<f64>),
        tallies: Vec<Tally>,
        receipts: Vec<u64>,
    ) -> Self {
        let delivered = tallies.first().map_or(0, |tally| tally.delivered.load(Ordering::Relaxed));
        Self {
            system: system.into(),
            mode: load.mode,
            receivers,
            senders,
            msgs: load.msgs,
            size: load.size,
            expected: load.msgs * receivers as u64,
            delivered,
            duplicates: tallies.iter().map(|tally| tally.duplicates).sum(),
            disordered: tallies.iter().map(|tally| tally.disordered).sum(),
            seconds: took.as_secs_f64(),
            latency_ms: Percentiles::of(tallies.into_iter().flat_map(|tally| tally.latencies).collect()),
            receipt_ms: Percentiles::of(receipts),
            deliveries_per_second: delivered as f64 / took.as_secs_f64(),
            cpu_seconds_per_million: cpu.map(|cpu| cpu * 1e6 / delivered.max(1) as f64),
        }
    }

    /// Prints the report as text or as JSON.
    pub fn print(&self, json: bool) {
        if json {
            return println!("{}", serde_json::to_string(self).expect("a report is plain data"));
        }
        let percentiles = |Percentiles { p50, p99, max }| format!("p50 {p50:.2}, p99 {p99:.2}, max {max:.2} ms");
        println!("{}, {:?}: {} to {} receivers", self.system, self.mode, self.msgs, self.receivers);
        println!("  delivered    {} of {} ({})", self.delivered, self.expected, self.share());
        println!("  duplicates   {}, out of order {}", self.duplicates, self.disordered);
        for (name, times) in [("latency ", self.latency_ms), ("receipt ", self.receipt_ms)] {
            if let Some(times) = times {
                println!("  {name}     {}", percentiles(times));
            }
        }
        println!("  throughput   {:.0} deliveries/s", self.deliveries_per_second);
        if let Some(cpu) = self.cpu_seconds_per_million {
            println!("  CPU          {cpu:.2} s a million deliveries");
        }
    }

    pub fn share(&self) -> String {
        // Rounded down, so that 100 % means all.
        let permille = self.delivered * 1000 / self.expected.max(1);
        format!("{}.{} %", permille / 10, permille % 10)
    }
}
