//! TLS handshakes, one after the other, the newest first.
//!
//! The computation for one handshake takes this thread longer than anything else it does, and health checks wait for it. So the
//! hello that came last is next: of thousands that come at once, each health check is answered as it comes, and the others
//! later. A client that begins a handshake and does not go on costs what one costs that connects and says nothing: its
//! connection.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::server::Acceptor;
use tokio::sync::oneshot;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::Tls;
use crate::transport::{BUFFER, Socket};

/// The most that a client may send in a handshake, in bytes. TLS keeps no more of an open connection, either. A hello takes up
/// to 2 KiB, and a client's certificate with those of its authorities seldom more than 8.
pub(crate) const MAX_HANDSHAKE: usize = 16 << 10;

/// The queue of handshakes that wait for their computation.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandshakeQueue(Arc<Mutex<QueueState>>);

#[derive(Debug, Default)]
struct QueueState {
    /// Whether somebody has the turn.
    is_busy: bool,
    /// The number of the next that waits.
    next: u64,
    /// Those who wait for the turn. The newest comes last, so the numbers ascend.
    waiting: Vec<(u64, oneshot::Sender<Turn>)>,
}

/// The turn. A drop passes it on.
#[derive(Debug)]
struct Turn(HandshakeQueue);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let Some((_, next)) = state.waiting.pop() else {
            state.is_busy = false;
            return;
        };
        drop(state);
        // If the receiver has just gone, this drops the turn, which passes it on.
        let _ = next.send(Turn(self.0.clone()));
    }
}

/// A place in the queue. A drop leaves the queue.
struct QueuedTurn<'a>(&'a HandshakeQueue, u64);

impl Drop for QueuedTurn<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        // Whoever has got the turn is not in the queue any more.
        if let Ok(index) = state.waiting.binary_search_by_key(&self.1, |(number, _)| *number) {
            state.waiting.remove(index);
        }
    }
}

impl HandshakeQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        // No panic under this lock leaves it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_turn(&self) -> Turn {
        let (_waiting, given) = {
            let mut state = self.state();
            if !state.is_busy {
                state.is_busy = true;
                return Turn(self.clone());
            }
            let (turn, given) = oneshot::channel();
            let number = state.next;
            state.next += 1;
            state.waiting.push((number, turn));
            (QueuedTurn(self, number), given)
        };
        given.await.expect("who waits stays on the list until it gets its turn")
    }

    /// Does a handshake. The caller sets the time limit.
    pub(crate) async fn handshake(&self, tls: &Tls, mut socket: Socket) -> io::Result<Box<TlsStream<Socket>>> {
        socket.set_read_limit(Some(MAX_HANDSHAKE));
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let turn = self.take_turn().await;
        let handshake = hello.into_stream_with(tls.config(), |session| session.set_buffer_limit(Some(BUFFER)));
        drop(turn);
        let mut stream = handshake.await?;
        stream.get_mut().0.set_read_limit(None);
        Ok(Box::new(stream))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    #[tokio::test]
    async fn the_newest_has_the_next_turn() {
        let all = HandshakeQueue::default();
        let first = all.take_turn().await;
        let mut waiting = JoinSet::new();
        for i in 0..3 {
            let all = all.clone();
            waiting.spawn(async move { (i, all.take_turn().await) });
            tokio::task::yield_now().await;
        }
        // One of them goes away, and one just when it gets its turn.
        assert!(timeout(Duration::ZERO, all.take_turn()).await.is_err() && all.state().waiting.len() == 3);
        let mut given = Box::pin(all.take_turn());
        assert!(timeout(Duration::ZERO, &mut given).await.is_err());
        drop(first);
        assert_eq!(all.state().waiting.len(), 3, "it has its turn");
        drop(given);
        for expected in [2, 1, 0] {
            assert_eq!(waiting.join_next().await.unwrap().unwrap().0, expected);
        }
        assert!(!all.state().is_busy);
    }
}
