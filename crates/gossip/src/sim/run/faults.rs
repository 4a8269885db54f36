//! Fault injection: what the steps of the schedule do to hosts and to the network, and to what hosts are owed.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::Run;
use crate::{
    member::NodeName,
    node::Node,
    sim::{
        event_queue::nanos,
        fault_schedule::FaultAction,
        network::{HostId, Network},
    },
    wire::{Dead, Message, packet},
};

/// How long there have to be no faults before a newcomer is owed messages.
const NEWCOMER_DELAY: Duration = Duration::from_secs(2);

impl Run<'_> {
    /// Performs a step of fault injection.
    pub(super) fn apply(&mut self, action: FaultAction) {
        let now = self.net.elapsed();
        self.last_fault_change = now;
        let disturbed: &[HostId] = match &action {
            FaultAction::Pause { hosts }
            | FaultAction::Resume { hosts }
            | FaultAction::Crash { hosts }
            | FaultAction::Leave { hosts }
            | FaultAction::Boot { hosts, .. }
            | FaultAction::JumpClock { hosts, .. }
            | FaultAction::Move { hosts, .. }
            | FaultAction::ChangeSource { hosts, .. }
            | FaultAction::Forge { hosts, .. } => hosts,
            FaultAction::Partition { .. }
            | FaultAction::Heal { .. }
            | FaultAction::Impair { .. }
            | FaultAction::Restore { .. } => &(0..self.hosts.len()).collect::<Vec<_>>(),
            FaultAction::AddLoss { .. } => &[],
        };
        for host in disturbed {
            self.hosts[*host].last_disturbed = Some(now);
        }
        match action {
            FaultAction::Partition { id, partition } => {
                self.active_faults += 1;
                self.net.partition(id, partition);
            }
            FaultAction::Heal { id } => {
                self.active_faults -= 1;
                self.net.heal(id);
            }
            FaultAction::Pause { hosts } => {
                self.active_faults += 1;
                hosts.into_iter().for_each(|host| self.net.pause(host));
            }
            FaultAction::Resume { hosts } => {
                self.active_faults -= 1;
                hosts.into_iter().for_each(|host| self.net.resume(host));
            }
            FaultAction::Crash { hosts } => {
                for host in hosts {
                    if self.net.node(host).is_some() {
                        self.stop(host);
                        self.hosts[host].crashed_at = Some(now);
                    }
                }
            }
            FaultAction::Leave { hosts } => {
                for host in hosts {
                    self.hosts[host].is_leaving = true;
                    self.hosts[host].is_new = false;
                    self.net.with(host, |node, now| node.leave(now));
                }
            }
            FaultAction::Boot { hosts, new_address } => {
                for host in hosts {
                    if self.net.node(host).is_some() {
                        // A node that is still leaving restarts once it has left.
                        self.hosts[host].restarts |= self.hosts[host].is_leaving;
                        continue;
                    }
                    if new_address {
                        let addr = self.new_address();
                        self.net.move_host(host, addr);
                    }
                    self.boot(host, None);
                }
            }
            FaultAction::JumpClock { hosts, step } => {
                hosts.into_iter().for_each(|host| self.hosts[host].clock_error += (step * 1e6) as i64);
            }
            FaultAction::AddLoss { more } => {
                self.active_faults += if more > 0.0 { 1 } else { -1 };
                self.net.link.loss = (self.net.link.loss + more).clamp(0.0, 1.0);
            }
            FaultAction::Move { hosts, .. } => {
                for host in hosts {
                    let addr = self.new_address();
                    self.net.change_address(host, addr);
                }
            }
            FaultAction::ChangeSource { hosts, other } => {
                for host in hosts {
                    let source = other.then(|| self.new_address());
                    self.net.set_source(host, source);
                }
            }
            FaultAction::Impair { id, paths, impairment } => self.net.impair(id, paths, impairment),
            FaultAction::Restore { id } => self.net.restore(id),
            FaultAction::Forge { hosts, failed } => hosts.into_iter().for_each(|host| self.forge(host, failed)),
        }
    }

    /// An address that no host has had.
    fn new_address(&mut self) -> SocketAddr {
        self.addresses += 1;
        Network::address(self.addresses - 1)
    }

    /// Sends everybody a message that a host has left or failed, from an unknown address.
    fn forge(&mut self, victim: HostId, failed: bool) {
        let Some(node) = self.net.node(victim) else { return };
        let name = self.net.name(victim);
        let by = if failed { self.net.name((victim + 1) % self.hosts.len()) } else { name };
        let payload = forged_death(node, name, by);
        let from = self.new_address();
        for host in (0..self.hosts.len()).filter(|host| *host != victim) {
            self.net.inject(from, host, payload.clone());
        }
    }

    /// From now on, newcomers are owed messages if they and the publishers know each other, and there are no faults.
    pub(super) fn oblige_newcomers(&mut self) {
        let now = self.net.elapsed();
        if self.active_faults > 0
            || now - self.last_fault_change < NEWCOMER_DELAY
            || !self.hosts.iter().any(|status| status.is_new)
        {
            return;
        }
        let running = |host: &HostId| self.net.node(*host).is_some_and(|node| !node.has_left());
        // A node that came back at another address is not the one that the others know.
        let knows = |by: HostId, whom: HostId| {
            let (addr, name) = (self.net.addr(whom), self.net.name(whom));
            let mut records = self.net.node(by).into_iter().flat_map(Node::records);
            records.any(|record| record.is_live() && record.addr() == addr && record.name == *name)
        };
        let publishers: Vec<HostId> = self.publishers.iter().map(|publisher| publisher.host).filter(running).collect();
        let is_in = |host: &HostId| publishers.iter().all(|other| knows(*other, *host) && knows(*host, *other));
        let new: Vec<HostId> = (0..self.hosts.len()).filter(|host| self.hosts[*host].is_new && is_in(host)).collect();
        for host in new {
            self.hosts[host].is_new = false;
            self.checker.oblige(nanos(now), host);
        }
    }
}

/// A message that a node has left, in its own name, or that it has failed, in the name of another.
fn forged_death(node: &Node, name: &NodeName, from: &NodeName) -> Bytes {
    let (_, incarnation) = node.standing();
    let [node, from] = [name, from].map(|name| Bytes::copy_from_slice(name.as_bytes()));
    packet::encode_message(&Message::Dead(Dead { incarnation, node, from }))
}
