//! A small gRPC client. It changes nothing of what two servers answer, so that their answers can be compared.

use std::{fmt::Display, net::SocketAddr, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::HeaderMap;
use prost::Message;
use tokio::{net::TcpStream, time::timeout};

/// How long any answer may take.
pub const LIMIT: Duration = Duration::from_secs(30);

/// gRPC's code for what may be tried again.
pub const UNAVAILABLE: u16 = 14;

/// How a call failed: gRPC's code, and why.
pub type CallError = (u16, String);

/// A connection.
#[derive(Clone)]
pub struct Client {
    sender: h2::client::SendRequest<Bytes>,
    addr: SocketAddr,
}

/// A call of many messages with many answers.
pub struct Call {
    sent: SendStream<Bytes>,
    answer: Option<ResponseFuture>,
    body: Option<RecvStream>,
    received: BytesMut,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).await.expect("somebody listens, who speaks HTTP/2")
    }

    pub async fn try_connect(addr: SocketAddr) -> Result<Self, CallError> {
        let stream = TcpStream::connect(addr).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut builder = h2::client::Builder::new();
        // No stream is to wait for another one that is not read.
        builder.initial_window_size(1 << 20).initial_connection_window_size(64 << 20);
        let (sender, connection) = builder.handshake(stream).await.map_err(failed)?;
        tokio::spawn(connection);
        Ok(Self { sender, addr })
    }

    /// Begins a call.
    pub async fn open(&mut self, path: &str, metadata: &[(&'static str, &str)]) -> Call {
        self.try_open(path, metadata).await.expect("the connection stands")
    }

    pub async fn try_open(&mut self, path: &str, metadata: &[(&'static str, &str)]) -> Result<Call, CallError> {
        let mut request = http::Request::post(format!("http://{}{path}", self.addr));
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        for (name, value) in headers.iter().chain(metadata) {
            request = request.header(*name, *value);
        }
        let sender = self.sender.clone();
        self.sender = sender.ready().await.map_err(failed)?;
        let request = request.body(()).expect("a request");
        let (answer, sent) = self.sender.send_request(request, false).map_err(failed)?;
        Ok(Call { sent, answer: Some(answer), body: None, received: BytesMut::new() })
    }

    /// A call of one message with one answer.
    pub async fn call<A: Message + Default>(&mut self, path: &str, request: &impl Message) -> Result<A, CallError> {
        let mut call = self.try_open(path, &[]).await?;
        call.send(request);
        call.end();
        let answer = call.next().await?.expect("a call that succeeds has an answer");
        assert!(call.next::<A>().await?.is_none(), "one answer, and its end");
        Ok(answer)
    }
}

impl Call {
    pub fn send(&mut self, message: &impl Message) {
        let encoded = message.encode_to_vec();
        let length = u32::try_from(encoded.len()).expect("short").to_be_bytes();
        self.send_raw([&[0], &length[..], &encoded].concat().into());
    }

    pub fn send_raw(&mut self, bytes: Bytes) {
        // It may have been refused by now, which the answer tells.
        let _ = self.sent.send_data(bytes, false);
    }

    pub fn end(&mut self) {
        let _ = self.sent.send_data(Bytes::new(), true);
    }

    /// The next answer; nothing at the end.
    pub async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        timeout(LIMIT, self.next_without_limit()).await.expect("an answer in time")
    }

    /// The same, whenever it comes. Nothing is lost when this is given up.
    pub async fn next_without_limit<A: Message + Default>(&mut self) -> Result<Option<A>, CallError> {
        if let Some(answer) = &mut self.answer {
            let response = answer.await.map_err(failed)?;
            self.answer = None;
            let (head, body) = response.into_parts();
            if head.status == 503 {
                // As clients of gRPC take it.
                return Err((UNAVAILABLE, "503".to_owned()));
            }
            assert_eq!(head.status, 200, "{head:?}");
            if head.headers.contains_key("grpc-status") {
                return ended(&head.headers).map(|()| None);
            }
            self.body = Some(body);
        }
        let body = self.body.as_mut().expect("there was an answer");
        loop {
            if let Some((&[compressed, a, b, c, d], rest)) = self.received.split_first_chunk::<5>() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if rest.len() >= length {
                    assert_eq!(compressed, 0, "nobody asked for that");
                    self.received.advance(5);
                    return Ok(Some(A::decode(self.received.split_to(length)).expect("a message")));
                }
            }
            match body.data().await {
                Some(data) => {
                    let data = data.map_err(failed)?;
                    body.flow_control().release_capacity(data.len()).expect("it was taken");
                    self.received.extend_from_slice(&data);
                }
                None => {
                    let trailers = body.trailers().await.map_err(failed)?;
                    return ended(&trailers.unwrap_or_default()).map(|()| None);
                }
            }
        }
    }
}

/// The connection has failed, not the call.
fn failed(error: impl Display) -> CallError {
    (u16::MAX, error.to_string())
}

fn ended(trailers: &HeaderMap) -> Result<(), CallError> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        status => Err((status.parse().expect("a status"), text("grpc-message").to_owned())),
    }
}
