//! The pace of the gossip.

use std::{fmt, time::Duration};

use super::ConfigError;

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
    /// All of them, by the names that settings and scenarios have for them.
    pub const NAMED: [(&str, Self); 3] = [("local", Self::Local), ("lan", Self::Lan), ("wan", Self::Wan)];

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(known, _)| *known == name).map(|(_, profile)| profile)
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
    pub(super) fn validate(&self, overhead: usize) -> Result<(), ConfigError> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);

        let check = |setting, value: &dyn fmt::Debug, ok, allowed| {
            if ok { Ok(()) } else { Err(ConfigError::Tuning { setting, value: format!("{value:?}"), allowed }) }
        };
        for (setting, value) in [
            ("tcp_timeout", self.tcp_timeout),
            ("push_pull_interval", self.push_pull_interval),
            ("probe_interval", self.probe_interval),
            ("probe_timeout", self.probe_timeout),
            ("gossip_interval", self.gossip_interval),
            ("gossip_to_the_dead", self.gossip_to_the_dead),
            ("dead_node_reclaim", self.dead_node_reclaim),
        ] {
            let ok = (Duration::from_millis(1)..=DAY).contains(&value);
            check(setting, &value, ok, "between 1 millisecond and 1 day")?;
        }
        for (setting, value) in [
            ("retransmit_mult", self.retransmit_mult),
            ("suspicion_mult", self.suspicion_mult),
            ("suspicion_max_timeout_mult", self.suspicion_max_timeout_mult),
            ("awareness_max_multiplier", self.awareness_max_multiplier),
        ] {
            check(setting, &value, (1..=1000).contains(&value), "between 1 and 1000")?;
        }
        let timeout = self.probe_timeout;
        check("probe_timeout", &timeout, timeout < self.probe_interval, "less than probe_interval")?;
        let nodes = self.gossip_nodes;
        check("gossip_nodes", &nodes, (1..=1000).contains(&nodes), "between 1 and 1000")?;
        let checks = self.indirect_checks;
        check("indirect_checks", &checks, checks <= 1000, "between 0 and 1000")?;
        // A message about a node with the longest name and metadata has to fit in a packet, beside label and
        // encryption; no UDP packet over IPv4 is larger than 65507 bytes.
        let size = self.udp_buffer_size;
        let allowed = "between 1024 bytes, with what label and encryption add to them, and 65507";
        check("udp_buffer_size", &size, (1024 + overhead..=65507).contains(&size), allowed)
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
