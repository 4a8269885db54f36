//! What an application hears of a node.
//!
//! A bounded ring behind a tokio broadcast channel: the event loop never waits for a subscriber, one
//! that falls behind by more than the ring holds gets a [`Lagged`] in place of what it missed and
//! goes on with the oldest that is left. A subscription does not keep its node alive.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::broadcast;
use tokio_stream::{
    Stream, StreamExt,
    wrappers::{BroadcastStream, errors::BroadcastStreamRecvError},
};

/// What a subscriber missed, because it was slower than the cluster for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missed} were missed: the subscriber is too slow")]
pub struct Lagged {
    /// How many.
    pub missed: u64,
}

/// A stream of what happens. Ends when the node stops.
#[derive(Debug)]
pub struct Subscription<T>(BroadcastStream<T>);

impl<T: Clone + Send + 'static> Subscription<T> {
    /// `None` subscribes to a node that has stopped.
    pub(super) fn new(receiver: Option<broadcast::Receiver<T>>) -> Self {
        Self(receiver.unwrap_or_else(|| broadcast::channel(1).1).into())
    }

    /// The next one; `None` when the node has stopped.
    pub async fn recv(&mut self) -> Option<Result<T, Lagged>> {
        self.next().await
    }
}

impl<T: Clone + Send + 'static> Stream for Subscription<T> {
    type Item = Result<T, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(context).map_err(|BroadcastStreamRecvError::Lagged(missed)| Lagged { missed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_a_slow_subscriber_what_it_missed_and_goes_on() {
        let (sender, receiver) = broadcast::channel(4);
        let mut subscription = Subscription::new(Some(receiver));
        for number in 0..10 {
            sender.send(number).expect("somebody listens");
        }
        drop(sender);

        assert_eq!(subscription.recv().await, Some(Err(Lagged { missed: 6 })));
        for number in 6..10 {
            assert_eq!(subscription.recv().await, Some(Ok(number)));
        }
        assert_eq!(subscription.recv().await, None);
    }

    #[tokio::test]
    async fn ends_at_once_when_the_node_has_stopped() {
        assert_eq!(Subscription::<u8>::new(None).recv().await, None);
    }
}
