//! `POST /v1/messages`: publishing one message, or a batch of lines.

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
    audit::AuditHandle,
    body::{self, LimitJson, LocationJson},
    problem::{self, Problem},
    query,
};

/// The longest body of one message, and the longest line of a batch, in bytes: the largest message, with room for another
/// spelling of it.
pub const MAX_BODY: usize = (1 << 20) + (64 << 10);
/// How long a request waits for acknowledgements by default; and how long a batch waits for room.
pub const ACK_TIME: Duration = Duration::from_secs(5);
/// How long a request may wait for acknowledgements.
pub const MAX_ACK_TIME: Duration = Duration::from_secs(60);

/// How many messages of a batch are published until other tasks of this thread have their turn: followers, above all.
const YIELD_EVERY: u64 = 256;

/// What the response says of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum AckMode {
    /// It is on its way.
    Sent,
    /// Who has acknowledged it, within this time.
    All(Duration),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishRequest<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// `POST /v1/messages`
pub(super) async fn publish(
    State(app): State<Arc<App>>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    let [ack, timeout] = query::read(request.uri(), ["ack", "timeout"])?;
    let ack = AckMode::read(ack.as_deref(), timeout.as_deref())?;
    audit.aggregate();
    let content_type = request.headers().get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let content_type =
        content_type.map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    match content_type.as_deref() {
        // curl sends the last one by default.
        None | Some("application/json" | "application/x-www-form-urlencoded") => {
            publish_one(&app, request.into_body(), ack, &audit).await
        }
        Some("application/x-ndjson") => publish_batch(&app, request.into_body(), ack, &audit).await,
        Some(other) => {
            let detail = format!(
                "a body of type {} is not supported; send application/json, or application/x-ndjson with one message per line",
                quote(other)
            );
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
        }
    }
}

impl AckMode {
    /// Reads the query parameters `ack` and `timeout`.
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
            Some("all") => Ok(AckMode::All(limit)),
            None | Some("none") if timeout.is_none() => Ok(AckMode::Sent),
            None | Some("none") => {
                Err(Problem::bad_request("timeout is only for ack=all; leave it out, or ask for that"))
            }
            Some(other) => Err(Problem::bad_request(format_args!("ack = {}: write all or none", quote(other)))),
        }
    }
}

async fn publish_one(app: &App, sent: Body, ack: AckMode, audit: &AuditHandle) -> Result<Response, Problem> {
    let node = &app.node;
    let body = body::read_within(&app.bodies, sent, MAX_BODY).await?.ok_or_else(too_long)?;
    let PublishRequest { key, value } = parse(&body)?;
    let receipt = node.try_publish(&key, value).map_err(publish_problem)?;
    audit.count_message();
    let MessageId { epoch, seq } = receipt.id();
    let ids = PublishedIds::One { id: receipt.id().of(node.name()), origin: node.name(), epoch, seq };
    let span = publish_span(node, receipt.id(), &key);
    respond(receipt, ids, ack).instrument(span).await
}

async fn publish_batch(app: &App, mut sent: Body, ack: AckMode, audit: &AuditHandle) -> Result<Response, Problem> {
    let (node, limit) = (&app.node, app.bodies.timeout);
    let mut batch = Batch { node, audit, lines: 0, published: 0, first_and_last: None };
    let (mut buffer, mut reservation) = (BytesMut::new(), app.bodies.reserve());
    // So many bytes were searched, and have no end of a line.
    let mut searched = 0;
    // The next end of a line must come before that.
    let mut due = Instant::now() + limit;
    let outcome = loop {
        while let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(searched + end);
            buffer.advance(1);
            searched = 0;
            due = Instant::now() + limit;
            if let Err(problem) = batch.publish_line(&line).await {
                return Err(batch.with_progress(problem));
            }
        }
        searched = buffer.len();
        if searched > MAX_BODY {
            break Err(too_long());
        }
        if let Err(problem) = reservation.resize(searched) {
            break Err(problem);
        }
        match timeout_at(due, sent.frame()).await {
            Err(_) => break Err(body::timed_out(limit)),
            Ok(Some(Err(error))) => break Err(body::broken_off(&error)),
            Ok(Some(Ok(frame))) => buffer.extend(frame.into_data()),
            Ok(None) => break batch.publish_line(&buffer).await,
        }
    };
    match (outcome, batch.first_and_last.take()) {
        (Err(problem), first_and_last) => {
            batch.first_and_last = first_and_last;
            Err(batch.with_progress(problem))
        }
        (Ok(()), None) => Err(Problem::bad_request("the body has no message; send one JSON object per line")
            .with(EmptyBatch { published: 0 })),
        (Ok(()), Some((first, last))) => {
            let [first, last_id] = [first, last.id()].map(|id| id.of(node.name()));
            respond(last, PublishedIds::Batch { published: batch.published, first, last: last_id }, ack).await
        }
    }
}

struct Batch<'a> {
    node: &'a Handle,
    audit: &'a AuditHandle,
    /// Lines that were processed.
    lines: u64,
    published: u64,
    /// The first message, and the receipt of the last.
    first_and_last: Option<(MessageId, Receipt)>,
}

impl Batch<'_> {
    /// Processes a line: publishes it as soon as there is room, unless it is blank.
    async fn publish_line(&mut self, line: &[u8]) -> Result<(), Problem> {
        if !line.trim_ascii().is_empty() {
            self.publish_message(line).await?;
        }
        self.lines += 1;
        Ok(())
    }

    async fn publish_message(&mut self, line: &[u8]) -> Result<(), Problem> {
        let PublishRequest { key, value } = parse(line)?;
        let receipt = match self.node.try_publish(&key, value) {
            Err(PublishError::WouldBlock) => match timeout(ACK_TIME, self.node.publish(&key, value)).await {
                Ok(published) => published.map_err(publish_problem)?,
                Err(_) => return Err(publish_problem(PublishError::WouldBlock)),
            },
            published => published.map_err(publish_problem)?,
        };
        publish_span(self.node, receipt.id(), &key);
        self.published += 1;
        self.audit.count_message();
        if self.published.is_multiple_of(YIELD_EVERY) {
            yield_now().await;
        }
        let first = self.first_and_last.take().map_or(receipt.id(), |(first, _)| first);
        self.first_and_last = Some((first, receipt));
        Ok(())
    }

    /// Adds to a problem how much of the batch was published before it.
    fn with_progress(&self, problem: Problem) -> Problem {
        problem.with(PartialBatch { published: self.published, line: self.lines + 1 })
    }
}

pub(super) fn parse(text: &[u8]) -> Result<PublishRequest<'_>, Problem> {
    body::parse_object(text).map_err(|error| {
        let detail =
            format!("not a message: {}; send {{\"key\": \"…\", \"value\": …}}", body::describe_json_error(&error));
        Problem::bad_request(detail).with(LocationJson::from(&error))
    })
}

/// The span of a message, which begins with its publication.
fn publish_span(node: &Handle, id: MessageId, key: &str) -> Span {
    let span = debug_span!("publish", node = node.name(), id = id.of(node.name()));
    span.in_scope(|| debug!(event = "published", key, "published {}: key={key}", id.of(node.name())));
    span
}

/// The body of the response.
#[derive(Serialize)]
struct PublishedBody<'a> {
    #[serde(flatten)]
    ids: PublishedIds<'a>,
    /// Present only if the node has not joined a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    joined: Option<bool>,
    #[serde(flatten)]
    delivered: Option<DeliveredJson>,
}

/// The ids of what was published.
#[derive(Serialize)]
#[serde(untagged)]
enum PublishedIds<'a> {
    One { id: String, origin: &'a str, epoch: u64, seq: u64 },
    Batch { published: u64, first: String, last: String },
}

/// Who has acknowledged the message.
#[derive(Serialize)]
struct DeliveredJson {
    delivered: usize,
    members: usize,
    plain: usize,
    elapsed_ms: f64,
    failed: Vec<String>,
    left: Vec<String>,
}

/// Who has not acknowledged the message in time.
#[derive(Serialize)]
struct MissingAcks {
    missing: Vec<String>,
    waited_ms: u64,
    failed: Vec<String>,
    left: Vec<String>,
}

/// The fields of the problem of an empty batch.
#[derive(Serialize)]
struct EmptyBatch {
    published: u64,
}

/// The fields of a problem in the middle of a batch.
#[derive(Serialize)]
struct PartialBatch {
    published: u64,
    line: u64,
}

/// Waits for acknowledgements, if the client wants them, and responds.
async fn respond(receipt: Receipt, ids: PublishedIds<'_>, ack: AckMode) -> Result<Response, Problem> {
    let mut published = PublishedBody { ids, joined: (!receipt.joined()).then_some(false), delivered: None };
    let limit = match ack {
        AckMode::Sent => return Ok(problem::json_response(StatusCode::ACCEPTED, &published)),
        AckMode::All(limit) => limit,
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
            published.delivered =
                Some(DeliveredJson { delivered, members, plain: done.plain, elapsed_ms, failed, left });
            Ok(problem::json_response(StatusCode::OK, &published))
        }
        Err(DeliveryError::Stopped) => Err(Problem::stopped()),
        Err(error @ DeliveryError::Missing { .. }) => {
            let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, &error);
            let DeliveryError::Missing { missing, waited, departed } = error else { return Err(problem) };
            let missing = MissingAcks {
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

fn publish_problem(error: PublishError) -> Problem {
    match error {
        PublishError::WouldBlock => Problem::new(StatusCode::TOO_MANY_REQUESTS, error).header(header::RETRY_AFTER, "1"),
        PublishError::TooLarge { max, .. } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, error).with(LimitJson { limit: max })
        }
        PublishError::Value(_) => Problem::bad_request(error),
        PublishError::NameTaken => Problem::new(StatusCode::CONFLICT, error),
        PublishError::Stopped => Problem::stopped(),
    }
}

fn too_long() -> Problem {
    let detail =
        format!("a message may have at most {MAX_BODY} bytes here, and 1 MiB between nodes; shorten its value");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).with(LimitJson { limit: MAX_BODY })
}
