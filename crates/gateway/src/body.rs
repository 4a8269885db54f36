//! What is sent here: bodies, and what is in them.

use std::{
    fmt,
    marker::PhantomData,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody as _},
    http::{StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use tokio::time::timeout;

use super::{App, problem::Problem};

/// What all bodies that are being read may hold together, in bytes.
pub(crate) const MAX_HELD: usize = 64 << 20;

/// How much all bodies hold that are being read.
#[derive(Debug, Default)]
pub(super) struct Bodies(AtomicUsize);

/// What one of them holds; given back when it is dropped.
pub(super) struct Held<'a> {
    all: &'a Bodies,
    bytes: usize,
}

impl Bodies {
    pub(super) fn hold(&self) -> Held<'_> {
        Held { all: self, bytes: 0 }
    }
}

impl Held<'_> {
    /// It holds so much now, unless there is no room for that.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.saturating_sub(self.bytes);
        if self.all.0.fetch_add(more, Ordering::Relaxed) + more > MAX_HELD && more > 0 {
            self.all.0.fetch_sub(more, Ordering::Relaxed);
            let detail = "too many bodies are being read at the same time; try again in a moment";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).header(header::RETRY_AFTER, "1"));
        }
        self.all.0.fetch_sub(self.bytes.saturating_sub(bytes), Ordering::Relaxed);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Reads a body in time, or else the problem that it does not come; nothing for one of more than `max` bytes.
pub(super) async fn whole(app: &App, mut body: Body, max: usize) -> Result<Option<Bytes>, Problem> {
    // As far as it is announced.
    if body.size_hint().lower() > max as u64 {
        return Ok(None);
    }
    let limit = app.config.times.body;
    let reading = async {
        let (mut held, mut whole) = (app.bodies.hold(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|error| broken(&error))?.into_data().unwrap_or_default();
            if whole.len() + data.len() > max {
                return Ok(None);
            }
            held.set(whole.len() + data.len())?;
            whole.extend_from_slice(&data);
        }
        Ok(Some(whole.freeze()))
    };
    timeout(limit, reading).await.map_err(|_| too_slow(limit))?
}

pub(super) fn too_slow(limit: Duration) -> Problem {
    let detail = format!("the body did not arrive within {limit:?}; send it in one go");
    Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
}

pub(super) fn broken(error: &impl fmt::Display) -> Problem {
    Problem::bad_request(format_args!("the body broke off: {error}"))
}

/// Reads a JSON object. Serde would take an array for one, with its fields by their order.
pub(super) fn object<'de, T: Deserialize<'de>>(text: &'de [u8]) -> serde_json::Result<T> {
    serde_json::from_slice(text).map(|Object(object)| object)
}

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}
