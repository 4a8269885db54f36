//! The addresses and names of hosts, and how they change.

use std::net::SocketAddr;

use super::{
    Network,
    host::{HostId, ScheduledEvent},
};

/// The port of every node.
const PORT: u16 = 7946;

impl Network {
    /// The address `10.a.b.c` that is numbered so.
    pub(crate) fn address(number: u32) -> SocketAddr {
        let [_, a, b, c] = number.to_be_bytes();
        SocketAddr::from(([10, a, b, c], PORT))
    }

    pub(super) fn number(addr: SocketAddr) -> Option<usize> {
        match addr {
            SocketAddr::V4(v4) if v4.port() == PORT && v4.ip().octets()[0] == 10 => {
                let [_, a, b, c] = v4.ip().octets();
                Some(u32::from_be_bytes([0, a, b, c]) as usize)
            }
            _ => None,
        }
    }

    pub(super) fn host_at(&self, addr: SocketAddr) -> Option<HostId> {
        *self.by_ip.get(Self::number(addr)?)?
    }

    /// Moves a host to another address; no host has its old one then.
    pub(crate) fn move_host(&mut self, host: HostId, addr: SocketAddr) {
        self.vacate(host, self.hosts[host].addr);
        self.occupy(host, addr);
        self.hosts[host].addr = addr;
        self.by_name.insert(self.hosts[host].name.to_string(), vec![addr]);
    }

    fn occupy(&mut self, host: HostId, addr: SocketAddr) {
        let number = Self::number(addr).expect("the network's addresses are 10.a.b.c:7946");
        if self.by_ip.len() <= number {
            self.by_ip.resize(number + 1, None);
        }
        self.by_ip[number] = Some(host);
    }

    fn vacate(&mut self, host: HostId, addr: SocketAddr) {
        if let Some(number) = Self::number(addr)
            && self.host_at(addr) == Some(host)
        {
            self.by_ip[number] = None;
        }
    }

    /// Moves a host to another address while its node runs, which breaks its streams.
    pub(crate) fn change_address(&mut self, host: HostId, addr: SocketAddr) {
        self.move_host(host, addr);
        self.hosts[host].has_moved = true;
        self.abandon_streams(host);
    }

    /// From now on, what a host sends comes from another address of its own, or again from its usual one.
    pub(crate) fn set_source(&mut self, host: HostId, source: Option<SocketAddr>) {
        if let Some(old) = self.hosts[host].source.take() {
            self.vacate(host, old);
        }
        if let Some(source) = source {
            self.occupy(host, source);
            self.hosts[host].source = Some(source);
        }
    }

    /// Gives a name several addresses.
    #[cfg(test)]
    pub(crate) fn alias(&mut self, name: &str, addrs: &[SocketAddr]) {
        self.by_name.insert(name.to_owned(), addrs.to_vec());
    }

    /// Checks for a node whether its address is still its host's. The node gets the new one if not.
    pub(super) fn check_address(&mut self, host: HostId) {
        // The node is being drained, and takes no input now.
        let state = &self.hosts[host];
        if state.has_moved {
            let event = ScheduledEvent::Address { host, life: state.life };
            self.at(self.now, event);
        }
    }
}
