//! What is sent here: bodies, and what is in them.

use std::{
    fmt,
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::{StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use tokio::time::timeout;

use super::problem::Problem;

/// A body that [`read`] takes is at most this long, in bytes.
const MAX_SMALL_BODY: usize = 16 << 10;
/// What all bodies that are being read may hold together, in bytes.
pub(crate) const MAX_RESERVED: usize = 64 << 20;

/// What bodies may hold together, and how long one may take. Its clones share that.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget {
    /// How much all hold that are being read.
    reserved: Arc<AtomicUsize>,
    pub(super) timeout: Duration,
}

/// What one of them holds; given back when it is dropped.
pub(super) struct BodyReservation<'a> {
    total: &'a AtomicUsize,
    bytes: usize,
}

impl BodyBudget {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { reserved: Arc::default(), timeout }
    }

    pub(super) fn reserve(&self) -> BodyReservation<'_> {
        BodyReservation { total: &self.reserved, bytes: 0 }
    }
}

impl BodyReservation<'_> {
    /// It holds so much now, unless there is no room for that.
    pub(super) fn resize(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.saturating_sub(self.bytes);
        if self.total.fetch_add(more, Ordering::Relaxed) + more > MAX_RESERVED && more > 0 {
            self.total.fetch_sub(more, Ordering::Relaxed);
            let detail = "too many bodies are being read at the same time; try again in a moment";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, "1"));
        }
        self.total.fetch_sub(self.bytes.saturating_sub(bytes), Ordering::Relaxed);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for BodyReservation<'_> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body in time, or else the problem that it does not come; nothing for one of more than `max` bytes.
pub(super) async fn read_within(budget: &BodyBudget, mut body: Body, max: usize) -> Result<Option<Bytes>, Problem> {
    // As far as it is announced.
    if body.size_hint().lower() > max as u64 {
        return Ok(None);
    }
    let limit = budget.timeout;
    let reading = async {
        let (mut reservation, mut whole) = (budget.reserve(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|error| broken_off(&error))?.into_data().unwrap_or_default();
            if whole.len() + data.len() > max {
                return Ok(None);
            }
            reservation.resize(whole.len() + data.len())?;
            whole.extend_from_slice(&data);
        }
        Ok(Some(whole.freeze()))
    };
    timeout(limit, reading).await.map_err(|_| timed_out(limit))?
}

/// Reads a small body of JSON, an object of at most 16 KiB, in the time and the memory that bodies of all requests
/// share. `example` shows what one looks like, and is named in the problem if it is none.
///
/// # Errors
///
/// The answer to give: 400 for what is not such an object, 408, 413 or 503 for one that comes too slowly, is too long, or
/// for which there is no room; 500 if the request did not come through a [`Server`](crate::Server).
pub async fn read_json<T: DeserializeOwned>(request: Request, example: &str) -> Result<T, Problem> {
    read_json_up_to(request, MAX_SMALL_BODY, example).await
}

/// The same, for an object of up to `max` bytes.
///
/// # Errors
///
/// As [`read`].
pub async fn read_json_up_to<T: DeserializeOwned>(request: Request, max: usize, example: &str) -> Result<T, Problem> {
    let sent = read_bytes(request, max, example).await?;
    parse_object(&sent).map_err(|error| {
        Problem::bad_request(format_args!("{}; send {example}", describe_json_error(&error)))
            .with(LocationJson::from(&error))
    })
}

/// Reads a body of any bytes, up to `max` of them. `example` says what is to be sent instead of one that is too long.
///
/// # Errors
///
/// As [`read`], but for what is in it.
pub async fn read_bytes(request: Request, max: usize, example: &str) -> Result<Bytes, Problem> {
    let (head, body) = request.into_parts();
    let budget = head.extensions.get::<BodyBudget>().ok_or_else(|| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "bodies are only read by routes that are mounted on a server")
    })?;
    read_within(budget, body, max).await?.ok_or_else(|| {
        let detail = format!("the body is too long; send {example}, {max} bytes at most");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).with(LimitJson { limit: max })
    })
}

/// What is wrong with a body of JSON, whose parts it repeats, but not all of a long one, and with what cannot be seen
/// written as in a Rust string.
pub(super) fn describe_json_error(error: &serde_json::Error) -> String {
    const LONGEST: usize = 100;
    let quotes = |letter: char| matches!(letter, '"' | '\'' | '\\');
    let mut text = String::new();
    for letter in error.to_string().chars() {
        if quotes(letter) { text.push(letter) } else { text.extend(letter.escape_debug()) }
    }
    // What was expected, and where, comes last.
    let cut = || {
        let (begin, _) = text.char_indices().nth(LONGEST)?;
        let (end, _) = text.char_indices().rev().nth(LONGEST)?;
        (begin < end).then(|| format!("{}…{}", &text[..begin], &text[end..]))
    };
    cut().unwrap_or_else(|| text.clone())
}

/// How much there may be, where that was more.
#[derive(Serialize)]
pub(super) struct LimitJson {
    pub(super) limit: usize,
}

/// Where a body is wrong.
#[derive(Serialize)]
pub(super) struct LocationJson {
    line: usize,
    column: usize,
}

impl From<&serde_json::Error> for LocationJson {
    fn from(error: &serde_json::Error) -> Self {
        Self { line: error.line(), column: error.column() }
    }
}

pub(super) fn timed_out(limit: Duration) -> Problem {
    let detail = format!("the body did not arrive within {limit:?}; send it in one go");
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
}

pub(super) fn broken_off(error: &impl fmt::Display) -> Problem {
    Problem::bad_request(format_args!("the body broke off: {error}"))
}

/// Reads a JSON object. Serde would take an array for one, with its fields by their order.
pub(super) fn parse_object<'de, T: Deserialize<'de>>(text: &'de [u8]) -> serde_json::Result<T> {
    serde_json::from_slice(text).map(|Object(object)| object)
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}
