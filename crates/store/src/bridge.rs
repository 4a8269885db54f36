//! Calls from one runtime into another, with one wake-up for many of them.

use std::{future::Future, pin::Pin};

use tokio::{
    runtime::Handle,
    select,
    sync::{mpsc, oneshot},
};

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;
type Delivery = Box<dyn FnOnce() + Send>;

/// Runs futures on another runtime.
///
/// A voter's store has a runtime of its own, on a thread of its own. A task that is spawned there from another thread costs a
/// system call, and so does the wake-up of whoever waits for it: more than a small request takes by itself. Here requests go
/// through a queue in each direction. A task at its other end takes all that is there, so only the first of a burst wakes the
/// other thread.
///
/// Its queues have no bound of their own: a caller has one future in them, and waits for it. One that goes away leaves its future
/// until its turn comes.
///
/// ```
/// use broadcast_store::RuntimeBridge;
///
/// let (callers, store) = (tokio::runtime::Runtime::new()?, tokio::runtime::Runtime::new()?);
/// callers.block_on(async {
///     let bridge = RuntimeBridge::to(store.handle());
///     assert_eq!(bridge.run(async { 6 * 7 }).await, Ok(42));
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RuntimeBridge {
    outbound: mpsc::UnboundedSender<Work>,
    inbound: mpsc::UnboundedSender<Delivery>,
}

impl RuntimeBridge {
    /// A bridge from the runtime of the caller. Others may use it, too, but their results pass through that runtime, and what is
    /// on its way is lost with it.
    ///
    /// # Panics
    ///
    /// The caller is on no runtime.
    #[must_use]
    pub fn to(runtime: &Handle) -> Self {
        let (outbound, mut work) = mpsc::unbounded_channel::<Work>();
        runtime.spawn(async move {
            while let Some(work) = work.recv().await {
                tokio::spawn(work);
            }
        });
        let (inbound, mut deliveries) = mpsc::unbounded_channel::<Delivery>();
        tokio::spawn(async move {
            while let Some(deliver) = deliveries.recv().await {
                deliver();
            }
        });
        Self { outbound, inbound }
    }

    /// Runs `work` on the other runtime, and returns where its output comes. A drop of that ends the work. There is an error if
    /// the other runtime has ended, or the work has panicked.
    pub fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> oneshot::Receiver<T> {
        let (mut sender, receiver) = oneshot::channel();
        let inbound = self.inbound.clone();
        let work = async move {
            let result = select! {
                biased;
                // It may have waited until nobody wants it any more.
                () = sender.closed() => return,
                result = work => result,
            };
            let delivery: Delivery = Box::new(move || drop(sender.send(result)));
            // Without its runtime, the bridge is used from another one.
            if let Err(mpsc::error::SendError(deliver)) = inbound.send(delivery) {
                deliver();
            }
        };
        // If nobody takes it, it is dropped, and that is the error.
        drop(self.outbound.send(Box::pin(work)));
        // The queue may have been emptied for good while this was sent: then nobody drops it.
        if self.outbound.is_closed() { oneshot::channel().1 } else { receiver }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, thread, time::Duration};

    use tokio::{runtime, time::timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn other() -> runtime::Runtime {
        runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime")
    }

    #[tokio::test]
    async fn work_runs_there_and_results_come_here() {
        let (other, here) = (other(), thread::current().id());
        let bridge = RuntimeBridge::to(other.handle());
        let runs = (0..1000).map(|number| {
            let bridge = bridge.clone();
            tokio::spawn(async move { bridge.run(async move { (number, thread::current().id()) }).await })
        });
        for (number, run) in runs.collect::<Vec<_>>().into_iter().enumerate() {
            let (told, there) = run.await.expect("no panic").expect("the runtime is there");
            assert!(told == number && there != here);
        }
        other.shutdown_background();
    }

    #[tokio::test]
    async fn work_ends_with_its_caller() {
        struct Ended(Option<oneshot::Sender<()>>);
        impl Drop for Ended {
            fn drop(&mut self) {
                let _ = self.0.take().expect("once").send(());
            }
        }
        let other = other();
        let bridge = RuntimeBridge::to(other.handle());
        let ((begun, has_begun), (ended, has_ended)) = (oneshot::channel(), oneshot::channel());
        let run = bridge.run(async move {
            let _ended = Ended(Some(ended));
            let _ = begun.send(());
            pending::<()>().await
        });
        select! {
            _ = run => panic!("it never ends by itself"),
            begun = timeout(LIMIT, has_begun) => begun.expect("in time").expect("it begins"),
        }
        timeout(LIMIT, has_ended).await.expect("in time").expect("it is dropped");
        other.shutdown_background();
    }

    #[tokio::test]
    async fn a_panic_and_an_end_are_told() {
        let other = other();
        let bridge = RuntimeBridge::to(other.handle());
        let panics = async {
            if LIMIT > Duration::ZERO {
                panic!("as told");
            }
        };
        timeout(LIMIT, bridge.run(panics)).await.expect("in time").expect_err("no output");
        assert_eq!(timeout(LIMIT, bridge.run(async { 1 })).await, Ok(Ok(1)));
        other.shutdown_background();
        timeout(LIMIT, bridge.run(pending::<()>())).await.expect("in time").expect_err("no output");
    }
}
