//! Which host is at which address, what its name leads to, and how both change.

use std::net::SocketAddr;

use super::{
    Network,
    host::{Due, HostId},
};

/// The port of every node.
const PORT: u16 = 7946;

impl Network {
    /// The address `10.a.b.c` of a number.
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

    /// Gives a host another address; its old one is nobody's then.
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

    /// Gives a host another address while its node runs: what it has open leads nowhere any more.
    pub(crate) fn readdress(&mut self, host: HostId, addr: SocketAddr) {
        self.move_host(host, addr);
        self.hosts[host].has_moved = true;
        self.abandon_streams(host);
    }

    /// Lets what a host sends come from another address, which is its own, too, or from the one it has.
    pub(crate) fn send_from(&mut self, host: HostId, source: Option<SocketAddr>) {
        if let Some(old) = self.hosts[host].source.take() {
            self.vacate(host, old);
        }
        if let Some(source) = source {
            self.occupy(host, source);
            self.hosts[host].source = Some(source);
        }
    }

    /// Lets a name stand for several addresses.
    #[cfg(test)]
    pub(crate) fn alias(&mut self, name: &str, addrs: &[SocketAddr]) {
        self.by_name.insert(name.to_owned(), addrs.to_vec());
    }

    /// A node asks whether its address is still its host's; it is told if not.
    pub(super) fn check_address(&mut self, host: HostId) {
        // The node is at work, and can be told nothing now.
        let place = &self.hosts[host];
        if place.has_moved {
            let due = Due::Address { host, life: place.life };
            self.at(self.now, due);
        }
    }
}
