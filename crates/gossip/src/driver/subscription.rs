//! Subscriptions: broadcast channels from the event loop to the application.
//!
//! Each subscriber has a bounded queue, and the event loop never waits for a subscriber. When a queue is full, its oldest
//! items are dropped: the subscriber gets a [`Lagged`] in their place, and goes on with the oldest that is left. Both ends
//! move many items at a time, under one lock. A subscription does not keep its node alive.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
};

use tokio::{sync::Notify, task::coop};
use tokio_stream::{Stream, StreamExt};

/// How much a subscriber's queue holds at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct SubscriptionLimits {
    pub(super) count: usize,
    /// A single item may have more bytes.
    pub(super) bytes: usize,
}

/// A subscriber was too slow, and has missed items. [`Subscription`] has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missed} were missed: the subscriber is too slow")]
pub struct Lagged {
    /// How many items it has missed.
    pub missed: u64,
}

/// The event loop's end. What it sends goes to every subscriber. When it is dropped, the subscriptions end.
#[derive(Debug)]
pub(super) struct Feed<T>(FeedHandle<T>);

/// The handles' end: makes subscriptions.
#[derive(Debug)]
pub(super) struct FeedHandle<T>(Arc<Mutex<FeedState<T>>>);

#[derive(Debug)]
struct FeedState<T> {
    /// `None` when the node has stopped.
    queues: Option<Vec<Weak<Queue<T>>>>,
    limits: SubscriptionLimits,
    len: fn(&T) -> usize,
    /// Notified when a subscriber comes or goes.
    changed: Arc<Notify>,
}

/// A stream of messages, events or acknowledgements. Ends when the node stops.
///
/// ```
/// use broadcast::{Config, Event, Lagged, Profile, start};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::new("node1").bind(([127, 0, 0, 1], 0).into()).profile(Profile::Local);
/// let node = start(config).await?;
/// let mut events = node.events();
/// drop(node);
/// while let Some(event) = events.recv().await {
///     match event {
///         Ok(Event::Joined(member)) => println!("{} is here", member.name),
///         Ok(_) => {}
///         Err(Lagged { missed }) => println!("this program was too slow for {missed} events"),
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Subscription<T> {
    queue: Arc<Queue<T>>,
    /// Taken from the queue, and next to be returned.
    ready: VecDeque<T>,
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
    /// `len` is the size of an item in bytes.
    pub(super) fn new(limits: SubscriptionLimits, len: fn(&T) -> usize) -> Self {
        Self(FeedHandle(Arc::new(Mutex::new(FeedState {
            queues: Some(Vec::new()),
            limits,
            len,
            changed: Arc::default(),
        }))))
    }

    pub(super) fn handle(&self) -> FeedHandle<T> {
        FeedHandle(Arc::clone(&self.0.0))
    }

    /// Whether there are any subscribers.
    pub(super) fn has_subscribers(&self) -> bool {
        let mut open = lock(&self.0.0);
        let Some(queues) = &mut open.queues else { return false };
        queues.retain(|queue| queue.strong_count() > 0);
        !queues.is_empty()
    }

    /// Resolves when a subscriber has come or gone since the last time.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + use<T> {
        let changed = Arc::clone(&lock(&self.0.0).changed);
        async move { changed.notified().await }
    }

    /// Sends all items to every subscriber.
    pub(super) fn send(&self, items: &VecDeque<T>) {
        if items.is_empty() {
            return;
        }
        let mut open = lock(&self.0.0);
        let FeedState { queues, limits, len, .. } = &mut *open;
        for queues in queues.iter_mut() {
            queues.retain(|queue| {
                let Some(queue) = queue.upgrade() else { return false };
                queue.push(items, *limits, *len);
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

impl<T> FeedHandle<T> {
    /// A new subscription; it ends at once if the node has stopped.
    pub(super) fn subscribe(&self) -> Subscription<T> {
        let mut open = lock(&self.0);
        let ended = open.queues.is_none();
        let state = State { waiting: VecDeque::new(), bytes: 0, missed: 0, ended, waker: None };
        let queue = Arc::new(Queue { state: Mutex::new(state), changed: Arc::clone(&open.changed) });
        if let Some(queues) = &mut open.queues {
            queues.push(Arc::downgrade(&queue));
            queue.changed.notify_one();
        }
        Subscription { queue, ready: VecDeque::new() }
    }
}

impl<T: Clone> Queue<T> {
    fn push(&self, items: &VecDeque<T>, limits: SubscriptionLimits, len: fn(&T) -> usize) {
        let mut state = lock(&self.state);
        state.bytes += items.iter().map(len).sum::<usize>();
        state.waiting.extend(items.iter().cloned());
        while state.waiting.len() > limits.count || (state.bytes > limits.bytes && state.waiting.len() > 1) {
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
    /// The items that came together with the last one, without waiting. Handling them at once saves wake-ups.
    pub fn drain_ready(&mut self) -> impl Iterator<Item = T> {
        self.ready.drain(..)
    }

    #[doc(hidden)]
    #[deprecated(note = "now `drain_ready`")]
    pub fn at_hand(&mut self) -> impl Iterator<Item = T> {
        self.drain_ready()
    }

    /// The next item; `None` when the node has stopped.
    pub async fn recv(&mut self) -> Option<Result<T, Lagged>> {
        self.next().await
    }
}

impl<T: Clone + Send + 'static> Stream for Subscription<T> {
    type Item = Result<T, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { queue, ready } = &mut *self;
        if let Some(next) = ready.pop_front() {
            return Poll::Ready(Some(Ok(next)));
        }
        // A subscriber that always finds more items yields to other tasks.
        let turn = ready!(coop::poll_proceed(context));
        let mut state = lock(&queue.state);
        let missed = std::mem::take(&mut state.missed);
        std::mem::swap(&mut state.waiting, ready);
        state.bytes = 0;
        let next = match ready.front() {
            _ if missed > 0 => Some(Err(Lagged { missed })),
            Some(_) => ready.pop_front().map(Ok),
            None if state.ended => None,
            None => {
                // Gives back the memory of a burst.
                ready.shrink_to(64);
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
        Feed::new(SubscriptionLimits { count, bytes }, |number| *number)
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
        let slow = feed.handle().subscribe();
        for number in 0..10 {
            feed.send(&[number].into());
        }
        drop(feed);
        assert_eq!(all(slow).await, [Err(6), Ok(6), Ok(7), Ok(8), Ok(9)]);
    }

    #[tokio::test]
    async fn a_queue_is_bounded_in_bytes_but_takes_one_that_is_larger() {
        let feed = feed(4, 10);
        let slow = feed.handle().subscribe();
        feed.send(&[3, 4, 5].into());
        let large = feed.handle().subscribe();
        feed.send(&[20].into());
        drop(feed);
        assert_eq!(all(slow).await, [Err(3), Ok(20)]);
        assert_eq!(all(large).await, [Ok(20)]);
    }

    #[tokio::test]
    async fn wakes_who_waits() {
        let feed = feed(4, 100);
        let waiting = [(); 2].map(|()| tokio::spawn(all(feed.handle().subscribe())));
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
        let handle = feed.handle();
        drop(feed);
        assert_eq!(all(handle.subscribe()).await, []);
    }
}
