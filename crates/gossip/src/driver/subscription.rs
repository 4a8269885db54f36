//! What an application hears of a node.
//!
//! Each subscriber has a bounded queue: the event loop never waits for it, one that falls behind by more
//! than its queue holds gets a [`Lagged`] in place of what it missed and goes on with the oldest that is
//! left. Both ends move many at a time, under one lock. A subscription does not keep its node alive.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
};

use tokio::{sync::Notify, task::coop};
use tokio_stream::{Stream, StreamExt};

/// What a queue holds at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) count: usize,
    /// Bytes, though one that is larger is kept.
    pub(super) bytes: usize,
}

/// What a subscriber missed, because it was slower than the cluster for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missed} were missed: the subscriber is too slow")]
pub struct Lagged {
    /// How many.
    pub missed: u64,
}

/// The event loop's end: what it sends goes to every subscriber. When it is dropped, they end.
#[derive(Debug)]
pub(super) struct Feed<T>(Subscribers<T>);

/// Where to subscribe.
#[derive(Debug)]
pub(super) struct Subscribers<T>(Arc<Mutex<Open<T>>>);

#[derive(Debug)]
struct Open<T> {
    /// `None` when the node has stopped.
    queues: Option<Vec<Weak<Queue<T>>>>,
    bounds: Bounds,
    len: fn(&T) -> usize,
    /// Told when one subscribes or goes.
    changed: Arc<Notify>,
}

/// A stream of what happens. Ends when the node stops.
#[derive(Debug)]
pub struct Subscription<T> {
    queue: Arc<Queue<T>>,
    /// Taken from the queue.
    taken: VecDeque<T>,
}

#[derive(Debug)]
struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    bytes: usize,
    missed: u64,
    ended: bool,
    waker: Option<Waker>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing but a clone of what is sent can panic under these locks, and that leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone> Feed<T> {
    /// `len` tells how many bytes one takes.
    pub(super) fn new(bounds: Bounds, len: fn(&T) -> usize) -> Self {
        Self(Subscribers(Arc::new(Mutex::new(Open { queues: Some(Vec::new()), bounds, len, changed: Arc::default() }))))
    }

    pub(super) fn subscribers(&self) -> Subscribers<T> {
        Subscribers(Arc::clone(&self.0.0))
    }

    /// Whether anybody listens.
    pub(super) fn is_heard(&self) -> bool {
        let mut open = lock(&self.0.0);
        let Some(queues) = &mut open.queues else { return false };
        queues.retain(|queue| queue.strong_count() > 0);
        !queues.is_empty()
    }

    /// Resolves when somebody has subscribed, or gone, since it last did.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + use<T> {
        let changed = Arc::clone(&lock(&self.0.0).changed);
        async move { changed.notified().await }
    }

    /// Sends all of `news` to every subscriber.
    pub(super) fn send(&self, news: &VecDeque<T>) {
        if news.is_empty() {
            return;
        }
        let mut open = lock(&self.0.0);
        let Open { queues, bounds, len, .. } = &mut *open;
        for queues in queues.iter_mut() {
            queues.retain(|queue| {
                let Some(queue) = queue.upgrade() else { return false };
                queue.push(news, *bounds, *len);
                true
            });
        }
    }
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        let queues = lock(&self.0.0).queues.take();
        for queue in queues.into_iter().flatten().filter_map(|queue| queue.upgrade()) {
            let mut state = lock(&queue.state);
            state.ended = true;
            let waker = state.waker.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
        }
    }
}

impl<T> Subscribers<T> {
    /// A new one; it ends at once if the node has stopped.
    pub(super) fn subscribe(&self) -> Subscription<T> {
        let mut open = lock(&self.0);
        let ended = open.queues.is_none();
        let state = State { waiting: VecDeque::new(), bytes: 0, missed: 0, ended, waker: None };
        let queue = Arc::new(Queue { state: Mutex::new(state), changed: Arc::clone(&open.changed) });
        if let Some(queues) = &mut open.queues {
            queues.push(Arc::downgrade(&queue));
            queue.changed.notify_one();
        }
        Subscription { queue, taken: VecDeque::new() }
    }
}

impl<T: Clone> Queue<T> {
    fn push(&self, news: &VecDeque<T>, bounds: Bounds, len: fn(&T) -> usize) {
        let mut state = lock(&self.state);
        state.bytes += news.iter().map(len).sum::<usize>();
        state.waiting.extend(news.iter().cloned());
        while state.waiting.len() > bounds.count || (state.bytes > bounds.bytes && state.waiting.len() > 1) {
            let Some(oldest) = state.waiting.pop_front() else { break };
            state.bytes -= len(&oldest);
            state.missed += 1;
        }
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

impl<T> Unpin for Subscription<T> {}

impl<T: Clone + Send + 'static> Subscription<T> {
    /// What has come already and was not given out yet, of what the last one came with.
    pub fn at_hand(&mut self) -> impl Iterator<Item = T> {
        self.taken.drain(..)
    }

    /// The next one; `None` when the node has stopped.
    pub async fn recv(&mut self) -> Option<Result<T, Lagged>> {
        self.next().await
    }
}

impl<T: Clone + Send + 'static> Stream for Subscription<T> {
    type Item = Result<T, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { queue, taken } = &mut *self;
        if let Some(next) = taken.pop_front() {
            return Poll::Ready(Some(Ok(next)));
        }
        // A subscriber that always finds more lets others have their turn.
        let turn = ready!(coop::poll_proceed(context));
        let mut state = lock(&queue.state);
        let missed = std::mem::take(&mut state.missed);
        std::mem::swap(&mut state.waiting, taken);
        state.bytes = 0;
        let next = match taken.front() {
            _ if missed > 0 => Some(Err(Lagged { missed })),
            Some(_) => taken.pop_front().map(Ok),
            None if state.ended => None,
            None => {
                // A burst's memory is not kept.
                taken.shrink_to(64);
                state.waiting.shrink_to(64);
                match &mut state.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                return Poll::Pending;
            }
        };
        turn.made_progress();
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn feed(count: usize, bytes: usize) -> Feed<usize> {
        Feed::new(Bounds { count, bytes }, |number| *number)
    }

    async fn all(mut subscription: Subscription<usize>) -> Vec<Result<usize, u64>> {
        let mut heard = Vec::new();
        while let Some(next) = timeout(Duration::from_secs(10), subscription.recv()).await.expect("it goes on") {
            heard.push(next.map_err(|lagged| lagged.missed));
        }
        heard
    }

    #[tokio::test]
    async fn tells_a_slow_subscriber_what_it_missed_and_goes_on() {
        let feed = feed(4, 100);
        let slow = feed.subscribers().subscribe();
        for number in 0..10 {
            feed.send(&[number].into());
        }
        drop(feed);
        assert_eq!(all(slow).await, [Err(6), Ok(6), Ok(7), Ok(8), Ok(9)]);
    }

    #[tokio::test]
    async fn a_queue_is_bounded_in_bytes_but_takes_one_that_is_larger() {
        let feed = feed(4, 10);
        let slow = feed.subscribers().subscribe();
        feed.send(&[3, 4, 5].into());
        let large = feed.subscribers().subscribe();
        feed.send(&[20].into());
        drop(feed);
        assert_eq!(all(slow).await, [Err(3), Ok(20)]);
        assert_eq!(all(large).await, [Ok(20)]);
    }

    #[tokio::test]
    async fn wakes_who_waits() {
        let feed = feed(4, 100);
        let waiting = [(); 2].map(|()| tokio::spawn(all(feed.subscribers().subscribe())));
        tokio::task::yield_now().await;
        feed.send(&[1, 2].into());
        tokio::task::yield_now().await;
        drop(feed);
        for waiting in waiting {
            assert_eq!(waiting.await.expect("it ends"), [Ok(1), Ok(2)]);
        }
    }

    #[tokio::test]
    async fn ends_at_once_when_the_node_has_stopped() {
        let feed = feed(4, 100);
        let subscribers = feed.subscribers();
        drop(feed);
        assert_eq!(all(subscribers.subscribe()).await, []);
    }
}
