//! Tells roles that their node is about to leave.

use tokio::sync::watch;

/// Begins when the node is about to leave. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Receiver<()>);

/// Begins the shutdown when it is dropped.
#[derive(Debug)]
pub(crate) struct ShutdownGuard(#[expect(dead_code, reason = "what counts is when it is dropped")] watch::Sender<()>);

/// A shutdown, and the guard that begins it.
pub(crate) fn shutdown() -> (ShutdownGuard, Shutdown) {
    let (guard, begun) = watch::channel(());
    (ShutdownGuard(guard), Shutdown(begun))
}

impl Shutdown {
    /// Waits until the shutdown begins; returns at once if it has.
    pub(crate) async fn begun(&mut self) {
        // Nothing is ever sent: the end of the sender is the signal.
        while self.0.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_begins_once_for_everybody() {
        let (guard, mut one) = shutdown();
        let mut other = one.clone();
        tokio::select! {
            biased;
            () = one.begun() => panic!("nobody has begun it"),
            () = tokio::task::yield_now() => {}
        }
        drop(guard);
        one.begun().await;
        one.begun().await;
        other.begun().await;
    }
}
