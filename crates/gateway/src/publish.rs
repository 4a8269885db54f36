//! Publishing: one message, or a batch of lines.

use std::{borrow::Cow, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{StatusCode, header},
    response::Response,
};
use broadcast::{DeliveryError, Handle, MessageId, NodeName, PublishError, Receipt, config::quote};
use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    task::yield_now,
    time::{Instant, timeout, timeout_at},
};
use tracing::{Instrument as _, Span, debug, debug_span};

use super::{
    app::App,
    audit::Audited,
    body::{self, Limit, Location},
    problem::{self, Problem},
    query,
};

/// A body of one message, and a line of a batch, in bytes: the largest message, with room for another
/// spelling of it.
pub const MAX_BODY: usize = (1 << 20) + (64 << 10);
/// How long acknowledgements are waited for, unless told otherwise; and a batch for room.
pub const ACK_TIME: Duration = Duration::from_secs(5);
/// How long acknowledgements are waited for, at most.
pub const MAX_ACK_TIME: Duration = Duration::from_secs(60);

/// Messages of a batch, until others on this thread have their turn: those who follow them, above all.
const TURN: u64 = 256;

/// What is to be known of a message before the answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ack {
    /// That it is on its way.
    Sent,
    /// Who has it, by then.
    All(Duration),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// `POST /v1/messages`
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    Extension(audited): Extension<Audited>,
    request: Request,
) -> Result<Response, Problem> {
    let [ack, timeout] = query::read(request.uri(), ["ack", "timeout"])?;
    let ack = Ack::read(ack.as_deref(), timeout.as_deref())?;
    audited.count_together();
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let content_type =
        content_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match content_type.as_deref() {
        // The last is what curl says unless told otherwise.
        None | Some("application/json" | "application/x-www-form-urlencoded") => {
            one(&app, request.into_body(), ack, &audited).await
        }
        Some("application/x-ndjson") => batch(&app, request.into_body(), ack, &audited).await,
        Some(other) => {
            let detail = format!(
                "a body of type {} is not supported; send application/json, or application/x-ndjson with one message per line",
                quote(other)
            );
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
        }
    }
}

impl Ack {
    /// What `POST /v1/messages` asks by these.
    pub(super) fn read(ack: Option<&str>, timeout: Option<&str>) -> Result<Self, Problem> {
        let limit = timeout.map_or(Ok(ACK_TIME), |text| {
            let limit = humantime::parse_duration(text).ok();
            limit.filter(|limit| (Duration::from_millis(1)..=MAX_ACK_TIME).contains(limit)).ok_or_else(|| {
                Problem::bad_request(format_args!(
                    "timeout = {}: not a duration from 1ms to {}s; write it like 500ms or 2s",
                    quote(text),
                    MAX_ACK_TIME.as_secs()
                ))
            })
        })?;
        match ack {
            Some("all") => Ok(Ack::All(limit)),
            None | Some("none") if timeout.is_none() => Ok(Ack::Sent),
            None | Some("none") => {
                Err(Problem::bad_request("timeout is only for ack=all; leave it out, or ask for that"))
            }
            Some(other) => Err(Problem::bad_request(format_args!("ack = {}: write all or none", quote(other)))),
        }
    }
}

async fn one(app: &App, sent: Body, ack: Ack, audited: &Audited) -> Result<Response, Problem> {
    let node = &app.node;
    let body = body::whole(&app.bodies, sent, MAX_BODY).await?.ok_or_else(too_long)?;
    let Message { key, value } = parse(&body)?;
    let receipt = node.try_publish(&key, value).map_err(refusal)?;
    audited.one_more();
    let MessageId { epoch, seq } = receipt.id();
    let ids = Ids::One { id: receipt.id().of(node.name()), origin: node.name(), epoch, seq };
    let span = published(node, receipt.id(), &key);
    answer(receipt, ids, ack).instrument(span).await
}

async fn batch(app: &App, mut sent: Body, ack: Ack, audited: &Audited) -> Result<Response, Problem> {
    let (node, limit) = (&app.node, app.bodies.time);
    let mut batch = Batch { node, audited, lines: 0, published: 0, ends: None };
    let (mut buffer, mut held) = (BytesMut::new(), app.bodies.hold());
    // What is known to hold no line's end.
    let mut searched = 0;
    // By then a line has to be there.
    let mut due = Instant::now() + limit;
    let outcome = loop {
        while let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(searched + end);
            buffer.advance(1);
            searched = 0;
            due = Instant::now() + limit;
            if let Err(problem) = batch.line(&line).await {
                return Err(batch.unfinished(problem));
            }
        }
        searched = buffer.len();
        if searched > MAX_BODY {
            break Err(too_long());
        }
        if let Err(problem) = held.set(searched) {
            break Err(problem);
        }
        match timeout_at(due, sent.frame()).await {
            Err(_) => break Err(body::too_slow(limit)),
            Ok(Some(Err(error))) => break Err(body::broken(&error)),
            Ok(Some(Ok(frame))) => buffer.extend(frame.into_data()),
            Ok(None) => break batch.line(&buffer).await,
        }
    };
    match (outcome, batch.ends.take()) {
        (Err(problem), ends) => {
            batch.ends = ends;
            Err(batch.unfinished(problem))
        }
        (Ok(()), None) => Err(Problem::bad_request("the body has no message; send one JSON object per line")
            .with(NoneOf { published: 0 })),
        (Ok(()), Some((first, last))) => {
            let [first, last_id] = [first, last.id()].map(|id| id.of(node.name()));
            answer(last, Ids::Batch { published: batch.published, first, last: last_id }, ack).await
        }
    }
}

struct Batch<'a> {
    node: &'a Handle,
    audited: &'a Audited,
    /// Lines that are dealt with.
    lines: u64,
    published: u64,
    /// The first message, and the last.
    ends: Option<(MessageId, Receipt)>,
}

impl Batch<'_> {
    /// Deals with a line: publishes it, as soon as there is room, unless it is blank.
    async fn line(&mut self, line: &[u8]) -> Result<(), Problem> {
        if !line.trim_ascii().is_empty() {
            self.publish(line).await?;
        }
        self.lines += 1;
        Ok(())
    }

    async fn publish(&mut self, line: &[u8]) -> Result<(), Problem> {
        let Message { key, value } = parse(line)?;
        let receipt = match self.node.try_publish(&key, value) {
            Err(PublishError::WouldBlock) => match timeout(ACK_TIME, self.node.publish(&key, value)).await {
                Ok(published) => published.map_err(refusal)?,
                Err(_) => return Err(refusal(PublishError::WouldBlock)),
            },
            published => published.map_err(refusal)?,
        };
        published(self.node, receipt.id(), &key);
        self.published += 1;
        self.audited.one_more();
        if self.published.is_multiple_of(TURN) {
            yield_now().await;
        }
        let first = self.ends.take().map_or(receipt.id(), |(first, _)| first);
        self.ends = Some((first, receipt));
        Ok(())
    }

    /// What came before the problem is published, and is told.
    fn unfinished(&self, problem: Problem) -> Problem {
        problem.with(Unfinished { published: self.published, line: self.lines + 1 })
    }
}

pub(super) fn parse(text: &[u8]) -> Result<Message<'_>, Problem> {
    body::object(text).map_err(|error| {
        let detail = format!("not a message: {}; send {{\"key\": \"…\", \"value\": …}}", body::wrong(&error));
        Problem::bad_request(detail).with(Location::from(&error))
    })
}

/// The span of a message that was published, with which it begins.
fn published(node: &Handle, id: MessageId, key: &str) -> Span {
    let span = debug_span!("publish", node = node.name(), id = id.of(node.name()));
    span.in_scope(|| debug!(event = "published", key, "published {}: key={key}", id.of(node.name())));
    span
}

/// What is published.
#[derive(Serialize)]
struct Published<'a> {
    #[serde(flatten)]
    ids: Ids<'a>,
    /// Told only when it is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    joined: Option<bool>,
    #[serde(flatten)]
    delivered: Option<Delivered>,
}

/// How it is named.
#[derive(Serialize)]
#[serde(untagged)]
enum Ids<'a> {
    One { id: String, origin: &'a str, epoch: u64, seq: u64 },
    Batch { published: u64, first: String, last: String },
}

/// Who has it.
#[derive(Serialize)]
struct Delivered {
    delivered: usize,
    members: usize,
    plain: usize,
    elapsed_ms: f64,
    failed: Vec<String>,
    left: Vec<String>,
}

/// Who does not have it in time.
#[derive(Serialize)]
struct Missing {
    missing: Vec<String>,
    waited_ms: u64,
    failed: Vec<String>,
    left: Vec<String>,
}

/// A batch that has no message.
#[derive(Serialize)]
struct NoneOf {
    published: u64,
}

/// A batch that ends with a problem.
#[derive(Serialize)]
struct Unfinished {
    published: u64,
    line: u64,
}

/// Waits as asked, and tells what came of it.
async fn answer(receipt: Receipt, ids: Ids<'_>, ack: Ack) -> Result<Response, Problem> {
    let mut published = Published { ids, joined: (!receipt.joined()).then_some(false), delivered: None };
    let limit = match ack {
        Ack::Sent => return Ok(problem::answer(StatusCode::ACCEPTED, &published)),
        Ack::All(limit) => limit,
    };
    match receipt.delivered_within(limit).await {
        Ok(done) => {
            let (delivered, members, elapsed_ms) =
                (done.delivered, done.members, done.elapsed.as_micros() as f64 / 1000.0);
            let departed = &done.departed;
            debug!(
                event = "delivered",
                delivered,
                members,
                ms = elapsed_ms,
                "delivered to {delivered} of {members} in {elapsed_ms:.1} ms{departed}"
            );
            let (failed, left) = (names(&departed.failed), names(&departed.left));
            published.delivered = Some(Delivered { delivered, members, plain: done.plain, elapsed_ms, failed, left });
            Ok(problem::answer(StatusCode::OK, &published))
        }
        Err(DeliveryError::Stopped) => Err(Problem::stopped()),
        Err(error @ DeliveryError::Missing { .. }) => {
            let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, &error);
            let DeliveryError::Missing { missing, waited, departed } = error else { return Err(problem) };
            let missing = Missing {
                missing: names(&missing),
                waited_ms: waited.as_millis() as u64,
                failed: names(&departed.failed),
                left: names(&departed.left),
            };
            Err(problem.with(missing).with(published))
        }
    }
}

fn names(members: &[NodeName]) -> Vec<String> {
    members.iter().map(NodeName::to_string).collect()
}

fn refusal(error: PublishError) -> Problem {
    match error {
        PublishError::WouldBlock => Problem::new(StatusCode::TOO_MANY_REQUESTS, error).header(header::RETRY_AFTER, "1"),
        PublishError::TooLarge { max, .. } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error).with(Limit { limit: max })
        }
        PublishError::Value(_) => Problem::bad_request(error),
        PublishError::NameTaken => Problem::new(StatusCode::CONFLICT, error),
        PublishError::Stopped => Problem::stopped(),
    }
}

fn too_long() -> Problem {
    let detail =
        format!("a message may have at most {MAX_BODY} bytes here, and 1 MiB between nodes; shorten its value");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).with(Limit { limit: MAX_BODY })
}
