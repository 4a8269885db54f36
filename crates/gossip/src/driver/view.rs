//! What members believe of each other, each asked by itself: a partition shows when they are put side by side.
//!
//! Any memberlist node answers an exchange of views with its own. Asked with an empty one, and not to join,
//! it learns nothing and changes nothing.

use std::{net::SocketAddr, time::Duration};

use super::{
    Handle,
    exchange::{self, AskError, Passed},
};
use crate::{
    Belief,
    wire::{PushPull, stream::StreamMessage},
};

/// Why it is not known what a member believes.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// It does not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It answers that it will not tell.
    #[error("the node at {addr} refuses to send its view: {reason}; change its settings, or ask another")]
    Refused {
        /// The address asked.
        addr: SocketAddr,
        /// What it said.
        reason: String,
    },
    /// The node that was to ask has stopped.
    #[error("this node has stopped and can no longer ask others; start another")]
    Stopped,
}

impl Handle {
    /// What this node believes of everybody it remembers, itself included, by name: also of those that have
    /// failed or left. Nothing once it has stopped.
    pub async fn view(&self) -> Vec<Belief> {
        self.ask(|event_loop| event_loop.node.view()).await.unwrap_or_default()
    }

    /// What the member at `addr`, one of ours or any other memberlist node, believes of everybody it remembers,
    /// itself included, by name. It is asked over TCP, with this node's label and keys.
    ///
    /// Its answer may have no more records than this node remembers members ([`Bounds::max_members`](crate::Bounds)), and
    /// half as many bytes as all streams together may hold ([`Bounds::max_stream_bytes`](crate::Bounds)).
    ///
    /// # Errors
    ///
    /// See [`ViewError`]; one comes no later than `timeout`.
    pub async fn view_of(&self, addr: SocketAddr, timeout: Duration) -> Result<Vec<Belief>, ViewError> {
        self.view_within(addr, timeout, (usize::MAX, usize::MAX)).await
    }

    /// The same, of no more records and bytes than this.
    pub async fn view_within(
        &self,
        addr: SocketAddr,
        timeout: Duration,
        (records, bytes): (usize, usize),
    ) -> Result<Vec<Belief>, ViewError> {
        let way = self.ask(|event_loop| (event_loop.node.way_of_asking(), event_loop.zones.clone())).await;
        let ((envelope, limits), zones) = way.ok_or(ViewError::Stopped)?;
        let limits = limits.at_most(records, bytes);
        let addr = zones.with_zone(addr);
        let request = StreamMessage::PushPull(PushPull::default());
        let mut passed = Passed::default();
        let answer = exchange::ask(addr, &envelope, limits, timeout, &request, &mut passed).await;
        self.ask(move |event_loop| event_loop.node.count_asked(passed.sent, passed.received)).await;
        match answer? {
            StreamMessage::PushPull(view) => Ok(Belief::all_of(&view.nodes)),
            StreamMessage::Error(reason) => {
                Err(ViewError::Refused { addr, reason: String::from_utf8_lossy(&reason).into_owned() })
            }
            _ => Err(AskError::NotANode { addr, problem: "it answers a view with something else".into() }.into()),
        }
    }
}
