//! gRPC over HTTP/2: reading messages and writing responses.
//!
//! The gateway speaks HTTP/2 already. What gRPC adds is a prefix of five bytes before each message, and a status in trailers
//! behind the last one (*gRPC over HTTP2*, in gRPC's repository).
//!
//! # What can go wrong
//!
//! - *A long message*: one of more than [`MAX_MESSAGE`] bytes is refused before it is read.
//! - *Many long messages at once*: all that are being read or carried out may take [`MAX_RESERVED`] bytes together; a message
//!   beyond that is refused. Messages up to [`SMALL_MESSAGE`] do not count: HTTP/2's windows bound them.
//! - *A message that does not end*: it has [`READ_TIMEOUT`], from its first byte on. The only message of a call has that from
//!   the call's beginning.
//! - *Clients that compress*: they are told to send it plainly, by the status that the protocol has for that.

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

/// The longest message, in bytes: etcd's limit for a request, and what etcd allows around it.
pub(crate) const MAX_MESSAGE: usize = (3 << 19) + (512 << 10);
/// What all messages longer than [`SMALL_MESSAGE`] may take together, in bytes.
const MAX_RESERVED: usize = 64 << 20;
/// Messages up to this length are not counted, in bytes.
pub(crate) const SMALL_MESSAGE: usize = 16 << 10;
/// The unit of the memory budget, in bytes: a semaphore has no more permits than 32 bits can count.
const BYTES_PER_PERMIT: usize = 1 << 10;
/// How long a message may take to come.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The response to a request that is not gRPC, as plain HTTP; nothing if it is gRPC.
pub(crate) fn reject_other_http(parts: &Parts) -> Option<Response> {
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

/// The memory that messages may take, shared by all calls.
#[derive(Clone, Debug)]
pub(crate) struct MemoryBudget(Arc<Semaphore>);

/// A part of the [`MemoryBudget`], taken as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_RESERVED / BYTES_PER_PERMIT)))
    }
}

impl MemoryBudget {
    /// Reserves memory for a message of this length, of which each byte takes `weight` bytes.
    pub(crate) fn reserve(&self, length: usize, weight: usize) -> Result<Reservation, Status> {
        if length <= SMALL_MESSAGE {
            return Ok(Reservation::default());
        }
        let units = u32::try_from((length * weight).div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).try_acquire_many_owned(units);
        permit.map(|permit| Reservation { _permit: Some(permit) }).map_err(|_| TOO_MANY_REQUESTS)
    }
}

/// Reads the messages of a call, one after the other.
pub(crate) struct MessageReader {
    body: Body,
    received: BytesMut,
    budget: MemoryBudget,
    /// That of the message that is being read, or was read last.
    reservation: Option<Reservation>,
    /// How many bytes of memory each byte of a message takes.
    weight: usize,
}

impl MessageReader {
    pub(crate) fn new(body: Body, budget: MemoryBudget, weight: usize) -> Self {
        Self { body, received: BytesMut::new(), budget, reservation: None, weight }
    }

    /// Gives back the memory of the message that was read last.
    pub(crate) fn release(&mut self) {
        self.reservation = None;
    }

    /// The next message; nothing at the end. Waits as long as the client takes to begin one. Cancel-safe.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        // Whoever asks for the next has dealt with the one before.
        self.reservation = None;
        if self.received.is_empty() && !self.receive().await? {
            return Ok(None);
        }
        timeout(READ_TIMEOUT, self.read_whole()).await.map_err(|_| timed_out())?.map(Some)
    }

    /// The only message of a call, and its reservation.
    pub(crate) async fn read_one<M: Message + Default>(mut self) -> Result<(M, Reservation), Status> {
        let message = timeout(READ_TIMEOUT, self.read_whole()).await.map_err(|_| timed_out())??;
        Ok((message, self.reservation.unwrap_or_default()))
    }

    async fn read_whole<M: Message + Default>(&mut self) -> Result<M, Status> {
        loop {
            if let Some((&[compressed, a, b, c, d], rest)) = self.received.split_first_chunk::<PREFIX>() {
                if compressed != 0 {
                    let why = "grpc: a compressed message cannot be read here; send it plainly";
                    return Err(Status::of(Code::Unimplemented, why));
                }
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > MAX_MESSAGE {
                    let why = format!("grpc: received message larger than max ({length} vs. {MAX_MESSAGE})");
                    return Err(Status::new(Code::ResourceExhausted, why));
                }
                let available = rest.len();
                if self.reservation.is_none() {
                    self.reservation = Some(self.budget.reserve(length, self.weight)?);
                }
                if available >= length {
                    self.received.advance(PREFIX);
                    let message = self.received.split_to(length).freeze();
                    // An empty buffer would keep the memory of the message that was read.
                    if self.received.is_empty() {
                        self.received = BytesMut::new();
                    }
                    return M::decode(message).map_err(|error| decode_error(&error));
                }
            }
            if !self.receive().await? {
                return Err(Status::of(Code::Internal, "grpc: the request ends within a message"));
            }
        }
    }

    /// Waits for more bytes; `false` at the end of the body.
    async fn receive(&mut self) -> Result<bool, Status> {
        let broken = |error| Status::new(Code::Internal, format!("grpc: the request broke off: {error}"));
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(broken)?.into_data()
                && !data.is_empty()
            {
                self.received.extend_from_slice(&data);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn timed_out() -> Status {
    Status::new(Code::DeadlineExceeded, format!("grpc: the message did not come within {READ_TIMEOUT:?}"))
}

/// The response to a unary call.
pub(crate) fn unary_response<M: Message>(result: Result<M, Status>) -> Response {
    let message = result.map(|message| frame_message(&message));
    broadcast_gateway::grpc::unary_response(message.map_err(|status| (status.code as u16, status.message)))
}

/// The response to a streaming call. An error ends the stream.
pub(crate) fn streaming_response<M: Message>(
    responses: impl Stream<Item = Result<M, Status>> + Send + 'static,
) -> Response {
    let frames = responses.map(|response| match response {
        Ok(message) => Frame::data(frame_message(&message)),
        Err(status) => Frame::trailers(trailers(Some(&status))),
    });
    // After an error these trailers are one frame too many, which the server does not read.
    let frames = frames.chain(stream::iter([Frame::trailers(trailers(None))]));
    respond(Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>))))
}

/// Of a long error the end is told: it begins with the path of fields, and says at its end what is wrong.
fn decode_error(error: &DecodeError) -> Status {
    const MOST: usize = 200;
    let text = error.to_string();
    let from = text.char_indices().rev().take(MOST).last().map_or(0, |(at, _)| at);
    Status::new(Code::Internal, format!("grpc: failed to unmarshal: {}", &text[from..]))
}

fn frame_message(message: &impl Message) -> Bytes {
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

    fn sent(pieces: Vec<Vec<u8>>) -> MessageReader {
        let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        MessageReader::new(Body::new(StreamBody::new(stream::iter(frames))), MemoryBudget::default(), 1)
    }

    #[tokio::test]
    async fn messages_come_whole_however_they_are_cut() {
        let messages = [7, 0, 1 << 40].map(|id| LeaseKeepAliveRequest { ID: id });
        let bytes: Vec<u8> = messages.iter().flat_map(|message| frame_message(message).to_vec()).collect();
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
            let refused = sent(vec![bytes.to_vec()]).read_one::<PutRequest>().await.expect_err("it is none");
            assert_eq!(refused.code, code, "{bytes:?}");
        }
        let frames = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0")))]);
        let mut late =
            MessageReader::new(Body::new(StreamBody::new(frames.chain(stream::pending()))), MemoryBudget::default(), 1);
        assert_eq!(late.next::<PutRequest>().await.expect_err("the rest does not come").code, Code::DeadlineExceeded);
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_long_messages_only() {
        let budget = MemoryBudget::default();
        let long = PutRequest { value: vec![0; 1 << 20].into(), ..PutRequest::default() };
        let read = async || {
            let frame = stream::iter([Ok::<_, Infallible>(Frame::data(frame_message(&long)))]);
            MessageReader::new(Body::new(StreamBody::new(frame)), budget.clone(), 1).read_one::<PutRequest>().await
        };
        let mut held = Vec::new();
        for _ in 0..63 {
            held.push(read().await.expect("there is room"));
        }
        assert_eq!(read().await.expect_err("there is none"), TOO_MANY_REQUESTS);
        held.pop();
        read().await.expect("there is room again");
        drop(budget.reserve(SMALL_MESSAGE, 100).expect("what is short takes none"));
        budget.reserve(2 << 20, 16).expect_err("it weighs more");
    }

    #[test]
    fn a_status_is_carried_in_trailers() {
        let status = Status::of(Code::NotFound, "ü");
        let told = trailers(Some(&status));
        assert_eq!((told["grpc-status"].as_bytes(), told["grpc-message"].as_bytes()), (&b"5"[..], &b"%C3%BC"[..]));
        assert_eq!((trailers(None).len(), trailers(None)["grpc-status"].as_bytes()), (1, &b"0"[..]));
    }
}
