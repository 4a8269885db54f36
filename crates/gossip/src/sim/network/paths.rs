//! Impaired paths between hosts: blocked UDP, MTU black holes, and slow links. Streams get through, which makes these faults
//! hard to notice.
//!
//! A slow link belongs to a host. What the host sends queues up before the link, and what it receives behind it, each first in,
//! first out. A stream has one segment in the queue at a time, as if its window were small, so that streams and datagrams share
//! the link.

use std::{collections::BTreeMap, time::Duration};

use super::host::HostId;
use crate::sim::event_queue::VirtualTime;

/// What IPv4 and UDP add to a datagram.
const HEADERS: usize = 28;
/// The size of a TCP segment over Ethernet.
pub(super) const SEGMENT: usize = 1448;
/// How long the queue of a slow link is before datagrams are dropped, as a time.
const QUEUE: Duration = Duration::from_secs(1);

/// The paths that an impairment affects.
#[derive(Clone, Debug)]
pub(crate) enum AffectedPaths {
    /// The paths from some hosts, and unless it is one-way, to them.
    OfHosts { member: Vec<bool>, one_way: bool },
    /// The path from the first host to the second, and unless it is one-way, back.
    Between { first: HostId, second: HostId, one_way: bool },
}

impl AffectedPaths {
    /// The impaired links on the way from one host to another: whose each is, and whether it is the outgoing direction.
    fn links(&self, from: HostId, to: Option<HostId>) -> [Option<(HostId, bool)>; 2] {
        match self {
            Self::OfHosts { member, one_way } => {
                let out = is_member(member, from).then_some((from, true));
                let back = to.filter(|to| !one_way && is_member(member, *to)).map(|to| (to, false));
                [out, back]
            }
            Self::Between { first, second, one_way } => {
                let there = from == *first && to == Some(*second);
                let back = !one_way && from == *second && to == Some(*first);
                [(there || back).then_some((from, true)), None]
            }
        }
    }

    fn concern(&self, from: HostId, to: Option<HostId>) -> bool {
        self.links(from, to) != [None, None]
    }

    fn involve(&self, host: HostId) -> bool {
        match self {
            Self::OfHosts { member, .. } => is_member(member, host),
            Self::Between { first, second, .. } => [*first, *second].contains(&host),
        }
    }
}

fn is_member(member: &[bool], host: HostId) -> bool {
    member.get(host).copied().unwrap_or_default()
}

/// How a path is impaired.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Impairment {
    NoUdp,
    MtuHole { mtu: usize },
    Slow { bytes_per_second: u64 },
}

#[derive(Debug)]
struct PathFault {
    affected: AffectedPaths,
    impairment: Impairment,
    /// Until when each link is busy, outwards or inwards.
    busy_until: BTreeMap<(HostId, bool), VirtualTime>,
}

impl PathFault {
    /// Puts so many bytes into the queues on the way from one host to another. Returns when they are through, or `None` if a
    /// queue is full.
    fn queue(
        &mut self,
        rate: u64,
        now: VirtualTime,
        (from, to): (HostId, Option<HostId>),
        len: usize,
        queue: VirtualTime,
    ) -> Option<VirtualTime> {
        let took = (len as u64).saturating_mul(1_000_000_000) / rate;
        let mut at = now;
        for link in self.affected.links(from, to).into_iter().flatten() {
            let busy_until = self.busy_until.entry(link).or_default();
            let begin = at.max(*busy_until);
            if begin - at > queue {
                return None;
            }
            *busy_until = begin + took;
            at = *busy_until;
        }
        Some(at)
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Paths {
    faults: BTreeMap<u64, PathFault>,
}

impl Paths {
    pub(super) fn impair(&mut self, id: u64, affected: AffectedPaths, impairment: Impairment) {
        self.faults.insert(id, PathFault { affected, impairment, busy_until: BTreeMap::new() });
    }

    pub(super) fn restore(&mut self, id: u64) {
        self.faults.remove(&id);
    }

    pub(super) fn are_clear(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether a path from or to a host is impaired.
    pub(super) fn affect(&self, host: HostId) -> bool {
        self.faults.values().any(|fault| fault.affected.involve(host))
    }

    /// When a datagram has passed the slow links; `None` if it is lost.
    pub(super) fn datagram(
        &mut self,
        now: VirtualTime,
        from: HostId,
        to: Option<HostId>,
        len: usize,
    ) -> Option<VirtualTime> {
        let mut at = now;
        for fault in self.faults.values_mut() {
            match fault.impairment {
                Impairment::NoUdp if fault.affected.concern(from, to) => return None,
                Impairment::MtuHole { mtu } if len + HEADERS > mtu && fault.affected.concern(from, to) => return None,
                Impairment::Slow { bytes_per_second } => {
                    at = fault.queue(
                        bytes_per_second,
                        at,
                        (from, to),
                        len + HEADERS,
                        QUEUE.as_nanos() as VirtualTime,
                    )?;
                }
                _ => {}
            }
        }
        Some(at)
    }

    /// When a segment of a stream has passed the slow links.
    pub(super) fn segment(&mut self, now: VirtualTime, from: HostId, to: Option<HostId>, len: usize) -> VirtualTime {
        self.faults.values_mut().fold(now, |at, fault| match fault.impairment {
            Impairment::Slow { bytes_per_second } => {
                fault.queue(bytes_per_second, at, (from, to), len + HEADERS, VirtualTime::MAX).unwrap_or(at)
            }
            _ => at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: VirtualTime = 1_000_000_000;

    fn of(hosts: &[HostId], one_way: bool) -> AffectedPaths {
        let mut member = vec![false; 4];
        hosts.iter().for_each(|host| member[*host] = true);
        AffectedPaths::OfHosts { member, one_way }
    }

    /// Which of the paths between three hosts a small and a large datagram get through.
    fn open(affected: AffectedPaths, impairment: Impairment, len: usize) -> Vec<(HostId, HostId)> {
        let mut paths = Paths::default();
        paths.impair(1, affected, impairment);
        let all = (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to);
        all.filter(|(from, to)| paths.datagram(0, *from, Some(*to), len).is_some()).collect()
    }

    #[test]
    fn datagrams_are_lost_on_the_paths_concerned_and_on_no_other() {
        let between = |one_way| AffectedPaths::Between { first: 1, second: 2, one_way };
        assert_eq!(open(of(&[0, 1, 2], false), Impairment::NoUdp, 9), []);
        assert_eq!(open(of(&[0], false), Impairment::NoUdp, 9), [(1, 2), (2, 1)]);
        assert_eq!(open(of(&[0], true), Impairment::NoUdp, 9), [(1, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(open(between(false), Impairment::NoUdp, 9), [(0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!(open(between(true), Impairment::NoUdp, 9), [(0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]);
        let hole = Impairment::MtuHole { mtu: 1280 };
        assert_eq!(open(of(&[0], false), hole, 1253), [(1, 2), (2, 1)]);
        assert_eq!(open(of(&[0], false), hole, 1252).len(), 6);
    }

    #[test]
    fn a_slow_link_takes_its_time_and_drops_what_it_has_no_room_for() {
        let mut paths = Paths::default();
        paths.impair(1, of(&[0], false), Impairment::Slow { bytes_per_second: 1000 });
        let len = 500 - HEADERS;
        assert_eq!(paths.datagram(0, 1, Some(2), len), Some(0));
        for (place, at) in [(1, Some(SECOND / 2)), (2, Some(SECOND)), (3, Some(SECOND * 3 / 2)), (4, None)] {
            assert_eq!(paths.datagram(0, 0, Some(1), len), at, "{place}");
        }
        // The other direction is another link, and a stream waits.
        assert_eq!(paths.datagram(0, 1, Some(0), len), Some(SECOND / 2));
        assert_eq!(paths.segment(0, 0, Some(1), len), SECOND * 2);
        assert_eq!(paths.segment(SECOND * 9, 0, Some(1), len), SECOND * 19 / 2);
        assert!(paths.affect(0) && !paths.affect(1));
        paths.restore(1);
        assert!(paths.are_clear());
    }
}
