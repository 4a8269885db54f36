//! What faults do to hosts and to the network, and what that means for what must come of it.

use std::time::Duration;

use super::{Run, nanos};
use crate::{
    node::Node,
    sim::{
        faults::Op,
        network::{HostId, Network},
    },
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
            | Op::Clock { hosts, .. } => hosts,
            Op::Cut { .. } | Op::Heal { .. } => &(0..self.hosts.len()).collect::<Vec<_>>(),
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
                        continue;
                    }
                    if new_address {
                        let addr = Network::address(self.addresses);
                        self.addresses += 1;
                        self.net.move_host(host, addr);
                    }
                    self.boot(host, &[]);
                }
            }
            Op::Clock { hosts, step } => {
                hosts.into_iter().for_each(|host| self.hosts[host].clock += (step * 1e6) as i64);
            }
            Op::Loss { more } => {
                self.active += if more > 0.0 { 1 } else { -1 };
                self.net.link.loss = (self.net.link.loss + more).clamp(0.0, 1.0);
            }
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
