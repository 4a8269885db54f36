//! The sessions that a node has with those it calls: one with each of them for each [`Lane`], made when it is needed.

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
        CALLS_OF_SESSION, CONNECT, GRACE, HEADS, IDLE, LONGEST, PAUSE, PING_EVERY, PONG_WITHIN, SEND_BUFFER,
        SESSION_WINDOW, WINDOW,
    },
    encrypted::Encrypted,
    error::CallError,
    frames::Frames,
    handshake::{HandshakeError, Identity, Initiator, MAX_MESSAGE, Refused},
    keys::Keys,
    members,
    noise::Psk,
    socket,
};

/// How long is waited before a node that refuses is asked again, at first.
const RETRY: Duration = Duration::from_millis(50);
/// How often a call that waits for others to end looks whether its session goes on.
const LOOK: Duration = Duration::from_millis(500);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<HashMap<Peer, Slot>>);

/// A node, and what its session is for.
pub(crate) type Peer = (NodeName, Lane);

/// Calls have a session of their own: streams that nobody reads take all the room that theirs has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Calls with one answer.
    Calls,
    /// Calls in pieces.
    Streams,
}

#[derive(Debug)]
enum Slot {
    Open(Arc<Session>),
    /// It is being made, once for all who wait for it.
    Making(watch::Receiver<Option<Made>>),
    /// It could not be made, and is not tried again before then.
    Failed(Instant, CallError),
}

type Made = Result<Arc<Session>, CallError>;

/// An open session. Its connection ends when nobody has this any more, and no call waits.
#[derive(Debug)]
pub(crate) struct Session {
    requests: SendRequest<Bytes>,
    psk: Psk,
    /// As many as there may be calls under way: further ones wait here, where they can go to another session, and not
    /// behind the others in this one.
    places: Arc<Semaphore>,
}

impl Session {
    /// Room for one more call.
    ///
    /// # Errors
    ///
    /// Why it takes no more.
    pub(crate) async fn room(&self) -> Result<(SendRequest<Bytes>, OwnedSemaphorePermit), String> {
        loop {
            let requests = self.requests.clone().ready().await.map_err(|error| error.to_string())?;
            // By now it may be ending.
            match timeout(LOOK, Arc::clone(&self.places).acquire_owned()).await {
                Ok(Ok(place)) => return Ok((requests, place)),
                Ok(Err(closed)) => return Err(closed.to_string()),
                Err(_) => {}
            }
        }
    }

    fn is_used(&self) -> bool {
        self.places.available_permits() < CALLS_OF_SESSION as usize
    }
}

impl Pool {
    fn slots(&self) -> MutexGuard<'_, HashMap<Peer, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next call make a new session, and those that wait for room in this one.
    pub(crate) fn forget(&self, peer: &Peer, session: &Arc<Session>) {
        session.places.close();
        let mut slots = self.slots();
        if matches!(slots.get(peer), Some(Slot::Open(current)) if Arc::ptr_eq(current, session)) {
            slots.remove(peer);
        }
    }

    /// Ends all sessions, as soon as their calls have ended.
    pub(crate) fn clear(&self) {
        self.slots().clear();
    }
}

/// The session with this node; those who want it at the same time wait for one handshake.
pub(crate) async fn session(inner: &Arc<Inner>, peer: &Peer) -> Made {
    let mut made = {
        let (mut slots, now) = (inner.pool.slots(), Instant::now());
        match slots.get(peer) {
            Some(Slot::Open(session)) if inner.keys.borrow().has(&session.psk) => return Ok(Arc::clone(session)),
            Some(Slot::Failed(until, error)) if now < *until => return Err(error.clone()),
            Some(Slot::Making(made)) if made.has_changed().is_ok() => made.clone(),
            _ => {
                // Of nodes that are gone, nothing is kept.
                slots.retain(|_, slot| !matches!(slot, Slot::Failed(until, _) if *until <= now));
                let (sender, made) = watch::channel(None);
                if let Some(Slot::Open(former)) = slots.insert(peer.clone(), Slot::Making(made.clone())) {
                    former.places.close();
                }
                begin_session(Arc::clone(inner), peer.clone(), sender);
                made
            }
        }
    };
    let made = made.wait_for(Option::is_some).await.ok().and_then(|made| made.clone());
    made.unwrap_or(Err(CallError::Stopped))
}

/// No `async fn`, as that would be compiled with whoever makes a call, instead of once with this crate.
fn begin_session(inner: Arc<Inner>, peer: Peer, sender: watch::Sender<Option<Made>>) {
    // Whoever has little time begins it for those who come later.
    tokio::spawn(async move {
        let made = make(&inner, &peer).await;
        let slot = match &made {
            Ok(session) if !inner.has_stopped() => Some(Slot::Open(Arc::clone(session))),
            Err(error @ (CallError::Unreachable { .. } | CallError::Shut { .. })) => {
                Some(Slot::Failed(Instant::now() + PAUSE, error.clone()))
            }
            _ => None,
        };
        let mut slots = inner.pool.slots();
        match slot {
            Some(slot) => slots.insert(peer, slot),
            None => slots.remove(&peer),
        };
        drop(slots);
        sender.send_replace(Some(made));
    });
}

async fn make(inner: &Arc<Inner>, peer: &Peer) -> Made {
    let mut pause = RETRY;
    loop {
        match connect(inner, peer).await {
            // It is about to hear of this node, or of its new life; or to have room.
            Err(CallError::Shut { why: Refused::Stranger | Refused::Id | Refused::Full, .. })
                if pause < Duration::from_secs(2) =>
            {
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
        // With the zone that a link-local address has.
        let port = addr.port();
        addr = member.addr;
        addr.set_port(port);
    }
    let keys = inner.keys.borrow().clone();
    if !keys.admits(addr.ip(), inner.config.insecure_sessions) {
        return Err(CallError::Insecure(to));
    }
    let shaken = timeout(CONNECT, shake_hands(inner, name, addr, &keys)).await;
    let unreachable = |problem: String| CallError::Unreachable { to: to.clone(), problem };
    let (connection, psk) = match shaken {
        Err(_) => return Err(unreachable(format!("no answer from {addr} within {CONNECT:?}"))),
        Ok(Err(Failed::Io(error))) => return Err(unreachable(format!("{addr}: {error}"))),
        Ok(Err(Failed::Handshake(error))) => return Err(unreachable(format!("{addr}: {error}"))),
        Ok(Err(Failed::Refused(why))) => return Err(CallError::Shut { to, why }),
        Ok(Ok((identity, ..))) if identity.name != *name || identity.id != id => {
            return Err(CallError::Shut { to, why: Refused::Id });
        }
        Ok(Ok((_, connection, psk))) => (connection, psk),
    };
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(SESSION_WINDOW)
        .max_header_list_size(HEADS)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false);
    let (requests, connection) = builder.handshake(connection).await.map_err(|error| unreachable(error.to_string()))?;
    let places = Arc::new(Semaphore::new(CALLS_OF_SESSION as usize));
    let session = Arc::new(Session { requests, psk, places });
    debug!(%to, "opened a session");
    let gone = members::gone(events, Identity { name: name.clone(), id }, Arc::downgrade(inner));
    let kept = (Arc::downgrade(inner), peer.clone(), Arc::downgrade(&session));
    tokio::spawn(drive(connection, inner.keys.clone(), session.psk.clone(), gone, kept));
    Ok(session)
}

/// Keeps a connection going until it ends, and ends it when nobody is there, or nobody needs it.
async fn drive(
    mut connection: Connection<Encrypted<TcpStream>, Bytes>,
    mut keys: watch::Receiver<Arc<Keys>>,
    psk: Psk,
    gone: impl Future<Output = ()>,
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
    // When it is over, and why; and until when the other side has to answer a ping.
    let (mut end_at, mut end_why, mut pong_by) = (None::<Instant>, "", None::<Instant>);
    pin!(connection, gone);
    let why = loop {
        let far = Instant::now() + LONGEST;
        select! {
            ended = &mut connection => break ended.err().map_or_else(|| "it was closed".into(), |error| error.to_string()),
            Ok(()) = keys.changed(), if end_at.is_none() => {
                if !keys.borrow_and_update().has(&psk) {
                    forget();
                    (end_at, end_why) = (Some(Instant::now() + GRACE), "its key is no longer one of the cluster's");
                }
            }
            () = &mut gone, if end_at.is_none() => {
                forget();
                (end_at, end_why) = (Some(Instant::now() + GRACE), "it is no live member any more, or another one");
            }
            () = sleep_until(end_at.unwrap_or(far)), if end_at.is_some() => {
                break end_why.to_owned();
            }
            pong = poll_fn(|cx| pings.poll_pong(cx)), if pong_by.is_some() => match pong {
                Ok(_) => pong_by = None,
                Err(error) => break error.to_string(),
            },
            () = sleep_until(pong_by.unwrap_or(far)), if pong_by.is_some() => {
                break format!("it did not answer within {PONG_WITHIN:?}");
            }
            _ = ticks.tick() => {
                let now = Instant::now();
                if session.upgrade().is_some_and(|session| session.is_used()) {
                    used = now;
                    if pong_by.is_none() && pings.send_ping(h2::Ping::opaque()).is_ok() {
                        pong_by = Some(now + PONG_WITHIN);
                    }
                } else if now - used >= IDLE {
                    // Without the pool nobody has it, and it ends.
                    forget();
                }
            }
        }
    };
    debug!(name = %peer.0, %why, "a session with a node has ended");
    forget();
}

enum Failed {
    Io(io::Error),
    Handshake(HandshakeError),
    Refused(Refused),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<HandshakeError> for Failed {
    fn from(error: HandshakeError) -> Self {
        Self::Handshake(error)
    }
}

type Shaken = (Identity, Encrypted<TcpStream>, Psk);

/// Tries the keys, the one that is in use first.
async fn shake_hands(inner: &Inner, name: &NodeName, addr: SocketAddr, keys: &Keys) -> Result<Shaken, Failed> {
    let mut failed = Failed::Handshake(HandshakeError::HungUp);
    for psk in &keys.psks {
        let mut stream = TcpStream::connect(addr).await?;
        socket::prepare(&stream);
        match shake_hands_by(inner, name, psk, &mut stream).await {
            Ok((identity, state)) => {
                return Ok((identity, Encrypted::new(stream, Frames::new(state)), psk.clone()));
            }
            // Whoever cannot read what it is told says nothing, and hangs up.
            Err(Failed::Io(error)) if is_hang_up(&error) => {}
            Err(Failed::Handshake(error)) => failed = error.into(),
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
) -> Result<(Identity, TransportState), Failed> {
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
    initiator.finish(&answer)?.map_err(Failed::Refused)
}
