//! Subscriptions to the events that a machine emits while it applies commands, at the leader.
//!
//! Events come as they happen, and nobody keeps them. A subscription ends if its reader is too slow, or if its voter leads no
//! more. Then subscribe again, and query the machine for what you may have missed.

use bytes::Bytes;
use tokio::{select, sync::broadcast::Receiver};

use super::{
    error::RefusalReason,
    stream::RemoteStream,
    voter::{Raft, Voter},
};

/// A machine's events at this voter, as long as that leads.
#[derive(Debug)]
pub(super) struct LocalEvents {
    raft: Raft,
    events: Receiver<Bytes>,
}

impl LocalEvents {
    /// Subscribes at this voter, which has to lead.
    pub(super) fn subscribe(voter: &Voter, machine: &str) -> Result<Self, RefusalReason> {
        let (raft, events) = voter.subscribe(machine)?;
        Ok(Self { raft, events })
    }

    /// The next event; `None` at the end. Drop-safe.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let mut statuses = self.raft.watch_status();
        let leads_no_more = async { while self.raft.basic_status().leads && statuses.next_basic().await.is_some() {} };
        select! {
            biased;
            // An error means that the reader was too slow.
            event = self.events.recv() => event.ok(),
            () = leads_no_more => None,
        }
    }
}

/// The events that a machine emits, as they happen. See [`Store::subscribe`](super::Store::subscribe).
///
/// ```no_run
/// # async fn run(store: broadcast_store::Store) -> Result<(), broadcast_store::StoreError> {
/// let mut events = store.subscribe("locks").await?;
/// while let Some(event) = events.next().await {
///     println!("{} bytes, which the machine's crate can read", event.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct EventStream(Source);

#[derive(Debug)]
enum Source {
    Local(LocalEvents),
    Remote(RemoteStream),
}

impl EventStream {
    pub(super) fn local(events: LocalEvents) -> Self {
        Self(Source::Local(events))
    }

    pub(super) fn remote(events: RemoteStream) -> Self {
        Self(Source::Remote(events))
    }

    /// The next event. `None` if the subscription has ended, for whatever reason: you may have missed events. Subscribe again,
    /// and query the machine for its state. Drop-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Source::Local(events) => events.next().await,
            Source::Remote(events) => events.next().await.ok(),
        }
    }
}
