//! The events of one request for a lock. The request is never repeated when its connection breaks off, because with the
//! connection the waiter has lost its place in the queue.

use std::collections::VecDeque;

use http_body_util::BodyExt as _;
use hyper::{Response, body::Incoming};
use tokio::time::{Instant, timeout_at};

use super::super::sse::{EventParser, MAX_EVENT, SILENCE, ServerEvent};

/// See the [module](self).
#[derive(Debug)]
pub(super) struct EventStream {
    body: Incoming,
    parser: EventParser,
    /// Events that were received and not taken.
    ready: VecDeque<ServerEvent>,
    /// When the last bytes came.
    last_received: Instant,
}

impl EventStream {
    pub(super) fn new(response: Response<Incoming>) -> Self {
        let (parser, ready) = (EventParser::default(), VecDeque::new());
        Self { body: response.into_body(), parser, ready, last_received: Instant::now() }
    }

    /// The next event, or why there are no more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<ServerEvent, String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let frame = match timeout_at(self.last_received + SILENCE, self.body.frame()).await {
                Err(_) => return Err("says nothing any more".into()),
                Ok(None) => return Err("has closed the connection".into()),
                Ok(Some(Err(error))) => return Err(format!("broke off: {error}")),
                Ok(Some(Ok(frame))) => frame,
            };
            self.last_received = Instant::now();
            self.ready.extend(self.parser.push(frame.data_ref().map(|data| &**data).unwrap_or_default()));
            if self.parser.is_too_long() {
                return Err(format!("sends an event of more than {MAX_EVENT} bytes"));
            }
        }
    }
}
