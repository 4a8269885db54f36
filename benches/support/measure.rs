//! What is measured, the same for this crate and its peers: stamped values, what each receiver makes of
//! them, and the report.

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

/// How long nothing may arrive until the rest counts as lost.
const STALL: Duration = Duration::from_secs(5);
/// The hexadecimal digits in front of a value: its sender, its number, and when it was sent.
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

/// When the run began; stamps count from it.
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

/// What one receiver has heard.
#[derive(Debug)]
pub struct Tally {
    clock: Clock,
    timed: bool,
    /// By sender: which numbers came, as bits, and the number after the last one.
    heard: Vec<(Vec<u64>, u64)>,
    delivered: Arc<AtomicU64>,
    duplicates: u64,
    disordered: u64,
    /// In nanoseconds.
    latencies: Vec<u64>,
}

impl Tally {
    /// `delivered` counts for all receivers together.
    pub fn new(clock: Clock, mode: Mode, delivered: &Arc<AtomicU64>) -> Self {
        let delivered = Arc::clone(delivered);
        let timed = mode == Mode::Paced;
        Self { clock, timed, heard: Vec::new(), delivered, duplicates: 0, disordered: 0, latencies: Vec::new() }
    }

    /// A value has reached the application.
    pub fn record(&mut self, value: &[u8]) {
        let field = |at: usize, len: usize| {
            let digits = value.get(at..at + len).and_then(|digits| str::from_utf8(digits).ok());
            digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).expect("values are stamped")
        };
        let (sender, number) = (field(0, 4) as usize, field(4, 16));
        if self.heard.len() <= sender {
            self.heard.resize(sender + 1, (Vec::new(), 0));
        }
        let (bits, next) = &mut self.heard[sender];
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

/// How times are spread, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// Of times in nanoseconds; `None` of none.
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
    /// `others` are processes that take part, besides this one.
    pub fn begin(others: &[u32]) -> Self {
        let mut processes = others.to_vec();
        processes.push(std::process::id());
        Self { began: Instant::now(), cpu: cpu_seconds(&processes), processes }
    }

    /// Waits until `delivered` is what is expected, or does not grow any more.
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

/// What processes have used, by Linux's account of it, in hundredths of a second.
fn cpu_seconds(processes: &[u32]) -> Option<f64> {
    let ticks = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The command's name, in parentheses, may hold blanks. User and system time are fields 14 and 15.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
        Some(user + system)
    };
    processes.iter().map(ticks).sum::<Option<u64>>().map(|ticks| ticks as f64 / 100.0)
}

/// What a run showed; one object a line with `--json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub system: String,
    pub mode: Mode,
    /// Who gets each message.
    pub receivers: usize,
    pub senders: usize,
    pub msgs: u64,
    pub size: usize,
    pub expected: u64,
    pub delivered: u64,
    pub duplicates: u64,
    pub disordered: u64,
    pub seconds: f64,
    /// From publishing to the application, when paced.
    pub latency_ms: Option<Spread>,
    /// From publishing until the publisher knows that every member has it, when paced.
    pub receipt_ms: Option<Spread>,
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
            latency_ms: Spread::of(tallies.into_iter().flat_map(|tally| tally.latencies).collect()),
            receipt_ms: Spread::of(receipts),
            deliveries_per_second: delivered as f64 / took.as_secs_f64(),
            cpu_seconds_per_million: cpu.map(|cpu| cpu * 1e6 / delivered.max(1) as f64),
        }
    }

    /// Prints it, for people or as JSON.
    pub fn print(&self, json: bool) {
        if json {
            return println!("{}", serde_json::to_string(self).expect("a report is plain data"));
        }
        let spread = |Spread { p50, p99, max }| format!("p50 {p50:.2}, p99 {p99:.2}, max {max:.2} ms");
        println!("{}, {:?}: {} to {} receivers", self.system, self.mode, self.msgs, self.receivers);
        println!("  delivered    {} of {} ({})", self.delivered, self.expected, self.share());
        println!("  duplicates   {}, out of order {}", self.duplicates, self.disordered);
        for (name, times) in [("latency ", self.latency_ms), ("receipt ", self.receipt_ms)] {
            if let Some(times) = times {
                println!("  {name}     {}", spread(times));
            }
        }
        println!("  throughput   {:.0} deliveries/s", self.deliveries_per_second);
        if let Some(cpu) = self.cpu_seconds_per_million {
            println!("  CPU          {cpu:.2} s a million deliveries");
        }
    }

    pub fn share(&self) -> String {
        // Rounded down: all means all.
        let permille = self.delivered * 1000 / self.expected.max(1);
        format!("{}.{} %", permille / 10, permille % 10)
    }
}
