//! Streams between hosts: pieces keep their order, what is lost is sent again, and a stream that gets
//! nothing through for long enough breaks, as TCP's do.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::Bytes;

use super::{
    Network, Step,
    host::{ConnectionId, Due, HostId, Side},
    paths,
};
use crate::{
    node::{StreamId, StreamInput},
    sim::agenda::Time,
};

/// How often a stream that gets nothing through tries again.
const RETRY: Duration = Duration::from_millis(250);

#[derive(Debug)]
enum Segment {
    Open,
    Data(Bytes),
    Close,
    Reset,
}

impl Segment {
    /// Its bytes on the wire, with TCP's own.
    fn len(&self) -> usize {
        const HEADER: usize = 40;
        match self {
            Self::Data(data) => HEADER + data.len(),
            Self::Open | Self::Close | Self::Reset => HEADER,
        }
    }
}

#[derive(Debug, Default)]
struct Flow {
    segments: VecDeque<(Time, Segment)>,
    /// When the last piece arrives.
    last: Time,
    blocked_since: Option<Time>,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection {
    to: SocketAddr,
    /// The host at each end, as far as it is known, and what its node calls the stream while it wants
    /// something from it.
    hosts: [Option<HostId>; 2],
    ends: [Option<StreamId>; 2],
    flows: [Flow; 2],
}

impl Network {
    pub(super) fn connect(&mut self, host: HostId, id: StreamId, to: SocketAddr) {
        let connection = self.next_connection;
        self.next_connection += 1;
        let hosts = [Some(host), None];
        self.connections
            .insert(connection, Connection { to, hosts, ends: [Some(id), None], flows: Default::default() });
        self.hosts[host].streams.insert(id, (connection, Side::Opener));
        self.push(connection, Side::Acceptor, Segment::Open);
    }

    pub(super) fn write(&mut self, host: HostId, id: StreamId, data: Bytes) {
        if let Some(&(connection, side)) = self.hosts[host].streams.get(&id) {
            self.hosts[host].traffic.stream_bytes += data.len() as u64;
            self.push(connection, side.other(), Segment::Data(data));
        }
    }

    pub(super) fn close(&mut self, host: HostId, id: StreamId) {
        if let Some((connection, side)) = self.hosts[host].streams.remove(&id) {
            self.push(connection, side.other(), Segment::Close);
            self.end(connection, side);
        }
    }

    /// A host's node is gone: its host says so to whoever sends to it.
    pub(super) fn reset_streams(&mut self, host: HostId) {
        for (_, (connection, side)) in std::mem::take(&mut self.hosts[host].streams) {
            self.push(connection, side.other(), Segment::Reset);
            self.end(connection, side);
        }
    }

    /// The address of a host has gone: what it has open leads nowhere, which neither end is told.
    pub(super) fn abandon_streams(&mut self, host: HostId) {
        for (_, (id, side)) in std::mem::take(&mut self.hosts[host].streams) {
            let Some(connection) = self.connections.remove(&id) else { continue };
            let other = side.other() as usize;
            if let (Some(host), Some(stream)) = (connection.hosts[other], connection.ends[other]) {
                self.hosts[host].streams.remove(&stream);
            }
        }
    }

    fn push(&mut self, id: ConnectionId, side: Side, segment: Segment) {
        let delay = self.link.segment(&mut self.rng);
        let is_clear = self.paths.are_clear();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let flow = &mut connection.flows[side as usize];
        let was_empty = flow.segments.is_empty();
        let at = flow.last.max(self.now + delay.as_nanos() as u64);
        flow.last = at;
        match segment {
            // On a slow link its pieces come one by one.
            Segment::Data(mut data) if !is_clear => {
                while data.len() > paths::SEGMENT {
                    flow.segments.push_back((at, Segment::Data(data.split_to(paths::SEGMENT))));
                }
                flow.segments.push_back((at, Segment::Data(data)));
            }
            segment => flow.segments.push_back((at, segment)),
        }
        if was_empty {
            self.send_next(id, side);
        }
    }

    /// Puts the next piece of a flow on its way, if there is one.
    fn send_next(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get(&id) else { return };
        let Some((at, segment)) = connection.flows[side as usize].segments.front() else { return };
        let (mut at, len) = ((*at).max(self.now), segment.len());
        if !self.paths.are_clear() {
            let target = match side {
                Side::Opener => connection.hosts[side as usize],
                Side::Acceptor => connection.hosts[side as usize].or_else(|| self.host_at(connection.to)),
            };
            if let Some(source) = connection.hosts[side.other() as usize] {
                at = at.max(self.paths.segment(self.now, source, target, len));
            }
        }
        self.at(at, Due::Flow { connection: id, side });
    }

    /// An end wants nothing more. The stream is gone when nobody wants anything from it: neither an end,
    /// nor one to come.
    fn end(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.ends[side as usize] = None;
        let opening = connection.hosts[Side::Acceptor as usize].is_none()
            && !connection.flows[Side::Acceptor as usize].segments.is_empty();
        if connection.ends == [None, None] && !opening {
            self.connections.remove(&id);
        }
    }

    /// Lets the next piece of a flow arrive.
    pub(super) fn flow(&mut self, id: ConnectionId, side: Side) -> Option<Step> {
        let connection = self.connections.get(&id)?;
        let target = match side {
            Side::Opener => connection.hosts[side as usize],
            Side::Acceptor => connection.hosts[side as usize].or_else(|| self.host_at(connection.to)),
        };
        let source = connection.hosts[side.other() as usize];
        if let (Some(source), Some(target)) = (source, target) {
            if !self.passes(source, target) {
                return self.block(id, side);
            }
            if self.hosts[target].holds() {
                self.hosts[target].held.push_back(Due::Flow { connection: id, side });
                return None;
            }
        }
        let connection = self.connections.get_mut(&id)?;
        let flow = &mut connection.flows[side as usize];
        flow.blocked_since = None;
        let (_, segment) = flow.segments.pop_front()?;
        self.send_next(id, side);
        self.arrive(id, side, target, segment)
    }

    fn arrive(&mut self, id: ConnectionId, side: Side, target: Option<HostId>, segment: Segment) -> Option<Step> {
        if let Segment::Open = segment {
            let connection = self.connections.get_mut(&id)?;
            let opener = connection.hosts[Side::Opener as usize]?;
            let running = target.filter(|target| self.hosts[*target].node.is_some());
            let from = self.hosts[opener].sends_from();
            let Some(target) = running else {
                self.push(id, Side::Opener, Segment::Reset);
                return None;
            };
            connection.hosts[side as usize] = Some(target);
            self.record("connection", target, &[]);
            match self.with(target, |node, now| node.handle_accept(now, from)).flatten() {
                Some(stream) => {
                    self.hosts[target].streams.insert(stream, (id, side));
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.ends[side as usize] = Some(stream);
                    }
                }
                None => self.push(id, Side::Opener, Segment::Reset),
            }
            return Some(Step::Host(target));
        }
        let connection = self.connections.get(&id)?;
        let (Some(target), Some(stream)) = (target, connection.ends[side as usize]) else {
            // Nobody listens, and an opener that has gone waits for nothing: the last piece ends it.
            if connection.ends == [None, None] && connection.flows[side as usize].segments.is_empty() {
                self.connections.remove(&id);
            }
            return None;
        };
        let done = match &segment {
            Segment::Data(data) => {
                self.record("stream data", target, data);
                self.with(target, |node, now| node.handle_stream(now, stream, StreamInput::Data(data)));
                false
            }
            Segment::Close => {
                self.record("stream end", target, &[]);
                self.with(target, |node, now| node.handle_stream(now, stream, StreamInput::Closed));
                true
            }
            Segment::Open | Segment::Reset => {
                self.record("stream reset", target, &[]);
                let reason = "connection refused or reset".to_owned();
                self.with(target, |node, now| node.handle_stream(now, stream, StreamInput::Failed(reason)));
                true
            }
        };
        if done {
            self.hosts[target].streams.remove(&stream);
            self.end(id, side);
        }
        Some(Step::Host(target))
    }

    /// The network is cut in the way of a flow: it tries again, until it gives up.
    fn block(&mut self, id: ConnectionId, side: Side) -> Option<Step> {
        let (now, limit) = (self.now, self.link.stream_timeout.as_nanos() as u64);
        let connection = self.connections.get_mut(&id)?;
        let flow = &mut connection.flows[side as usize];
        let since = *flow.blocked_since.get_or_insert(now);
        if now - since < limit {
            self.after(RETRY, Due::Flow { connection: id, side });
            return None;
        }
        // The sending side notices; what it had to say is lost. The other end waits on by itself.
        flow.segments.clear();
        let sender = side.other();
        let connection = self.connections.get(&id)?;
        let told = connection.hosts[sender as usize].zip(connection.ends[sender as usize]);
        if let Some((host, stream)) = told {
            self.record("stream timeout", host, &[]);
            let reason = "connection timed out".to_owned();
            self.with(host, |node, now| node.handle_stream(now, stream, StreamInput::Failed(reason)));
            self.hosts[host].streams.remove(&stream);
        }
        self.end(id, sender);
        told.map(|(host, _)| Step::Host(host))
    }
}
