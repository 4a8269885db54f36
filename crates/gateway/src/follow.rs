//! Following what is said, and what happens: server-sent events (WHATWG HTML, 9.2), or lines of JSON.

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
    bulletin::Reader,
    events::{Cursor, Form, Notice, Read, event},
    journal::{Filter, Position},
    problem::{Problem, text},
    query,
};

/// How long nothing is said at most: longer, and something on the way might take the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Somebody who follows, counted as long as it lasts.
struct Follower(Arc<App>);

impl Follower {
    fn new(app: Arc<App>) -> Self {
        app.counts.followers.fetch_add(1, Ordering::Relaxed);
        Self(app)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.counts.followers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `GET /v1/messages`
pub(super) async fn messages(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let [key, from, last, after] = query::read(&uri, ["key", "from", "last", "after"])?;
    let last = query::messages("last", last)?;
    let form = form(&headers)?;
    let filter = Filter { key: key.unwrap_or_default(), from: from.as_deref().map(Into::into) };
    let follower = Arc::new(Follower::new(app));
    let following = Following::new(follower, form, filter, last, last_heard(&headers, after.as_deref())?);
    Ok(streaming(
        form,
        Body::from_stream(stream::unfold(following, async |mut following| {
            let told = following.next().await?;
            Some((told, following))
        })),
    ))
}

/// The place to go on from, where one is named.
pub(super) fn last_heard(headers: &HeaderMap, after: Option<&str>) -> Result<Option<Cursor>, Problem> {
    match (after, headers.get("last-event-id")) {
        // What a browser has heard goes on from what the page began with.
        (_, Some(id)) => cursor("Last-Event-ID", &String::from_utf8_lossy(id.as_bytes())).map(Some),
        (Some(after), None) => cursor("after", after).map(Some),
        (None, None) => Ok(None),
    }
}

/// Somebody who follows messages.
struct Following {
    /// What is told before anything else.
    beginning: Option<String>,
    position: Position,
    filter: Filter,
    form: Form,
    news: watch::Receiver<u64>,
    follower: Arc<Follower>,
    told_at: Instant,
    ended: bool,
}

impl Following {
    /// Begins at a place that somebody comes back with, or else with the last so many messages.
    fn new(follower: Arc<Follower>, form: Form, filter: Filter, last: Option<usize>, heard: Option<Cursor>) -> Self {
        let journal = &follower.0.journal;
        let (mut position, known) = match (heard, last) {
            (Some(cursor), _) => journal.place(cursor),
            (None, Some(count)) => (journal.last(count, &filter), true),
            (None, None) => (journal.now(), true),
        };
        let missed = journal.skip(&mut position);
        let mut beginning = String::new();
        // Names the place, so that who is cut off before the first message does not miss it.
        if form == Form::Events {
            beginning += "retry: 1000\n";
        }
        beginning += &here(form, journal.cursor(position));
        if !known {
            let reason = "this node does not know this place: it has restarted since, or it is another node";
            beginning += &gone(form, journal.cursor(position), None, reason);
        } else if missed > 0 {
            let reason = "this node no longer keeps what came after this place";
            beginning += &gone(form, journal.cursor(position), Some(missed), reason);
        }
        let (news, told_at) = (journal.news(), Instant::now());
        Self { beginning: Some(beginning), position, filter, form, news, follower, told_at, ended: false }
    }

    /// What is told next; nothing when that was all. Nothing gets lost where this is not waited for to the end.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.ended {
            return None;
        }
        if let Some(beginning) = self.beginning.take() {
            return Some(Ok(beginning.into()));
        }
        let journal = &self.follower.0.journal;
        loop {
            // Before looking, so that nothing that comes after it is slept through.
            self.news.mark_unchanged();
            let told = match journal.read(&mut self.position, &self.filter, self.form) {
                Read::Text(text) => Some(Ok(text)),
                Read::Lagged(missed) => {
                    self.follower.0.counts.cut_off("it does not keep up with the messages it follows");
                    let reason =
                        "you do not keep up, so you are cut off; to continue, connect again with this event's id";
                    self.ended = true;
                    Some(Ok(gone(self.form, journal.cursor(self.position), Some(missed), reason).into()))
                }
                // Breaks the connection, so that half of an event is not taken for one.
                Read::Torn => {
                    let why = "it was overtaken while it read a long message";
                    self.follower.0.counts.cut_off(why);
                    self.ended = true;
                    Some(Err(io::Error::other(why)))
                }
                Read::Closed => {
                    self.ended = true;
                    Some(Ok(left(self.form).into()))
                }
                Read::Empty => None,
            };
            if told.is_some() {
                self.told_at = Instant::now();
                return told;
            }
            tokio::select! {
                // The journal is there as long as this is.
                _ = self.news.changed() => {}
                () = sleep_until(self.told_at + KEEP_ALIVE) => {
                    self.told_at = Instant::now();
                    let comment = if self.form == Form::Events { ": keep-alive\n" } else { "" };
                    let here = here(self.form, journal.cursor(self.position));
                    return Some(Ok(format!("{comment}{here}").into()));
                }
            }
        }
    }

    /// What happens is told besides, in between; nothing else may come within something that is told in pieces. Ends with
    /// the messages.
    fn with(self, watching: Watching) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold((self, watching), async |(mut following, mut watching)| {
            let told = if following.beginning.is_some() || following.position.is_within() {
                following.next().await?
            } else if watching.reader.is_within() {
                watching.next().await?
            } else {
                tokio::select! {
                    told = following.next() => told?,
                    // It may end first.
                    Some(told) = watching.next() => told,
                }
            };
            Some((told, (following, watching)))
        })
    }
}

/// Somebody who follows what happens.
struct Watching {
    follower: Arc<Follower>,
    reader: Reader,
    told_at: Instant,
    ended: bool,
}

/// `GET /v1/events`
pub(super) async fn events(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    // The messages as well, beginning with the last so many.
    let [messages] = query::read(&uri, ["messages"])?;
    let messages = query::messages("messages", messages)?;
    let form = Form::Events;
    let follower = Arc::new(Follower::new(app));
    let watching = Watching::new(Arc::clone(&follower));
    let body = if messages.is_some() {
        let heard = last_heard(&headers, None)?;
        Body::from_stream(Following::new(follower, form, Filter::default(), messages, heard).with(watching))
    } else {
        let left = stream::once(std::future::ready(Ok(left(form).into())));
        Body::from_stream(watching.told().chain(left))
    };
    Ok(streaming(form, body))
}

impl Watching {
    fn new(follower: Arc<Follower>) -> Self {
        let reader = follower.0.bulletin.follow();
        // Makes the node ask all the others again how far each is, which whoever comes anew is to know.
        drop(follower.0.node.acks());
        Self { follower, reader, told_at: Instant::now(), ended: false }
    }

    /// All that is told until the node has stopped.
    fn told(self) -> impl Stream<Item = io::Result<Bytes>> {
        stream::unfold(self, async |mut watching| {
            let told = watching.next().await?;
            Some((told, watching))
        })
    }

    /// What is told next; nothing when the node has stopped. Nothing gets lost where this is not waited for to the end.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            // Before looking, so that nothing that comes after it is slept through.
            self.reader.mark_seen();
            match self.follower.0.bulletin.read(&mut self.reader) {
                _ if self.ended => return None,
                Read::Text(text) => {
                    self.told_at = Instant::now();
                    return Some(Ok(text));
                }
                // Breaks the connection, so that half of an event is not taken for one.
                Read::Torn => {
                    let why = "it was overtaken while it read a long event";
                    self.follower.0.counts.cut_off(why);
                    self.ended = true;
                    return Some(Err(io::Error::other(why)));
                }
                Read::Closed => return None,
                // The bulletin makes up for what this misses.
                Read::Lagged(_) => continue,
                Read::Empty => {}
            }
            tokio::select! {
                () = self.reader.changed() => {}
                () = sleep_until(self.told_at + KEEP_ALIVE) => {
                    self.told_at = Instant::now();
                    return Some(Ok(Bytes::from_static(b": keep-alive\n\n")));
                }
            }
        }
    }
}

fn cursor(name: &str, text: &str) -> Result<Cursor, Problem> {
    text.parse().map_err(|()| {
        let text = quote(text);
        Problem::bad_request(format_args!(
            "{name} {text} is not a place to continue from; give the id of an event, or a line's cursor"
        ))
    })
}

/// The form that is wanted most, of two that are wanted alike the lines: nobody asks for those by chance.
pub(super) fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let accept: Vec<_> =
        headers.get_all(header::ACCEPT).iter().map(|value| value.to_str().unwrap_or_default()).collect();
    let accept = if accept.is_empty() { "*/*".into() } else { accept.join(", ") };
    let weight = |wanted: &[&str]| {
        let kinds = accept.split(',').filter_map(|kind| weight_of(kind, wanted));
        kinds.fold(0.0, f32::max)
    };
    let lines = weight(&["application/x-ndjson"]);
    let events = weight(&["text/event-stream", "text/*", "*/*"]);
    if lines > 0.0 && lines >= events {
        Ok(Form::Lines)
    } else if events > 0.0 {
        Ok(Form::Events)
    } else {
        let accept = quote(&accept);
        let detail = format!("{accept} is not available; Accept must be text/event-stream or application/x-ndjson");
        Err(Problem::new(StatusCode::NOT_ACCEPTABLE, detail))
    }
}

/// How much one of the kinds in `Accept` is wanted, if it is one of these (RFC 9110, 12.4.2).
fn weight_of(kind: &str, wanted: &[&str]) -> Option<f32> {
    let mut parts = kind.split(';').map(str::trim);
    let kind = parts.next()?;
    wanted.iter().any(|wanted| kind.eq_ignore_ascii_case(wanted)).then(|| {
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        weight.and_then(|weight| weight.parse().ok()).unwrap_or(1.0)
    })
}

/// What is told last.
fn left(form: Form) -> String {
    let left = Notice::Left { reason: "this node has left its cluster" };
    event(form, left.name(), &left)
}

/// Names the place at which it goes on.
fn gone(form: Form, cursor: Cursor, missed: Option<u64>, reason: &str) -> String {
    let gone = Notice::Gone { missed, reason };
    let told = event(form, gone.name(), &gone.at(cursor));
    match form {
        Form::Events => format!("id: {cursor}\n{told}"),
        Form::Lines => told,
    }
}

/// Names the place without saying anything: at the beginning, and when nothing else is said.
fn here(form: Form, cursor: Cursor) -> String {
    match form {
        Form::Events => format!("id: {cursor}\n\n"),
        Form::Lines => text(&Notice::Here.at(cursor)) + "\n",
    }
}

fn streaming(form: Form, body: Body) -> Response {
    let content_type = match form {
        Form::Events => "text/event-stream",
        Form::Lines => "application/x-ndjson",
    };
    // The last for proxies (nginx), which would hold it back.
    let headers = [("content-type", content_type), ("cache-control", "no-store"), ("x-accel-buffering", "no")];
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_form_is_what_is_wanted_of_what_there_is() {
        let form =
            |accept: &'static str| form(&[(header::ACCEPT, HeaderValue::from_static(accept))].into_iter().collect());
        for accept in [
            "*/*",
            "text/html, text/*;q=0.5",
            "Text/Event-Stream",
            "application/x-ndjson;q=0, */*",
            "text/event-stream, application/x-ndjson;q=0.5",
        ] {
            assert_eq!(form(accept).ok(), Some(Form::Events), "{accept}");
        }
        for accept in ["application/x-ndjson", "text/html,Application/X-NDJSON; q=0.1", "*/*, application/x-ndjson"] {
            assert_eq!(form(accept).ok(), Some(Form::Lines), "{accept}");
        }
        for accept in ["", "text/html", "application/x-ndjson;q=0", "text/event-stream; q=0.0"] {
            assert!(form(accept).is_err(), "{accept}");
        }
    }
}
