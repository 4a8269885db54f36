//! Handshakes: their computation in turns, the newest first, and what a client may send in one.
//!
//! A client that begins a handshake and does not go on costs what one costs that connects and says nothing: its
//! connection. What a whole hello makes this thread compute takes longer than all else here, and health checks wait for
//! it. So the next turn is that of the hello that came last: of thousands that come at the same time, each health check is
//! answered as it comes, and the others later.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::server::Acceptor;
use tokio::sync::oneshot;
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::Tls;
use crate::transport::{BUFFER, Socket};

/// The most that a client may send in one, in bytes; TLS keeps no more of an open connection, either. A hello takes up to 2
/// KiB, and a client's certificate with those of its authorities seldom more than 8.
pub(crate) const MAX_HANDSHAKE: usize = 16 << 10;

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub(crate) struct Handshakes(Arc<Mutex<Turns>>);

#[derive(Debug, Default)]
struct Turns {
    /// Somebody has a turn.
    is_taken: bool,
    /// Names the next who waits.
    next: u64,
    /// Those who wait for one; the newest last, so that their numbers ascend.
    waiting: Vec<(u64, oneshot::Sender<Turn>)>,
}

/// Goes to the next when it is dropped.
#[derive(Debug)]
struct Turn(Handshakes);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.0.turns();
        let Some((_, next)) = turns.waiting.pop() else {
            turns.is_taken = false;
            return;
        };
        drop(turns);
        // Who has just gone away drops it, too.
        let _ = next.send(Turn(self.0.clone()));
    }
}

/// Waits no more when it is dropped.
struct Waiting<'a>(&'a Handshakes, u64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut turns = self.0.turns();
        // One that has got its turn does not wait.
        if let Ok(index) = turns.waiting.binary_search_by_key(&self.1, |(number, _)| *number) {
            turns.waiting.remove(index);
        }
    }
}

impl Handshakes {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        // Nothing in between leaves it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self) -> Turn {
        let (_waiting, given) = {
            let mut turns = self.turns();
            if !turns.is_taken {
                turns.is_taken = true;
                return Turn(self.clone());
            }
            let (turn, given) = oneshot::channel();
            let number = turns.next;
            turns.next += 1;
            turns.waiting.push((number, turn));
            (Waiting(self, number), given)
        };
        given.await.expect("who waits stays on the list until it gets its turn")
    }

    /// Shakes hands with whoever is at the other end. The caller sets the time limit.
    pub(crate) async fn shake(&self, tls: &Tls, mut socket: Socket) -> io::Result<Box<TlsStream<Socket>>> {
        socket.limit(Some(MAX_HANDSHAKE));
        let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let turn = self.turn().await;
        let shaking = hello.into_stream_with(tls.config(), |session| session.set_buffer_limit(Some(BUFFER)));
        drop(turn);
        let mut shaken = shaking.await?;
        shaken.get_mut().0.limit(None);
        Ok(Box::new(shaken))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    #[tokio::test]
    async fn the_newest_has_the_next_turn() {
        let all = Handshakes::default();
        let first = all.turn().await;
        let mut waiting = JoinSet::new();
        for i in 0..3 {
            let all = all.clone();
            waiting.spawn(async move { (i, all.turn().await) });
            tokio::task::yield_now().await;
        }
        // One of them goes away, and one just when it gets its turn.
        assert!(timeout(Duration::ZERO, all.turn()).await.is_err() && all.turns().waiting.len() == 3);
        let mut given = Box::pin(all.turn());
        assert!(timeout(Duration::ZERO, &mut given).await.is_err());
        drop(first);
        assert_eq!(all.turns().waiting.len(), 3, "it has its turn");
        drop(given);
        for expected in [2, 1, 0] {
            assert_eq!(waiting.join_next().await.unwrap().unwrap().0, expected);
        }
        assert!(!all.turns().is_taken);
    }
}
