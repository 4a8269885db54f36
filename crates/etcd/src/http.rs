//! The calls in JSON, over HTTP/1.1 or HTTP/2, as etcd's gateway has them: `POST /v3/…` or `/v3beta/…`. Also `/version` and
//! `/health`.

use std::{convert::Infallible, time::Duration};

use axum::{body::Body, http::StatusCode, response::Response};
use broadcast_gateway::{json_response, json_text_response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::Frame;
use serde_json::{Deserializer, Value, json};
use tokio::time::timeout;

use crate::{
    Etcd, VERSION,
    grpc::{MAX_MESSAGE, MemoryBudget, Reservation, SMALL_MESSAGE},
    json::{self, JsonMessage},
    messages::RangeRequest,
    status::{Code, Status},
};

/// The longest body, in bytes: the longest message, in base64.
const MAX_BODY: usize = MAX_MESSAGE * 2;
/// How many messages a body may have: a stream's are in one body.
const MAX_MESSAGES: usize = 1000;
/// How long a body may take to come.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The status of HTTP for a code of gRPC, as grpc-gateway has it.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition => StatusCode::PRECONDITION_FAILED,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Internal | Code::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        Code::ResourceExhausted | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Reads the messages of a body, one after the other; none if it is empty. Also gives the memory that is reserved for them:
/// `weight` bytes for each byte of the body.
pub(crate) async fn read_messages<M: JsonMessage>(
    body: Body,
    budget: &MemoryBudget,
    weight: usize,
) -> Result<(Vec<M>, Vec<Reservation>), Status> {
    let timed_out = || Status::new(Code::DeadlineExceeded, format!("the body did not come within {READ_TIMEOUT:?}"));
    let invalid = |error: &dyn std::fmt::Display| Status::new(Code::InvalidArgument, error.to_string());
    let mut body = Limited::new(body, MAX_BODY);
    let read = async {
        let (mut bytes, mut reserved_parts) = (Vec::new(), Vec::new());
        let mut reserved = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|error| invalid(&error))?.into_data().unwrap_or_default();
            while bytes.len() + data.len() > reserved {
                reserved_parts.push(budget.reserve(if reserved == 0 { SMALL_MESSAGE } else { reserved }, weight)?);
                reserved += reserved.max(SMALL_MESSAGE);
            }
            bytes.extend_from_slice(&data);
        }
        Ok::<_, Status>((bytes, reserved_parts))
    };
    let (bytes, reserved_parts) = timeout(READ_TIMEOUT, read).await.map_err(|_| timed_out())??;
    let values = Deserializer::from_slice(&bytes).into_iter::<Value>();
    let read = |value: Result<Value, serde_json::Error>| {
        json::read(value.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))
    };
    let messages: Vec<M> = values.take(MAX_MESSAGES + 1).map(read).collect::<Result<_, _>>()?;
    if messages.len() > MAX_MESSAGES {
        let why = format!("the body has more than {MAX_MESSAGES} messages");
        return Err(Status::new(Code::InvalidArgument, why));
    }
    Ok((messages, reserved_parts))
}

/// The response to a unary call.
pub(crate) fn unary_response<M: JsonMessage>(result: Result<M, Status>) -> Response {
    let (status, value) = match result {
        Ok(message) => (StatusCode::OK, json::write(&message)),
        Err(Status { code, message }) => {
            (http_status(code), json!({"error": message, "message": message, "code": code as i32}))
        }
    };
    json_text_response(status, value.to_string())
}

/// The response to a streaming call: one message a line. An error is the last line.
pub(crate) fn streaming_response<M: JsonMessage>(
    responses: impl Stream<Item = Result<M, Status>> + Send + 'static,
) -> Response {
    let frames = responses.map(|response| {
        let value = match response {
            Ok(message) => json!({"result": json::write(&message)}),
            Err(Status { code, message }) => {
                let status = http_status(code);
                json!({"error": {
                    "grpc_code": code as i32,
                    "http_code": status.as_u16(),
                    "message": message,
                    "http_status": status.canonical_reason().unwrap_or_default(),
                }})
            }
        };
        Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{value}\n"))))
    });
    json_text_response(StatusCode::OK, Body::new(StreamBody::new(frames)))
}

impl Etcd {
    /// `GET /version`
    pub(crate) fn version(&self) -> Response {
        let cluster = format!("{}.0", VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor));
        let told = json!({"etcdserver": VERSION, "etcdcluster": cluster});
        json_response(StatusCode::OK, &told)
    }

    /// `GET /health`: whether keys can be read. It does not tell of alarms, as etcd does: for that, all voters would have to
    /// be asked, and a probe does not wait for one that is cut off.
    pub(crate) async fn health(&self) -> Response {
        let range = RangeRequest { key: "health".into(), count_only: true, ..RangeRequest::default() };
        let is_well = timeout(HEALTH_TIMEOUT, self.range(range)).await.is_ok_and(|result| result.is_ok());
        let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let told = json!({"health": is_well.to_string()});
        json_response(status, &told)
    }
}

/// How long a health check waits for the store.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);
