//! The calls in JSON over HTTP/1.1 or HTTP/2, as etcd's gateway has them: `POST /v3/…` or `/v3beta/…`, and what etcd tells at `/version`
//! and `/health`.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::Frame;
use serde_json::{Deserializer, Value, json};
use tokio::time::timeout;

use crate::{
    Etcd, VERSION,
    grpc::{Held, MAX_MESSAGE, Room, SHORT},
    json::{self, Fields},
    messages::RangeRequest,
    status::{Code, Status},
};

/// The longest body, in bytes: the longest message, in base64.
const MAX_BODY: usize = MAX_MESSAGE * 2;
/// How many messages a body may have.
const MAX_MESSAGES: usize = 1000;
/// How long it may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What etcd has, and this does not; and why.
pub(crate) const MISSING: [(&str, &str); 10] = [
    ("/etcdserverpb.Cluster/MemberAdd", ADD),
    ("/etcdserverpb.Cluster/MemberUpdate", "etcdserver: a member tells its addresses itself; restart it with others"),
    ("/etcdserverpb.Cluster/MemberPromote", ADD),
    ("/etcdserverpb.Maintenance/Snapshot", SNAPSHOT),
    ("/etcdserverpb.Maintenance/Downgrade", "etcdserver: there is nothing to downgrade here"),
    ("/etcdserverpb.Auth/AuthEnable", AUTH),
    ("/etcdserverpb.Auth/AuthDisable", AUTH),
    ("/etcdserverpb.Auth/AuthStatus", AUTH),
    ("/etcdserverpb.Auth/{method}", AUTH),
    ("/etcdserverpb.KV/RangeStream", "etcdserver: call Range with a limit, and go on after the last key"),
];
const ADD: &str = "etcdserver: a node is made a voter by its name: broadcast voters add NAME";
const SNAPSHOT: &str =
    "etcdserver: a snapshot of this store has a format of its own: broadcast store snapshot save FILE";
const AUTH: &str = "etcdserver: users and roles are not served here; the node's tokens say who may do what";

/// The status of HTTP that goes with a code.
fn status_of(code: Code) -> StatusCode {
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

/// The messages of a body, one after the other, none if it is empty; and the room that they take, each byte of the body so
/// many.
pub(crate) async fn all<M: Fields>(body: Body, room: &Room, weight: usize) -> Result<(Vec<M>, Vec<Held>), Status> {
    let late = || Status::new(Code::DeadlineExceeded, format!("the body did not come within {PATIENCE:?}"));
    let invalid = |error: &dyn std::fmt::Display| Status::new(Code::InvalidArgument, error.to_string());
    let mut body = Limited::new(body, MAX_BODY);
    let read = async {
        let (mut bytes, mut held) = (Vec::new(), Vec::new());
        let mut room_for = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|error| invalid(&error))?.into_data().unwrap_or_default();
            while bytes.len() + data.len() > room_for {
                held.push(room.take(if room_for == 0 { SHORT } else { room_for }, weight)?);
                room_for += room_for.max(SHORT);
            }
            bytes.extend_from_slice(&data);
        }
        Ok::<_, Status>((bytes, held))
    };
    let (bytes, held) = timeout(PATIENCE, read).await.map_err(|_| late())??;
    let values = Deserializer::from_slice(&bytes).into_iter::<Value>();
    let read = |value: Result<Value, serde_json::Error>| {
        json::read(value.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))
    };
    let messages: Vec<M> = values.take(MAX_MESSAGES + 1).map(read).collect::<Result<_, _>>()?;
    if messages.len() > MAX_MESSAGES {
        let why = format!("the body has more than {MAX_MESSAGES} messages");
        return Err(Status::new(Code::InvalidArgument, why));
    }
    Ok((messages, held))
}

/// The answer to a call that has one.
pub(crate) fn answer<M: Fields>(answered: Result<M, Status>) -> Response {
    let (status, value) = match answered {
        Ok(message) => (StatusCode::OK, json::write(&message)),
        Err(Status { code, message }) => {
            (status_of(code), json!({"error": message, "message": message, "code": code as i32}))
        }
    };
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// The answer to a call that has many: one a line. A failure is the last one.
pub(crate) fn answer_all<M: Fields>(answers: impl Stream<Item = Result<M, Status>> + Send + 'static) -> Response {
    let frames = answers.map(|answer| {
        let value = match answer {
            Ok(message) => json!({"result": json::write(&message)}),
            Err(Status { code, message }) => {
                let status = status_of(code);
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
    ([(header::CONTENT_TYPE, "application/json")], Body::new(StreamBody::new(frames))).into_response()
}

impl Etcd {
    /// `GET /version`
    pub(crate) fn version(&self) -> Response {
        let cluster = format!("{}.0", VERSION.rsplit_once('.').map_or(VERSION, |(minor, _)| minor));
        let told = json!({"etcdserver": VERSION, "etcdcluster": cluster});
        ([(header::CONTENT_TYPE, "application/json")], told.to_string()).into_response()
    }

    /// `GET /health`: whether keys can be read, as etcd tells it. An alarm is no matter to it: whether one is raised, all
    /// voters would have to be asked, and probes do not wait for one that is cut off.
    pub(crate) async fn health(&self) -> Response {
        let range = RangeRequest { key: "health".into(), count_only: true, ..RangeRequest::default() };
        let is_well = timeout(HEALTH, self.range(range)).await.is_ok_and(|answered| answered.is_ok());
        let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let told = json!({"health": is_well.to_string()});
        (status, [(header::CONTENT_TYPE, "application/json")], told.to_string()).into_response()
    }
}

/// How long it may take to find out whether the store is well.
const HEALTH: Duration = Duration::from_secs(5);
