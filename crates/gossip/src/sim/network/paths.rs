//! What is wrong with the paths between hosts: datagrams that are filtered, large ones that vanish, and
//! links that take their time. Streams get through, which is what makes these faults hard to notice.
//!
//! A slow link is modelled at the host whose link it is: what it sends queues up in front of the link,
//! and what it receives behind it, each in the order in which it came. A stream has one segment in the
//! queue at a time, as one has whose window is small, so that streams and datagrams share the link.

use std::{collections::BTreeMap, time::Duration};

use super::host::HostId;
use crate::sim::agenda::Time;

/// What IPv4 and UDP add to a datagram.
const HEADERS: usize = 28;
/// What TCP sends at once over Ethernet.
pub(super) const SEGMENT: usize = 1448;
/// How much waits in front of a slow link before datagrams are dropped, as a time.
const QUEUE: Duration = Duration::from_secs(1);

/// The paths that a fault concerns.
#[derive(Clone, Debug)]
pub(crate) enum Ways {
    /// Those from some hosts, and unless it is one-way to them.
    Of { member: Vec<bool>, one_way: bool },
    /// That from the first to the second, and unless it is one-way back.
    Between { first: HostId, second: HostId, one_way: bool },
}

impl Ways {
    /// The hosts at whose links something is wrong for what goes from one host to another.
    fn links(&self, from: HostId, to: Option<HostId>) -> [Option<(HostId, bool)>; 2] {
        let is_member = |member: &[bool], host: HostId| member.get(host).copied().unwrap_or_default();
        match self {
            Self::Of { member, one_way } => {
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
            Self::Of { member, .. } => member.get(host).copied().unwrap_or_default(),
            Self::Between { first, second, .. } => [*first, *second].contains(&host),
        }
    }
}

/// What is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wrong {
    NoUdp,
    MtuHole { mtu: usize },
    Slow { bytes_per_second: u64 },
}

#[derive(Debug)]
struct Fault {
    ways: Ways,
    wrong: Wrong,
    /// Until when each link is taken, outwards or inwards.
    taken: BTreeMap<(HostId, bool), Time>,
}

impl Fault {
    /// Puts so many bytes into the queues on their way from one host to another; gives when they are
    /// through, or `None` if there is no room.
    fn queue(
        &mut self,
        rate: u64,
        now: Time,
        (from, to): (HostId, Option<HostId>),
        len: usize,
        queue: Time,
    ) -> Option<Time> {
        let took = (len as u64).saturating_mul(1_000_000_000) / rate;
        let mut at = now;
        for link in self.ways.links(from, to).into_iter().flatten() {
            let taken = self.taken.entry(link).or_default();
            let begin = at.max(*taken);
            if begin - at > queue {
                return None;
            }
            *taken = begin + took;
            at = *taken;
        }
        Some(at)
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Paths {
    faults: BTreeMap<u64, Fault>,
}

impl Paths {
    pub(super) fn impair(&mut self, id: u64, ways: Ways, wrong: Wrong) {
        self.faults.insert(id, Fault { ways, wrong, taken: BTreeMap::new() });
    }

    pub(super) fn restore(&mut self, id: u64) {
        self.faults.remove(&id);
    }

    pub(super) fn are_clear(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether something is wrong with a path from or to a host.
    pub(super) fn involve(&self, host: HostId) -> bool {
        self.faults.values().any(|fault| fault.ways.involve(host))
    }

    /// When a datagram is through what is slow; `None` if it is lost.
    pub(super) fn datagram(&mut self, now: Time, from: HostId, to: Option<HostId>, len: usize) -> Option<Time> {
        let mut at = now;
        for fault in self.faults.values_mut() {
            match fault.wrong {
                Wrong::NoUdp if fault.ways.concern(from, to) => return None,
                Wrong::MtuHole { mtu } if len + HEADERS > mtu && fault.ways.concern(from, to) => return None,
                Wrong::Slow { bytes_per_second } => {
                    at = fault.queue(bytes_per_second, at, (from, to), len + HEADERS, QUEUE.as_nanos() as Time)?;
                }
                _ => {}
            }
        }
        Some(at)
    }

    /// When a segment of a stream is through what is slow.
    pub(super) fn segment(&mut self, now: Time, from: HostId, to: Option<HostId>, len: usize) -> Time {
        self.faults.values_mut().fold(now, |at, fault| match fault.wrong {
            Wrong::Slow { bytes_per_second } => {
                fault.queue(bytes_per_second, at, (from, to), len + HEADERS, Time::MAX).unwrap_or(at)
            }
            _ => at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Time = 1_000_000_000;

    fn of(hosts: &[HostId], one_way: bool) -> Ways {
        let mut member = vec![false; 4];
        hosts.iter().for_each(|host| member[*host] = true);
        Ways::Of { member, one_way }
    }

    /// Which of the paths between three hosts a small and a large datagram get through.
    fn open(ways: Ways, wrong: Wrong, len: usize) -> Vec<(HostId, HostId)> {
        let mut paths = Paths::default();
        paths.impair(1, ways, wrong);
        let all = (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(from, to)| from != to);
        all.filter(|(from, to)| paths.datagram(0, *from, Some(*to), len).is_some()).collect()
    }

    #[test]
    fn datagrams_are_lost_on_the_paths_concerned_and_on_no_other() {
        let between = |one_way| Ways::Between { first: 1, second: 2, one_way };
        assert_eq!(open(of(&[0, 1, 2], false), Wrong::NoUdp, 9), []);
        assert_eq!(open(of(&[0], false), Wrong::NoUdp, 9), [(1, 2), (2, 1)]);
        assert_eq!(open(of(&[0], true), Wrong::NoUdp, 9), [(1, 0), (1, 2), (2, 0), (2, 1)]);
        assert_eq!(open(between(false), Wrong::NoUdp, 9), [(0, 1), (0, 2), (1, 0), (2, 0)]);
        assert_eq!(open(between(true), Wrong::NoUdp, 9), [(0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]);
        let hole = Wrong::MtuHole { mtu: 1280 };
        assert_eq!(open(of(&[0], false), hole, 1253), [(1, 2), (2, 1)]);
        assert_eq!(open(of(&[0], false), hole, 1252).len(), 6);
    }

    #[test]
    fn a_slow_link_takes_its_time_and_drops_what_it_has_no_room_for() {
        let mut paths = Paths::default();
        paths.impair(1, of(&[0], false), Wrong::Slow { bytes_per_second: 1000 });
        let len = 500 - HEADERS;
        assert_eq!(paths.datagram(0, 1, Some(2), len), Some(0));
        for (place, at) in [(1, Some(SECOND / 2)), (2, Some(SECOND)), (3, Some(SECOND * 3 / 2)), (4, None)] {
            assert_eq!(paths.datagram(0, 0, Some(1), len), at, "{place}");
        }
        // The other direction is another link, and a stream waits.
        assert_eq!(paths.datagram(0, 1, Some(0), len), Some(SECOND / 2));
        assert_eq!(paths.segment(0, 0, Some(1), len), SECOND * 2);
        assert_eq!(paths.segment(SECOND * 9, 0, Some(1), len), SECOND * 19 / 2);
        assert!(paths.involve(0) && !paths.involve(1));
        paths.restore(1);
        assert!(paths.are_clear());
    }
}
