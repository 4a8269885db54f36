//! The events of one request for a lock, as long as its connection stands. It is never made anew: a place in a queue is
//! given up with it.

use std::collections::VecDeque;

use http_body_util::BodyExt as _;
use hyper::{Response, body::Incoming};
use tokio::time::{Instant, timeout_at};

use super::super::follow::{Event, Events, MAX_EVENT, SILENCE};

#[derive(Debug)]
pub(super) struct EventStream {
    body: Incoming,
    events: Events,
    ready: VecDeque<Event>,
    /// When something came last.
    heard: Instant,
}

impl EventStream {
    pub(super) fn new(response: Response<Incoming>) -> Self {
        let (events, ready) = (Events::default(), VecDeque::new());
        Self { body: response.into_body(), events, ready, heard: Instant::now() }
    }

    /// The next event; or why there are no more. Nothing is lost where this is not waited for to its end.
    pub(super) async fn next(&mut self) -> Result<Event, String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let frame = match timeout_at(self.heard + SILENCE, self.body.frame()).await {
                Err(_) => return Err("says nothing any more".into()),
                Ok(None) => return Err("has closed the connection".into()),
                Ok(Some(Err(error))) => return Err(format!("broke off: {error}")),
                Ok(Some(Ok(frame))) => frame,
            };
            self.heard = Instant::now();
            self.ready.extend(self.events.take(frame.data_ref().map(|data| &**data).unwrap_or_default()));
            if self.events.rest.len() > MAX_EVENT {
                return Err(format!("sends an event of more than {MAX_EVENT} bytes"));
            }
        }
    }
}
