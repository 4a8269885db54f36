//! What travels in a call, piece by piece, no faster than the other side takes it.

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
    bounds::Place,
    config::{PACE, PACE_BYTES, SEND_BUFFER},
};

/// Why no more of a body comes, or goes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The other side has given up, or the session has ended.
    #[error("the other side has broken off: {0}")]
    Broken(String),
    /// It is longer than is taken.
    #[error("more than {max} bytes came, the limit")]
    TooLong {
        /// The limit, in bytes.
        max: usize,
    },
    /// As much is held already as may be, for its caller or for all.
    #[error("as much is held for calls as may be; try again later")]
    Full,
    /// The other side sends, or takes, too little.
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

/// When more has to have passed.
struct Pace {
    by: Instant,
    bytes: usize,
}

impl Pace {
    fn begin() -> Self {
        Self { by: Instant::now() + PACE, bytes: 0 }
    }

    fn passed(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= PACE_BYTES {
            *self = Self::begin();
        }
    }

    /// Waits for `future`, but no longer than that.
    async fn keep<T>(&self, future: impl Future<Output = T>) -> Result<T, BodyError> {
        timeout_at(self.by, future).await.map_err(|_| BodyError::Slow { within: PACE })
    }
}

/// What comes.
#[derive(Debug)]
pub struct Incoming {
    stream: RecvStream,
    /// Of what a caller sends: what is held of it.
    held: Option<Held>,
}

/// Bytes that are held for a caller.
#[derive(Debug)]
struct Held {
    place: Place<NodeName>,
    /// Set when there was no room for more.
    full: Arc<AtomicBool>,
}

impl Held {
    fn resize(&mut self, bytes: usize) -> Result<(), BodyError> {
        if self.place.resize(bytes) {
            return Ok(());
        }
        self.full.store(true, Ordering::Relaxed);
        Err(BodyError::Full)
    }
}

impl Incoming {
    /// What a service answers.
    pub(crate) fn answer(stream: RecvStream) -> Self {
        Self { stream, held: None }
    }

    /// What a caller sends: what is gathered of it takes room in `place`, and `full` tells when there was none.
    pub(crate) fn request(stream: RecvStream, place: Place<NodeName>, full: Arc<AtomicBool>) -> Self {
        Self { stream, held: Some(Held { place, full }) }
    }

    /// The next piece; `None` at the end. While nobody asks, the other side can send 256 KiB more, and no further.
    ///
    /// # Errors
    ///
    /// [`BodyError::Broken`]: what came so far is not all.
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

    /// All that comes, if that is no more than `max` bytes. Of what a caller sends, 64 KiB have to come every 30 s, and at most
    /// 64 MiB of all callers are held at one time, 32 MiB of one; each call counts until its [`Request`](crate::Request) is
    /// dropped. If the service then gives any refusal, the caller is told that this node is busy, and that the call has not
    /// begun.
    ///
    /// # Errors
    ///
    /// See [`BodyError`].
    pub async fn all(&mut self, max: usize) -> Result<Bytes, BodyError> {
        let mut all = Vec::new();
        let mut pace = Pace::begin();
        loop {
            let piece = match &self.held {
                Some(_) => pace.keep(self.next()).await??,
                None => self.next().await?,
            };
            let Some(piece) = piece else { return Ok(all.into()) };
            let len = all.len() + piece.len();
            if len > max {
                return Err(BodyError::TooLong { max });
            }
            if all.is_empty() && self.stream.is_end_stream() {
                self.hold(len)?;
                return Ok(piece);
            }
            if len > all.capacity() {
                let capacity = (2 * all.capacity()).clamp(len, max);
                self.hold(capacity)?;
                all.reserve_exact(capacity - all.len());
            }
            all.extend_from_slice(&piece);
            pace.passed(piece.len());
        }
    }

    fn hold(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.held.as_mut().map_or(Ok(()), |held| held.resize(bytes))
    }
}

/// What goes. Dropped before its [`end`](Self::end), it is broken off for the other side, too.
///
/// Of an answer, the other side has to take 64 KiB every 30 s while something waits for it. What waits counts as held for the
/// caller, as what was gathered of its calls does.
#[derive(Debug)]
pub struct Outgoing {
    stream: Option<SendStream<Bytes>>,
    /// Of an answer: what is held of it.
    place: Option<Place<NodeName>>,
}

impl Outgoing {
    /// What a caller sends.
    pub(crate) fn request(stream: SendStream<Bytes>) -> Self {
        Self { stream: Some(stream), place: None }
    }

    /// What a service answers; what waits to be sent takes room in `place`.
    pub(crate) fn answer(stream: SendStream<Bytes>, place: Place<NodeName>) -> Self {
        Self { stream: Some(stream), place: Some(place) }
    }

    /// Sends this, when the other side has room for it.
    ///
    /// # Errors
    ///
    /// [`BodyError::Broken`]; of an answer also [`BodyError::Full`], and [`BodyError::Slow`].
    pub async fn send(&mut self, data: Bytes) -> Result<(), BodyError> {
        let Some(stream) = &mut self.stream else { return Err(BodyError::Broken("it was broken off before".into())) };
        let sent = send(stream, data, false, &mut self.place).await;
        if sent.is_err() {
            // A part of it may be on its way.
            stream.send_reset(Reason::CANCEL);
            self.stream = None;
        }
        sent
    }

    /// Sends this as the last.
    ///
    /// # Errors
    ///
    /// As with [`send`](Self::send).
    pub async fn end(mut self, data: Bytes) -> Result<(), BodyError> {
        self.finish(data).await
    }

    /// The same, for who keeps this.
    pub(crate) async fn finish(&mut self, data: Bytes) -> Result<(), BodyError> {
        let Some(mut stream) = self.stream.take() else {
            return Err(BodyError::Broken("it was broken off before".into()));
        };
        let sent = send(&mut stream, data, true, &mut self.place).await;
        if sent.is_err() {
            stream.send_reset(Reason::CANCEL);
        }
        sent
    }

    /// Resolves when the other side wants no more.
    pub async fn unwanted(&mut self) {
        if let Some(stream) = &mut self.stream {
            let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
        }
    }
}

impl Drop for Outgoing {
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
    place: &mut Option<Place<NodeName>>,
) -> Result<(), BodyError> {
    let Some(place) = place else { return send_pieces(stream, data, last, None).await };
    // What is longer than all that its caller may have takes all of that.
    if !place.resize(data.len().min(place.most())) {
        return Err(BodyError::Full);
    }
    let sent = send_pieces(stream, data, last, Some(Pace::begin())).await;
    place.resize(0);
    sent
}

async fn send_pieces(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
    mut pace: Option<Pace>,
) -> Result<(), BodyError> {
    // The end of a request that is short waits for room in the stream's buffer. Before the request has been sent there is
    // none, and waiting here for it would send its head apart.
    if last && (data.is_empty() || pace.is_none() && data.len() <= SEND_BUFFER) {
        stream.send_data(data, true)?;
        return Ok(());
    }
    let is_long = data.len() > SEND_BUFFER;
    let mut is_copied = false;
    while !data.is_empty() {
        if is_long && !is_copied && data.len() <= SEND_BUFFER {
            // The end waits in the stream's buffer, and must not keep there all that it is a part of.
            (data, is_copied) = (Bytes::copy_from_slice(&data), true);
        }
        stream.reserve_capacity(data.len());
        // It tells of more room, not of what was left.
        if stream.capacity() == 0 {
            let room = poll_fn(|cx| stream.poll_capacity(cx));
            let room = match &pace {
                Some(pace) => pace.keep(room).await?,
                None => room.await,
            };
            room.ok_or_else(|| BodyError::Broken("its stream has ended".into()))??;
        }
        let most = if data.len() > SEND_BUFFER { data.len() - SEND_BUFFER } else { data.len() };
        let piece = data.split_to(stream.capacity().min(most));
        if let Some(pace) = &mut pace {
            pace.passed(piece.len());
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
    use crate::bounds::Places;

    /// One call: what the caller sends and what it gets, and the same at the callee.
    async fn call(places: &Places<NodeName>) -> (SendStream<Bytes>, Incoming, Incoming, Outgoing) {
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
        let none = || places.none("caller".into());
        let incoming = Incoming::request(request.into_body(), none(), Arc::default());
        (sending, Incoming::answer(answer), incoming, Outgoing::answer(answering, none()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_for_a_call_has_to_go_on() {
        let places = Places::new(8 << 20, 8 << 20);
        let slow = BodyError::Slow { within: PACE };
        // A byte now and then is not enough to go on.
        let (mut sending, _answer, mut incoming, _outgoing) = call(&places).await;
        let begun = Instant::now();
        tokio::spawn(async move {
            for _ in 0..20 {
                sending.send_data(Bytes::from_static(b"x"), false).expect("it is open");
                tokio::time::sleep(PACE / 10).await;
            }
        });
        assert_eq!(incoming.all(1 << 20).await, Err(slow.clone()));
        assert_eq!(begun.elapsed(), PACE);
        // Nor is nothing at all, from who is answered; the window is all that goes.
        let (_sending, answer, _incoming, mut outgoing) = call(&places).await;
        let begun = Instant::now();
        assert_eq!(outgoing.send(Bytes::from(vec![0; 1 << 20])).await, Err(slow));
        assert_eq!(begun.elapsed(), PACE);
        assert!(matches!(outgoing.send(Bytes::new()).await, Err(BodyError::Broken(_))));
        drop(answer);
        // 64 KiB in each such time are.
        let (mut sending, mut answer, mut incoming, outgoing) = call(&places).await;
        let begun = Instant::now();
        let steps = 16;
        tokio::spawn(async move {
            for step in 1..=steps {
                tokio::time::sleep(PACE - PACE / 10).await;
                sending.send_data(Bytes::from(vec![0; PACE_BYTES]), step == steps).expect("it is open");
            }
        });
        let all = incoming.all(1 << 20).await.expect("it goes on");
        assert_eq!(all.len(), steps * PACE_BYTES);
        assert_eq!(begun.elapsed(), (PACE - PACE / 10) * 16);
        let sent = all.clone();
        tokio::spawn(async move { outgoing.end(sent).await });
        let mut got = 0;
        while let Some(piece) = answer.next().await.expect("it goes on") {
            got += piece.len();
            tokio::time::sleep(PACE / 10).await;
        }
        assert_eq!(got, all.len());
    }
}
