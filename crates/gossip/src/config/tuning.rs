//! The pace of the gossip.

use std::{ops::RangeInclusive, time::Duration};

use super::{ConfigError, DAY, range};

/// A kind of network, and memberlist's settings for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One machine.
    Local,
    /// One data centre.
    #[default]
    Lan,
    /// The internet.
    Wan,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Local, Self::Lan, Self::Wan];

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Its name in settings and scenarios.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }

    /// Memberlist's values (`DefaultLocalConfig`, `DefaultLANConfig`, `DefaultWANConfig`).
    #[must_use]
    pub fn tuning(self) -> Tuning {
        let lan = Tuning {
            tcp_timeout: Duration::from_secs(10),
            indirect_checks: 3,
            retransmit_mult: 4,
            suspicion_mult: 4,
            suspicion_max_timeout_mult: 6,
            push_pull_interval: Duration::from_secs(30),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            awareness_max_multiplier: 8,
            buddy: true,
            gossip_interval: Duration::from_millis(200),
            gossip_nodes: 3,
            gossip_to_the_dead: Duration::from_secs(30),
            dead_node_reclaim: Duration::from_secs(2),
            udp_buffer_size: 1400,
            compression: true,
        };
        match self {
            Self::Lan => lan,
            Self::Wan => Tuning {
                tcp_timeout: Duration::from_secs(30),
                suspicion_mult: 6,
                push_pull_interval: Duration::from_secs(60),
                probe_interval: Duration::from_secs(5),
                probe_timeout: Duration::from_secs(3),
                gossip_nodes: 4,
                gossip_interval: Duration::from_millis(500),
                gossip_to_the_dead: Duration::from_secs(60),
                dead_node_reclaim: Duration::from_secs(10),
                ..lan
            },
            Self::Local => Tuning {
                tcp_timeout: Duration::from_secs(1),
                indirect_checks: 1,
                retransmit_mult: 2,
                suspicion_mult: 3,
                push_pull_interval: Duration::from_secs(15),
                probe_timeout: Duration::from_millis(200),
                gossip_interval: Duration::from_millis(100),
                gossip_to_the_dead: Duration::from_secs(15),
                ..lan
            },
        }
    }
}

/// The settings of the gossip, named as memberlist names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a stream may take for each 4 KiB, and how long a connection may take to stand.
    pub tcp_timeout: Duration,
    /// How many members are asked to ping one that does not answer.
    pub indirect_checks: usize,
    /// A message is sent `retransmit_mult · ceil(log10(n + 1))` times by each node.
    pub retransmit_mult: u32,
    /// A suspect is declared dead no sooner than
    /// `suspicion_mult · max(1, log10(n)) · probe_interval` after the suspicion.
    pub suspicion_mult: u32,
    /// … and, as long as nobody confirms the suspicion, no sooner than this many times that.
    pub suspicion_max_timeout_mult: u32,
    /// How often the whole view is exchanged with a random member.
    pub push_pull_interval: Duration,
    /// How often a member is pinged.
    pub probe_interval: Duration,
    /// How long a ping may take. Less than `probe_interval`.
    pub probe_timeout: Duration,
    /// A node that notices its own slowness multiplies its probe interval by up to this.
    pub awareness_max_multiplier: u32,
    /// Whether a member that is suspected is told so with the ping, so that it can object at once.
    pub buddy: bool,
    /// How often what is queued is gossiped.
    pub gossip_interval: Duration,
    /// To how many members.
    pub gossip_nodes: usize,
    /// For how long the dead are remembered and gossiped to, so that they can refute.
    pub gossip_to_the_dead: Duration,
    /// The name of a member that has left or is dead is at once anybody's who comes with it from a new
    /// address; that of a suspect, when it has been one for this long. That of a member that answers never is.
    ///
    /// Shorter, a container that comes back at a new address is in sooner than its old life is found dead;
    /// longer, a member that is cut off for a while is safer from another that has its name by mistake. The
    /// default, two probe intervals, leaves a suspect that can answer the time to do so. (memberlist has
    /// `DeadNodeReclaimTime` for the dead, and never gives a suspect's name away.)
    pub dead_node_reclaim: Duration,
    /// The largest packet of gossip, in bytes. Where a path drops such packets in silence, the node finds out
    /// which it takes; less is more packets, and more streams for messages that fit in none.
    pub udp_buffer_size: usize,
    /// Whether streams are compressed, as Go does by default. Reading either works always.
    pub compression: bool,
}

impl Tuning {
    /// What each duration may be.
    pub const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
    /// What each number but [`udp_buffer_size`](Self::udp_buffer_size) may be; [`indirect_checks`](Self::indirect_checks)
    /// may be 0 as well.
    pub const NUMBERS: RangeInclusive<u32> = 1..=1000;
    /// What [`udp_buffer_size`](Self::udp_buffer_size) may be. A message about a node with the longest name and metadata
    /// has to fit in a packet: what label and encryption add to each comes on top of the least. No UDP packet over IPv4
    /// is larger than the most.
    pub const UDP_BUFFER_SIZE: RangeInclusive<usize> = 1024..=65_507;

    /// `overhead` is what label and encryption add to a packet, in bytes.
    pub(super) fn validate(&self, overhead: usize) -> Result<(), ConfigError> {
        for (setting, value) in [
            ("tcp_timeout", self.tcp_timeout),
            ("push_pull_interval", self.push_pull_interval),
            ("probe_interval", self.probe_interval),
            ("probe_timeout", self.probe_timeout),
            ("gossip_interval", self.gossip_interval),
            ("gossip_to_the_dead", self.gossip_to_the_dead),
            ("dead_node_reclaim", self.dead_node_reclaim),
        ] {
            range::check_duration(setting, value, &Self::DURATIONS)?;
        }
        let (least, most) = Self::NUMBERS.into_inner();
        for (setting, value, least) in [
            ("retransmit_mult", self.retransmit_mult, least),
            ("suspicion_mult", self.suspicion_mult, least),
            ("suspicion_max_timeout_mult", self.suspicion_max_timeout_mult, least),
            ("awareness_max_multiplier", self.awareness_max_multiplier, least),
            ("gossip_nodes", u32::try_from(self.gossip_nodes).unwrap_or(u32::MAX), least),
            ("indirect_checks", u32::try_from(self.indirect_checks).unwrap_or(u32::MAX), 0),
        ] {
            range::check(setting, value, &(least..=most))?;
        }
        if self.probe_timeout >= self.probe_interval {
            let value = humantime::format_duration(self.probe_timeout).to_string();
            let allowed = "less than `probe_interval`".into();
            return Err(ConfigError::Range { setting: "probe_timeout", value, allowed });
        }
        let (least, most) = Self::UDP_BUFFER_SIZE.into_inner();
        range::check("udp_buffer_size", self.udp_buffer_size, &(least + overhead..=most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// memberlist's `config.go`: `DefaultLANConfig`, `DefaultWANConfig`, `DefaultLocalConfig`.
    #[test]
    fn the_profiles_are_memberlists() {
        let row = |profile: Profile| {
            let t = profile.tuning();
            let ms = |d: Duration| d.as_millis();
            (
                (ms(t.tcp_timeout), t.indirect_checks, t.retransmit_mult),
                (t.suspicion_mult, t.suspicion_max_timeout_mult, ms(t.push_pull_interval)),
                (ms(t.probe_interval), ms(t.probe_timeout), t.awareness_max_multiplier),
                (ms(t.gossip_interval), t.gossip_nodes, ms(t.gossip_to_the_dead)),
                (t.udp_buffer_size, t.compression),
            )
        };
        let all = (1400, true);
        assert_eq!(row(Profile::Lan), ((10_000, 3, 4), (4, 6, 30_000), (1000, 500, 8), (200, 3, 30_000), all));
        assert_eq!(row(Profile::Wan), ((30_000, 3, 4), (6, 6, 60_000), (5000, 3000, 8), (500, 4, 60_000), all));
        assert_eq!(row(Profile::Local), ((1000, 1, 2), (3, 6, 15_000), (1000, 200, 8), (100, 3, 15_000), all));
        assert_eq!(Profile::default(), Profile::Lan);
    }
}
