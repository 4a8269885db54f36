//! The metrics of a node.
//!
//! They are plain integers in the core, to be read as a snapshot; an event for each increment would cost more than what it
//! counts. They begin with 0 when the node starts and never wrap in practice. A metric that memberlist has, too, is given
//! with its name there. Exporters destructure the structs without `..`, so that the compiler tells them what is new.

use std::time::Duration;

use super::{Node, SentBytes, rejections::RejectionCause};
use crate::{
    dissemination::MessageCounts,
    membership::{MemberState, MembershipCounts},
    metrics::Histogram,
    wire::{PacketError, stream::StreamError},
};

/// What a node has counted since its start, and its present sizes.
///
/// ```
/// use std::{net::SocketAddr, time::Instant};
///
/// use broadcast::{
///     Config,
///     node::{Node, NodeConfig},
/// };
///
/// let now = Instant::now();
/// let mut node = Node::new(now, NodeConfig::new(Config::new("node1"), SocketAddr::from(([127, 0, 0, 1], 7946))));
/// node.publish(now, "greeting", "\"hello\"")?;
/// let metrics = node.metrics();
/// assert_eq!(metrics.messages.published, 1);
/// assert_eq!(metrics.gauges.alive, 1, "the node itself");
/// # Ok::<_, broadcast::PublishError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Bytes and packets on the network.
    pub traffic: Traffic,
    /// Bytes sent, by purpose.
    pub sent: SentBytes,
    /// Members and probes.
    pub membership: MembershipCounts,
    /// Published messages.
    pub messages: MessageCounts,
    /// Input that was dropped, by kind.
    pub rejected: RejectionCounts,
    /// What exceeded a limit, by limit.
    pub over_limit: LimitCounts,
    /// Present sizes.
    pub gauges: Gauges,
    /// How long it takes to put together a round of gossip and give it to the system: `memberlist.gossip`. Measured on real
    /// sockets only.
    pub gossip: Histogram,
    /// How long push/pull exchanges took that this node began and the other side answered: `memberlist.pushPullNode`.
    pub push_pull: Histogram,
    /// How long it took from publishing a message until all live members had it.
    pub delivery: Histogram,
}

/// What went over the network: [`Metrics::traffic`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of datagrams: `memberlist.udp.sent`.
    pub udp_sent: u64,
    /// Bytes of datagrams: `memberlist.udp.received`.
    pub udp_received: u64,
    /// Datagrams sent.
    pub packets_sent: u64,
    /// Datagrams received.
    pub packets_received: u64,
    /// Bytes on streams: `memberlist.tcp.sent`.
    pub tcp_sent: u64,
    /// Bytes received on streams.
    pub tcp_received: u64,
    /// Streams that others opened: `memberlist.tcp.accept`.
    pub tcp_accept: u64,
    /// Streams that this node opened: `memberlist.tcp.connect`.
    pub tcp_connect: u64,
}

/// How often input was dropped: [`Metrics::rejected`]. [`Event::Rejected`](crate::Event::Rejected) tells why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectionCounts {
    /// Datagrams that could not be read, or not all of them.
    pub packets: u64,
    /// Messages about members that were refused: of another protocol version, without an address, from outside the allowed
    /// networks, or by the application.
    pub members: u64,
    /// Views that were not merged, or not all of them.
    pub views: u64,
    /// Messages and control messages; [`Metrics::messages`] has more.
    pub messages: u64,
    /// Streams that were refused, could not be read, or did not end in time.
    pub streams: u64,
}

/// How often a limit was exceeded, and something dropped, refused or cut off: [`Metrics::over_limit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitCounts {
    /// Members, beyond [`ResourceLimits::max_members`](crate::ResourceLimits).
    pub members: u64,
    /// Streams, beyond [`ResourceLimits::max_streams`](crate::ResourceLimits).
    pub streams: u64,
    /// Streams that all together held more than [`ResourceLimits::max_stream_bytes`](crate::ResourceLimits).
    pub stream_bytes: u64,
    /// Streams that carried, or announced, more than [`ResourceLimits::stream`](crate::ResourceLimits) allows.
    pub stream_sizes: u64,
    /// Streams that made no progress within [`Tuning::tcp_timeout`](crate::Tuning).
    pub stream_times: u64,
    /// Packets with too many messages, nested too deeply, or too large when decompressed.
    pub packets: u64,
    /// Pings, beyond 3 in one packet.
    pub pings: u64,
    /// Requests to ping another node, beyond 1024 under way.
    pub relays: u64,
    /// Messages about members that were dropped from the queue, and so told less often than wanted.
    pub queued: u64,
}

/// Present sizes: [`Metrics::gauges`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// How slow this node takes itself to be; 0 is healthy: `memberlist.health.score`.
    pub health_score: u32,
    /// Members by state, this node included: `memberlist.node.instances`.
    pub alive: usize,
    /// The same for suspects.
    pub suspect: usize,
    /// The same for the dead that are remembered.
    pub dead: usize,
    /// The same for those who left and are remembered.
    pub left: usize,
    /// Messages about members that wait to be gossiped: `memberlist.queue.broadcasts`.
    pub queued: usize,
    /// Messages that wait to be repeated to plain memberlist nodes.
    pub queued_messages: usize,
    /// Open streams.
    pub streams: usize,
    /// Bytes on streams that are not part of anything complete yet.
    pub stream_bytes: usize,
    /// Members that are reached over TCP only, as datagrams do not arrive.
    pub over_tcp: usize,
    /// Members that only small datagrams reach.
    pub small_datagrams: usize,
    /// The size of this node's view when it was last sent, in bytes: `memberlist.size.local`.
    pub view_sent: usize,
    /// The size of the view that arrived last, in bytes: `memberlist.size.remote`.
    pub view_received: usize,
}

impl Metrics {
    pub(super) fn reject(&mut self, cause: RejectionCause) {
        let RejectionCounts { packets, members, views, messages, streams } = &mut self.rejected;
        *match cause {
            RejectionCause::Packet => packets,
            RejectionCause::Member => members,
            RejectionCause::View => views,
            RejectionCause::Message => messages,
            RejectionCause::Stream => streams,
        } += 1;
    }

    pub(super) fn packet_error(&mut self, error: &PacketError) {
        let over = match error {
            PacketError::TooDeep | PacketError::TooMany => true,
            PacketError::Body { source, .. } => source.exceeds_limit(),
            _ => false,
        };
        self.over_limit.packets += u64::from(over);
    }

    pub(super) fn stream_error(&mut self, error: &StreamError) {
        self.over_limit.stream_sizes += u64::from(error.exceeds_limit());
    }
}

impl Node {
    /// What was counted of messages since the start.
    pub(crate) fn counters(&self) -> MessageCounts {
        let mut counters = self.dissemination.counters();
        if let Some(layer) = &self.serf {
            layer.count(&mut counters);
        }
        counters
    }

    /// A snapshot of all metrics.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let overflow = self.membership.overflow();
        let mut metrics =
            Metrics { membership: self.membership.counts(), messages: self.counters(), ..self.metrics.clone() };
        let over_limit = &mut metrics.over_limit;
        (over_limit.members, over_limit.relays, over_limit.queued) =
            (overflow.members, overflow.relays, overflow.queued);
        let gauges = &mut metrics.gauges;
        for record in self.membership.records() {
            *match self.state_of(record) {
                MemberState::Alive => &mut gauges.alive,
                MemberState::Suspect => &mut gauges.suspect,
                MemberState::Dead => &mut gauges.dead,
                MemberState::Left => &mut gauges.left,
            } += 1;
        }
        gauges.health_score = self.membership.health_score();
        gauges.queued = self.membership.queued();
        gauges.queued_messages = self.dissemination.queued().0;
        gauges.streams = self.streams.len();
        gauges.stream_bytes = self.buffered();
        (gauges.over_tcp, gauges.small_datagrams) = self.count_limited_paths();
        metrics
    }

    /// Every live member has everything below this number of what this node has published.
    pub(super) fn record_deliveries(&mut self, stable: u64) {
        let first = self.next_id().seq - self.in_flight.len() as u64;
        for published in self.in_flight.drain(..stable.saturating_sub(first) as usize) {
            self.metrics.delivery.record(self.now.saturating_duration_since(published));
        }
        if self.in_flight.is_empty() {
            // Do not keep the memory of a burst.
            self.in_flight.shrink_to(64);
        }
    }

    /// How many rounds of gossip there were.
    pub(crate) fn gossip_rounds(&self) -> u64 {
        self.gossip_rounds
    }

    /// Counts a stream that the driver refused.
    pub(crate) fn count_refused_stream(&mut self) {
        self.metrics.over_limit.streams += 1;
    }

    /// Records how long a round of gossip took, which only the driver's clock can tell.
    pub(crate) fn record_gossip_time(&mut self, time: Duration) {
        self.metrics.gossip.record(time);
    }
}
