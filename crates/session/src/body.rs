//! The bodies of requests and responses: streams of pieces, sent no faster than the other side takes them (flow control).

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use broadcast::NodeName;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::time::{Instant, timeout_at};

use crate::{
    config::{PROGRESS_BYTES, PROGRESS_TIMEOUT, SEND_BUFFER},
    limits::Reservation,
};

/// Why a body could not be received, or sent, to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The other side has cancelled, or the session has ended.
    #[error("the other side has broken off: {0}")]
    Broken(String),
    /// The body is longer than the limit.
    #[error("more than {max} bytes came, the limit")]
    TooLong {
        /// The limit, in bytes.
        max: usize,
    },
    /// The buffers for this caller, or for all callers, are full.
    #[error("as much is held for calls as may be; try again later")]
    Full,
    /// The other side sends, or takes, too little in a given time.
    #[error("fewer than 64 KiB passed within {within:?}, the least")]
    Slow {
        /// The time it had.
        within: Duration,
    },
}

impl From<h2::Error> for BodyError {
    fn from(error: h2::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Bounds how slow a body may be: [`PROGRESS_BYTES`] have to pass in each [`PROGRESS_TIMEOUT`].
struct ProgressTimer {
    deadline: Instant,
    bytes: usize,
}

impl ProgressTimer {
    fn begin() -> Self {
        Self { deadline: Instant::now() + PROGRESS_TIMEOUT, bytes: 0 }
    }

    fn advance(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= PROGRESS_BYTES {
            *self = Self::begin();
        }
    }

    /// Waits for `future`, up to the deadline.
    async fn enforce<T>(&self, future: impl Future<Output = T>) -> Result<T, BodyError> {
        timeout_at(self.deadline, future).await.map_err(|_| BodyError::Slow { within: PROGRESS_TIMEOUT })
    }
}

/// The body that the other side sends: of a request, in a service, or of a response, at the caller.
///
/// ```no_run
/// # use broadcast_session::{BodyError, IncomingBody};
/// # async fn f(mut body: IncomingBody) -> Result<(), BodyError> {
/// while let Some(piece) = body.next().await? {
///     println!("{} bytes", piece.len());
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct IncomingBody {
    stream: RecvStream,
    /// For a request: what is buffered of it.
    buffered: Option<BufferReservation>,
}

/// The memory that the gathered body of a request takes.
#[derive(Debug)]
struct BufferReservation {
    reservation: Reservation<NodeName>,
    /// Set when there was no room for more, for whoever answers the call.
    full: Arc<AtomicBool>,
}

impl BufferReservation {
    fn resize(&mut self, bytes: usize) -> Result<(), BodyError> {
        if self.reservation.resize(bytes) {
            return Ok(());
        }
        self.full.store(true, Ordering::Relaxed);
        Err(BodyError::Full)
    }
}

impl IncomingBody {
    /// The body of a response.
    pub(crate) fn response(stream: RecvStream) -> Self {
        Self { stream, buffered: None }
    }

    /// The body of a request. What is gathered of it is counted in `reservation`; `full` is set when there is no room.
    pub(crate) fn request(stream: RecvStream, reservation: Reservation<NodeName>, full: Arc<AtomicBool>) -> Self {
        Self { stream, buffered: Some(BufferReservation { reservation, full }) }
    }

    /// The next piece; `None` at the end. While nobody calls this, the other side can send another 256 KiB, and then waits.
    ///
    /// # Errors
    ///
    /// [`BodyError::Broken`]: the body is incomplete.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        while let Some(piece) = poll_fn(|cx| self.stream.poll_data(cx)).await {
            let piece = piece?;
            self.stream.flow_control().release_capacity(piece.len())?;
            // The end may come in a frame of its own.
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    /// The whole body, if it has at most `max` bytes.
    ///
    /// The body of a request has to come at 64 KiB every 30 s. At most 64 MiB of all callers are buffered at one time, and
    /// 32 MiB of one; each call counts until its [`Request`](crate::Request) is dropped. If there is no room and the service
    /// then returns any refusal, the caller gets [`CallError::Busy`](crate::CallError::Busy): the call has not begun.
    ///
    /// # Errors
    ///
    /// See [`BodyError`].
    pub async fn all(&mut self, max: usize) -> Result<Bytes, BodyError> {
        let mut all = Vec::new();
        let mut progress = ProgressTimer::begin();
        loop {
            let piece = match &self.buffered {
                Some(_) => progress.enforce(self.next()).await??,
                None => self.next().await?,
            };
            let Some(piece) = piece else { return Ok(all.into()) };
            let len = all.len() + piece.len();
            if len > max {
                return Err(BodyError::TooLong { max });
            }
            if all.is_empty() && self.stream.is_end_stream() {
                self.reserve(len)?;
                return Ok(piece);
            }
            if len > all.capacity() {
                let capacity = (2 * all.capacity()).clamp(len, max);
                self.reserve(capacity)?;
                all.reserve_exact(capacity - all.len());
            }
            all.extend_from_slice(&piece);
            progress.advance(piece.len());
        }
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.buffered.as_mut().map_or(Ok(()), |held| held.resize(bytes))
    }
}

/// The body that this side sends: of a request, at the caller, or of a response, in a service. If it is dropped before its
/// [`end`](Self::end), the other side gets an error.
///
/// While a response waits to be sent, the caller has to take 64 KiB every 30 s. What waits counts in the caller's buffers, as
/// the bodies of its requests do.
///
/// ```no_run
/// # use broadcast_session::{BodyError, OutgoingBody};
/// # async fn f(mut body: OutgoingBody) -> Result<(), BodyError> {
/// body.send("one piece, ".into()).await?;
/// body.end("and the last one".into()).await
/// # }
/// ```
#[derive(Debug)]
pub struct OutgoingBody {
    stream: Option<SendStream<Bytes>>,
    /// For a response: what is buffered of it.
    reservation: Option<Reservation<NodeName>>,
}

impl OutgoingBody {
    /// The body of a request.
    pub(crate) fn request(stream: SendStream<Bytes>) -> Self {
        Self { stream: Some(stream), reservation: None }
    }

    /// The body of a response. What waits to be sent is counted in `reservation`.
    pub(crate) fn response(stream: SendStream<Bytes>, reservation: Reservation<NodeName>) -> Self {
        Self { stream: Some(stream), reservation: Some(reservation) }
    }

    /// Sends a piece, as soon as the other side has room for it.
    ///
    /// # Errors
    ///
    /// [`BodyError::Broken`]; for a response also [`BodyError::Full`] and [`BodyError::Slow`].
    pub async fn send(&mut self, data: Bytes) -> Result<(), BodyError> {
        let Some(stream) = &mut self.stream else { return Err(BodyError::Broken("it was broken off before".into())) };
        let sent = send(stream, data, false, &mut self.reservation).await;
        if sent.is_err() {
            // A part of the piece may be on its way.
            stream.send_reset(Reason::CANCEL);
            self.stream = None;
        }
        sent
    }

    /// Sends the last piece, which may be empty.
    ///
    /// # Errors
    ///
    /// As with [`send`](Self::send).
    pub async fn end(mut self, data: Bytes) -> Result<(), BodyError> {
        self.finish(data).await
    }

    /// The same, by reference.
    pub(crate) async fn finish(&mut self, data: Bytes) -> Result<(), BodyError> {
        let Some(mut stream) = self.stream.take() else {
            return Err(BodyError::Broken("it was broken off before".into()));
        };
        let sent = send(&mut stream, data, true, &mut self.reservation).await;
        if sent.is_err() {
            stream.send_reset(Reason::CANCEL);
        }
        sent
    }

    #[doc(hidden)]
    #[deprecated(note = "now `cancelled`")]
    pub async fn unwanted(&mut self) {
        self.cancelled().await;
    }

    /// Resolves when the other side cancels the call.
    pub async fn cancelled(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
        }
    }
}

impl Drop for OutgoingBody {
    fn drop(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            stream.send_reset(Reason::CANCEL);
        }
    }
}

async fn send(
    stream: &mut SendStream<Bytes>,
    data: Bytes,
    last: bool,
    reservation: &mut Option<Reservation<NodeName>>,
) -> Result<(), BodyError> {
    let Some(reservation) = reservation else { return send_pieces(stream, data, last, None).await };
    // A piece that is longer than the caller's whole buffer takes all of it.
    if !reservation.resize(data.len().min(reservation.max())) {
        return Err(BodyError::Full);
    }
    let sent = send_pieces(stream, data, last, Some(ProgressTimer::begin())).await;
    reservation.resize(0);
    sent
}

async fn send_pieces(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
    mut progress: Option<ProgressTimer>,
) -> Result<(), BodyError> {
    // A short end of a request goes to the stream's buffer at once. Waiting for capacity would send the request's headers in
    // a packet of their own.
    if last && (data.is_empty() || progress.is_none() && data.len() <= SEND_BUFFER) {
        stream.send_data(data, true)?;
        return Ok(());
    }
    let is_long = data.len() > SEND_BUFFER;
    let mut is_copied = false;
    while !data.is_empty() {
        if is_long && !is_copied && data.len() <= SEND_BUFFER {
            // The rest waits in the stream's buffer, and must not keep the whole allocation alive.
            (data, is_copied) = (Bytes::copy_from_slice(&data), true);
        }
        stream.reserve_capacity(data.len());
        // `poll_capacity` reports new capacity only, not what is left.
        if stream.capacity() == 0 {
            let room = poll_fn(|cx| stream.poll_capacity(cx));
            let room = match &progress {
                Some(progress) => progress.enforce(room).await?,
                None => room.await,
            };
            room.ok_or_else(|| BodyError::Broken("its stream has ended".into()))??;
        }
        let most = if data.len() > SEND_BUFFER { data.len() - SEND_BUFFER } else { data.len() };
        let piece = data.split_to(stream.capacity().min(most));
        if let Some(progress) = &mut progress {
            progress.advance(piece.len());
        }
        stream.send_data(piece, last && data.is_empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::duplex;

    use super::*;
    use crate::limits::KeyedQuota;

    /// One call: what the caller sends and what it gets, and the same at the callee.
    async fn call(quota: &KeyedQuota<NodeName>) -> (SendStream<Bytes>, IncomingBody, IncomingBody, OutgoingBody) {
        let (near, far) = duplex(1 << 20);
        let (client, server) = tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let ((mut client, connection), mut server) = (client.expect("it is h2"), server.expect("it is h2"));
        tokio::spawn(connection);
        let request = http::Request::post("http://node/method").body(()).expect("a request");
        let (response, sending) = client.send_request(request, false).expect("it is open");
        let (request, mut respond) = server.accept().await.expect("it is open").expect("it is h2");
        tokio::spawn(async move {
            while server.accept().await.is_some() {}
            pending::<()>().await;
        });
        let answering = respond.send_response(http::Response::new(()), false).expect("it is open");
        let answer = response.await.expect("it answers").into_body();
        let empty = || quota.empty("caller".into());
        let incoming = IncomingBody::request(request.into_body(), empty(), Arc::default());
        (sending, IncomingBody::response(answer), incoming, OutgoingBody::response(answering, empty()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_for_a_call_has_to_go_on() {
        let quota = KeyedQuota::new(8 << 20, 8 << 20);
        let slow = BodyError::Slow { within: PROGRESS_TIMEOUT };
        // A byte now and then is not enough to go on.
        let (mut sending, _answer, mut incoming, _outgoing) = call(&quota).await;
        let begun = Instant::now();
        tokio::spawn(async move {
            for _ in 0..20 {
                sending.send_data(Bytes::from_static(b"x"), false).expect("it is open");
                tokio::time::sleep(PROGRESS_TIMEOUT / 10).await;
            }
        });
        assert_eq!(incoming.all(1 << 20).await, Err(slow.clone()));
        assert_eq!(begun.elapsed(), PROGRESS_TIMEOUT);
        // Nor is nothing at all, from who is answered; the window is all that goes.
        let (_sending, answer, _incoming, mut outgoing) = call(&quota).await;
        let begun = Instant::now();
        assert_eq!(outgoing.send(Bytes::from(vec![0; 1 << 20])).await, Err(slow));
        assert_eq!(begun.elapsed(), PROGRESS_TIMEOUT);
        assert!(matches!(outgoing.send(Bytes::new()).await, Err(BodyError::Broken(_))));
        drop(answer);
        // 64 KiB in each such time are.
        let (mut sending, mut answer, mut incoming, outgoing) = call(&quota).await;
        let begun = Instant::now();
        let steps = 16;
        tokio::spawn(async move {
            for step in 1..=steps {
                tokio::time::sleep(PROGRESS_TIMEOUT - PROGRESS_TIMEOUT / 10).await;
                sending.send_data(Bytes::from(vec![0; PROGRESS_BYTES]), step == steps).expect("it is open");
            }
        });
        let all = incoming.all(1 << 20).await.expect("it goes on");
        assert_eq!(all.len(), steps * PROGRESS_BYTES);
        assert_eq!(begun.elapsed(), (PROGRESS_TIMEOUT - PROGRESS_TIMEOUT / 10) * 16);
        let sent = all.clone();
        tokio::spawn(async move { outgoing.end(sent).await });
        let mut got = 0;
        while let Some(piece) = answer.next().await.expect("it goes on") {
            got += piece.len();
            tokio::time::sleep(PROGRESS_TIMEOUT / 10).await;
        }
        assert_eq!(got, all.len());
    }
}
