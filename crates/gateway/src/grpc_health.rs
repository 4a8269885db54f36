//! gRPC's health check, `grpc.health.v1.Health`, for orchestrators and load balancers.
//!
//! `Check` of the service `""` tells what `/readyz` tells, and of `live` what `/livez` tells. It needs no token, and is
//! answered as soon. `Watch` and `List` are not served: a caller without a token must not keep a connection.
//!
//! The status of a call is in the trailers. What is refused before that (by [`guard`](super::guard), for the limit of
//! connections, or because it is not gRPC) has a response of HTTP: gRPC's clients have a status for each of those.
//!
//! # What can go wrong
//!
//! - *A message that is long, or does not end*: it may have [`MAX_MESSAGE`] bytes, and has the timeout of a head
//!   ([`Timeouts`](super::Timeouts)).
//! - *Clients that compress*: they are told to send it plainly, by the status that the protocol has for that.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{StatusCode, Version},
    response::{IntoResponse as _, Response},
};
use broadcast::config::quote;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

use super::{
    app::App,
    cluster,
    grpc::{PREFIX, is_grpc, unary_response},
    problem::Problem,
};

/// The path of all methods of the service.
pub(super) const METHODS: &str = "/grpc.health.v1.Health/{method}";
/// The path of the method that is served.
pub(super) const CHECK: &str = "/grpc.health.v1.Health/Check";

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 1024;

/// `HealthCheckResponse.ServingStatus` of a service that is well.
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

/// Why a call failed. The numbers are gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    DeadlineExceeded = 4,
    NotFound = 5,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

/// A failed call: its code, and why.
#[derive(Debug, PartialEq, Eq)]
struct Failed(Code, String);

/// `POST /grpc.health.v1.Health/Check`, and the methods that are not served.
pub(super) async fn call(State(app): State<Arc<App>>, request: Request) -> Response {
    if request.version() != Version::HTTP_2 {
        let detail = "gRPC needs HTTP/2; over HTTP/1.1, GET /readyz and /livez tell the same";
        return Problem::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, detail).into_response();
    }
    if !is_grpc(request.headers()) {
        let detail =
            "this is called by gRPC, with the content-type application/grpc; GET /readyz and /livez tell the same";
        return Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).into_response();
    }
    // Field 1, a varint.
    let status = check(&app, request).await.map(|status| framed(&[0x08, status]));
    unary_response(status.map_err(|Failed(code, why)| (code as u16, why)))
}

/// The status of the service that the request names.
async fn check(app: &App, request: Request) -> Result<u8, Failed> {
    let path = request.uri().path();
    if path != CHECK {
        let why = format!("only {CHECK} is served; call it again whenever you want to know");
        return Err(Failed(Code::Unimplemented, why));
    }
    let limit = app.config.timeouts.head;
    let sent = timeout(limit, Limited::new(request.into_body(), PREFIX + MAX_MESSAGE).collect()).await;
    let sent = sent.map_err(|_| {
        let why = format!("the request did not arrive within {limit:?}; send it in one go");
        Failed(Code::DeadlineExceeded, why)
    })?;
    let sent = sent.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let why = format!("the request is longer than {MAX_MESSAGE} bytes; name a service that there is");
            Failed(Code::ResourceExhausted, why)
        } else {
            Failed(Code::Internal, format!("the request broke off: {error}"))
        }
    })?;
    let health = match &*service(message(&sent.to_bytes())?)? {
        "" => cluster::readiness(app).await,
        "live" => cluster::liveness(app).await,
        other => {
            let why = format!("there is no service {}; ask for \"\" (ready) or \"live\"", quote(other));
            return Err(Failed(Code::NotFound, why));
        }
    };
    Ok(if health.is_well { SERVING } else { NOT_SERVING })
}

/// The one message of a request.
fn message(sent: &[u8]) -> Result<&[u8], Failed> {
    let not_one =
        || Failed(Code::Internal, "this is not one whole message of gRPC; send one HealthCheckRequest".into());
    let (&[compressed, a, b, c, d], message) = sent.split_first_chunk::<PREFIX>().ok_or_else(not_one)?;
    if compressed != 0 {
        return Err(Failed(Code::Unimplemented, "a compressed message cannot be read here; send it plainly".into()));
    }
    let length = u32::from_be_bytes([a, b, c, d]);
    if message.len() as u64 == u64::from(length) { Ok(message) } else { Err(not_one()) }
}

/// The service that a `HealthCheckRequest` names.
fn service(message: &[u8]) -> Result<String, Failed> {
    let name = first_field(message).and_then(|name| String::from_utf8(name.to_vec()).ok());
    name.ok_or_else(|| Failed(Code::Internal, "this is no HealthCheckRequest, in which field 1 is a text".into()))
}

/// Field 1 of a message of protocol buffers, empty if it is missing; `None` if this is no message. Ignores other fields.
fn first_field(mut message: &[u8]) -> Option<&[u8]> {
    let mut first: &[u8] = &[];
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let (field, kind) = (key >> 3, key & 7);
        let length = match kind {
            0 => varint(&mut message).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, rest) = message.split_at_checked(length)?;
        match field {
            0 => return None,
            1 if kind == 2 => first = content,
            _ => {}
        }
        message = rest;
    }
    Some(first)
}

/// Takes a varint from the front: seven bits in each byte, the lowest first, ten bytes at most.
fn varint(from: &mut &[u8]) -> Option<u64> {
    let length = from.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let (bytes, rest) = from.split_at(length);
    *from = rest;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)))
}

fn framed(message: &[u8; 2]) -> Bytes {
    let [a, b] = *message;
    Bytes::copy_from_slice(&[0, 0, 0, 0, 2, a, b])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_is_field_1_whatever_else_there_is() {
        for (message, name) in [
            (&b""[..], ""),
            (b"\x0a\x00", ""),
            (b"\x0a\x04live", "live"),
            // The last one counts; others are passed over: a number, eight bytes, four, some, and field 1 as a number.
            (b"\x0a\x01a\x0a\x04live", "live"),
            (b"\x10\xff\x01\x19abcdefgh\x25abcd\x2a\x02ab\x08\x07\x0a\x04live", "live"),
        ] {
            assert_eq!(service(message).as_deref(), Ok(name), "{message:?}");
        }
        for message in [
            &b"\x0a"[..],
            b"\x0a\x05live",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0a\x02\xff\xfe",
            b"\x00\x01",
            b"\x0b\x0c",
            b"\x19abc",
            b"\x80",
            b"live",
        ] {
            assert!(matches!(service(message), Err(Failed(Code::Internal, _))), "{message:?}");
        }
    }

    #[test]
    fn one_whole_message_is_sent_and_not_compressed() {
        assert_eq!(message(b"\0\0\0\0\x02ab"), Ok(&b"ab"[..]));
        for sent in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x03ab", b"\0\0\0\0\x01ab", b"\0\xff\xff\xff\xffab"] {
            assert!(matches!(message(sent), Err(Failed(Code::Internal, _))), "{sent:?}");
        }
        assert!(matches!(message(b"\x01\0\0\0\x02ab"), Err(Failed(Code::Unimplemented, _))));
    }
}
