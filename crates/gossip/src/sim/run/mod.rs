//! One run: a scenario at one size from one seed.
//!
//! The cluster forms; then, for the scenario's duration, messages are published and faults happen; then
//! everything must be delivered within the bound. The checker looks at every step.

mod ops;
mod rest;

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
    KEPT,
    checker::{Check, Checker, Delivery, Promises},
    faults::{Plan, SEEDS},
    figures::{End, Figures, Outcome, Violation},
    histogram::Histogram,
    network::{Boot, HostId, Network, Notification, Step, Traffic},
    scenario::{Scenario, Start},
    trace::Trace,
};
use crate::{
    Envelope, NodeInfo,
    config::{Retention, Seed, Tuning},
    dissemination::PublishError,
    event::Event,
    membership::{Cohort, NodeName},
    node::Node,
};

/// How long a cluster may take to form.
const FORMING: Duration = Duration::from_secs(120);
/// Between the forming and the first message.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long a run goes on when all is delivered, to see what comes twice.
const LINGER: Duration = Duration::from_secs(2);
/// How often obligations are looked at.
const CHECKPOINT: Duration = Duration::from_millis(500);
/// Up to this size, all that a node knows of the others is checked at every step, and they tell each other who they are.
const VIEWS_CHECKED: usize = 64;
/// A failure noticed this long after its cause is no false alarm: suspicions take their time, and word
/// of them goes round.
const ALARM: Duration = Duration::from_secs(60);
/// The wall clock at the start of a run, in microseconds since 1970.
const WALL_CLOCK: u64 = 1_764_000_000_000_000;
/// How many steps are kept for whoever looks into a violation.
const TRACED: usize = 40;

/// What a run is watched and stopped with.
#[derive(Debug, Default)]
pub struct Control {
    /// Ends every run where it is.
    pub stop: AtomicBool,
    /// How many runs have ended.
    pub done: AtomicUsize,
    /// How much has been simulated, in milliseconds.
    pub simulated: AtomicU64,
    /// Ends a run after that step, and keeps the last ones.
    pub until_step: Option<u64>,
    /// What nodes promise, if not what they do.
    pub(super) promises: Option<Promises>,
}

impl Control {
    /// Of runs that end after that step, if one is given, and keep the last ones.
    #[must_use]
    pub fn until(step: Option<u64>) -> Self {
        Self { until_step: step, ..Self::default() }
    }
}

/// What the network is asked to call about.
#[derive(Clone, Copy)]
enum Call {
    Publish(usize),
    Fault(usize),
    Checkpoint,
    Stop(HostId),
}

impl Call {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Publish(number) => (0, number),
            Self::Fault(number) => (1, number),
            Self::Checkpoint => (2, 0),
            Self::Stop(number) => (3, number),
        };
        number as u64 * 4 + kind
    }

    fn unpack(call: u64) -> Self {
        let number = (call / 4) as usize;
        match call % 4 {
            0 => Self::Publish(number),
            1 => Self::Fault(number),
            2 => Self::Checkpoint,
            _ => Self::Stop(number),
        }
    }
}

/// What is known of a host from outside.
#[derive(Debug, Default)]
struct Status {
    /// How many members its node sees, itself included.
    view: usize,
    leaves: bool,
    /// By how much its wall clock is wrong, in microseconds.
    clock: i64,
    /// When something was last done to it.
    touched: Option<Duration>,
    crashed: Option<Duration>,
    /// It runs, but is not yet owed what is published.
    is_new: bool,
    /// It starts anew when its good-bye is said.
    returns: bool,
}

#[derive(Debug)]
struct Publisher {
    host: HostId,
    count: u64,
    /// What was held back.
    held: Option<(String, String)>,
}

struct Run<'a> {
    scenario: &'a Scenario,
    size: usize,
    seeds: Vec<Seed>,
    tuning: Tuning,
    net: Network,
    checker: Checker,
    rng: Xoshiro256PlusPlus,
    plan: Plan,
    hosts: Vec<Status>,
    by_name: HashMap<NodeName, HostId>,
    addresses: u32,
    publishers: Vec<Publisher>,
    publishing: bool,
    /// Faults that last, and when one of them last changed.
    active: i64,
    changed: Duration,
    told: Vec<(HostId, Notification)>,
    detect: Histogram,
    false_alarms: u64,
    /// Copies that nodes received which have ended.
    copies: u64,
    begin: Duration,
    base: (Traffic, u64),
}

/// Why a run does not go on.
enum Break {
    Violation(String),
    /// Something has not come about in time: the step after the last one would be too late.
    Late(String),
    Stop,
}

impl From<String> for Break {
    fn from(violation: String) -> Self {
        Self::Violation(violation)
    }
}

/// Runs a scenario.
pub(super) fn run(scenario: &Scenario, size: usize, seed: u64, control: &Control) -> Outcome {
    let started = Instant::now();
    let mut run = Run::new(scenario, size, seed, control);
    let end = match run.go(control) {
        Ok(()) => End::Finished,
        Err(Break::Stop) => End::Stopped,
        Err(Break::Violation(what)) => End::Violated(Violation { what, step: run.net.steps, at: run.net.elapsed() }),
        Err(Break::Late(what)) => End::Violated(Violation { what, step: run.net.steps + 1, at: run.net.elapsed() }),
    };
    let figures = run.figures();
    let short = if end == End::Finished { scenario.expect.short(&figures) } else { Vec::new() };
    Outcome {
        scenario: scenario.name.clone(),
        size,
        seed,
        end,
        figures,
        steps: run.net.steps,
        digest: run.net.digest(),
        simulated: run.net.elapsed(),
        took: started.elapsed(),
        short,
        trace: run.net.trace.into_lines(),
    }
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, size: usize, seed: u64, control: &Control) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut net = Network::new(rng.random(), scenario.link());
        if control.until_step.is_some() {
            net.trace = Trace::of(TRACED);
        }
        let plan = Plan::draw(scenario, size, &mut rng);
        let promises = control.promises.unwrap_or(KEPT);
        let checker = Checker::new(plan.hosts, promises, scenario.expect.missed.is_some_and(|most| most > 0));
        let mut by_name = HashMap::new();
        for host in 0..plan.hosts {
            let name = name(host);
            net.add_host(&name, Network::address(host as u32 + 1));
            by_name.insert(NodeName::from(&*name), host);
        }
        let mut places: Vec<HostId> = (0..size).collect();
        let (chosen, _) = places.partial_shuffle(&mut rng, scenario.workload.publishers);
        let chosen: &[HostId] = if scenario.workload.hosts.is_empty() { chosen } else { &scenario.workload.hosts };
        let publishers = chosen.iter().map(|host| Publisher { host: *host, count: 0, held: None }).collect();
        let mut hosts: Vec<Status> = (0..plan.hosts).map(|_| Status::default()).collect();
        if let Some(most) = scenario.clocks {
            let most = i64::try_from(most.as_micros()).expect("clocks are wrong by ten years at most");
            hosts.iter_mut().for_each(|status| status.clock = rng.random_range(-most..=most));
        }
        // In a large cluster looking for a seed costs a walk through all members; one will do.
        let seeds = if size > 2000 { 1 } else { SEEDS.min(size) };
        Self {
            scenario,
            size,
            seeds: (0..seeds).map(|host| Seed { host: name(host), port: crate::config::DEFAULT_PORT }).collect(),
            tuning: scenario.tuning(),
            net,
            checker,
            rng,
            hosts,
            addresses: plan.hosts as u32 + 1,
            plan,
            by_name,
            publishers,
            publishing: false,
            active: 0,
            changed: Duration::ZERO,
            told: Vec::new(),
            detect: Histogram::default(),
            false_alarms: 0,
            copies: 0,
            begin: Duration::ZERO,
            base: (Traffic::default(), 0),
        }
    }

    fn go(&mut self, control: &Control) -> Result<(), Break> {
        let cohort = match self.scenario.start {
            Start::Join => None,
            Start::Acquainted => {
                let versions = crate::node::VERSIONS;
                let member = |host| (self.net.name(host).clone(), Network::address(host as u32 + 1).into(), versions);
                Some(Arc::new(Cohort::new((0..self.size).map(member))))
            }
        };
        for host in 0..self.size {
            if control.stop.load(Ordering::Relaxed) {
                return Err(Break::Stop);
            }
            self.boot(host, cohort.as_ref());
        }
        self.settle(None)?;
        let size = self.size;
        while (0..size).any(|host| self.hosts[host].view != size) {
            // A walk through all hosts, but not at each step.
            let until = self.net.elapsed() + Duration::from_millis(100);
            if until > FORMING {
                return Err(Break::Late(format!("the cluster has not formed within {FORMING:?}")));
            }
            self.steps(until, control)?;
        }
        self.steps(self.net.elapsed() + WARM_UP, control)?;
        self.begin(control)
    }

    /// Publishes, has faults happen, and waits for what must come of it.
    fn begin(&mut self, control: &Control) -> Result<(), Break> {
        self.begin = self.net.elapsed();
        self.changed = self.begin;
        self.base = (self.net.traffic(), self.copies());
        for host in 0..self.size {
            self.hosts[host].is_new = false;
            self.checker.oblige(nanos(self.begin), host);
        }
        self.publishing = true;
        for publisher in 0..self.publishers.len() {
            self.schedule(publisher);
        }
        for (index, (at, _)) in self.plan.ops.iter().enumerate() {
            self.net.call(*at, Call::Fault(index).pack());
        }
        self.net.call(CHECKPOINT, Call::Checkpoint.pack());
        let quiet = self.begin + self.scenario.duration.max(self.plan.end());
        self.steps(self.begin + self.scenario.duration, control)?;
        self.publishing = false;
        self.steps(quiet, control)?;
        self.come_to_rest(quiet, control)?;
        if !self.plan.ops.is_empty() {
            // Whatever has happened, who is there hears what is said from now on.
            for publisher in 0..self.publishers.len() {
                self.publish(publisher)?;
            }
            self.come_to_rest(self.net.elapsed(), control)?;
        }
        self.steps(self.net.elapsed() + LINGER, control)
    }

    fn steps(&mut self, end: Duration, control: &Control) -> Result<(), Break> {
        let begin = self.net.elapsed();
        let result = self.steps_until(end, control);
        let millis = (self.net.elapsed() - begin).as_millis() as u64;
        control.simulated.fetch_add(millis, Ordering::Relaxed);
        result
    }

    fn steps_until(&mut self, end: Duration, control: &Control) -> Result<(), Break> {
        while let Some(step) = self.net.step(end) {
            match step {
                Step::Host(host) => self.settle(Some(host))?,
                Step::Call(call) => {
                    self.called(Call::unpack(call))?;
                    self.settle(None)?;
                }
            }
            if control.until_step.is_some_and(|last| self.net.steps >= last)
                || (self.net.steps.is_multiple_of(1024) && control.stop.load(Ordering::Relaxed))
            {
                return Err(Break::Stop);
            }
        }
        Ok(())
    }

    /// Looks at what has come of a step.
    fn settle(&mut self, host: Option<HostId>) -> Check {
        if let Some((host, node)) = host.and_then(|host| Some((host, self.net.node(host)?))) {
            self.checker.speaks_in(host, node.epoch());
        }
        let mut told = std::mem::take(&mut self.told);
        self.net.take_told(&mut told);
        for (host, told) in told.drain(..) {
            self.hear(host, told)?;
        }
        self.told = told;
        let Some((host, node)) = host.and_then(|host| Some((host, self.net.node(host)?))) else { return Ok(()) };
        let checked = (|| {
            let (state, incarnation) = node.standing();
            self.checker.standing_of(host, state, incarnation, node.has_left())?;
            self.checker.sizes(node.sizes())?;
            if self.hosts.len() <= VIEWS_CHECKED {
                let known = node
                    .records()
                    .filter_map(|record| Some((*self.by_name.get(&record.name)?, record.addr(), record.incarnation)));
                self.checker.view(host, known)?;
            }
            Ok(())
        })();
        checked.map_err(|what: String| format!("{}: {what}", self.net.name(host)))
    }

    fn hear(&mut self, host: HostId, told: Notification) -> Check {
        let now = self.net.elapsed();
        let at = |what| format!("at {}: {what}", self.net.name(host));
        match told {
            Ok(message) => {
                let Some(&origin) = self.by_name.get(message.origin()) else {
                    return Err(at(format!("a message of the unknown {} was delivered", message.origin())));
                };
                let (id, key, value, hops) = (message.id(), message.key(), message.value(), message.hops());
                let delivery = Delivery { origin, id, key, value, hops };
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
            Err(Event::Joined(_)) => self.hosts[host].view += 1,
            Err(Event::Left(_)) => self.hosts[host].view -= 1,
            Err(Event::Failed(member)) => {
                self.hosts[host].view -= 1;
                self.notice(now, &member.name);
            }
            Err(Event::LeaveComplete) => self.net.call(Duration::from_millis(100), Call::Stop(host).pack()),
            Err(_) => {}
        }
        Ok(())
    }

    /// A node believes that another has failed.
    fn notice(&mut self, now: Duration, name: &NodeName) {
        let Some(&failed) = self.by_name.get(name) else { return };
        let status = &self.hosts[failed];
        if let Some(crashed) = status.crashed {
            self.detect.add(now - crashed);
        } else if !self.net.is_paused(failed)
            && !self.net.is_cut(failed)
            && status.touched.is_none_or(|touched| now - touched > ALARM)
        {
            self.false_alarms += 1;
        }
    }

    fn called(&mut self, call: Call) -> Check {
        match call {
            Call::Publish(publisher) => {
                if self.publishing {
                    self.publish(publisher)?;
                    self.schedule(publisher);
                }
            }
            Call::Fault(index) => {
                let op = self.plan.ops[index].1.clone();
                self.carry_out(op);
            }
            Call::Checkpoint => {
                self.oblige_newcomers();
                self.check_receipts()?;
                self.net.call(CHECKPOINT, Call::Checkpoint.pack());
            }
            Call::Stop(host) => {
                // One that has started anew meanwhile is not meant.
                if self.net.node(host).is_some_and(Node::has_left) {
                    self.stop(host);
                    if std::mem::take(&mut self.hosts[host].returns) {
                        self.boot(host, None);
                    }
                }
            }
        }
        Ok(())
    }

    fn schedule(&mut self, publisher: usize) {
        let gap = self.rng.random_range(0.5..1.5) / self.scenario.workload.rate;
        self.net.call(Duration::from_secs_f64(gap), Call::Publish(publisher).pack());
    }

    /// Publishes the next message, or what was held back, if the node runs.
    fn publish(&mut self, publisher: usize) -> Check {
        let Publisher { host, count, ref held } = self.publishers[publisher];
        let runs = self.net.node(host).is_some_and(|node| !node.has_left()) && !self.net.is_paused(host);
        let status = &self.hosts[host];
        if !runs || (status.is_new && status.view < 2) {
            return Ok(());
        }
        let (key, value) = held.clone().unwrap_or_else(|| {
            let start = format!("\"{host}.{count}.");
            let padding = self.scenario.workload.size.saturating_sub(start.len() + 1);
            (format!("k{}", count % 3), format!("{start}{}\"", "x".repeat(padding)))
        });
        let now = nanos(self.net.elapsed());
        let published = self.net.with(host, |node, now| node.publish(now, &key, &value));
        let this = &mut self.publishers[publisher];
        match published {
            Some(Ok(id)) => {
                if this.held.take().is_none() {
                    this.count += 1;
                }
                self.checker
                    .published(now, host, id, &key, &value)
                    .map_err(|what| format!("{}: {what}", name(host)))?;
                let records = self.net.node(host).into_iter().flat_map(Node::records);
                let known: BTreeSet<HostId> =
                    records.filter_map(|record| self.by_name.get(&record.name).copied()).collect();
                self.checker.knew(host, |other| known.contains(&other));
                Ok(())
            }
            Some(Err(PublishError::WouldBlock)) => {
                if this.held.is_none() {
                    this.count += 1;
                    this.held = Some((key, value));
                }
                Ok(())
            }
            // It leaves, or its former life holds its name. It is told so, and its application has to live with it.
            None | Some(Err(PublishError::Stopped | PublishError::NameTaken)) => Ok(()),
            Some(Err(why)) => Err(format!("{}: it cannot publish: {why}", name(host))),
        }
    }

    fn boot(&mut self, host: HostId, acquainted: Option<&Arc<Cohort>>) {
        let seeds: Vec<Seed> = self.seeds.iter().filter(|seed| seed.host != name(host)).cloned().collect();
        let micros = self.net.elapsed().as_micros() as u64;
        let epoch = (WALL_CLOCK + micros).saturating_add_signed(self.hosts[host].clock);
        let (tuning, limits) = (&self.tuning, Retention::default());
        let advertises = self.plan.advertises(host);
        let boot = Boot {
            seeds: &seeds,
            tuning,
            limits,
            replay: false,
            epoch,
            advertises,
            acquainted,
            envelope: Envelope::default(),
        };
        self.checker.begin(host);
        self.net.boot(host, &boot);
        if self.hosts.len() <= VIEWS_CHECKED && acquainted.is_none() {
            // Another one in each life.
            self.net.with(host, |node, now| node.update_info(now, NodeInfo::new((epoch << 8 | host as u64).into())));
        }
        let status = &mut self.hosts[host];
        status.view = acquainted.map_or(1, |cohort| cohort.len());
        (status.leaves, status.returns, status.is_new, status.crashed) = (false, false, true, None);
    }

    /// Ends a node.
    fn stop(&mut self, host: HostId) {
        if let Some(node) = self.net.node(host) {
            self.copies += node.copies();
            self.net.kill(host);
            self.checker.end(host);
            self.hosts[host].is_new = false;
            for publisher in self.publishers.iter_mut().filter(|publisher| publisher.host == host) {
                publisher.held = None;
            }
        }
    }

    fn copies(&self) -> u64 {
        let running = (0..self.hosts.len()).filter_map(|host| self.net.node(host));
        self.copies + running.map(crate::node::Node::copies).sum::<u64>()
    }

    fn figures(&self) -> Figures {
        let counts = &self.checker.counts;
        let standing = self.checker.standing();
        let (last, hops) = self.checker.spread();
        let (traffic, (base, base_copies)) = (self.net.traffic(), self.base);
        let node_seconds = (self.net.elapsed() - self.begin).as_secs_f64().max(1e-3) * self.size as f64;
        let rate = |now: u64, then: u64| (now - then) as f64 / node_seconds;
        Figures {
            published: counts.published,
            reach: (standing.expected > 0).then(|| standing.delivered as f64 / standing.expected as f64),
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

fn name(host: HostId) -> String {
    format!("n{host}")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).expect("a run is shorter than 500 years")
}
