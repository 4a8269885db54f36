//! What a node counts, all of it.
//!
//! The numbers are plain integers of the core, which whoever wants them reads as a snapshot; an event for
//! each increment would cost more than what it counts. They begin with 0 at the node's start and wrap never
//! in practice. What memberlist measures has its name beside it.
//! Who exports them destructures them whole: the compiler then says what is new.

use std::time::Duration;

use super::{Node, SentBytes, rejections::Cause};
use crate::{
    dissemination::MessageCounts,
    membership::{MemberState, MembershipCounts},
    metrics::Histogram,
    wire::{PacketError, stream::StreamError},
};

/// What a node has counted since its start, and how much it holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Bytes and packets.
    pub traffic: Traffic,
    /// Bytes sent, by what they say.
    pub sent: SentBytes,
    /// Members and probes.
    pub membership: MembershipCounts,
    /// Published messages.
    pub messages: MessageCounts,
    /// What could not be used, by what it was.
    pub rejected: RejectionCounts,
    /// What exceeded a bound, by which.
    pub over_limit: LimitCounts,
    /// How much there is now.
    pub gauges: Gauges,
    /// How long it takes to put together and hand to the system a round of gossip: `memberlist.gossip`. Only
    /// measured on real sockets.
    pub gossip: Histogram,
    /// How long exchanges of views took that this node began and the other side answered:
    /// `memberlist.pushPullNode`.
    pub push_pull: Histogram,
    /// How long it took from when a message of this node was published until all live members had it.
    pub delivery: Histogram,
}

/// What went over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes of datagrams: `memberlist.udp.sent`.
    pub udp_sent: u64,
    /// Bytes of datagrams: `memberlist.udp.received`.
    pub udp_received: u64,
    /// Datagrams.
    pub packets_sent: u64,
    /// Datagrams.
    pub packets_received: u64,
    /// Bytes on streams: `memberlist.tcp.sent`.
    pub tcp_sent: u64,
    /// Bytes on streams.
    pub tcp_received: u64,
    /// Streams that others opened: `memberlist.tcp.accept`.
    pub tcp_accept: u64,
    /// Streams that this node opened: `memberlist.tcp.connect`.
    pub tcp_connect: u64,
}

/// What arrived and was dropped. [`Event::Rejected`](crate::Event::Rejected) tells why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RejectionCounts {
    /// Datagrams of which something could not be read.
    pub packets: u64,
    /// Messages about members that were not believed: of another version, without an address, from outside
    /// the allowed networks, refused by the application.
    pub members: u64,
    /// Views that were not merged, or not all of them.
    pub views: u64,
    /// Published messages, and what is said of them; [`Metrics::messages`] has more.
    pub messages: u64,
    /// Streams that were refused, could not be read, or did not end in time.
    pub streams: u64,
}

/// What was dropped, refused or cut off because it exceeded a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitCounts {
    /// Members, beyond [`Bounds::max_members`](crate::Bounds).
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
    /// Messages about members that gave way in the queue, told less often than wanted.
    pub queued: u64,
}

/// How much there is at the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// How slow this node takes itself to be, 0 being well: `memberlist.health.score`.
    pub health_score: u32,
    /// Members by state, this node included: `memberlist.node.instances`.
    pub alive: usize,
    /// The same for suspects.
    pub suspect: usize,
    /// The same for the dead that are remembered.
    pub dead: usize,
    /// The same for those who left and are remembered.
    pub left: usize,
    /// Messages about members that are to be told: `memberlist.queue.broadcasts`.
    pub queued: usize,
    /// Messages that are to be repeated to plain memberlist nodes.
    pub queued_messages: usize,
    /// Streams that are open.
    pub streams: usize,
    /// Bytes on them that are not part of anything complete yet.
    pub stream_bytes: usize,
    /// Members that are reached over TCP only, as datagrams do not arrive.
    pub over_tcp: usize,
    /// Members at which only small datagrams arrive.
    pub small_datagrams: usize,
    /// The size of this node's view when it was last sent, in bytes: `memberlist.size.local`.
    pub view_sent: usize,
    /// The size of the view that last arrived, in bytes: `memberlist.size.remote`.
    pub view_received: usize,
}

impl Metrics {
    pub(super) fn reject(&mut self, cause: Cause) {
        let RejectionCounts { packets, members, views, messages, streams } = &mut self.rejected;
        *match cause {
            Cause::Packet => packets,
            Cause::Member => members,
            Cause::View => views,
            Cause::Message => messages,
            Cause::Stream => streams,
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
    /// What came of what is said, and what was dropped of it, since the start.
    pub(crate) fn counters(&self) -> MessageCounts {
        let mut counters = self.dissemination.counters();
        if let Some(place) = &self.place {
            place.count(&mut counters);
        }
        counters
    }

    /// What was counted until now.
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
        (gauges.over_tcp, gauges.small_datagrams) = self.unusually_reached();
        metrics
    }

    /// Every live member has all below this number of what this node has published.
    pub(super) fn land(&mut self, stable: u64) {
        let first = self.next_id().seq - self.in_flight.len() as u64;
        for published in self.in_flight.drain(..stable.saturating_sub(first) as usize) {
            self.metrics.delivery.record(self.now.saturating_duration_since(published));
        }
        if self.in_flight.is_empty() {
            // A burst's memory is not kept.
            self.in_flight.shrink_to(64);
        }
    }

    /// How many rounds of gossip there were.
    pub(crate) fn gossip_rounds(&self) -> u64 {
        self.gossip_rounds
    }

    /// A stream was refused before this node heard of it.
    pub(crate) fn count_refused_stream(&mut self) {
        self.metrics.over_limit.streams += 1;
    }

    /// A round of gossip has taken so long, as only who has a clock can tell.
    pub(crate) fn record_gossip_time(&mut self, time: Duration) {
        self.metrics.gossip.record(time);
    }
}
