//! Following a node's server-sent events for as long as it takes.
//!
//! If the connection breaks off, the follower connects again and asks the node to go on after the last event it had
//! (`Last-Event-ID`). What is gone by then, the node says in an event of its own. So a follower loses nothing silently.

use http_body_util::BodyExt as _;
use hyper::{StatusCode, body::Incoming, header};
use tokio::time::{sleep, timeout};

use super::{
    backoff::Backoff,
    client::{ApiClient, ApiRequest, ClientError},
    output::warn,
    sse::{EventParser, MAX_EVENT, SILENCE, ServerEvent},
};
use crate::failure::Failure;

/// Follows one node, and connects again when the connection breaks off.
pub(super) struct Follower {
    client: ApiClient,
    path: String,
    /// The id of the last event.
    cursor: Option<String>,
    state: ConnectionState,
    connection: Option<Connection>,
    backoff: Backoff,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    /// The node has never answered.
    New,
    Connected,
    /// The node did answer, and the follower waits for it to come back.
    Lost,
}

struct Connection {
    body: Incoming,
    parser: EventParser,
}

impl Follower {
    pub(super) fn new(client: ApiClient, path: String) -> Self {
        let (state, backoff) = (ConnectionState::New, Backoff::default());
        Self { client, path, cursor: None, state, connection: None, backoff }
    }

    /// The next events.
    ///
    /// # Errors
    ///
    /// The node has never answered, or it refuses.
    pub(super) async fn next(&mut self) -> Result<Vec<ServerEvent>, Failure> {
        loop {
            let error = match self.receive().await {
                Ok(events) => {
                    self.note(&events);
                    self.check_size()?;
                    return Ok(events);
                }
                Err(error) => error,
            };
            self.connection = None;
            // If the request itself is wrong, it is so the next time, too.
            let is_transient = match &error {
                ClientError::NoResponse(_) => true,
                ClientError::Problem(answer) => {
                    answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS
                }
            };
            if self.state == ConnectionState::New || !is_transient {
                return Err(error.into());
            }
            if self.state == ConnectionState::Connected {
                self.state = ConnectionState::Lost;
                warn(&format!("{error}; connecting again"));
            }
            sleep(self.backoff.next()).await;
        }
    }

    /// The events that the next bytes complete.
    async fn receive(&mut self) -> Result<Vec<ServerEvent>, ClientError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let body = self.connect().await?;
                self.connection.insert(Connection { body, parser: EventParser::default() })
            }
        };
        let gone = |why: &str| ClientError::NoResponse(format!("{} {why}", self.client.node));
        let frame = match timeout(SILENCE, connection.body.frame()).await {
            Err(_) => return Err(gone("says nothing any more")),
            Ok(None) => return Err(gone("has closed the connection")),
            Ok(Some(Err(error))) => return Err(self.client.broke_off(&error)),
            Ok(Some(Ok(frame))) => frame,
        };
        Ok(connection.parser.push(frame.data_ref().map(|data| &**data).unwrap_or_default()))
    }

    async fn connect(&mut self) -> Result<Incoming, ClientError> {
        let mut headers = vec![(header::ACCEPT, "text/event-stream")];
        if let Some(cursor) = &self.cursor {
            headers.push((header::HeaderName::from_static("last-event-id"), cursor));
        }
        let response =
            self.client.send(ApiRequest { path: &self.path, headers: &headers, ..ApiRequest::default() }).await?;
        if self.state == ConnectionState::Lost {
            warn(&format!("{} answers again", self.client.node));
        }
        self.state = ConnectionState::Connected;
        self.backoff.reset();
        Ok(response.into_body())
    }

    fn note(&mut self, events: &[ServerEvent]) {
        for event in events {
            if event.name == "left" {
                // The node closes the connection next, which needs no warning.
                self.state = ConnectionState::Lost;
            }
            if event.id.is_some() {
                self.cursor.clone_from(&event.id);
            }
        }
    }

    fn check_size(&self) -> Result<(), Failure> {
        if self.connection.as_ref().is_none_or(|connection| !connection.parser.is_too_long()) {
            return Ok(());
        }
        Err(Failure::other(format!(
            "{} sends an event of more than {MAX_EVENT} bytes, which no message has; is it a node?",
            self.client.node
        )))
    }
}
