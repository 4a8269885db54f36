//! Responses in JSON. Those to errors are problem details (RFC 9457).

use std::fmt::Display;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value};

/// An error response: `application/problem+json`.
///
/// ```
/// use axum::{http::StatusCode, response::IntoResponse as _};
/// use broadcast_gateway::Problem;
///
/// #[derive(serde::Serialize)]
/// struct Limit {
///     limit: usize,
/// }
///
/// let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too long; send 16 bytes at most").with(Limit { limit: 16 });
/// assert_eq!(problem.into_response().status(), 413);
/// ```
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    more: Box<Map<String, Value>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The body of a problem.
#[derive(Serialize)]
struct ProblemBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(flatten)]
    more: &'a Map<String, Value>,
}

impl Problem {
    /// `detail` says what was wrong, with which value, and what to do.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Display) -> Self {
        Self { status, detail: detail.to_string(), more: Box::default(), headers: Vec::new() }
    }

    /// 400: the request is wrong.
    #[must_use]
    pub fn bad_request(detail: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 503: the node has left its cluster, and its program is about to end.
    #[must_use]
    pub fn stopped() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "this node has left its cluster; ask another one")
    }

    /// Adds fields; a field that is there already gets the new value.
    ///
    /// # Panics
    ///
    /// `fields` is not a struct or a map that JSON can hold.
    #[must_use]
    pub fn with(mut self, fields: impl Serialize) -> Self {
        match serde_json::to_value(fields) {
            Ok(Value::Object(fields)) => self.more.extend(fields),
            other => panic!("the fields of a problem are a struct, and not {other:?}"),
        }
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// The body, in JSON.
    pub(super) fn body(&self) -> String {
        let Self { status, detail, more, .. } = self;
        let title = status.canonical_reason().unwrap_or("Error");
        to_json(&ProblemBody { kind: "about:blank", title, status: status.as_u16(), detail, more })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// A response in JSON.
///
/// ```
/// use axum::http::StatusCode;
///
/// assert_eq!(broadcast_gateway::json_response(StatusCode::OK, &["a", "b"]).status(), 200);
/// ```
///
/// # Panics
///
/// JSON cannot hold `body`, as a map whose keys are no text.
#[must_use]
pub fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    json_text_response(status, to_json(body))
}

/// A response whose body is JSON already, as text.
///
/// ```
/// use axum::http::StatusCode;
///
/// let response = broadcast_gateway::json_text_response(StatusCode::OK, "[]");
/// assert_eq!(response.headers()["content-type"], "application/json");
/// ```
#[must_use]
pub fn json_text_response(status: StatusCode, text: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}

/// JSON, on one line.
pub(super) fn to_json(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("the bodies of answers are structs, lists, text and numbers")
}
