//! Connections of another protocol on the members' port.
//!
//! memberlist's streams begin with the number of a message, of which it has some twenty. Whoever speaks another protocol
//! with the same nodes, at the same addresses, begins its connections with a byte that is none of them.

use std::net::{SocketAddr, TcpStream};

use tokio::sync::mpsc;

use super::{EventLoop, Handle, arrivals::Foreign};
use crate::{Member, NodeInfo, NodeName};

/// The connections that a node has accepted for another protocol. See [`Handle::divert`].
#[derive(Debug)]
pub struct ForeignStreams(mpsc::Receiver<Foreign>);

impl ForeignStreams {
    /// The next one, non-blocking, with all that the other side has sent still to be read, and where it comes from.
    /// `None` once the node has stopped.
    pub async fn accept(&mut self) -> Option<(TcpStream, SocketAddr)> {
        self.0.recv().await
    }
}

impl Handle {
    /// From now on, connections to this node whose first byte is `first` are not read by it, but given to who called this
    /// last. 64 wait to be taken at most; further ones are closed. Until its first byte has come, a connection is subject
    /// to the limits of the node's own that say nothing. `None` once the node has stopped.
    ///
    /// # Panics
    ///
    /// If memberlist's streams may begin with that byte.
    pub async fn divert(&self, first: u8) -> Option<ForeignStreams> {
        assert!((0x80..0xf0).contains(&first), "a stream of memberlist may begin with {first:#04x}");
        self.ask(move |event_loop| ForeignStreams(event_loop.arrivals.divert(first))).await
    }

    /// A member that is not dead, or this node: where it is reached from here, what is believed of it, and what it tells
    /// about itself, as [`info_of`](Self::info_of) has it. `None` if there is none of that name, or this node has stopped.
    pub async fn find(&self, name: &NodeName) -> Option<(Member, Option<NodeInfo>)> {
        let name = name.clone();
        let found = move |event_loop: &mut EventLoop| {
            let mut member = event_loop.node.find(&name)?;
            member.addr = event_loop.zones.with_zone(member.addr);
            Some((member, event_loop.node.info_of(&name)))
        };
        self.ask(found).await.flatten()
    }
}
