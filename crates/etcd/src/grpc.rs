//! gRPC over HTTP/2: how messages are framed, and how a call ends.
//!
//! The HTTP server speaks HTTP/2, with its limits, whoever calls; what is left of gRPC is five bytes before each message,
//! and a status behind the last one.
//!
//! # What can go wrong
//!
//! - *A message that is long*: one of more than [`MAX_MESSAGE`] bytes is refused before it is read.
//! - *Many long messages at once*: all that are being read and carried out may take [`MAX_HELD`] bytes; what would be more is
//!   refused. What fits in a window does not count: the HTTP server bounds that.
//! - *A message that does not end*: each has [`PATIENCE`] to come, from its first byte on; one that a call must have, from
//!   the beginning.
//! - *Clients that compress*: they are told that nobody here can read that, as the protocol has it.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, Version, request::Parts},
    response::{IntoResponse as _, Response},
};
use broadcast_gateway::grpc::{PREFIX, is_grpc, respond};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use prost::{DecodeError, Message};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::status::{Code, Status, TOO_MANY_REQUESTS};

/// The longest message that is read, in bytes: etcd's limit for requests, and as much around it as etcd allows.
pub(crate) const MAX_MESSAGE: usize = (3 << 19) + (512 << 10);
/// What all messages together may take, in bytes, that are longer than [`SHORT`].
const MAX_HELD: usize = 64 << 20;
/// What a message may take without being counted, in bytes.
pub(crate) const SHORT: usize = 16 << 10;
/// In what pieces room is counted, in bytes.
const UNIT: usize = 1 << 10;
/// How long a message may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is no call of gRPC is answered as HTTP.
pub(crate) fn refusal(parts: &Parts) -> Option<Response> {
    if parts.version != Version::HTTP_2 {
        let detail = "gRPC needs HTTP/2; over HTTP/1.1, there are the paths that begin with /v3/\n";
        Some((StatusCode::HTTP_VERSION_NOT_SUPPORTED, detail).into_response())
    } else if !is_grpc(&parts.headers) {
        let detail = "this is called by gRPC, with the content-type application/grpc\n";
        Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).into_response())
    } else {
        None
    }
}

/// Room for messages, shared by all calls.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Semaphore>);

/// Room that something takes, as long as this is kept.
#[derive(Debug, Default)]
pub(crate) struct Held {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_HELD / UNIT)))
    }
}

impl Room {
    /// Room for something of this length, of which each byte takes so many, if there is any.
    pub(crate) fn take(&self, length: usize, weight: usize) -> Result<Held, Status> {
        if length <= SHORT {
            return Ok(Held::default());
        }
        let units = u32::try_from((length * weight).div_ceil(UNIT)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).try_acquire_many_owned(units);
        permit.map(|permit| Held { _permit: Some(permit) }).map_err(|_| TOO_MANY_REQUESTS)
    }
}

/// Messages as a client sends them.
pub(crate) struct Messages {
    body: Body,
    come: BytesMut,
    room: Room,
    /// For the message that is being read, or was read last.
    held: Option<Held>,
    /// How many bytes of room each of its bytes takes.
    weight: usize,
}

impl Messages {
    pub(crate) fn new(body: Body, room: Room, weight: usize) -> Self {
        Self { body, come: BytesMut::new(), room, held: None, weight }
    }

    /// The message that was read last takes no room any more.
    pub(crate) fn is_dealt_with(&mut self) {
        self.held = None;
    }

    /// The next one; nothing at the end. It is waited for as long as the client likes. Nothing is lost when this is given
    /// up.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        // The one before has been dealt with.
        self.held = None;
        if self.come.is_empty() && !self.more().await? {
            return Ok(None);
        }
        timeout(PATIENCE, self.whole()).await.map_err(|_| late())?.map(Some)
    }

    /// The only one, and the room that it takes.
    pub(crate) async fn one<M: Message + Default>(mut self) -> Result<(M, Held), Status> {
        let message = timeout(PATIENCE, self.whole()).await.map_err(|_| late())??;
        Ok((message, self.held.unwrap_or_default()))
    }

    async fn whole<M: Message + Default>(&mut self) -> Result<M, Status> {
        loop {
            if let Some((&[compressed, a, b, c, d], rest)) = self.come.split_first_chunk::<PREFIX>() {
                if compressed != 0 {
                    let why = "grpc: a compressed message cannot be read here; send it plainly";
                    return Err(Status::of(Code::Unimplemented, why));
                }
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > MAX_MESSAGE {
                    let why = format!("grpc: received message larger than max ({length} vs. {MAX_MESSAGE})");
                    return Err(Status::new(Code::ResourceExhausted, why));
                }
                let come = rest.len();
                if self.held.is_none() {
                    self.held = Some(self.room.take(length, self.weight)?);
                }
                if come >= length {
                    self.come.advance(PREFIX);
                    let message = self.come.split_to(length).freeze();
                    // What is left is not to keep the memory of what was read.
                    if self.come.is_empty() {
                        self.come = BytesMut::new();
                    }
                    return M::decode(message).map_err(|error| unreadable(&error));
                }
            }
            if !self.more().await? {
                return Err(Status::of(Code::Internal, "grpc: the request ends within a message"));
            }
        }
    }

    /// Takes what comes; whether there is any more.
    async fn more(&mut self) -> Result<bool, Status> {
        let broken = |error| Status::new(Code::Internal, format!("grpc: the request broke off: {error}"));
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data()
                && !data.is_empty()
            {
                self.come.extend_from_slice(&data);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn late() -> Status {
    Status::new(Code::DeadlineExceeded, format!("grpc: the message did not come within {PATIENCE:?}"))
}

/// The answer to a call that has one.
pub(crate) fn answer<M: Message>(answered: Result<M, Status>) -> Response {
    let (message, trailers) = match answered {
        Ok(message) => (Some(framed(&message)), trailers(None)),
        Err(status) => (None, trailers(Some(&status))),
    };
    let frames = message.map(Frame::data).into_iter().chain([Frame::trailers(trailers)]);
    respond(Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>).collect::<Vec<_>>()))))
}

/// The answer to a call that has many; a failure is the last one.
pub(crate) fn answer_all<M: Message>(answers: impl Stream<Item = Result<M, Status>> + Send + 'static) -> Response {
    let frames = answers.map(|answer| match answer {
        Ok(message) => Frame::data(framed(&message)),
        Err(status) => Frame::trailers(trailers(Some(&status))),
    });
    // What comes after trailers is not read any more.
    let frames = frames.chain(stream::iter([Frame::trailers(trailers(None))]));
    respond(Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>))))
}

/// What is wrong is said last, after each of the fields that it is within.
fn unreadable(error: &DecodeError) -> Status {
    const MOST: usize = 200;
    let text = error.to_string();
    let from = text.char_indices().rev().take(MOST).last().map_or(0, |(at, _)| at);
    Status::new(Code::Internal, format!("grpc: failed to unmarshal: {}", &text[from..]))
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.extend_from_slice(&[0]);
    bytes.extend_from_slice(&u32::try_from(length).expect("no message has 4 GiB").to_be_bytes());
    message.encode(&mut bytes).expect("there is room for it");
    bytes.freeze()
}

fn trailers(status: Option<&Status>) -> HeaderMap {
    let (code, message) = status.map_or((0, ""), |status| (status.code as u16, &*status.message));
    broadcast_gateway::grpc::trailers(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{LeaseKeepAliveRequest, PutRequest};

    fn sent(pieces: Vec<Vec<u8>>) -> Messages {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        Messages::new(Body::new(StreamBody::new(stream::iter(frames))), Room::default(), 1)
    }

    #[tokio::test]
    async fn messages_come_whole_however_they_are_cut() {
        let messages = [7, 0, 1 << 40].map(|id| LeaseKeepAliveRequest { ID: id });
        let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(message).to_vec()).collect();
        for length in 1..=bytes.len() {
            let mut sent = sent(bytes.chunks(length).map(<[u8]>::to_vec).collect());
            for message in &messages {
                assert_eq!(sent.next().await, Ok(Some(message.clone())), "in pieces of {length}");
            }
            assert_eq!(sent.next::<LeaseKeepAliveRequest>().await, Ok(None));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_message_is_refused() {
        for (bytes, code) in [
            (&b""[..], Code::Internal),
            (b"\0\0\0\0", Code::Internal),
            (b"\0\0\0\0\x02a", Code::Internal),
            (b"\0\0\0\0\x01\xff", Code::Internal),
            (b"\x01\0\0\0\0", Code::Unimplemented),
            (b"\0\0\x20\0\x01", Code::ResourceExhausted),
        ] {
            let refused = sent(vec![bytes.to_vec()]).one::<PutRequest>().await.expect_err("it is none");
            assert_eq!(refused.code, code, "{bytes:?}");
        }
        let frames = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0")))]);
        let mut late = Messages::new(Body::new(StreamBody::new(frames.chain(stream::pending()))), Room::default(), 1);
        assert_eq!(late.next::<PutRequest>().await.expect_err("the rest does not come").code, Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_long_messages_only() {
        let room = Room::default();
        let long = PutRequest { value: vec![0; 1 << 20].into(), ..PutRequest::default() };
        let read = async || {
            let frame = stream::iter([Ok::<_, Infallible>(Frame::data(framed(&long)))]);
            Messages::new(Body::new(StreamBody::new(frame)), room.clone(), 1).one::<PutRequest>().await
        };
        let mut held = Vec::new();
        for _ in 0..63 {
            held.push(read().await.expect("there is room"));
        }
        assert_eq!(read().await.expect_err("there is none"), TOO_MANY_REQUESTS);
        held.pop();
        read().await.expect("there is room again");
        drop(room.take(SHORT, 100).expect("what is short takes none"));
        room.take(2 << 20, 16).expect_err("it weighs more");
    }

    #[test]
    fn a_status_is_carried_in_trailers() {
        let status = Status::of(Code::NotFound, "ü");
        let told = trailers(Some(&status));
        assert_eq!((told["grpc-status"].as_bytes(), told["grpc-message"].as_bytes()), (&b"5"[..], &b"%C3%BC"[..]));
        assert_eq!((trailers(None).len(), trailers(None)["grpc-status"].as_bytes()), (1, &b"0"[..]));
    }
}
