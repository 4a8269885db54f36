//! The schedule of fault injection: which fault begins and ends when. It is drawn for the whole run before the run begins.

use std::time::Duration;

use rand::{RngExt, seq::SliceRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{
    network::{AddressSource, AffectedPaths, HostId, Impairment, Partition},
    scenario::{Fault, FaultKind, Scenario},
};

/// How many hosts, the first ones, are the seeds of all others.
pub(super) const SEEDS: usize = 3;
/// How long a node that restarts is away, unless the scenario says otherwise.
const AWAY: Duration = Duration::from_secs(1);

/// A step of fault injection: what is done to hosts or to the network.
#[derive(Clone, Debug)]
pub(super) enum FaultAction {
    Partition {
        id: u64,
        partition: Partition,
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
    JumpClock {
        hosts: Vec<HostId>,
        step: f64,
    },
    /// By so much more; negative to end it.
    AddLoss {
        more: f64,
    },
    /// To an address that no host has had.
    Move {
        hosts: Vec<HostId>,
        named: bool,
    },
    /// What they send comes from another address, or from their own again.
    ChangeSource {
        hosts: Vec<HostId>,
        other: bool,
    },
    Impair {
        id: u64,
        paths: AffectedPaths,
        impairment: Impairment,
    },
    Restore {
        id: u64,
    },
    /// Everybody gets a forged message that they have left, or have failed.
    Forge {
        hosts: Vec<HostId>,
        failed: bool,
    },
}

/// The steps of fault injection, in order of time, which counts from the beginning of the workload.
#[derive(Clone, Debug, Default)]
pub(super) struct FaultSchedule {
    pub(super) actions: Vec<(Duration, FaultAction)>,
    /// How many hosts there are, including those that join later.
    pub(super) hosts: usize,
}

impl FaultSchedule {
    pub(super) fn generate(scenario: &Scenario, size: usize, rng: &mut Xoshiro256PlusPlus) -> Self {
        let mut schedule = Self { actions: Vec::new(), hosts: size };
        let mut next_id = 0;
        for fault in &scenario.faults {
            let mut at = fault.at.unwrap_or_else(|| next_gap(fault, rng));
            while at <= scenario.duration {
                schedule.add_fault(fault, at, scenario.duration, size, &mut next_id, rng);
                if fault.at.is_some() {
                    break;
                }
                at += next_gap(fault, rng);
            }
        }
        // Hosts that join later are on the side of host 0. On none, they would carry messages from one side to the other.
        for (_, action) in &mut schedule.actions {
            if let FaultAction::Partition { partition, .. } = action {
                let side = partition.sides[0];
                partition.sides.resize(schedule.hosts, side);
            }
        }
        schedule.actions.sort_by_key(|(at, _)| *at);
        schedule
    }

    /// Where a host's node has its address from. The node of a host that will move has to look for it.
    pub(super) fn address_source(&self, host: HostId) -> AddressSource {
        let moves = self.actions.iter().filter_map(|(_, action)| match action {
            FaultAction::Move { hosts, named } if hosts.contains(&host) => Some(*named),
            _ => None,
        });
        match moves.max() {
            None => AddressSource::Fixed,
            Some(false) => AddressSource::Guessed,
            Some(true) => AddressSource::Named,
        }
    }

    /// When the last fault is over.
    pub(super) fn end(&self) -> Duration {
        self.actions.last().map_or(Duration::ZERO, |(at, _)| *at)
    }

    fn add_fault(
        &mut self,
        fault: &Fault,
        at: Duration,
        end: Duration,
        size: usize,
        next_id: &mut u64,
        rng: &mut Xoshiro256PlusPlus,
    ) {
        // A fault that recurs ends with the workload at the latest. One with a time of its own lasts as long as it says.
        let until = |lasts: Duration| if fault.at.is_some() { at + lasts } else { (at + lasts).min(end.max(at)) };
        let lasts = fault.lasts;
        let for_good = fault.kind == FaultKind::Crash || (fault.kind == FaultKind::Leave && lasts.is_none());
        // Without any seed, nobody could come back.
        let first = if for_good { SEEDS.min(size) } else { 0 };
        let hosts: Vec<HostId> = match fault.kind {
            _ if !fault.hosts.is_empty() => fault.hosts.clone(),
            _ if fault.pair => choose(first..size, 2, rng),
            FaultKind::Join => {
                let count = count(fault, size, 0.0);
                self.hosts += count;
                (self.hosts - count..self.hosts).collect()
            }
            FaultKind::Partition => choose(first..size, count(fault, size, 0.5), rng),
            _ => choose(first..size, count(fault, size, 0.0), rng),
        };
        let mut add = |at, action| self.actions.push((at, action));
        match fault.kind {
            FaultKind::Partition => {
                let id = *next_id;
                *next_id += 1;
                let mut sides = vec![Some(true); size];
                for host in hosts {
                    sides[host] = Some(false);
                }
                add(at, FaultAction::Partition { id, partition: Partition { sides, one_way: fault.one_way } });
                add(until(lasts.unwrap_or_default()), FaultAction::Heal { id });
            }
            FaultKind::Pause => {
                add(at, FaultAction::Pause { hosts: hosts.clone() });
                add(until(lasts.unwrap_or_default()), FaultAction::Resume { hosts });
            }
            FaultKind::Crash => add(at, FaultAction::Crash { hosts }),
            FaultKind::Clock if fault.running => {
                add(at, FaultAction::JumpClock { hosts, step: fault.step.unwrap_or_default() });
            }
            FaultKind::Restart | FaultKind::Clock => {
                add(at, FaultAction::Crash { hosts: hosts.clone() });
                if let Some(step) = fault.step {
                    add(at, FaultAction::JumpClock { hosts: hosts.clone(), step });
                }
                add(until(lasts.unwrap_or(AWAY)), FaultAction::Boot { hosts, new_address: fault.new_address });
            }
            FaultKind::Leave => {
                add(at, FaultAction::Leave { hosts: hosts.clone() });
                if let Some(lasts) = lasts {
                    add(until(lasts), FaultAction::Boot { hosts, new_address: false });
                }
            }
            FaultKind::Join => {
                add(at, FaultAction::Boot { hosts: hosts.clone(), new_address: false });
                if let Some(lasts) = lasts {
                    add(until(lasts), FaultAction::Leave { hosts });
                }
            }
            FaultKind::Loss => {
                let more = fault.loss.unwrap_or_default();
                add(at, FaultAction::AddLoss { more });
                add(until(lasts.unwrap_or_default()), FaultAction::AddLoss { more: -more });
            }
            FaultKind::Move => add(at, FaultAction::Move { hosts, named: fault.named }),
            FaultKind::Source => {
                add(at, FaultAction::ChangeSource { hosts: hosts.clone(), other: true });
                if let Some(lasts) = lasts {
                    add(until(lasts), FaultAction::ChangeSource { hosts, other: false });
                }
            }
            FaultKind::NoUdp | FaultKind::MtuHole | FaultKind::SlowLink => {
                let id = *next_id;
                *next_id += 1;
                add(
                    at,
                    FaultAction::Impair {
                        id,
                        paths: affected_paths(fault, &hosts, size),
                        impairment: impairment(fault),
                    },
                );
                if let Some(lasts) = lasts {
                    add(until(lasts), FaultAction::Restore { id });
                }
            }
            FaultKind::Forge => add(at, FaultAction::Forge { hosts, failed: fault.failed }),
        }
    }
}

/// The paths that a fault affects.
fn affected_paths(fault: &Fault, hosts: &[HostId], size: usize) -> AffectedPaths {
    let one_way = fault.one_way;
    if let ([first, second], true) = (hosts, fault.pair) {
        return AffectedPaths::Between { first: *first, second: *second, one_way };
    }
    let mut member = vec![false; size];
    hosts.iter().for_each(|host| member[*host] = true);
    AffectedPaths::OfHosts { member, one_way }
}

fn impairment(fault: &Fault) -> Impairment {
    match (fault.mtu, fault.bytes_per_second) {
        (Some(mtu), _) => Impairment::MtuHole { mtu },
        (None, Some(bytes_per_second)) => Impairment::Slow { bytes_per_second },
        (None, None) => Impairment::NoUdp,
    }
}

/// The time until a recurring fault comes again. It is exponential, so that the faults are a Poisson process.
fn next_gap(fault: &Fault, rng: &mut Xoshiro256PlusPlus) -> Duration {
    let u: f64 = rng.random();
    fault.every.unwrap_or_default().mul_f64(-(1.0 - u).ln()).max(Duration::from_millis(1))
}

fn count(fault: &Fault, size: usize, usual: f64) -> usize {
    let share = fault.share.unwrap_or(usual);
    fault.count.unwrap_or((share * size as f64).round() as usize).clamp(1, size)
}

fn choose(range: std::ops::Range<HostId>, count: usize, rng: &mut Xoshiro256PlusPlus) -> Vec<HostId> {
    let mut hosts: Vec<HostId> = range.collect();
    let (chosen, _) = hosts.partial_shuffle(rng, count);
    let mut chosen = chosen.to_vec();
    chosen.sort_unstable();
    chosen
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn hosts_that_join_are_on_the_side_of_host_0() {
        for (cut, side) in [("[2, 3]", true), ("[0, 1]", false)] {
            let partition = format!("[[fault]]\nkind = \"partition\"\nat = \"1s\"\nfor = \"5s\"\nhosts = {cut}\n");
            let join = "[[fault]]\nkind = \"join\"\nat = \"2s\"\ncount = 2\n";
            let text = format!("sizes = [4]\nduration = \"9s\"\n{partition}{join}");
            let scenario = Scenario::parse("test", &text).expect("a scenario");
            let schedule = FaultSchedule::generate(&scenario, 4, &mut Xoshiro256PlusPlus::seed_from_u64(1));
            let sides = schedule.actions.iter().find_map(|(_, action)| match action {
                FaultAction::Partition { partition, .. } => Some(partition.sides.clone()),
                _ => None,
            });
            assert_eq!(sides, Some([side, side, !side, !side, side, side].map(Some).to_vec()), "{cut}");
        }
    }
}
