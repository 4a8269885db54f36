//! When what goes wrong, drawn up for a whole run before it begins.

use std::time::Duration;

use rand::{RngExt, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    network::{Advertises, Cut, HostId, Ways, Wrong},
    scenario::{Fault, Kind, Scenario},
};

/// The hosts that all others join through: the first ones.
pub(super) const SEEDS: usize = 3;
/// How long a node that starts anew is away unless the scenario says.
const AWAY: Duration = Duration::from_secs(1);

/// Something done to hosts or to the network.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Cut {
        id: u64,
        cut: Cut,
    },
    Heal {
        id: u64,
    },
    Pause {
        hosts: Vec<HostId>,
    },
    Resume {
        hosts: Vec<HostId>,
    },
    Crash {
        hosts: Vec<HostId>,
    },
    Leave {
        hosts: Vec<HostId>,
    },
    Boot {
        hosts: Vec<HostId>,
        new_address: bool,
    },
    Clock {
        hosts: Vec<HostId>,
        step: f64,
    },
    Loss {
        more: f64,
    },
    /// To an address that nobody had.
    Move {
        hosts: Vec<HostId>,
        named: bool,
    },
    /// Whether what they send leaves from another address.
    Source {
        hosts: Vec<HostId>,
        other: bool,
    },
    Impair {
        id: u64,
        ways: Ways,
        wrong: Wrong,
    },
    Restore {
        id: u64,
    },
    /// It is told that they have left, or have failed.
    Forge {
        hosts: Vec<HostId>,
        failed: bool,
    },
}

/// What happens when, from the beginning of the workload, in that order.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) ops: Vec<(Duration, Op)>,
    /// How many hosts there are, those that join later included.
    pub(super) hosts: usize,
}

impl Plan {
    pub(super) fn draw(scenario: &Scenario, size: usize, rng: &mut Xoshiro256PlusPlus) -> Self {
        let mut plan = Self { ops: Vec::new(), hosts: size };
        let mut cuts = 0;
        for fault in &scenario.faults {
            let mut at = fault.at.unwrap_or_else(|| gap(fault, rng));
            while at <= scenario.duration {
                plan.draw_one(fault, at, scenario.duration, size, &mut cuts, rng);
                if fault.at.is_some() {
                    break;
                }
                at += gap(fault, rng);
            }
        }
        plan.ops.sort_by_key(|(at, _)| *at);
        plan
    }

    /// What a host's node takes for its address: one that is to move looks for it.
    pub(super) fn advertises(&self, host: HostId) -> Advertises {
        let moves = self.ops.iter().filter_map(|(_, op)| match op {
            Op::Move { hosts, named } if hosts.contains(&host) => Some(*named),
            _ => None,
        });
        match moves.max() {
            None => Advertises::Fixed,
            Some(false) => Advertises::Guessed,
            Some(true) => Advertises::Named,
        }
    }

    /// When the last of it is over.
    pub(super) fn end(&self) -> Duration {
        self.ops.last().map_or(Duration::ZERO, |(at, _)| *at)
    }

    fn draw_one(
        &mut self,
        fault: &Fault,
        at: Duration,
        end: Duration,
        size: usize,
        cuts: &mut u64,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        // What comes again and again has healed when the workload ends; what is timed lasts as written.
        let until = |lasts: Duration| if fault.at.is_some() { at + lasts } else { (at + lasts).min(end.max(at)) };
        let lasts = fault.lasts;
        let for_good = fault.kind == Kind::Crash || (fault.kind == Kind::Leave && lasts.is_none());
        // Without any of the hosts that others join through, nobody could come back.
        let first = if for_good { SEEDS.min(size) } else { 0 };
        let hosts: Vec<HostId> = match fault.kind {
            _ if !fault.hosts.is_empty() => fault.hosts.clone(),
            _ if fault.pair => some(first..size, 2, rng),
            Kind::Join => {
                let count = count(fault, size, 0.0);
                self.hosts += count;
                (self.hosts - count..self.hosts).collect()
            }
            Kind::Partition => some(first..size, count(fault, size, 0.5), rng),
            _ => some(first..size, count(fault, size, 0.0), rng),
        };
        let mut add = |at, op| self.ops.push((at, op));
        match fault.kind {
            Kind::Partition => {
                let id = *cuts;
                *cuts += 1;
                let mut sides = vec![Some(true); size];
                for host in hosts {
                    sides[host] = Some(false);
                }
                add(at, Op::Cut { id, cut: Cut { sides, one_way: fault.one_way } });
                add(until(lasts.unwrap_or_default()), Op::Heal { id });
            }
            Kind::Pause => {
                add(at, Op::Pause { hosts: hosts.clone() });
                add(until(lasts.unwrap_or_default()), Op::Resume { hosts });
            }
            Kind::Crash => add(at, Op::Crash { hosts }),
            Kind::Clock if fault.running => {
                add(at, Op::Clock { hosts, step: fault.step.unwrap_or_default() });
            }
            Kind::Restart | Kind::Clock => {
                add(at, Op::Crash { hosts: hosts.clone() });
                if let Some(step) = fault.step {
                    add(at, Op::Clock { hosts: hosts.clone(), step });
                }
                add(until(lasts.unwrap_or(AWAY)), Op::Boot { hosts, new_address: fault.new_address });
            }
            Kind::Leave => {
                add(at, Op::Leave { hosts: hosts.clone() });
                if let Some(lasts) = lasts {
                    add(until(lasts), Op::Boot { hosts, new_address: false });
                }
            }
            Kind::Join => {
                add(at, Op::Boot { hosts: hosts.clone(), new_address: false });
                if let Some(lasts) = lasts {
                    add(until(lasts), Op::Leave { hosts });
                }
            }
            Kind::Loss => {
                let more = fault.loss.unwrap_or_default();
                add(at, Op::Loss { more });
                add(until(lasts.unwrap_or_default()), Op::Loss { more: -more });
            }
            Kind::Move => add(at, Op::Move { hosts, named: fault.named }),
            Kind::Source => {
                add(at, Op::Source { hosts: hosts.clone(), other: true });
                if let Some(lasts) = lasts {
                    add(until(lasts), Op::Source { hosts, other: false });
                }
            }
            Kind::NoUdp | Kind::MtuHole | Kind::SlowLink => {
                let id = *cuts;
                *cuts += 1;
                add(at, Op::Impair { id, ways: ways(fault, &hosts, size), wrong: wrong(fault) });
                if let Some(lasts) = lasts {
                    add(until(lasts), Op::Restore { id });
                }
            }
            Kind::Forge => add(at, Op::Forge { hosts, failed: fault.failed }),
        }
    }
}

/// The paths that a fault of them concerns.
fn ways(fault: &Fault, hosts: &[HostId], size: usize) -> Ways {
    let one_way = fault.one_way;
    if let ([first, second], true) = (hosts, fault.pair) {
        return Ways::Between { first: *first, second: *second, one_way };
    }
    let mut member = vec![false; size];
    hosts.iter().for_each(|host| member[*host] = true);
    Ways::Of { member, one_way }
}

fn wrong(fault: &Fault) -> Wrong {
    match (fault.mtu, fault.bytes_per_second) {
        (Some(mtu), _) => Wrong::MtuHole { mtu },
        (None, Some(bytes_per_second)) => Wrong::Slow { bytes_per_second },
        (None, None) => Wrong::NoUdp,
    }
}

/// Until the next time: exponential, so that the past tells nothing of it.
fn gap(fault: &Fault, rng: &mut Xoshiro256PlusPlus) -> Duration {
    let u: f64 = rng.random();
    fault.every.unwrap_or_default().mul_f64(-(1.0 - u).ln()).max(Duration::from_millis(1))
}

fn count(fault: &Fault, size: usize, usual: f64) -> usize {
    let share = fault.share.unwrap_or(usual);
    fault.count.unwrap_or((share * size as f64).round() as usize).clamp(1, size)
}

fn some(range: std::ops::Range<HostId>, count: usize, rng: &mut Xoshiro256PlusPlus) -> Vec<HostId> {
    let mut hosts: Vec<HostId> = range.collect();
    let (chosen, _) = hosts.partial_shuffle(rng, count);
    let mut chosen = chosen.to_vec();
    chosen.sort_unstable();
    chosen
}
