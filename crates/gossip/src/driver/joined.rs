//! Waiting until a node is in its cluster.

use super::Handle;

/// Why a node never joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It has stopped.
    #[error("this node has stopped and can no longer join a cluster; start another")]
    Stopped,
}

impl Handle {
    /// Waits until this node has joined its cluster, and returns at once if it has: when a seed has answered it with
    /// its view, in an exchange of views (push/pull), or another node has joined through this one. A node without
    /// seeds has nothing to wait for, and has joined as soon as it has started. A node that has joined once has joined,
    /// also if it is alone later.
    ///
    /// From then on it knows all members that the seed knew, and what it publishes is sent to them. Each is asked
    /// for a first answer at once, which takes a round trip; receipts count it from then on. What is published
    /// before reaches nobody that it meets later: [`Receipt::joined`](crate::Receipt::joined) tells.
    ///
    /// It is what [`Event::Ready`](crate::Event::Ready) says, [`Overview::joined`](crate::Overview) and
    /// `broadcast health`. `GET /readyz` waits longer: until no member has come or gone for half a second.
    ///
    /// It waits for as long as no seed answers, since seeds are tried for ever: put it into a
    /// [`timeout`](tokio::time::timeout) where that is too long.
    ///
    /// # Errors
    ///
    /// The node has stopped, or does while this waits.
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

    /// Whether it has joined by now.
    pub(super) fn has_joined(&self) -> bool {
        *self.0.joined.borrow()
    }
}
