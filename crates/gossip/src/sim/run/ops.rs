//! What faults do to hosts and to the network, and what that means for what must come of it.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{Run, nanos};
use crate::{
    member::NodeName,
    node::Node,
    sim::{
        faults::Op,
        network::{HostId, Network},
    },
    wire::{Dead, Message, packet},
};

/// How long without faults one that starts anew has been with the others when it is owed everything.
const GRACE: Duration = Duration::from_secs(2);

impl Run<'_> {
    pub(super) fn carry_out(&mut self, op: Op) {
        let now = self.net.elapsed();
        self.changed = now;
        let touched: &[HostId] = match &op {
            Op::Pause { hosts }
            | Op::Resume { hosts }
            | Op::Crash { hosts }
            | Op::Leave { hosts }
            | Op::Boot { hosts, .. }
            | Op::Clock { hosts, .. }
            | Op::Move { hosts, .. }
            | Op::Source { hosts, .. }
            | Op::Forge { hosts, .. } => hosts,
            Op::Cut { .. } | Op::Heal { .. } | Op::Impair { .. } | Op::Restore { .. } => {
                &(0..self.hosts.len()).collect::<Vec<_>>()
            }
            Op::Loss { .. } => &[],
        };
        for host in touched {
            self.hosts[*host].touched = Some(now);
        }
        match op {
            Op::Cut { id, cut } => {
                self.active += 1;
                self.net.cut(id, cut);
            }
            Op::Heal { id } => {
                self.active -= 1;
                self.net.heal(id);
            }
            Op::Pause { hosts } => {
                self.active += 1;
                hosts.into_iter().for_each(|host| self.net.pause(host));
            }
            Op::Resume { hosts } => {
                self.active -= 1;
                hosts.into_iter().for_each(|host| self.net.resume(host));
            }
            Op::Crash { hosts } => {
                for host in hosts {
                    if self.net.node(host).is_some() {
                        self.stop(host);
                        self.hosts[host].crashed = Some(now);
                    }
                }
            }
            Op::Leave { hosts } => {
                for host in hosts {
                    self.hosts[host].leaves = true;
                    self.hosts[host].is_new = false;
                    self.net.with(host, |node, now| node.leave(now));
                }
            }
            Op::Boot { hosts, new_address } => {
                for host in hosts {
                    if self.net.node(host).is_some() {
                        // A good-bye takes its time; who has said it comes back after that.
                        self.hosts[host].returns |= self.hosts[host].leaves;
                        continue;
                    }
                    if new_address {
                        let addr = self.new_address();
                        self.net.move_host(host, addr);
                    }
                    self.boot(host, None);
                }
            }
            Op::Clock { hosts, step } => {
                hosts.into_iter().for_each(|host| self.hosts[host].clock += (step * 1e6) as i64);
            }
            Op::Loss { more } => {
                self.active += if more > 0.0 { 1 } else { -1 };
                self.net.link.loss = (self.net.link.loss + more).clamp(0.0, 1.0);
            }
            Op::Move { hosts, .. } => {
                for host in hosts {
                    let addr = self.new_address();
                    self.net.readdress(host, addr);
                }
            }
            Op::Source { hosts, other } => {
                for host in hosts {
                    let source = other.then(|| self.new_address());
                    self.net.send_from(host, source);
                }
            }
            Op::Impair { id, ways, wrong } => self.net.impair(id, ways, wrong),
            Op::Restore { id } => self.net.restore(id),
            Op::Forge { hosts, failed } => hosts.into_iter().for_each(|host| self.forge(host, failed)),
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
