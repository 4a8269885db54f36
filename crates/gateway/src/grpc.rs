//! What all gRPC over HTTP/2 has in common: how to tell a call, and how to respond.
//!
//! ```
//! use broadcast_gateway::grpc::trailers;
//!
//! assert_eq!(trailers(5, "no such key")["grpc-message"], "no such key");
//! ```

use std::convert::Infallible;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;

/// The length of the prefix of a message: whether it is compressed, and how long it is.
pub const PREFIX: usize = 5;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Whether these headers are those of a call, with messages of protocol buffers.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}

/// The response to a call. Its body ends with [`trailers`].
#[must_use]
pub fn respond(body: Body) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/grpc"), (ACCEPT_ENCODING, "identity")];
    (headers, body).into_response()
}

/// The response to a unary call: its one message, encoded; or why there is none, gRPC's code and a text.
#[must_use]
pub fn unary_response<T: AsRef<str>>(result: Result<Bytes, (u16, T)>) -> Response {
    let frames = match result {
        Ok(message) => vec![Frame::data(message), Frame::trailers(trailers(0, ""))],
        Err((code, message)) => vec![Frame::trailers(trailers(code, message.as_ref()))],
    };
    respond(Body::new(StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Infallible>)))))
}

/// The trailers of a call: gRPC's code, 0 for success, and a text, unless it is empty.
#[must_use]
pub fn trailers(code: u16, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from(code))]);
    if !message.is_empty()
        && let Ok(message) = HeaderValue::from_str(&encoded(message))
    {
        trailers.insert(MESSAGE, message);
    }
    trailers
}

/// A text for trailers: % and two digits stand for each byte that is not visible ASCII, and for % itself.
fn encoded(message: &str) -> String {
    let mut encoded = String::new();
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_carried_as_visible_ascii() {
        assert_eq!(encoded("no \"ü\"\n 100%"), "no \"%C3%BC\"%0A 100%25");
        assert_eq!(trailers(5, "ü")[MESSAGE], "%C3%BC");
        assert_eq!((trailers(0, "").len(), &trailers(0, "")[STATUS]), (1, &HeaderValue::from_static("0")));
    }

    #[test]
    fn what_is_of_grpc_says_so() {
        let is = |value: &'static str| {
            is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(["application/grpc", "Application/gRPC+proto", "application/grpc ; a=b"].into_iter().all(is));
        let others = ["", "application/grpc-web", "application/grpc+json", "application/json", "text/application/grpc"];
        assert!(!others.into_iter().any(is) && !is_grpc(&HeaderMap::new()));
    }
}
