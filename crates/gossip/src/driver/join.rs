//! Waiting until a node is in its cluster.

use super::Handle;

/// Why a node can no longer join its cluster. See [`Handle::joined`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The node has stopped.
    #[error("this node has stopped and can no longer join a cluster; start another")]
    Stopped,
}

impl Handle {
    /// Waits until this node has joined its cluster: a seed has answered with its view (push/pull), or another node has
    /// joined through this one. Returns at once if it has joined already. A node without seeds has joined as soon as it has
    /// started. A node that has joined once stays joined, even if it is alone later.
    ///
    /// From then on the node knows all members that the seed knew, and sends them what it publishes. It asks each of them for
    /// a first answer at once; after that round trip, receipts count the member. What was published before joining does not
    /// reach members that it meets later: see [`Receipt::joined`](crate::Receipt::joined).
    ///
    /// [`Event::Ready`](crate::Event::Ready), [`Overview::joined`](crate::Overview) and `broadcast health` report the same.
    /// `GET /readyz` waits longer: until no member has come or gone for half a second.
    ///
    /// A node tries its seeds for ever, so this may wait for ever: wrap it in a [`timeout`](tokio::time::timeout) if that is
    /// too long.
    ///
    /// # Errors
    ///
    /// The node has stopped, or stops while this waits.
    ///
    /// ```
    /// use broadcast::{Config, Profile, Seed, start};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = |name| Config::new(name).bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
    /// let first = start(config("first")).await?;
    /// let second = start(config("second").join([first.addr().to_string().parse::<Seed>()?])).await?;
    /// second.joined().await?;
    /// let done = second.publish("greeting", "hello").await?.delivered().await?;
    /// assert_eq!((done.delivered, done.members), (1, 1));
    /// # Ok(()) }
    /// ```
    pub async fn joined(&self) -> Result<(), JoinError> {
        if self.0.commands.is_closed() {
            return Err(JoinError::Stopped);
        }
        let mut joined = self.0.joined.clone();
        joined.wait_for(|joined| *joined).await.map(|_| ()).map_err(|_| JoinError::Stopped)
    }

    /// Whether this node has joined by now.
    pub(super) fn has_joined(&self) -> bool {
        *self.0.joined.borrow()
    }
}
