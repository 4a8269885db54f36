//! TCP connections, each in a task of its own.
//!
//! # States
//!
//! A stream is *connecting* (unless it was [accepted](super::pending)), then *open*. An open stream reads and writes at the
//! same time, so that two nodes that send a lot to each other do not deadlock: input is reported piece by piece, and what the
//! node writes is sent. [`Streams::close`] ends a stream. An attempt to connect is given up. On an open stream, what was
//! written is sent, the sending side is shut down, and further input is read and dropped for a moment: if a socket is closed
//! with unread input, the system sends a reset, which can destroy what the peer has not read yet.
//!
//! # Bounds
//!
//! Reports go through one bounded channel, so that a busy node slows its peers down instead of buffering. At most
//! [`MAX_WRITES`] writes wait on a stream; with one more, the stream fails. Connecting takes at most the TCP timeout. Sending
//! goes on as long as the peer takes [`PROGRESS`] bytes in each such period, so that a slow link has the time it needs. The
//! number of accepted connections is bounded; further ones are closed. The node decides how long a stream may be idle.

use std::{collections::HashMap, convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    pin, select,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use super::sockets;
use crate::node::StreamId;

/// Writes that wait on a stream, at most. A node writes whole messages.
const MAX_WRITES: usize = 8;
/// Reports that wait for the event loop, at most.
const MAX_REPORTS: usize = 64;
/// The least time that the system waits for acknowledgements of what it has sent.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// How many bytes a peer has to take within each TCP timeout.
const PROGRESS: usize = 4 << 10;
/// How much is read at once, in bytes.
const CHUNK: usize = 16 << 10;
/// For how long, and how many bytes of, a peer's input is read and dropped after this side has closed the stream.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;

/// What happened on a stream.
#[derive(Debug)]
pub(super) struct StreamReport {
    pub(super) id: StreamId,
    pub(super) event: StreamEvent,
}

/// See [`StreamInput`](crate::node::StreamInput), whose owned form this is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StreamEvent {
    Data(Bytes),
    Closed,
    Failed(String),
}

/// The open streams, as the event loop holds them.
pub(super) struct Streams {
    open: HashMap<StreamId, WriteHandle>,
    reports: mpsc::Sender<StreamReport>,
    inbound: Arc<Semaphore>,
    limit: Duration,
}

/// The node's end of a stream; dropping it closes the stream.
struct WriteHandle {
    data: mpsc::Sender<Bytes>,
    _close_guard: oneshot::Sender<Infallible>,
}

/// The task's end of it.
struct StreamTask {
    id: StreamId,
    writes: mpsc::Receiver<Bytes>,
    /// Resolves when the node closes the stream, even while data waits in `writes`.
    closed: oneshot::Receiver<Infallible>,
    reports: mpsc::Sender<StreamReport>,
    limit: Duration,
}

impl Streams {
    /// `limit` is the TCP timeout. Twice as many connections are accepted as the node serves: some are still closing, and a
    /// connection beyond `max_served` is for the node to refuse, which counts and logs it.
    pub(super) fn new(limit: Duration, max_served: usize) -> (Self, mpsc::Receiver<StreamReport>) {
        let (reports, received) = mpsc::channel(MAX_REPORTS);
        let inbound = Arc::new(Semaphore::new(2 * max_served));
        (Self { open: HashMap::new(), reports, inbound, limit }, received)
    }

    /// A permit for one more accepted connection.
    pub(super) fn admit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.inbound).try_acquire_owned().ok()
    }

    pub(super) fn accepted(&mut self, id: StreamId, stream: TcpStream, permit: OwnedSemaphorePermit) {
        let task = self.task(id);
        tokio::spawn(async move {
            task.run(stream).await;
            drop(permit);
        });
    }

    pub(super) fn connect(&mut self, id: StreamId, to: SocketAddr) {
        tokio::spawn(self.task(id).connect(to));
    }

    fn task(&mut self, id: StreamId) -> StreamTask {
        let (data, writes) = mpsc::channel(MAX_WRITES);
        let (close_guard, closed) = oneshot::channel();
        self.open.insert(id, WriteHandle { data, _close_guard: close_guard });
        StreamTask { id, writes, closed, reports: self.reports.clone(), limit: self.limit }
    }

    pub(super) fn is_open(&self, id: StreamId) -> bool {
        self.open.contains_key(&id)
    }

    /// Sends on a stream. An error closes the stream, and the caller reports it to the node.
    pub(super) fn write(&mut self, id: StreamId, data: Bytes) -> Result<(), String> {
        // If the stream has failed already, the node knows, or its report is on the way.
        let Some(writes) = self.open.get(&id) else { return Ok(()) };
        if let Err(mpsc::error::TrySendError::Full(_)) = writes.data.try_send(data) {
            self.close(id);
            return Err(format!("the peer does not read: {MAX_WRITES} writes wait already"));
        }
        Ok(())
    }

    /// Closes a stream once everything written on it has been sent. Closing it twice is no error.
    pub(super) fn close(&mut self, id: StreamId) {
        self.open.remove(&id);
    }
}

impl StreamTask {
    async fn connect(mut self, to: SocketAddr) {
        let connecting = timeout(self.limit, sockets::connect(to));
        pin!(connecting);
        let connected = select! {
            connected = &mut connecting => connected,
            _ = &mut self.closed => {
                if self.writes.is_empty() {
                    return;
                }
                // The node may write its only message and close the stream at once.
                connecting.await
            }
        };
        match connected {
            Ok(Ok(stream)) => self.run(stream).await,
            Ok(Err(error)) => self.fail(format!("cannot connect to {to}: {error}")).await,
            Err(_) => self.fail(format!("cannot connect to {to}: no answer within {:?}", self.limit)).await,
        }
    }

    async fn run(self, stream: TcpStream) {
        let Self { id, mut writes, mut closed, reports, limit } = self;
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "small writes may be delayed");
        }
        // The system waits for the acknowledgements, and sees whether the peer is there. A slow reader may keep its window
        // closed for a second or more at a time.
        #[cfg(target_os = "linux")]
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(limit.max(TCP_USER_TIMEOUT))) {
            debug!(%error, "a peer that is gone may be noticed late");
        }
        let (mut reader, mut writer) = stream.into_split();
        {
            let read = read(&mut reader, id, &reports);
            let write = async {
                while let Some(data) = writes.recv().await {
                    send(&mut writer, data, limit).await?;
                }
                writer.shutdown().await
            };
            pin!(read, write);
            let written = select! {
                written = &mut write => written,
                whole = &mut read => {
                    if !whole {
                        return;
                    }
                    if let Err(error) = write.await {
                        return report(&reports, id, StreamEvent::Failed(error.to_string())).await;
                    }
                    Ok(())
                }
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    debug!(stream = id.0, %error, "gave up sending");
                    // Once the node has closed the stream, it needs no report.
                    if !closed.is_terminated() && closed.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                        report(&reports, id, StreamEvent::Failed(error.to_string())).await;
                    }
                    return;
                }
                Err(_) => {
                    // What the peer has sent before may tell why. Its input ends in an error, too.
                    read.await;
                    return;
                }
            }
        }
        // Nobody needs what the peer sends now, nor errors.
        let mut rest = (&mut reader).take(LINGER_BYTES);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }

    async fn fail(&self, reason: String) {
        report(&self.reports, self.id, StreamEvent::Failed(reason)).await;
    }
}

/// Sends all of this, while the peer makes progress.
async fn send(writer: &mut (impl AsyncWrite + Unpin), mut data: Bytes, limit: Duration) -> io::Result<()> {
    let (mut taken, mut deadline) = (0, Instant::now() + limit);
    while data.has_remaining() {
        let Ok(written) = timeout_at(deadline, writer.write_buf(&mut data)).await else {
            let reason = format!("the peer does not read: {} bytes wait since {limit:?}", data.len());
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        };
        taken += written?;
        if taken >= PROGRESS {
            (taken, deadline) = (0, Instant::now() + limit);
        }
    }
    Ok(())
}

/// Reports all input. Returns `false` when the stream broke.
async fn read(reader: &mut (impl AsyncRead + Unpin), id: StreamId, reports: &mpsc::Sender<StreamReport>) -> bool {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let event = match read_chunk(reader, &mut buffer).await {
            Ok(0) => StreamEvent::Closed,
            Ok(_) => StreamEvent::Data(buffer.split().freeze()),
            Err(error) => StreamEvent::Failed(error.to_string()),
        };
        let (ended, whole) = (!matches!(event, StreamEvent::Data(_)), matches!(event, StreamEvent::Closed));
        report(reports, id, event).await;
        if ended {
            return whole;
        }
    }
}

async fn read_chunk(reader: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<usize> {
    reader.take(CHUNK as u64).read_buf(buffer).await
}

async fn report(reports: &mpsc::Sender<StreamReport>, id: StreamId, event: StreamEvent) {
    // Only fails when the event loop has ended, and its streams end with it.
    let _ = reports.send(StreamReport { id, event }).await;
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const ID: StreamId = StreamId(1);
    const SERVED: usize = 16;

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(SOON, future).await.expect("it happens soon")
    }

    /// Streams with one open, and the peer's end of that.
    async fn pair() -> (Streams, mpsc::Receiver<StreamReport>, TcpStream) {
        let (mut streams, reports) = Streams::new(SOON, SERVED);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        streams.connect(ID, listener.local_addr().unwrap());
        let (peer, _) = soon(listener.accept()).await.unwrap();
        (streams, reports, peer)
    }

    #[tokio::test]
    async fn what_was_written_arrives_before_the_end_though_input_is_left_unread() {
        let (mut streams, mut reports, mut peer) = pair().await;
        peer.write_all(b"hello").await.unwrap();
        assert_eq!(soon(reports.recv()).await.unwrap().event, StreamEvent::Data(Bytes::from_static(b"hello")));

        let state = Bytes::from(vec![7; 3 << 20]);
        streams.write(ID, state.clone()).unwrap();
        streams.close(ID);
        assert!(!streams.is_open(ID));
        // More than may wait to be reported: unread, it would turn the end into a reset.
        soon(peer.write_all(&vec![1; MAX_REPORTS * CHUNK + (512 << 10)])).await.unwrap();
        let mut received = Vec::new();
        soon(peer.read_to_end(&mut received)).await.expect("no reset");
        assert!(received == state, "{} of {} bytes", received.len(), state.len());
    }

    #[tokio::test]
    async fn both_sides_may_send_a_lot_at_once() {
        let (mut streams, mut reports, peer) = pair().await;
        let much = Bytes::from(vec![7; 8 << 20]);
        streams.write(ID, much.clone()).unwrap();
        let (mut peer_reader, mut peer_writer) = peer.into_split();
        let sent = much.clone();
        // The peer reads nothing before it has sent everything.
        let peer = tokio::spawn(async move {
            peer_writer.write_all(&sent).await.unwrap();
            peer_writer.shutdown().await.unwrap();
            let mut received = Vec::new();
            peer_reader.read_to_end(&mut received).await.unwrap();
            received.len()
        });
        let mut received = 0;
        loop {
            match soon(reports.recv()).await.unwrap().event {
                StreamEvent::Data(data) => {
                    assert!(data.len() <= CHUNK);
                    received += data.len();
                }
                StreamEvent::Closed => break,
                StreamEvent::Failed(reason) => panic!("{reason}"),
            }
        }
        assert_eq!(received, much.len());
        streams.close(ID);
        assert_eq!(soon(peer).await.unwrap(), much.len());
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_with_its_address() {
        let (mut streams, mut reports) = Streams::new(SOON, SERVED);
        let closed = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        streams.connect(ID, closed);
        let report = soon(reports.recv()).await.unwrap();
        assert_eq!(report.id, ID);
        let StreamEvent::Failed(reason) = report.event else { panic!("{report:?}") };
        assert!(reason.contains(&closed.to_string()), "{reason}");
    }

    #[tokio::test]
    async fn what_was_written_arrives_though_the_end_came_before_the_connection() {
        let (mut streams, _reports) = Streams::new(SOON, SERVED);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        streams.connect(ID, listener.local_addr().unwrap());
        streams.write(ID, Bytes::from_static(b"hello")).unwrap();
        streams.close(ID);
        let (mut peer, _) = soon(listener.accept()).await.unwrap();
        let mut received = Vec::new();
        soon(peer.read_to_end(&mut received)).await.unwrap();
        assert_eq!(received, b"hello");
    }

    #[tokio::test]
    async fn closing_gives_up_a_connection_that_does_not_stand_yet() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket2::SockRef::from(&listener).listen(0).unwrap();
        let to = listener.local_addr().unwrap();
        // As many as the system completes by itself; the next one waits for an accept that never comes.
        let mut complete = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(to)).await {
            complete.push(stream.unwrap());
            assert!(complete.len() < 16, "the listener takes no end of connections");
        }

        let (mut streams, mut reports) = Streams::new(3 * SOON, SERVED);
        streams.connect(ID, to);
        streams.close(ID);
        drop(streams);
        // The task holds a sender of reports until it ends.
        assert!(soon(reports.recv()).await.is_none());
    }

    #[tokio::test]
    async fn closing_gives_up_a_peer_that_does_not_read() {
        let (mut streams, mut reports) = Streams::new(Duration::from_millis(50), SERVED);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        streams.connect(ID, listener.local_addr().unwrap());
        let (_peer, _) = soon(listener.accept()).await.unwrap();
        streams.write(ID, vec![0; 64 << 20].into()).unwrap();
        streams.close(ID);
        drop(streams);
        assert!(soon(reports.recv()).await.is_none());
    }

    #[tokio::test]
    async fn a_slow_peer_gets_all_of_it_however_long_that_takes() {
        const LIMIT: Duration = Duration::from_secs(1);
        let (mut streams, mut reports) = Streams::new(LIMIT, SERVED);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        streams.connect(ID, listener.local_addr().unwrap());
        let (mut peer, _) = soon(listener.accept()).await.unwrap();
        let data = Bytes::from(vec![7; 64 << 20]);
        streams.write(ID, data.clone()).unwrap();
        let (began, mut received) = (Instant::now(), 0);
        let mut buffer = vec![0; 512 << 10];
        while received < data.len() {
            let read = soon(peer.read(&mut buffer)).await.unwrap();
            assert!(read > 0, "it was given up after {received} bytes");
            received += read;
            if began.elapsed() < 3 * LIMIT {
                tokio::time::sleep(LIMIT / 20).await;
            }
        }
        assert!(began.elapsed() > 2 * LIMIT, "it took longer than a peer may take nothing");
        assert!(streams.is_open(ID) && reports.try_recv().is_err());

        // One that stops is given up, and told.
        streams.write(ID, Bytes::from(vec![7; 64 << 20])).unwrap();
        let StreamEvent::Failed(reason) = soon(reports.recv()).await.unwrap().event else { panic!("it failed") };
        assert!(reason.contains("does not read") || reason.contains("timed out"), "{reason}");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_cannot_make_writes_pile_up() {
        let (mut streams, _reports, _peer) = pair().await;
        let write = Bytes::from(vec![0; 8 << 20]);
        let refused = (0..100).find_map(|_| streams.write(ID, write.clone()).err());
        assert!(refused.is_some_and(|reason| reason.contains("does not read")));
        assert!(!streams.is_open(ID));
    }

    #[tokio::test]
    async fn accepts_so_many_and_again_when_some_have_ended() {
        let (mut streams, mut reports) = Streams::new(SOON, SERVED);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut permits: Vec<_> = (0..3 * SERVED).map_while(|_| streams.admit()).collect();
        assert_eq!(permits.len(), 2 * SERVED);
        assert!(streams.admit().is_none());

        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = soon(listener.accept()).await.unwrap();
        streams.accepted(ID, stream, permits.pop().expect("there are some"));
        drop(peer);
        assert_eq!(soon(reports.recv()).await.unwrap().event, StreamEvent::Closed);
        assert!(streams.admit().is_none(), "the stream still stands on this side");
        streams.close(ID);
        soon(async {
            while streams.admit().is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
