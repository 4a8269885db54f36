//! Reading bodies, and JSON in them.

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

/// The longest body that [`read_json`] takes, in bytes.
const MAX_SMALL_BODY: usize = 16 << 10;
/// What all bodies that are being read may take together, in bytes.
pub(crate) const MAX_RESERVED: usize = 64 << 20;

/// The memory that bodies may take together, and the timeout of each. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct BodyBudget {
    /// What all bodies that are being read take now, in bytes.
    reserved: Arc<AtomicUsize>,
    pub(super) timeout: Duration,
}

/// The part of the budget that one body takes, until this is dropped.
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
    /// Takes this many bytes now, or refuses if the budget has no room for more.
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

/// Reads a body before its timeout; `None` if it has more than `max` bytes.
pub(super) async fn read_within(budget: &BodyBudget, mut body: Body, max: usize) -> Result<Option<Bytes>, Problem> {
    // A content-length tells the length before anything is read.
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

/// Reads a small body of JSON: an object of at most 16 KiB. `example` shows what to send; a problem repeats it.
///
/// ```
/// use axum::{extract::Request, http::StatusCode, response::Response};
/// use broadcast_gateway::{Problem, json_response, read_json};
///
/// #[derive(serde::Deserialize, serde::Serialize)]
/// struct Level {
///     level: u8,
/// }
///
/// async fn set_level(request: Request) -> Result<Response, Problem> {
///     let level: Level = read_json(request, r#"{"level": 3}"#).await?;
///     Ok(json_response(StatusCode::OK, &level))
/// }
/// ```
///
/// # Errors
///
/// The response to give: 400 for what is not such an object, 408, 413 or 503 for a body that comes too slowly, is too long, or
/// for which there is no memory; 500 if the request did not come through a [`Server`](crate::Server).
pub async fn read_json<T: DeserializeOwned>(request: Request, example: &str) -> Result<T, Problem> {
    read_json_up_to(request, MAX_SMALL_BODY, example).await
}

/// As [`read_json`], for an object of up to `max` bytes.
///
/// # Errors
///
/// As [`read_json`].
pub async fn read_json_up_to<T: DeserializeOwned>(request: Request, max: usize, example: &str) -> Result<T, Problem> {
    let sent = read_bytes(request, max, example).await?;
    parse_object(&sent).map_err(|error| {
        Problem::bad_request(format_args!("{}; send {example}", describe_json_error(&error)))
            .with(LocationJson::from(&error))
    })
}

/// Reads a body of any bytes, up to `max` of them. `example` says what to send instead of one that is too long.
///
/// # Errors
///
/// As [`read_json`], but for what is in the body.
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

/// What is wrong with a body of JSON. It repeats parts of the body, but not all of a long one; invisible characters are
/// escaped.
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

/// A limit that was exceeded.
#[derive(Serialize)]
pub(super) struct LimitJson {
    pub(super) limit: usize,
}

/// Where in a body the error is.
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

/// Reads a JSON object. Serde alone would take an array for an object, by the order of its fields.
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
