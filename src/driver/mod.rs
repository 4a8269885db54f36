//! The node on real sockets, and the application's hold on it.

pub(crate) mod health;

use std::{io, net::SocketAddr};

use serde::Serialize;

use crate::{Config, Event, Member, Message, MessageId, PublishError};

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {addr}: {source}; stop what uses it, or set another BROADCAST_BIND (--bind), port 0 for any free one"
    )]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The advertise address cannot be used.
    #[error("{0}")]
    Advertise(String),
}

/// A running node. Cheap to clone; when the last clone is dropped, the node leaves and stops.
#[derive(Clone, Debug)]
pub struct Handle {}

/// Starts a node. Must be called within a tokio runtime.
///
/// # Errors
///
/// See [`StartError`].
pub async fn start(_config: Config) -> Result<Handle, StartError> {
    todo!()
}

impl Handle {
    /// This node's name.
    pub fn name(&self) -> &str {
        todo!()
    }
    /// The address others reach this node at.
    pub fn addr(&self) -> SocketAddr {
        todo!()
    }
    /// Sends `value`, as JSON, under `key` to every other node.
    ///
    /// # Errors
    ///
    /// See [`PublishError`].
    pub async fn publish<V: Serialize + ?Sized>(&self, _key: &str, _value: &V) -> Result<MessageId, PublishError> {
        todo!()
    }
    /// The messages other nodes publish, from now on.
    pub fn subscribe(&self) -> Subscription<Message> {
        todo!()
    }
    /// What happens in the cluster, from now on: every [`Event`] but the messages.
    pub fn events(&self) -> Subscription<Event> {
        todo!()
    }
    /// Every member that is not dead, this node first.
    pub async fn members(&self) -> Vec<Member> {
        todo!()
    }
    /// Leaves the cluster: the others are told, what is queued is sent, and the node stops.
    pub async fn leave(&self) {
        todo!()
    }
}

/// What a subscriber missed, because it was slower than the cluster for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missed} were missed: the subscriber is too slow")]
pub struct Lagged {
    /// How many.
    pub missed: u64,
}

/// A stream of what happens. Ends when the node stops.
#[derive(Debug)]
pub struct Subscription<T> {
    _t: std::marker::PhantomData<T>,
}

impl<T: Clone + Send + 'static> Subscription<T> {
    /// The next one; `None` when the node has stopped.
    pub async fn recv(&mut self) -> Option<Result<T, Lagged>> {
        todo!()
    }
}
