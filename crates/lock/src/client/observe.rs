//! Observing an election: who leads, whenever that changes.

use std::time::Duration;

use broadcast_store::node::EventStream;
use tokio::time::{sleep, timeout};

use super::Client;
use crate::{
    machine::NAME,
    message::{Change, Event, Holder, Question},
    name::Name,
};

/// How often it is asked who leads, whatever was told.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// The pause before voters are asked once more.
const PAUSE: Duration = Duration::from_millis(200);

/// Who leads, as it changes.
#[derive(Debug)]
pub struct Leaders {
    client: Client,
    name: Name,
    events: Option<EventStream>,
}

impl Client {
    /// Observes an election.
    #[must_use]
    pub fn observe(&self, name: Name) -> Leaders {
        Leaders { client: self.clone(), name, events: None }
    }
}

impl Leaders {
    /// Who leads: at first now, and then when something has happened to the election, though it may have been to those who
    /// wait. While no voter can be asked, it waits. Of leaders that follow each other quickly, one may be left out. Drop-safe.
    pub async fn next(&mut self) -> Option<Holder> {
        loop {
            if let Some(events) = &mut self.events {
                let ended = timeout(ASK_EVERY, next_of(events, &self.name)).await == Ok(false);
                if ended {
                    self.events = None;
                }
            }
            if self.events.is_none() {
                // It is asked after it is followed, so nothing is missed.
                self.events = self.client.store().subscribe(NAME).await.ok();
                if self.events.is_none() {
                    sleep(PAUSE).await;
                }
            }
            let question = Question::Holders(vec![self.name.clone()]);
            if let Ok(holders) = self.client.ask::<Vec<Holder>>(&question).await {
                return holders.into_iter().next();
            }
            sleep(PAUSE).await;
        }
    }
}

/// Waits until something happens to a lock; false if nothing more is told.
async fn next_of(events: &mut EventStream, name: &Name) -> bool {
    while let Some(event) = events.next().await {
        let tells = |event: &Event| event.change != Change::Waits && event.names.contains(name);
        if Event::decode(&event).is_ok_and(|event| tells(&event)) {
            return true;
        }
    }
    false
}
