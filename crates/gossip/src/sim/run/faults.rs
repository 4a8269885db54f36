//! What faults do to hosts and to the network, and what that means for what must come of it.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{Run, nanos};
use crate::{
    member::NodeName,
    node::Node,
    sim::{
        fault_schedule::FaultAction,
        network::{HostId, Network},
    },
    wire::{Dead, Message, packet},
};

/// How long without faults one that starts anew has been with the others when it is owed everything.
const GRACE: Duration = Duration::from_secs(2);

impl Run<'_> {
    pub(super) fn apply(&mut self, action: FaultAction) {
        let now = self.net.elapsed();
        self.changed = now;
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
                self.active += 1;
                self.net.partition(id, partition);
            }
            FaultAction::Heal { id } => {
                self.active -= 1;
                self.net.heal(id);
            }
            FaultAction::Pause { hosts } => {
                self.active += 1;
                hosts.into_iter().for_each(|host| self.net.pause(host));
            }
            FaultAction::Resume { hosts } => {
                self.active -= 1;
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
                        // A good-bye takes its time; who has said it comes back after that.
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
                self.active += if more > 0.0 { 1 } else { -1 };
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

    /// An address that nobody has had.
    fn new_address(&mut self) -> SocketAddr {
        self.addresses += 1;
        Network::address(self.addresses - 1)
    }

    /// Everybody hears that a host has left or failed, from an address that is nobody's.
    fn forge(&mut self, victim: HostId, failed: bool) {
        let Some(node) = self.net.node(victim) else { return };
        let name = self.net.name(victim);
        let by = if failed { self.net.name((victim + 1) % self.hosts.len()) } else { name };
        let payload = forged_end(node, name, by);
        let from = self.new_address();
        for host in (0..self.hosts.len()).filter(|host| *host != victim) {
            self.net.inject(from, host, payload.clone());
        }
    }

    /// Nodes that are new are owed what is published once they see all others, and no fault stands in
    /// the way of those seeing them.
    pub(super) fn oblige_newcomers(&mut self) {
        let now = self.net.elapsed();
        if self.active > 0 || now - self.changed < GRACE || !self.hosts.iter().any(|status| status.is_new) {
            return;
        }
        let running = |host: &HostId| self.net.node(*host).is_some_and(|node| !node.has_left());
        // A node that came back elsewhere is not the one the others knew.
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

/// That a node is gone: has left, as it would say so itself, or has failed, as another would.
fn forged_end(node: &Node, name: &NodeName, from: &NodeName) -> Bytes {
    let (_, incarnation) = node.standing();
    let [node, from] = [name, from].map(|name| Bytes::copy_from_slice(name.as_bytes()));
    packet::encode_message(&Message::Dead(Dead { incarnation, node, from }))
}
