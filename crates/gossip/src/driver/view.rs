//! What each member believes of the others. Side by side, the views of several members show a partition.
//!
//! Any memberlist node answers a push/pull with its own state. The request here is empty and does not join, so the other
//! node learns nothing from it and changes nothing.

use std::{net::SocketAddr, time::Duration};

use super::{
    Handle,
    exchange::{self, ExchangeTraffic, RequestError},
};
use crate::{
    ViewEntry,
    wire::{PushPull, stream::StreamMessage},
};

/// Why a member's view is unknown. See [`Handle::view_of`].
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The member does not answer.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The member answers with an error.
    #[error("the node at {addr} refuses to send its view: {reason}; change its settings, or ask another")]
    Refused {
        /// The member's address.
        addr: SocketAddr,
        /// The member's error.
        reason: String,
    },
    /// This node has stopped, and makes no requests.
    #[error("this node has stopped and can no longer ask others; start another")]
    Stopped,
}

impl Handle {
    /// What this node believes of every member that it remembers, itself and failed or departed members included, sorted by
    /// name. Empty once it has stopped.
    pub async fn view(&self) -> Vec<ViewEntry> {
        self.ask(|event_loop| event_loop.node.view()).await.unwrap_or_default()
    }

    /// What the member at `addr`, of this crate or any other memberlist node, believes of every member that it remembers,
    /// itself included, sorted by name. The request goes over TCP, with this node's label and keys.
    ///
    /// The answer may have no more records than this node remembers members
    /// ([`ResourceLimits::max_members`](crate::ResourceLimits::max_members)), and half as many bytes as all streams together
    /// may hold ([`ResourceLimits::max_stream_bytes`](crate::ResourceLimits::max_stream_bytes)).
    ///
    /// # Errors
    ///
    /// See [`ViewError`]; it is returned within `timeout`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use broadcast::{Config, Profile, start};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = |name| Config::new(name).bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
    /// let (node1, node2) = (start(config("node1")).await?, start(config("node2")).await?);
    /// // The two have not met: node2 knows only itself.
    /// let view = node1.view_of(node2.addr(), Duration::from_secs(5)).await?;
    /// assert_eq!(view.len(), 1);
    /// # Ok(()) }
    /// ```
    pub async fn view_of(&self, addr: SocketAddr, timeout: Duration) -> Result<Vec<ViewEntry>, ViewError> {
        self.view_within(addr, timeout, (usize::MAX, usize::MAX)).await
    }

    /// The same, with at most so many records and bytes.
    pub async fn view_within(
        &self,
        addr: SocketAddr,
        timeout: Duration,
        (records, bytes): (usize, usize),
    ) -> Result<Vec<ViewEntry>, ViewError> {
        let way = self.ask(|event_loop| (event_loop.node.exchange_context(), event_loop.zones.clone())).await;
        let ((envelope, limits), zones) = way.ok_or(ViewError::Stopped)?;
        let limits = limits.at_most(records, bytes);
        let addr = zones.with_zone(addr);
        let request = StreamMessage::PushPull(PushPull::default());
        let mut traffic = ExchangeTraffic::default();
        let answer = exchange::request(addr, &envelope, limits, timeout, &request, &mut traffic).await;
        self.ask(move |event_loop| event_loop.node.count_exchange(traffic.sent, traffic.received)).await;
        match answer? {
            StreamMessage::PushPull(view) => Ok(ViewEntry::from_view(&view.nodes)),
            StreamMessage::Error(reason) => {
                Err(ViewError::Refused { addr, reason: String::from_utf8_lossy(&reason).into_owned() })
            }
            _ => Err(RequestError::NotANode { addr, problem: "it answers a view with something else".into() }.into()),
        }
    }
}
