//! Observing an election: who leads, whenever that changes.

use std::time::Duration;

use broadcast_store::node::EventStream;
use tokio::time::{sleep, timeout};

use super::LockClient;
use crate::{
    machine::NAME,
    message::{EntryChange, Holder, LockEvent, LockQuery},
    name::Name,
};

/// How often the leader is queried, whatever events say: they may be lost.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// The pause before the voters are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The leaders of an election, one after the other. See [`LockClient::observe`].
#[derive(Debug)]
pub struct LeaderObserver {
    client: LockClient,
    name: Name,
    events: Option<EventStream>,
}

impl LockClient {
    /// Observes an election.
    ///
    /// ```no_run
    /// # async fn example(locks: broadcast_lock::LockClient) -> Result<(), broadcast_lock::NameError> {
    /// let mut leaders = locks.observe(broadcast_lock::Name::new("scheduler")?);
    /// loop {
    ///     match leaders.next().await {
    ///         Some(leader) => println!("{} leads, with token {}", leader.node, leader.token),
    ///         None => println!("nobody leads"),
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn observe(&self, name: Name) -> LeaderObserver {
        LeaderObserver { client: self.clone(), name, events: None }
    }
}

impl LeaderObserver {
    /// Who leads: at first now, then whenever something has happened to the election. It may be the same leader again, as
    /// waiters come and go, and of leaders that follow each other quickly some may be left out. Waits while no voter answers.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Holder> {
        loop {
            if let Some(events) = &mut self.events {
                let ended = timeout(POLL_INTERVAL, next_of(events, &self.name)).await == Ok(false);
                if ended {
                    self.events = None;
                }
            }
            if self.events.is_none() {
                // First the events, then the query: so nothing is missed in between.
                self.events = self.client.store().subscribe(NAME).await.ok();
                if self.events.is_none() {
                    sleep(RETRY_PAUSE).await;
                }
            }
            let query = LockQuery::Holders(vec![self.name.clone()]);
            if let Ok(holders) = self.client.query::<Vec<Holder>>(&query).await {
                return holders.into_iter().next();
            }
            sleep(RETRY_PAUSE).await;
        }
    }
}

/// Waits for an event of a lock; `false` if the stream has ended.
async fn next_of(events: &mut EventStream, name: &Name) -> bool {
    while let Some(event) = events.next().await {
        let matters = |event: &LockEvent| event.change != EntryChange::Queued && event.names.contains(name);
        if LockEvent::decode(&event).is_ok_and(|event| matters(&event)) {
            return true;
        }
    }
    false
}
