//! Handshakes: so many at the same time, and each with a time limit.
//!
//! A handshake costs memory (up to 64 KiB of what the client sends, until it is whole) and time of the thread that
//! answers health checks. There are [`PLACES`] for them. A connection takes one when its first byte is there. When all
//! are taken, the next one gets the place of the oldest that has had it for [`GRACE`]; if none has, it waits. So those who
//! begin and do not go on do not keep out those who do, unless they are more than `PLACES` in each `GRACE`.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::Tls;
use crate::transport::{BUFFER, Socket};

/// How many there may be.
pub(crate) const PLACES: usize = 256;
/// How long each may take if all places are taken.
const GRACE: Duration = Duration::from_millis(500);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    /// Names the next place.
    next: u64,
    /// The oldest first, so that their numbers ascend.
    places: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    since: Instant,
    /// Dropped to end it.
    _end: oneshot::Sender<Infallible>,
}

/// Gives its place back when it is dropped.
struct Place<'a> {
    all: &'a Handshakes,
    number: u64,
    ended: oneshot::Receiver<Infallible>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut taken = self.all.taken();
        // One that was ended has none.
        if let Ok(index) = taken.places.binary_search_by_key(&self.number, |held| held.number) {
            taken.places.remove(index);
            drop(taken);
            self.all.freed.notify_one();
        }
    }
}

impl Handshakes {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing in between leaves it half done.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, or how long to wait for one.
    fn try_enter(&self) -> Result<Place<'_>, Duration> {
        let now = Instant::now();
        let mut taken = self.taken();
        if taken.places.len() >= PLACES
            && let Some(oldest) = taken.places.front()
        {
            let age = now.duration_since(oldest.since);
            if age < GRACE {
                return Err(GRACE - age);
            }
            taken.places.pop_front();
        }
        let (end, ended) = oneshot::channel();
        let number = taken.next;
        taken.next += 1;
        taken.places.push_back(Held { number, since: now, _end: end });
        Ok(Place { all: self, number, ended })
    }

    async fn enter(&self) -> Place<'_> {
        loop {
            match self.try_enter() {
                Ok(place) => return place,
                Err(wait) => tokio::select! {
                    () = sleep(wait) => {}
                    () = self.freed.notified() => {}
                },
            }
        }
    }

    /// Shakes hands with whoever is at the other end, once there is a place. The caller sets the time limit.
    pub(crate) async fn shake(&self, tls: &Tls, socket: Socket) -> io::Result<Box<TlsStream<Socket>>> {
        let mut place = self.enter().await;
        let shaking = TlsAcceptor::from(tls.config()).accept_with(socket, |session| {
            session.set_buffer_limit(Some(BUFFER));
        });
        tokio::select! {
            shaken = shaking => shaken.map(Box::new),
            _ = &mut place.ended => Err(io::Error::new(io::ErrorKind::TimedOut, "others wait for a place to shake hands")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_its_place_to_the_next_after_a_while() {
        let all = Handshakes::default();
        let mut places: Vec<_> = (0..PLACES).map(|_| all.try_enter().ok().unwrap()).collect();
        assert_eq!(all.try_enter().err(), Some(GRACE), "all are young");
        let began = Instant::now();
        let next = all.enter().await;
        assert!(began.elapsed() >= GRACE);
        assert!((&mut places[0].ended).await.is_err(), "it is told so");
        assert!(places[1].ended.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        drop(places);
        drop(next);
        assert!(all.taken().places.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_a_place_when_one_is_given_back() {
        let all = Handshakes::default();
        let mut places: Vec<_> = (0..PLACES).map(|_| all.try_enter().ok().unwrap()).collect();
        let began = Instant::now();
        let (_place, ()) = tokio::join!(all.enter(), async { drop(places.pop()) });
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
