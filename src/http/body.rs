//! What is sent here: bodies, and what is in them.

use std::{fmt, marker::PhantomData, time::Duration};

use axum::{body::Body, http::StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use tokio::time::timeout;

use super::problem::Problem;

/// Reads a body in time, or else the problem that it does not come; and whether it is longer than `max` bytes.
pub(super) async fn whole(body: Body, max: usize, limit: Duration) -> Result<Result<Bytes, LengthLimitError>, Problem> {
    let read = timeout(limit, Limited::new(body, max).collect()).await.map_err(|_| too_slow(limit))?;
    match read {
        Ok(body) => Ok(Ok(body.to_bytes())),
        Err(error) => error.downcast::<LengthLimitError>().map(|error| Err(*error)).map_err(|error| broken(&error)),
    }
}

pub(super) fn too_slow(limit: Duration) -> Problem {
    let detail = format!("the body did not come within {limit:?}; send it at once");
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
