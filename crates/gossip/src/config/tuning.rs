//! The pace of the gossip: memberlist's settings, and its profiles for three kinds of network.

use std::{ops::RangeInclusive, time::Duration};

use super::{ConfigError, DAY, range};

/// A kind of network, and memberlist's settings for it: see the table at [`Tuning`].
///
/// ```
/// use std::time::Duration;
///
/// use broadcast::Profile;
///
/// assert_eq!(Profile::default(), Profile::Lan);
/// assert_eq!(Profile::Wan.tuning().probe_interval, Duration::from_secs(5));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One machine: news in tenths of a second, for nodes that answer at once.
    Local,
    /// One data centre: a failed node is noticed within seconds.
    #[default]
    Lan,
    /// The internet: slower, so that a lossy path is not taken for a failed node.
    Wan,
}

impl Profile {
    /// Every profile, the fastest first.
    pub const ALL: [Self; 3] = [Self::Local, Self::Lan, Self::Wan];

    /// The profile that has this [name](Self::name).
    ///
    /// ```
    /// use broadcast::Profile;
    ///
    /// assert_eq!(Profile::named("wan"), Some(Profile::Wan));
    /// assert_eq!(Profile::named("moon"), None);
    /// ```
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

    /// Memberlist's settings (`DefaultLocalConfig`, `DefaultLANConfig`, `DefaultWANConfig`).
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

/// The pace of the gossip. Fields have memberlist's names where memberlist has them, and its values by [`Profile`].
///
/// The nodes of a cluster may differ, but each suspects, gossips and waits by its own settings: give all the same.
///
/// | field | `Local` | `Lan`, the default | `Wan` |
/// |---|---|---|---|
/// | [`tcp_timeout`](Self::tcp_timeout) | 1 s | 10 s | 30 s |
/// | [`indirect_checks`](Self::indirect_checks) | 1 | 3 | 3 |
/// | [`retransmit_mult`](Self::retransmit_mult) | 2 | 4 | 4 |
/// | [`suspicion_mult`](Self::suspicion_mult) | 3 | 4 | 6 |
/// | [`suspicion_max_timeout_mult`](Self::suspicion_max_timeout_mult) | 6 | 6 | 6 |
/// | [`push_pull_interval`](Self::push_pull_interval) | 15 s | 30 s | 60 s |
/// | [`probe_interval`](Self::probe_interval) | 1 s | 1 s | 5 s |
/// | [`probe_timeout`](Self::probe_timeout) | 200 ms | 500 ms | 3 s |
/// | [`awareness_max_multiplier`](Self::awareness_max_multiplier) | 8 | 8 | 8 |
/// | [`buddy`](Self::buddy) | `true` | `true` | `true` |
/// | [`gossip_interval`](Self::gossip_interval) | 100 ms | 200 ms | 500 ms |
/// | [`gossip_nodes`](Self::gossip_nodes) | 3 | 3 | 4 |
/// | [`gossip_to_the_dead`](Self::gossip_to_the_dead) | 15 s | 30 s | 60 s |
/// | [`dead_node_reclaim`](Self::dead_node_reclaim) | 2 s | 2 s | 10 s |
/// | [`udp_buffer_size`](Self::udp_buffer_size) | 1400 bytes | 1400 bytes | 1400 bytes |
/// | [`compression`](Self::compression) | `true` | `true` | `true` |
///
/// Durations are from 1 ms to 1 day ([`DURATIONS`](Self::DURATIONS)), numbers from 1 to 1000 ([`NUMBERS`](Self::NUMBERS)),
/// unless the field says otherwise.
///
/// ```
/// use broadcast::{Config, Profile, Tuning};
///
/// // Suspects have more time to answer: fewer false alarms, but a failure is noticed later.
/// let tuning = Tuning { suspicion_mult: 6, ..Profile::Lan.tuning() };
/// let config = Config::new("node1").tuning(tuning);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a stream may take for each 4 KiB, and how long a connection may take to be established.
    ///
    /// Longer, slow links and busy peers get their views and large messages across. Shorter, the node gives up sooner on
    /// a peer that hangs, and a hostile one holds a stream for less time.
    pub tcp_timeout: Duration,
    /// How many members the node asks to ping one that does not answer (*k* in SWIM), from 0 to 1000.
    ///
    /// More of them find more ways around one bad link, so fewer members are suspected that are well. Each costs up to
    /// four packets per failed probe. With 0, only a ping over TCP is left.
    pub indirect_checks: usize,
    /// How often each node sends a piece of news: `retransmit_mult · ceil(log10(n + 1))` times in a cluster of `n`.
    ///
    /// More often, news reaches everybody in spite of more loss. It takes as much more bandwidth, and news waits longer
    /// where there is much of it.
    pub retransmit_mult: u32,
    /// How long a suspect has to refute, at least: `suspicion_mult · max(1, log10(n)) · probe_interval`.
    ///
    /// Longer, a member that pauses or has a bad link for a while is not declared dead. A member that has failed is
    /// declared dead as much later. From 3 on, `suspicion_mult - 2` others must confirm a suspicion for this time to apply.
    pub suspicion_mult: u32,
    /// How many times that a suspect has while nobody confirms the suspicion (Lifeguard's dynamic suspicion).
    ///
    /// Larger, a node that is itself slow or cut off does less harm with its suspicions. A member that has failed is
    /// declared dead later where few others notice. With 1, confirmations make no difference.
    pub suspicion_max_timeout_mult: u32,
    /// How often the node exchanges its whole view with a random member, over TCP. From 33 members on the node does so
    /// less often, the more there are.
    ///
    /// More often, a node that missed news learns it sooner, and partitions heal faster. Each exchange costs bytes and
    /// time in proportion to the number of members, on both sides.
    pub push_pull_interval: Duration,
    /// How often the node pings a member: each in its turn, in random order.
    ///
    /// Longer, there are fewer packets, and slow networks cause fewer false alarms. A failure is noticed later: suspicion
    /// times are multiples of this.
    pub probe_interval: Duration,
    /// How long the node waits for the answer to a ping before it asks others. Less than
    /// [`probe_interval`](Self::probe_interval), and more than the usual round-trip time.
    ///
    /// Longer, slow answers count without help from others. What is left of the interval for that help gets shorter.
    pub probe_timeout: Duration,
    /// By how much, at most, a node that notices its own slowness multiplies its [`probe_interval`](Self::probe_interval)
    /// (Lifeguard's local health multiplier).
    ///
    /// Larger, a slow node suspects fewer members that are well. It also notices failures later, as long as it is slow.
    /// With 1, a node never takes itself to be slow.
    pub awareness_max_multiplier: u32,
    /// Whether a ping tells a suspect that it is suspected, so that it can refute at once (Lifeguard's buddy system).
    ///
    /// With it, fewer members are declared dead that are well. The room in such a ping's packet is then not used for
    /// other news. memberlist always does this; `false` is for comparisons.
    pub buddy: bool,
    /// How often the node sends the news that waits.
    ///
    /// Shorter, news spreads faster, and there are as many more packets while there is some.
    pub gossip_interval: Duration,
    /// To how many random members the node sends news each time.
    ///
    /// More of them spread news faster, and more reliably where packets are lost. Packets grow in number with it.
    pub gossip_nodes: usize,
    /// How long the node remembers members that are dead or have left, and gossips to the dead, so that they can refute.
    ///
    /// Longer, a member that was cut off hears sooner that it is taken for dead, and old news about it cannot bring it
    /// back. Dead members take memory and packets meanwhile, and count in
    /// [`max_members`](super::ResourceLimits::max_members).
    pub gossip_to_the_dead: Duration,
    /// How long a member must have been suspected before another node may take its name, from a new address. The name of
    /// one that has left or is dead is free at once; that of a member that answers is never.
    ///
    /// Shorter, a container that comes back at a new address is in sooner than its old life is found dead. Longer, a
    /// member that is cut off for a while is safer from another that has its name by mistake. The default, two probe
    /// intervals, leaves a suspect that can answer the time to do so. (memberlist's `DeadNodeReclaimTime` is for the
    /// dead; it never gives a suspect's name away.)
    pub dead_node_reclaim: Duration,
    /// The largest UDP packet that the node sends, in bytes: see [`UDP_BUFFER_SIZE`](Self::UDP_BUFFER_SIZE).
    ///
    /// Larger, there are fewer packets, and fewer messages need a stream. Packets above the path's MTU are fragmented or
    /// lost; where a path drops them in silence, the node finds out what it takes.
    pub udp_buffer_size: usize,
    /// Whether the node compresses the streams that it sends (LZW), as Go does by default. It always reads both kinds.
    ///
    /// With it, views take fewer bytes. Both sides need more processor time.
    pub compression: bool,
}

impl Tuning {
    /// What each duration may be: 1 ms to 1 day.
    pub const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
    /// What each number may be, but [`udp_buffer_size`](Self::udp_buffer_size): 1 to 1000, and
    /// [`indirect_checks`](Self::indirect_checks) also 0.
    pub const NUMBERS: RangeInclusive<u32> = 1..=1000;
    /// What [`udp_buffer_size`](Self::udp_buffer_size) may be: 1024 to 65,507 bytes.
    ///
    /// A message about a node with the longest name and metadata has to fit in a packet, so what the label and encryption
    /// add to each packet comes on top of the least. No UDP packet over IPv4 is larger than the most.
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
