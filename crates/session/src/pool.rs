//! The connection pool of the client side: one session with each called node for each [`SessionKind`], made on demand.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use broadcast::NodeName;
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use snow::TransportState;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    pin, select,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};
use tracing::debug;

use crate::{
    ENDPOINT, Inner,
    config::{
        CONNECT_TIMEOUT, GRACE_PERIOD, IDLE_TIMEOUT, MAX_CALL_TIME, MAX_CALLS_PER_SESSION, MAX_HEADER_BYTES,
        PING_EVERY, PONG_TIMEOUT, RETRY_AFTER, SEND_BUFFER, SESSION_WINDOW, WINDOW,
    },
    encrypted::Encrypted,
    error::CallError,
    frames::Frames,
    handshake::{HandshakeError, HandshakeRefusal, Identity, Initiator, MAX_MESSAGE},
    keys::Keys,
    members,
    noise::Psk,
    socket,
};

/// The pause before the next attempt with a node that refuses, at first.
const RETRY: Duration = Duration::from_millis(50);
/// How often a call that waits for room checks whether its session still exists.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<HashMap<Peer, PoolEntry>>);

/// A node, and the kind of the session with it.
pub(crate) type Peer = (NodeName, SessionKind);

/// Calls in pieces have a session of their own: pieces that nobody reads may fill its whole window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SessionKind {
    /// For calls with one response.
    Calls,
    /// For calls in pieces.
    Streams,
}

#[derive(Debug)]
enum PoolEntry {
    Open(Arc<Session>),
    /// It is being made, and all who want it wait for it.
    Connecting(watch::Receiver<Option<SessionResult>>),
    /// It could not be made, and is not tried again before this time.
    Failed(Instant, CallError),
}

type SessionResult = Result<Arc<Session>, CallError>;

/// An open session. Its connection ends when this is dropped everywhere and no call waits.
#[derive(Debug)]
pub(crate) struct Session {
    requests: SendRequest<Bytes>,
    psk: Psk,
    /// A permit for each call that may be under way. Further calls wait here and not in the session, so that they can go to
    /// another one.
    permits: Arc<Semaphore>,
}

impl Session {
    /// Waits for room for one more call.
    ///
    /// # Errors
    ///
    /// The session takes no more calls; says why.
    pub(crate) async fn room(&self) -> Result<(SendRequest<Bytes>, OwnedSemaphorePermit), String> {
        loop {
            let requests = self.requests.clone().ready().await.map_err(|error| error.to_string())?;
            // By now it may be ending.
            match timeout(CHECK_EVERY, Arc::clone(&self.permits).acquire_owned()).await {
                Ok(Ok(permit)) => return Ok((requests, permit)),
                Ok(Err(closed)) => return Err(closed.to_string()),
                Err(_) => {}
            }
        }
    }

    fn is_used(&self) -> bool {
        self.permits.available_permits() < MAX_CALLS_PER_SESSION as usize
    }
}

impl Pool {
    fn entries(&self) -> MutexGuard<'_, HashMap<Peer, PoolEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a session. The next call, and those that wait for room in this one, make a new one.
    pub(crate) fn forget(&self, peer: &Peer, session: &Arc<Session>) {
        session.permits.close();
        let mut entries = self.entries();
        if matches!(entries.get(peer), Some(PoolEntry::Open(current)) if Arc::ptr_eq(current, session)) {
            entries.remove(peer);
        }
    }

    /// Removes all sessions. Each ends as soon as its calls have ended.
    pub(crate) fn clear(&self) {
        self.entries().clear();
    }
}

/// The session with this node. Concurrent calls wait for one handshake.
pub(crate) async fn session(inner: &Arc<Inner>, peer: &Peer) -> SessionResult {
    let mut made = {
        let (mut entries, now) = (inner.pool.entries(), Instant::now());
        match entries.get(peer) {
            Some(PoolEntry::Open(session)) if inner.keys.borrow().has(&session.psk) => return Ok(Arc::clone(session)),
            Some(PoolEntry::Failed(until, error)) if now < *until => return Err(error.clone()),
            Some(PoolEntry::Connecting(made)) if made.has_changed().is_ok() => made.clone(),
            _ => {
                // Forgets nodes that are gone.
                entries.retain(|_, entry| !matches!(entry, PoolEntry::Failed(until, _) if *until <= now));
                let (sender, made) = watch::channel(None);
                if let Some(PoolEntry::Open(former)) = entries.insert(peer.clone(), PoolEntry::Connecting(made.clone()))
                {
                    former.permits.close();
                }
                begin_session(Arc::clone(inner), peer.clone(), sender);
                made
            }
        }
    };
    let made = made.wait_for(Option::is_some).await.ok().and_then(|made| made.clone());
    made.unwrap_or(Err(CallError::Stopped))
}

/// Not an `async fn`: that would be compiled in every crate that makes calls, not once in this one.
fn begin_session(inner: Arc<Inner>, peer: Peer, sender: watch::Sender<Option<SessionResult>>) {
    // A task of its own: a caller may give up, and later ones still get the session.
    tokio::spawn(async move {
        let made = make(&inner, &peer).await;
        let entry = match &made {
            Ok(session) if !inner.has_stopped() => Some(PoolEntry::Open(Arc::clone(session))),
            Err(error @ (CallError::Unreachable { .. } | CallError::SessionRefused { .. })) => {
                Some(PoolEntry::Failed(Instant::now() + RETRY_AFTER, error.clone()))
            }
            _ => None,
        };
        let mut entries = inner.pool.entries();
        match entry {
            Some(entry) => entries.insert(peer, entry),
            None => entries.remove(&peer),
        };
        drop(entries);
        sender.send_replace(Some(made));
    });
}

async fn make(inner: &Arc<Inner>, peer: &Peer) -> SessionResult {
    let mut pause = RETRY;
    loop {
        match connect(inner, peer).await {
            // The node is about to learn of this one, or of its restart; or to have room.
            Err(CallError::SessionRefused {
                why: HandshakeRefusal::Stranger | HandshakeRefusal::Id | HandshakeRefusal::Full,
                ..
            }) if pause < Duration::from_secs(2) => {
                sleep(pause).await;
                pause *= 2;
            }
            made => return made,
        }
    }
}

async fn connect(inner: &Arc<Inner>, peer: &Peer) -> Result<Arc<Session>, CallError> {
    let (name, _) = peer;
    let to = name.to_string();
    let events = inner.node.events_from_now();
    let Some((member, info)) = inner.node.find(name).await else {
        return Err(if inner.has_stopped() { CallError::Stopped } else { CallError::NoMember(to) });
    };
    let known = info.and_then(|info| Some((info.id, info.endpoint_at(ENDPOINT, member.addr)?)));
    let Some((id, mut addr)) = known else { return Err(CallError::NoSessions(to)) };
    if addr.ip() == member.addr.ip() {
        // The member's address has the zone, if it is link-local.
        let port = addr.port();
        addr = member.addr;
        addr.set_port(port);
    }
    let keys = inner.keys.borrow().clone();
    if !keys.admits(addr.ip(), inner.config.insecure_sessions) {
        return Err(CallError::Insecure(to));
    }
    let shaken = timeout(CONNECT_TIMEOUT, shake_hands(inner, name, addr, &keys)).await;
    let unreachable = |problem: String| CallError::Unreachable { to: to.clone(), problem };
    let (connection, psk) = match shaken {
        Err(_) => return Err(unreachable(format!("no answer from {addr} within {CONNECT_TIMEOUT:?}"))),
        Ok(Err(ConnectError::Io(error))) => return Err(unreachable(format!("{addr}: {error}"))),
        Ok(Err(ConnectError::Handshake(error))) => return Err(unreachable(format!("{addr}: {error}"))),
        Ok(Err(ConnectError::Refused(why))) => return Err(CallError::SessionRefused { to, why }),
        Ok(Ok((identity, ..))) if identity.name != *name || identity.id != id => {
            return Err(CallError::SessionRefused { to, why: HandshakeRefusal::Id });
        }
        Ok(Ok((_, connection, psk))) => (connection, psk),
    };
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(SESSION_WINDOW)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false);
    let (requests, connection) = builder.handshake(connection).await.map_err(|error| unreachable(error.to_string()))?;
    let permits = Arc::new(Semaphore::new(MAX_CALLS_PER_SESSION as usize));
    let session = Arc::new(Session { requests, psk, permits });
    debug!(%to, "opened a session");
    let departed = members::departed(events, Identity { name: name.clone(), id }, Arc::downgrade(inner));
    let kept = (Arc::downgrade(inner), peer.clone(), Arc::downgrade(&session));
    tokio::spawn(drive(connection, inner.keys.clone(), session.psk.clone(), departed, kept));
    Ok(session)
}

/// Drives a connection until it ends, and ends it when the other side is gone, or nobody needs it.
async fn drive(
    mut connection: Connection<Encrypted<TcpStream>, Bytes>,
    mut keys: watch::Receiver<Arc<Keys>>,
    psk: Psk,
    departed: impl Future<Output = ()>,
    (inner, peer, session): (Weak<Inner>, Peer, Weak<Session>),
) {
    let mut pings = connection.ping_pong().expect("nobody has taken it before");
    let forget = || {
        if let Some((inner, session)) = inner.upgrade().zip(session.upgrade()) {
            inner.pool.forget(&peer, &session);
        }
    };
    let mut ticks = interval(PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut used = Instant::now();
    // When the session is over, and why; and the deadline for the pong.
    let (mut end_at, mut end_why, mut pong_by) = (None::<Instant>, "", None::<Instant>);
    pin!(connection, departed);
    let why = loop {
        let far = Instant::now() + MAX_CALL_TIME;
        select! {
            ended = &mut connection => break ended.err().map_or_else(|| "it was closed".into(), |error| error.to_string()),
            Ok(()) = keys.changed(), if end_at.is_none() => {
                if !keys.borrow_and_update().has(&psk) {
                    forget();
                    (end_at, end_why) = (Some(Instant::now() + GRACE_PERIOD), "its key is no longer one of the cluster's");
                }
            }
            () = &mut departed, if end_at.is_none() => {
                forget();
                (end_at, end_why) = (Some(Instant::now() + GRACE_PERIOD), "it is no live member any more, or another one");
            }
            () = sleep_until(end_at.unwrap_or(far)), if end_at.is_some() => {
                break end_why.to_owned();
            }
            pong = poll_fn(|cx| pings.poll_pong(cx)), if pong_by.is_some() => match pong {
                Ok(_) => pong_by = None,
                Err(error) => break error.to_string(),
            },
            () = sleep_until(pong_by.unwrap_or(far)), if pong_by.is_some() => {
                break format!("it did not answer within {PONG_TIMEOUT:?}");
            }
            _ = ticks.tick() => {
                let now = Instant::now();
                if session.upgrade().is_some_and(|session| session.is_used()) {
                    used = now;
                    if pong_by.is_none() && pings.send_ping(h2::Ping::opaque()).is_ok() {
                        pong_by = Some(now + PONG_TIMEOUT);
                    }
                } else if now - used >= IDLE_TIMEOUT {
                    // Nobody else has it, so it ends.
                    forget();
                }
            }
        }
    };
    debug!(name = %peer.0, %why, "a session with a node has ended");
    forget();
}

enum ConnectError {
    Io(io::Error),
    Handshake(HandshakeError),
    Refused(HandshakeRefusal),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<HandshakeError> for ConnectError {
    fn from(error: HandshakeError) -> Self {
        Self::Handshake(error)
    }
}

type HandshakeResult = (Identity, Encrypted<TcpStream>, Psk);

/// Tries the keys in turn, the one that gossip encrypts with first.
async fn shake_hands(
    inner: &Inner,
    name: &NodeName,
    addr: SocketAddr,
    keys: &Keys,
) -> Result<HandshakeResult, ConnectError> {
    let mut failed = ConnectError::Handshake(HandshakeError::HungUp);
    for psk in &keys.psks {
        let mut stream = TcpStream::connect(addr).await?;
        socket::prepare(&stream);
        match shake_hands_by(inner, name, psk, &mut stream).await {
            Ok((identity, state)) => {
                return Ok((identity, Encrypted::new(stream, Frames::new(state)), psk.clone()));
            }
            // A callee that cannot decrypt the message hangs up.
            Err(ConnectError::Io(error)) if is_hang_up(&error) => {}
            Err(ConnectError::Handshake(error)) => failed = error.into(),
            Err(other) => return Err(other),
        }
    }
    Err(failed)
}

fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

async fn shake_hands_by(
    inner: &Inner,
    name: &NodeName,
    psk: &Psk,
    stream: &mut TcpStream,
) -> Result<(Identity, TransportState), ConnectError> {
    let (initiator, message) = Initiator::new(psk, &inner.label, &inner.me, name)?;
    stream.write_all(&message).await?;
    let mut len = [0; 2];
    stream.read_exact(&mut len).await?;
    let len = usize::from(u16::from_be_bytes(len));
    if len > MAX_MESSAGE {
        return Err(HandshakeError::Unreadable.into());
    }
    let mut answer = vec![0; len];
    stream.read_exact(&mut answer).await?;
    initiator.finish(&answer)?.map_err(ConnectError::Refused)
}
