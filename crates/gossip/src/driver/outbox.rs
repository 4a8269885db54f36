//! The queue between the application, which publishes, and the event loop.
//!
//! Publishing numbers a message and puts it here, without waiting for the event loop. The event loop takes everything at its
//! next turn, so that many messages share a packet. The outbox is bounded, and the event loop takes no more than the log has
//! room for: so the slowest member holds publishers back (backpressure).

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{MessageId, PublishError, dissemination::Draft};

/// Messages that wait for the event loop, at most.
const MESSAGES: usize = 1024;
/// Bytes of them, at most; a single message may be larger.
const BYTES: usize = 1 << 20;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug)]
struct State {
    drafts: VecDeque<Draft>,
    bytes: usize,
    /// The identity of the next message.
    next: MessageId,
    /// Why nothing can be published.
    refusal: Option<PublishError>,
}

impl Outbox {
    pub(super) fn new(epoch: u64) -> Self {
        let next = MessageId { epoch, seq: 0 };
        let state = State { drafts: VecDeque::new(), bytes: 0, next, refusal: None };
        Self { state: Mutex::new(state), filled: Notify::new(), emptied: Notify::new() }
    }

    /// Adds a message if there is room; otherwise returns it.
    pub(super) fn try_push(&self, draft: Draft) -> Result<MessageId, (PublishError, Draft)> {
        let mut state = self.lock();
        if let Some(refusal) = &state.refusal {
            return Err((refusal.clone(), draft));
        }
        if state.drafts.len() == MESSAGES || (state.bytes + draft.max_len() > BYTES && state.bytes > 0) {
            return Err((PublishError::WouldBlock, draft));
        }
        state.bytes += draft.max_len();
        state.drafts.push_back(draft);
        let id = state.next;
        state.next.seq += 1;
        let first = state.drafts.len() == 1;
        drop(state);
        if first {
            self.filled.notify_one();
        }
        Ok(id)
    }

    /// Adds a message as soon as there is room.
    pub(super) async fn push(&self, mut draft: Draft) -> Result<MessageId, PublishError> {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // From now on no notification is missed.
            emptied.as_mut().enable();
            match self.try_push(draft) {
                Ok(id) => return Ok(id),
                Err((PublishError::WouldBlock, back)) => draft = back,
                Err((refusal, _)) => return Err(refusal),
            }
            emptied.await;
        }
    }

    /// Resolves when there may be messages.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Moves all messages into `taken`, which is empty.
    pub(super) fn take(&self, taken: &mut VecDeque<Draft>) {
        let mut state = self.lock();
        if !state.drafts.is_empty() {
            state.bytes = 0;
            std::mem::swap(&mut state.drafts, taken);
            drop(state);
            self.emptied.notify_waiters();
        }
    }

    /// Sets the identity of the next message, if none waits here, and why publishing is refused, if it is.
    pub(super) fn set_next(&self, next: MessageId, refusal: Option<PublishError>) {
        let mut state = self.lock();
        if state.drafts.is_empty() {
            state.next = next;
        }
        if state.refusal != refusal {
            state.refusal = refusal;
            drop(state);
            self.emptied.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing can panic under this lock; were it poisoned, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::time::timeout;

    use super::*;

    fn draft() -> Draft {
        Draft::new("k", "1", "node1")
    }

    #[tokio::test]
    async fn a_full_outbox_is_waited_for() {
        let outbox = Arc::new(Outbox::new(2));
        for seq in 0..MESSAGES as u64 {
            assert_eq!(outbox.push(draft()).await, Ok(MessageId { epoch: 2, seq }));
        }
        assert!(matches!(outbox.try_push(draft()), Err((PublishError::WouldBlock, _))));
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.push(draft()).await }
        });
        outbox.filled().await;
        tokio::task::yield_now().await;
        let mut taken = VecDeque::new();
        outbox.take(&mut taken);
        assert_eq!(taken.len(), MESSAGES);
        let id = timeout(Duration::from_secs(10), waiting).await.expect("there is room").expect("it ends");
        assert_eq!(id, Ok(MessageId { epoch: 2, seq: MESSAGES as u64 }));
    }

    #[tokio::test]
    async fn one_large_message_fits_and_a_refusal_ends_waiting() {
        let outbox = Arc::new(Outbox::new(2));
        let large = || Draft::new("k", &format!("\"{}\"", "x".repeat(BYTES)), "node1");
        assert!(outbox.try_push(large()).is_ok());
        assert!(matches!(outbox.try_push(draft()), Err((PublishError::WouldBlock, _))));
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.push(draft()).await }
        });
        tokio::task::yield_now().await;
        outbox.set_next(MessageId { epoch: 2, seq: 1 }, Some(PublishError::Stopped));
        let refused = timeout(Duration::from_secs(10), waiting).await.expect("it is told").expect("it ends");
        assert_eq!(refused, Err(PublishError::Stopped));
    }
}
