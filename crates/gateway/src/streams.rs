//! Following messages and changes of the cluster: `GET /v1/messages` and `GET /v1/events`, as server-sent events (WHATWG HTML,
//! section 9.2) or lines of JSON.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use broadcast::config::quote;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    app::App,
    event_feed::FeedReader,
    journal::{MessageFilter, ReadPosition},
    problem::{Problem, to_json},
    query,
    stream_format::{Cursor, Notice, ReadOutcome, StreamFormat, format_event},
};

/// The longest silence of a stream: after a longer one, a proxy might take the connection for dead.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Counts a follower, as long as it lives.
struct FollowerCount(Arc<App>);

impl FollowerCount {
    fn new(app: Arc<App>) -> Self {
        app.counts.followers.fetch_add(1, Ordering::Relaxed);
        Self(app)
    }
}

impl Drop for FollowerCount {
    fn drop(&mut self) {
        self.0.counts.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `GET /v1/messages`
pub(super) async fn messages(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let [key, from, last, after] = query::read(&uri, ["key", "from", "last", "after"])?;
    let last = query::parse_message_count("last", last)?;
    let format = negotiate_format(&headers)?;
    let filter = MessageFilter { key_prefix: key.unwrap_or_default(), origin: from.as_deref().map(Into::into) };
    let follower = Arc::new(FollowerCount::new(app));
    let messages = MessageStream::new(follower, format, filter, last, resume_cursor(&headers, after.as_deref())?);
    Ok(stream_response(
        format,
        Body::from_stream(stream::unfold(messages, async |mut messages| {
            let chunk = messages.next().await?;
            Some((chunk, messages))
        })),
    ))
}

/// The cursor at which a client resumes, if it names one.
pub(super) fn resume_cursor(headers: &HeaderMap, after: Option<&str>) -> Result<Option<Cursor>, Problem> {
    match (after, headers.get("last-event-id")) {
        // A browser that connects again sends what it has read last; the page's own `after` is older then.
        (_, Some(id)) => parse_cursor("Last-Event-ID", &String::from_utf8_lossy(id.as_bytes())).map(Some),
        (Some(after), None) => parse_cursor("after", after).map(Some),
        (None, None) => Ok(None),
    }
}

/// A stream of messages, for one follower.
struct MessageStream {
    /// What comes before the first message.
    preamble: Option<String>,
    position: ReadPosition,
    filter: MessageFilter,
    format: StreamFormat,
    updates: watch::Receiver<u64>,
    follower: Arc<FollowerCount>,
    last_sent_at: Instant,
    ended: bool,
}

impl MessageStream {
    /// Begins at the cursor at which a client resumes, or with the last so many messages, or now.
    fn new(
        follower: Arc<FollowerCount>,
        format: StreamFormat,
        filter: MessageFilter,
        last: Option<usize>,
        resume_at: Option<Cursor>,
    ) -> Self {
        let journal = &follower.0.journal;
        let (mut position, known) = match (resume_at, last) {
            (Some(cursor), _) => journal.position_of(cursor),
            (None, Some(count)) => (journal.position_of_last(count, &filter), true),
            (None, None) => (journal.end_position(), true),
        };
        let missed = journal.skip_missing(&mut position);
        let mut preamble = String::new();
        // Gives the cursor first: so a client that is cut off before its first message misses none.
        if format == StreamFormat::EventStream {
            preamble += "retry: 1000\n";
        }
        preamble += &here_event(format, journal.cursor(position));
        if !known {
            let reason = "this node does not know this place: it has restarted since, or it is another node";
            preamble += &gone_event(format, journal.cursor(position), None, reason);
        } else if missed > 0 {
            let reason = "this node no longer keeps what came after this place";
            preamble += &gone_event(format, journal.cursor(position), Some(missed), reason);
        }
        let (updates, last_sent_at) = (journal.subscribe(), Instant::now());
        Self { preamble: Some(preamble), position, filter, format, updates, follower, last_sent_at, ended: false }
    }

    /// The next chunk; `None` at the end. Cancel-safe.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.ended {
            return None;
        }
        if let Some(preamble) = self.preamble.take() {
            return Some(Ok(preamble.into()));
        }
        let journal = &self.follower.0.journal;
        loop {
            // Before reading: an entry that comes after it wakes this stream.
            self.updates.mark_unchanged();
            let chunk = match journal.read(&mut self.position, &self.filter, self.format) {
                ReadOutcome::Chunk(text) => Some(Ok(text)),
                ReadOutcome::Lagged(missed) => {
                    self.follower.0.counts.cut_off("it does not keep up with the messages it follows");
                    let reason =
                        "you do not keep up, so you are cut off; to continue, connect again with this event's id";
                    self.ended = true;
                    Some(Ok(gone_event(self.format, journal.cursor(self.position), Some(missed), reason).into()))
                }
                // Breaks the connection: a client must not take a part of an event for all of it.
                ReadOutcome::Torn => {
                    let why = "it was overtaken while it read a long message";
                    self.follower.0.counts.cut_off(why);
                    self.ended = true;
                    Some(Err(io::Error::other(why)))
                }
                ReadOutcome::Closed => {
                    self.ended = true;
                    Some(Ok(left_event(self.format).into()))
                }
                ReadOutcome::Empty => None,
            };
            if chunk.is_some() {
                self.last_sent_at = Instant::now();
                return chunk;
            }
            tokio::select! {
                // The journal lives as long as this stream.
                _ = self.updates.changed() => {}
                () = sleep_until(self.last_sent_at + KEEP_ALIVE_INTERVAL) => {
                    self.last_sent_at = Instant::now();
                    let comment = if self.format == StreamFormat::EventStream { ": keep-alive\n" } else { "" };
                    let here = here_event(self.format, journal.cursor(self.position));
                    return Some(Ok(format!("{comment}{here}").into()));
                }
            }
        }
    }

    /// Interleaves changes of the cluster, but not within an event that is sent in parts. Ends with the messages.
    fn interleaved_with(self, cluster_events: ClusterEventStream) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold((self, cluster_events), async |(mut messages, mut cluster_events)| {
            let chunk = if messages.preamble.is_some() || messages.position.is_inside_entry() {
                messages.next().await?
            } else if cluster_events.reader.is_inside_entry() {
                cluster_events.next().await?
            } else {
                tokio::select! {
                    chunk = messages.next() => chunk?,
                    // This stream may end first.
                    Some(chunk) = cluster_events.next() => chunk,
                }
            };
            Some((chunk, (messages, cluster_events)))
        })
    }
}

/// A stream of changes of the cluster, for one follower.
struct ClusterEventStream {
    follower: Arc<FollowerCount>,
    reader: FeedReader,
    last_sent_at: Instant,
    ended: bool,
}

/// `GET /v1/events`
pub(super) async fn events(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    // With `messages`, the stream has messages, too, beginning with the last so many.
    let [messages] = query::read(&uri, ["messages"])?;
    let messages = query::parse_message_count("messages", messages)?;
    let format = StreamFormat::EventStream;
    let follower = Arc::new(FollowerCount::new(app));
    let cluster_events = ClusterEventStream::new(Arc::clone(&follower));
    let body = if messages.is_some() {
        let resume_at = resume_cursor(&headers, None)?;
        Body::from_stream(
            MessageStream::new(follower, format, MessageFilter::default(), messages, resume_at)
                .interleaved_with(cluster_events),
        )
    } else {
        let left = stream::once(std::future::ready(Ok(left_event(format).into())));
        Body::from_stream(cluster_events.into_stream().chain(left))
    };
    Ok(stream_response(format, body))
}

impl ClusterEventStream {
    fn new(follower: Arc<FollowerCount>) -> Self {
        let reader = follower.0.event_feed.follow();
        // This makes the node ask all others for their positions, which a new follower needs.
        drop(follower.0.node.acks());
        Self { follower, reader, last_sent_at: Instant::now(), ended: false }
    }

    /// All chunks, until the node has stopped.
    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold(self, async |mut cluster_events| {
            let chunk = cluster_events.next().await?;
            Some((chunk, cluster_events))
        })
    }

    /// The next chunk; `None` when the node has stopped. Cancel-safe.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            // Before reading: an event that comes after it wakes this stream.
            self.reader.mark_seen();
            match self.follower.0.event_feed.read(&mut self.reader) {
                _ if self.ended => return None,
                ReadOutcome::Chunk(text) => {
                    self.last_sent_at = Instant::now();
                    return Some(Ok(text));
                }
                // Breaks the connection: a client must not take a part of an event for all of it.
                ReadOutcome::Torn => {
                    let why = "it was overtaken while it read a long event";
                    self.follower.0.counts.cut_off(why);
                    self.ended = true;
                    return Some(Err(io::Error::other(why)));
                }
                ReadOutcome::Closed => return None,
                // Later events make up for what was missed.
                ReadOutcome::Lagged(_) => continue,
                ReadOutcome::Empty => {}
            }
            tokio::select! {
                () = self.reader.changed() => {}
                () = sleep_until(self.last_sent_at + KEEP_ALIVE_INTERVAL) => {
                    self.last_sent_at = Instant::now();
                    return Some(Ok(Bytes::from_static(b": keep-alive\n\n")));
                }
            }
        }
    }
}

fn parse_cursor(name: &str, text: &str) -> Result<Cursor, Problem> {
    text.parse().map_err(|()| {
        let text = quote(text);
        Problem::bad_request(format_args!(
            "{name} {text} is not a place to continue from; give the id of an event, or a line's cursor"
        ))
    })
}

/// The format that the client prefers. Of two that it likes equally, lines: nobody asks for these by chance.
pub(super) fn negotiate_format(headers: &HeaderMap) -> Result<StreamFormat, Problem> {
    let accept: Vec<_> =
        headers.get_all(header::ACCEPT).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    let accept = if accept.is_empty() { "*/*".into() } else { accept.join(", ") };
    let quality = |wanted: &[&str]| {
        let kinds = accept.split(',').filter_map(|kind| quality_of(kind, wanted));
        kinds.fold(0.0, f32::max)
    };
    let lines = quality(&["application/x-ndjson"]);
    let events = quality(&["text/event-stream", "text/*", "*/*"]);
    if lines > 0.0 && lines >= events {
        Ok(StreamFormat::JsonLines)
    } else if events > 0.0 {
        Ok(StreamFormat::EventStream)
    } else {
        let accept = quote(&accept);
        let detail = format!("{accept} is not available; Accept must be text/event-stream or application/x-ndjson");
        Err(Problem::new(StatusCode::NOT_ACCEPTABLE, detail))
    }
}

/// The quality of a media range in `Accept`, if it is one of `wanted` (RFC 9110, section 12.4.2).
fn quality_of(kind: &str, wanted: &[&str]) -> Option<f32> {
    let mut parts = kind.split(';').map(str::trim);
    let kind = parts.next()?;
    wanted.iter().any(|wanted| kind.eq_ignore_ascii_case(wanted)).then(|| {
        let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        quality.and_then(|quality| quality.parse().ok()).unwrap_or(1.0)
    })
}

/// The last event.
fn left_event(format: StreamFormat) -> String {
    let left = Notice::Left { reason: "this node has left its cluster" };
    format_event(format, left.name(), &left)
}

/// Says what was missed, and where the stream goes on.
fn gone_event(format: StreamFormat, cursor: Cursor, missed: Option<u64>, reason: &str) -> String {
    let gone = Notice::Gone { missed, reason };
    let event = format_event(format, gone.name(), &gone.with_cursor(cursor));
    match format {
        StreamFormat::EventStream => format!("id: {cursor}\n{event}"),
        StreamFormat::JsonLines => event,
    }
}

/// Gives the cursor only: at the beginning, and when there is nothing else to send.
fn here_event(format: StreamFormat, cursor: Cursor) -> String {
    match format {
        StreamFormat::EventStream => format!("id: {cursor}\n\n"),
        StreamFormat::JsonLines => to_json(&Notice::Here.with_cursor(cursor)) + "\n",
    }
}

fn stream_response(format: StreamFormat, body: Body) -> Response {
    let content_type = match format {
        StreamFormat::EventStream => "text/event-stream",
        StreamFormat::JsonLines => "application/x-ndjson",
    };
    // The last one tells proxies (nginx) not to buffer the stream.
    let headers = [("content-type", content_type), ("cache-control", "no-store"), ("x-accel-buffering", "no")];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_form_is_what_is_wanted_of_what_there_is() {
        let format = |accept: &'static str| {
            negotiate_format(&[(header::ACCEPT, HeaderValue::from_static(accept))].into_iter().collect())
        };
        for accept in [
            "*/*",
            "text/html, text/*;q=0.5",
            "Text/Event-Stream",
            "application/x-ndjson;q=0, */*",
            "text/event-stream, application/x-ndjson;q=0.5",
        ] {
            assert_eq!(format(accept).ok(), Some(StreamFormat::EventStream), "{accept}");
        }
        for accept in ["application/x-ndjson", "text/html,Application/X-NDJSON; q=0.1", "*/*, application/x-ndjson"] {
            assert_eq!(format(accept).ok(), Some(StreamFormat::JsonLines), "{accept}");
        }
        for accept in ["", "text/html", "application/x-ndjson;q=0", "text/event-stream; q=0.0"] {
            assert!(format(accept).is_err(), "{accept}");
        }
    }
}
