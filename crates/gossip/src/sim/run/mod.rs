//! One run: a scenario at one size from one seed.
//!
//! First the cluster forms. Then, for the scenario's duration, hosts publish messages and faults are injected. Then everything
//! must be delivered in time. The checker looks at every step.

mod convergence;
mod faults;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    GUARANTEES,
    checker::{CheckResult, Checker, DeliveryEvent, Guarantees},
    event_queue::nanos,
    fault_schedule::{FaultSchedule, SEEDS},
    histogram::LatencyHistogram,
    network::{BootOptions, HostId, HostTraffic, Network, Notification, Step, host_name},
    outcome::{RunEnd, RunOutcome, RunStats, Violation},
    scenario::{Scenario, Start},
    trace::Trace,
};
use crate::{
    NodeInfo,
    config::{Seed, Tuning},
    dissemination::PublishError,
    event::Event,
    membership::{Cohort, NodeName},
    node::Node,
};

/// How long a cluster may take to form.
const FORMING: Duration = Duration::from_secs(120);
/// The time between forming and the first message.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long a run goes on when everything is delivered, to see duplicates.
const LINGER: Duration = Duration::from_secs(2);
/// How often obligations and receipts are checked.
const CHECKPOINT: Duration = Duration::from_millis(500);
/// Up to this size, every step checks all that a node knows of the others, and nodes tell each other who they are.
const MAX_CHECKED_VIEWS: usize = 64;
/// A failure that is detected within this time after a fault is no false alarm: suspicions take time, and so does their spread.
const FAULT_AFTERMATH: Duration = Duration::from_secs(60);
/// The wall clock at the start of a run, in microseconds since 1970.
const WALL_CLOCK: u64 = 1_764_000_000_000_000;
/// How many steps are kept to show what led to a violation.
const TRACED_STEPS: usize = 40;

/// How another thread watches and stops runs.
///
/// ```
/// use broadcast::sim::{Batch, Job, RunControl, Scenario};
///
/// let scenario = Scenario::parse("tiny", "sizes = [3]\nduration = \"1s\"\n[workload]\npublishers = 1")?;
/// let control = RunControl::default();
/// let outcomes = Batch::new(vec![Job { scenario: &scenario, size: 3, seed: 1 }]).run(&control);
/// assert!(outcomes[0].is_good());
/// # Ok::<(), broadcast::sim::ScenarioError>(())
/// ```
#[derive(Debug, Default)]
pub struct RunControl {
    /// Stops every run where it is.
    pub stop: AtomicBool,
    /// How many runs have ended.
    pub done: AtomicUsize,
    /// The virtual time that has been simulated, in milliseconds.
    pub simulated: AtomicU64,
    /// Stops a run after this step, and keeps a trace of the last ones.
    pub until_step: Option<u64>,
    /// Other guarantees to check than the nodes', for tests.
    pub(super) guarantees: Option<Guarantees>,
}

impl RunControl {
    /// For runs that stop after this step, if there is one, and keep a trace of the last ones.
    #[must_use]
    pub fn until(step: Option<u64>) -> Self {
        Self { until_step: step, ..Self::default() }
    }
}

/// What a callback of the network is for. The network carries it as a number.
#[derive(Clone, Copy)]
enum Callback {
    Publish(usize),
    Fault(usize),
    Checkpoint,
    Stop(HostId),
}

impl Callback {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Publish(number) => (0, number),
            Self::Fault(number) => (1, number),
            Self::Checkpoint => (2, 0),
            Self::Stop(number) => (3, number),
        };
        number as u64 * 4 + kind
    }

    fn unpack(number: u64) -> Self {
        let index = (number / 4) as usize;
        match number % 4 {
            0 => Self::Publish(index),
            1 => Self::Fault(index),
            2 => Self::Checkpoint,
            _ => Self::Stop(index),
        }
    }
}

/// A host's status, as seen from outside.
#[derive(Debug, Default)]
struct HostStatus {
    /// How many members its node sees, itself included.
    members_seen: usize,
    is_leaving: bool,
    /// By how much its wall clock is wrong, in microseconds.
    clock_error: i64,
    /// When a fault last affected it.
    last_disturbed: Option<Duration>,
    crashed_at: Option<Duration>,
    /// Its node runs, but is not owed any messages yet.
    is_new: bool,
    /// Its node restarts once it has left.
    restarts: bool,
}

#[derive(Debug)]
struct Publisher {
    host: HostId,
    count: u64,
    /// The key and value that the node has no room for yet.
    waiting: Option<(String, String)>,
}

struct Run<'a> {
    scenario: &'a Scenario,
    size: usize,
    seeds: Vec<Seed>,
    tuning: Tuning,
    net: Network,
    checker: Checker,
    rng: Xoshiro256PlusPlus,
    schedule: FaultSchedule,
    hosts: Vec<HostStatus>,
    by_name: HashMap<NodeName, HostId>,
    addresses: u32,
    publishers: Vec<Publisher>,
    publishing: bool,
    /// How many faults are active now, and when a fault was last injected or ended.
    active_faults: i64,
    last_fault_change: Duration,
    notifications: Vec<(HostId, Notification)>,
    detect: LatencyHistogram,
    false_alarms: u64,
    /// Copies that ended nodes had received.
    copies: u64,
    /// When the workload began, and the traffic and copies until then.
    begin: Duration,
    base: (HostTraffic, u64),
}

/// Why a run ends early.
enum RunError {
    Violation(String),
    /// Something has not happened in time: the next step would be too late.
    Overdue(String),
    Stopped,
}

impl From<String> for RunError {
    fn from(violation: String) -> Self {
        Self::Violation(violation)
    }
}

/// Runs a scenario.
pub(super) fn run(scenario: &Scenario, size: usize, seed: u64, control: &RunControl) -> RunOutcome {
    let started = Instant::now();
    let mut run = Run::new(scenario, size, seed, control);
    let end = match run.run(control) {
        Ok(()) => RunEnd::Finished,
        Err(RunError::Stopped) => RunEnd::Stopped,
        Err(RunError::Violation(what)) => {
            RunEnd::Violated(Violation { description: what, step: run.net.steps, at: run.net.elapsed() })
        }
        Err(RunError::Overdue(what)) => {
            RunEnd::Violated(Violation { description: what, step: run.net.steps + 1, at: run.net.elapsed() })
        }
    };
    let stats = run.stats();
    let unmet = if end == RunEnd::Finished { scenario.expect.unmet(&stats) } else { Vec::new() };
    RunOutcome {
        scenario: scenario.name.clone(),
        size,
        seed,
        end,
        stats,
        steps: run.net.steps,
        digest: run.net.digest(),
        simulated: run.net.elapsed(),
        took: started.elapsed(),
        unmet,
        trace: run.net.trace.into_lines(),
    }
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, size: usize, seed: u64, control: &RunControl) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut net = Network::new(rng.random(), scenario.link());
        if control.until_step.is_some() {
            net.trace = Trace::of(TRACED_STEPS);
        }
        let schedule = FaultSchedule::generate(scenario, size, &mut rng);
        let guarantees = control.guarantees.unwrap_or(GUARANTEES);
        let checker = Checker::new(schedule.hosts, guarantees, scenario.expect.missed.is_some_and(|most| most > 0));
        let mut by_name = HashMap::new();
        for host in 0..schedule.hosts {
            let name = host_name(host);
            net.add_host(&name, Network::address(host as u32 + 1));
            by_name.insert(NodeName::from(&*name), host);
        }
        let mut shuffled: Vec<HostId> = (0..size).collect();
        let (chosen, _) = shuffled.partial_shuffle(&mut rng, scenario.workload.publishers);
        let chosen: &[HostId] = if scenario.workload.hosts.is_empty() { chosen } else { &scenario.workload.hosts };
        let publishers = chosen.iter().map(|host| Publisher { host: *host, count: 0, waiting: None }).collect();
        let mut hosts: Vec<HostStatus> = (0..schedule.hosts).map(|_| HostStatus::default()).collect();
        if let Some(most) = scenario.clocks {
            let most = i64::try_from(most.as_micros()).expect("clocks are wrong by ten years at most");
            hosts.iter_mut().for_each(|status| status.clock_error = rng.random_range(-most..=most));
        }
        // To look for a seed, a node goes through all its members. In a large cluster one seed is enough.
        let seeds = if size > 2000 { 1 } else { SEEDS.min(size) };
        Self {
            scenario,
            size,
            seeds: (0..seeds).map(|host| Seed { host: host_name(host), port: crate::config::DEFAULT_PORT }).collect(),
            tuning: scenario.tuning(),
            net,
            checker,
            rng,
            hosts,
            addresses: schedule.hosts as u32 + 1,
            schedule,
            by_name,
            publishers,
            publishing: false,
            active_faults: 0,
            last_fault_change: Duration::ZERO,
            notifications: Vec::new(),
            detect: LatencyHistogram::default(),
            false_alarms: 0,
            copies: 0,
            begin: Duration::ZERO,
            base: (HostTraffic::default(), 0),
        }
    }

    fn run(&mut self, control: &RunControl) -> Result<(), RunError> {
        let cohort = match self.scenario.start {
            Start::Join => None,
            Start::Acquainted => Some(self.net.cohort(self.size)),
        };
        for host in 0..self.size {
            if control.stop.load(Ordering::Relaxed) {
                return Err(RunError::Stopped);
            }
            self.boot(host, cohort.as_ref());
        }
        self.check_step(None)?;
        let size = self.size;
        while (0..size).any(|host| self.hosts[host].members_seen != size) {
            // This looks at all hosts, so not at each step.
            let until = self.net.elapsed() + Duration::from_millis(100);
            if until > FORMING {
                return Err(RunError::Overdue(format!("the cluster has not formed within {FORMING:?}")));
            }
            self.steps(until, control)?;
        }
        self.steps(self.net.elapsed() + WARM_UP, control)?;
        self.run_workload(control)
    }

    /// Publishes and injects faults, and waits until everything is delivered.
    fn run_workload(&mut self, control: &RunControl) -> Result<(), RunError> {
        self.begin = self.net.elapsed();
        self.last_fault_change = self.begin;
        self.base = (self.net.traffic(), self.copies());
        for host in 0..self.size {
            self.hosts[host].is_new = false;
            self.checker.oblige(nanos(self.begin), host);
        }
        self.publishing = true;
        for publisher in 0..self.publishers.len() {
            self.schedule_publish(publisher);
        }
        for (index, (at, _)) in self.schedule.actions.iter().enumerate() {
            self.net.schedule_callback(*at, Callback::Fault(index).pack());
        }
        self.net.schedule_callback(CHECKPOINT, Callback::Checkpoint.pack());
        let quiet = self.begin + self.scenario.duration.max(self.schedule.end());
        self.steps(self.begin + self.scenario.duration, control)?;
        self.publishing = false;
        self.steps(quiet, control)?;
        self.await_convergence(quiet, control)?;
        if !self.schedule.actions.is_empty() {
            // Whatever has happened, all nodes that run receive what is published from now on.
            for publisher in 0..self.publishers.len() {
                self.publish(publisher)?;
            }
            self.await_convergence(self.net.elapsed(), control)?;
        }
        self.steps(self.net.elapsed() + LINGER, control)
    }

    fn steps(&mut self, end: Duration, control: &RunControl) -> Result<(), RunError> {
        let begin = self.net.elapsed();
        let result = self.steps_until(end, control);
        let millis = (self.net.elapsed() - begin).as_millis() as u64;
        control.simulated.fetch_add(millis, Ordering::Relaxed);
        result
    }

    fn steps_until(&mut self, end: Duration, control: &RunControl) -> Result<(), RunError> {
        while let Some(step) = self.net.step(end) {
            match step {
                Step::Host(host) => self.check_step(Some(host))?,
                Step::Callback(number) => {
                    self.handle_callback(Callback::unpack(number))?;
                    self.check_step(None)?;
                }
            }
            if control.until_step.is_some_and(|last| self.net.steps >= last)
                || (self.net.steps.is_multiple_of(1024) && control.stop.load(Ordering::Relaxed))
            {
                return Err(RunError::Stopped);
            }
        }
        Ok(())
    }

    /// Checks the results of a step.
    fn check_step(&mut self, host: Option<HostId>) -> CheckResult {
        if let Some((host, node)) = host.and_then(|host| Some((host, self.net.node(host)?))) {
            self.checker.set_epoch(host, node.epoch());
        }
        let mut notifications = std::mem::take(&mut self.notifications);
        self.net.drain_notifications(&mut notifications);
        for (host, notification) in notifications.drain(..) {
            self.handle_notification(host, notification)?;
        }
        self.notifications = notifications;
        let Some((host, node)) = host.and_then(|host| Some((host, self.net.node(host)?))) else { return Ok(()) };
        let checked = (|| {
            let (state, incarnation) = node.standing();
            self.checker.check_own_state(host, state, incarnation, node.has_left())?;
            self.checker.check_sizes(node.sizes())?;
            if self.hosts.len() <= MAX_CHECKED_VIEWS {
                let known = node
                    .records()
                    .filter_map(|record| Some((*self.by_name.get(&record.name)?, record.addr(), record.incarnation)));
                self.checker.check_view(host, known)?;
            }
            Ok(())
        })();
        checked.map_err(|what: String| format!("{}: {what}", self.net.name(host)))
    }

    fn handle_notification(&mut self, host: HostId, notification: Notification) -> CheckResult {
        let now = self.net.elapsed();
        let at = |what| format!("at {}: {what}", self.net.name(host));
        match notification {
            Ok(message) => {
                let Some(&origin) = self.by_name.get(message.origin()) else {
                    return Err(at(format!("a message of the unknown {} was delivered", message.origin())));
                };
                let (id, key, value, hops) = (message.id(), message.key(), message.value(), message.hops());
                let delivery = DeliveryEvent { origin, id, key, value, hops };
                self.checker.delivered(nanos(now), host, &delivery).map_err(at)?;
            }
            Err(Event::Missed { origin, epoch, from, to }) => {
                let Some(&origin) = self.by_name.get(&origin) else {
                    return Err(at(format!("messages of the unknown {origin} were reported as missed")));
                };
                self.checker.missed(nanos(now), host, origin, epoch, (from, to - 1)).map_err(at)?;
            }
            Err(Event::PublishReady) => {
                for publisher in 0..self.publishers.len() {
                    if self.publishers[publisher].host == host {
                        self.publish(publisher)?;
                    }
                }
            }
            Err(Event::Joined(_)) => self.hosts[host].members_seen += 1,
            Err(Event::Left(_)) => self.hosts[host].members_seen -= 1,
            Err(Event::Failed(member)) => {
                self.hosts[host].members_seen -= 1;
                self.count_failure(now, &member.name);
            }
            Err(Event::LeaveComplete) => {
                self.net.schedule_callback(Duration::from_millis(100), Callback::Stop(host).pack())
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Counts that a node has declared another one failed.
    fn count_failure(&mut self, now: Duration, name: &NodeName) {
        let Some(&failed) = self.by_name.get(name) else { return };
        let status = &self.hosts[failed];
        if let Some(crashed) = status.crashed_at {
            self.detect.add(now - crashed);
        } else if !self.net.is_paused(failed)
            && !self.net.is_disturbed(failed)
            && status.last_disturbed.is_none_or(|last_disturbed| now - last_disturbed > FAULT_AFTERMATH)
        {
            self.false_alarms += 1;
        }
    }

    fn handle_callback(&mut self, callback: Callback) -> CheckResult {
        match callback {
            Callback::Publish(publisher) => {
                if self.publishing {
                    self.publish(publisher)?;
                    self.schedule_publish(publisher);
                }
            }
            Callback::Fault(index) => {
                let action = self.schedule.actions[index].1.clone();
                self.apply(action);
            }
            Callback::Checkpoint => {
                self.oblige_newcomers();
                self.check_receipts()?;
                self.net.schedule_callback(CHECKPOINT, Callback::Checkpoint.pack());
            }
            Callback::Stop(host) => {
                // The node may have restarted meanwhile.
                if self.net.node(host).is_some_and(Node::has_left) {
                    self.stop(host);
                    if std::mem::take(&mut self.hosts[host].restarts) {
                        self.boot(host, None);
                    }
                }
            }
        }
        Ok(())
    }

    fn schedule_publish(&mut self, publisher: usize) {
        let gap = self.rng.random_range(0.5..1.5) / self.scenario.workload.rate;
        self.net.schedule_callback(Duration::from_secs_f64(gap), Callback::Publish(publisher).pack());
    }

    /// Publishes the next message, or the one that waits for room, if the node runs.
    fn publish(&mut self, publisher: usize) -> CheckResult {
        let Publisher { host, count, ref waiting } = self.publishers[publisher];
        let runs = self.net.node(host).is_some_and(|node| !node.has_left()) && !self.net.is_paused(host);
        let status = &self.hosts[host];
        if !runs || (status.is_new && status.members_seen < 2) {
            return Ok(());
        }
        let (key, value) = waiting.clone().unwrap_or_else(|| {
            let start = format!("\"{host}.{count}.");
            let padding = self.scenario.workload.size.saturating_sub(start.len() + 1);
            (format!("k{}", count % 3), format!("{start}{}\"", "x".repeat(padding)))
        });
        let now = nanos(self.net.elapsed());
        let published = self.net.with(host, |node, now| node.publish(now, &key, &value));
        let this = &mut self.publishers[publisher];
        match published {
            Some(Ok(id)) => {
                if this.waiting.take().is_none() {
                    this.count += 1;
                }
                self.checker
                    .published(now, host, id, &key, &value)
                    .map_err(|what| format!("{}: {what}", host_name(host)))?;
                let records = self.net.node(host).into_iter().flat_map(Node::records);
                let known: BTreeSet<HostId> =
                    records.filter_map(|record| self.by_name.get(&record.name).copied()).collect();
                self.checker.members_known(host, |other| known.contains(&other));
                Ok(())
            }
            Some(Err(PublishError::WouldBlock)) => {
                if this.waiting.is_none() {
                    this.count += 1;
                    this.waiting = Some((key, value));
                }
                Ok(())
            }
            // The node is leaving, or another node has its name. The application is told.
            None | Some(Err(PublishError::Stopped | PublishError::NameTaken)) => Ok(()),
            Some(Err(why)) => Err(format!("{}: it cannot publish: {why}", host_name(host))),
        }
    }

    fn boot(&mut self, host: HostId, cohort: Option<&Arc<Cohort>>) {
        let seeds: Vec<Seed> = self.seeds.iter().filter(|seed| seed.host != host_name(host)).cloned().collect();
        let micros = self.net.elapsed().as_micros() as u64;
        let epoch = (WALL_CLOCK + micros).saturating_add_signed(self.hosts[host].clock_error);
        let address_source = self.schedule.address_source(host);
        let options = BootOptions { seeds: &seeds, epoch, address_source, cohort, ..BootOptions::new(&self.tuning) };
        self.checker.node_started(host);
        self.net.boot(host, &options);
        if self.hosts.len() <= MAX_CHECKED_VIEWS && cohort.is_none() {
            // Another identity in each life.
            self.net.with(host, |node, now| node.update_info(now, NodeInfo::new((epoch << 8 | host as u64).into())));
        }
        let status = &mut self.hosts[host];
        status.members_seen = cohort.map_or(1, |cohort| cohort.len());
        (status.is_leaving, status.restarts, status.is_new, status.crashed_at) = (false, false, true, None);
    }

    /// Stops a node.
    fn stop(&mut self, host: HostId) {
        if let Some(node) = self.net.node(host) {
            self.copies += node.copies();
            self.net.kill(host);
            self.checker.node_ended(host);
            self.hosts[host].is_new = false;
            for publisher in self.publishers.iter_mut().filter(|publisher| publisher.host == host) {
                publisher.waiting = None;
            }
        }
    }

    fn copies(&self) -> u64 {
        let running = (0..self.hosts.len()).filter_map(|host| self.net.node(host));
        self.copies + running.map(crate::node::Node::copies).sum::<u64>()
    }

    fn stats(&self) -> RunStats {
        let counts = &self.checker.counts;
        let completeness = self.checker.completeness();
        let (last, hops) = self.checker.last_deliveries();
        let (traffic, (base, base_copies)) = (self.net.traffic(), self.base);
        let node_seconds = (self.net.elapsed() - self.begin).as_secs_f64().max(1e-3) * self.size as f64;
        let rate = |now: u64, then: u64| (now - then) as f64 / node_seconds;
        RunStats {
            published: counts.published,
            reach: (completeness.expected > 0).then(|| completeness.delivered as f64 / completeness.expected as f64),
            duplicates: counts.duplicates,
            disorder: counts.disorder,
            missed: counts.missed,
            latency: counts.latency.clone(),
            last,
            hops: (hops > 0).then_some(hops),
            copies: (counts.deliveries > 0).then(|| (self.copies() - base_copies) as f64 / counts.deliveries as f64),
            packets: rate(traffic.packets, base.packets),
            packet_bytes: rate(traffic.packet_bytes, base.packet_bytes),
            stream_bytes: rate(traffic.stream_bytes, base.stream_bytes),
            detect: self.detect.clone(),
            false_alarms: self.false_alarms,
            held: counts.sizes.iter().map(|size| (size.what, size.held)).collect(),
        }
    }
}
