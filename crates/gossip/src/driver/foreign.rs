//! Connections of another protocol on the members' port (protocol demultiplexing by the first byte).
//!
//! memberlist's streams begin with the number of a message type, of which it has some twenty. So another protocol can share
//! the nodes' addresses and port, if its connections begin with a byte that is no message type.

use std::net::{SocketAddr, TcpStream};

use tokio::sync::mpsc;

use super::{EventLoop, Handle, pending::ForeignConnection};
use crate::{Member, NodeInfo, NodeName};

/// A listener for the connections of another protocol on a node's port. See [`Handle::divert`].
#[derive(Debug)]
pub struct ForeignStreams(mpsc::Receiver<ForeignConnection>);

impl ForeignStreams {
    /// The next connection, in non-blocking mode and with nothing read from it, and the peer's address. `None` once the node
    /// has stopped.
    pub async fn accept(&mut self) -> Option<(TcpStream, SocketAddr)> {
        self.0.recv().await
    }
}

impl Handle {
    /// From now on, connections to this node whose first byte is `first` go to the returned listener, and no longer to one
    /// of an earlier call. At most 64 wait until they are accepted; further ones are closed. Until its first byte has come, a
    /// connection counts as any silent connection. `None` once the node has stopped.
    ///
    /// # Panics
    ///
    /// If memberlist's streams may begin with that byte.
    pub async fn divert(&self, first: u8) -> Option<ForeignStreams> {
        assert!((0x80..0xf0).contains(&first), "a stream of memberlist may begin with {first:#04x}");
        self.ask(move |event_loop| ForeignStreams(event_loop.pending.divert(first))).await
    }

    /// A member that is not dead, or this node itself, with its address as seen from here, and with what it tells about
    /// itself, as [`info_of`](Self::info_of) returns it. `None` if there is no member of that name, or this node has stopped.
    pub async fn find(&self, name: &NodeName) -> Option<(Member, Option<NodeInfo>)> {
        let name = name.clone();
        let find = move |event_loop: &mut EventLoop| {
            let mut member = event_loop.node.find(&name)?;
            member.addr = event_loop.zones.with_zone(member.addr);
            Some((member, event_loop.node.info_of(&name)))
        };
        self.ask(find).await.flatten()
    }
}
