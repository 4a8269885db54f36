//! Remote procedure calls between the nodes of a cluster: authenticated, encrypted, many at once over one connection.
//!
//! Gossip brings a message to every node. A call goes to one node, by its name, and brings back a response or an error. Both
//! sides know who the other is. [`Sessions`] has an example.
//!
//! # On the wire
//!
//! A session is a TCP connection to the members' port, whose first byte memberlist does not use. After the [`handshake`] come
//! encrypted frames (`frames.rs`) with HTTP/2 in them, which provides multiplexing, streaming in both directions and flow
//! control. A node makes at most two sessions with each node that it calls: one for calls with one response, and one for calls
//! in pieces, so that pieces that nobody reads hold up no other call.
//!
//! A node that accepts calls announces that as the endpoint [`ENDPOINT`] of its [`NodeInfo`]. Other nodes never get any of
//! these bytes.
//!
//! # States
//!
//! | a session is | until |
//! |---|---|
//! | connecting | both sides have proven that they have the cluster's key; 5 s at most |
//! | open | 5 minutes pass without a call, the key is removed from the cluster, a side has left or has another id, a side stops, or does not answer a ping for 10 s |
//! | ending | no call is under way; 10 s at most. New calls make a new session |
//!
//! # What can go wrong
//!
//! - *A man in the middle* can cut a connection. Any other interference cuts it, too: bytes that were changed, left out,
//!   repeated, reordered or reflected cannot be decrypted. He learns how much is sent, and when.
//! - *A member with the cluster's key* can claim any name. It is believed if a live member has that name and announced that id
//!   by gossip. So members have to trust each other.
//! - *Without a key*, everybody is believed. So calls stay on one host, unless [`SessionConfig::insecure_sessions`] allows more.
//! - *A stranger* can hold 32 handshakes from one address, for 5 s each; in IPv6, from one /64 network; and 256 in all.
//! - *A slow or silent member*: what waits for it is bounded by HTTP/2's windows, 256 KiB for a call and 2 MiB for a session,
//!   with 8 sessions for a member and 512 in all. The buffers for gathered requests and for responses that nobody has taken
//!   yet are bounded to 64 MiB, and to 32 MiB for a member; 64 KiB have to pass every 30 s.
//! - *A call that was broken off* may have been carried out. [`CallError::has_begun`] tells when it was not. A service whose
//!   calls must not be carried out twice has to recognise repeated ones.

#![deny(missing_docs, unreachable_pub)]

mod body;
mod client;
mod config;
mod encrypted;
mod error;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handshake;
mod keys;
mod limits;
mod members;
mod noise;
mod pool;
mod server;
mod service;
mod socket;
mod stats;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use broadcast::{Handle, NodeInfo, UpdateError};
use bytes::Bytes;
use tokio::{
    select,
    sync::watch,
    time::{Instant, timeout_at},
};
use tracing::warn;

pub use self::former_names::*;
pub use self::{
    body::{BodyError, IncomingBody, OutgoingBody},
    client::{Call, CallResponse},
    config::SessionConfig,
    error::{CallError, Refusal},
    handshake::{HandshakeRefusal, Identity},
    service::{Request, Response},
    stats::SessionStats,
};
use self::{
    config::MAX_CALL_TIME,
    handshake::Responder,
    keys::Keys,
    limits::{ServiceQuota, SessionLimits},
    pool::{Pool, SessionKind},
    service::{Service, Services},
};

/// The name of the endpoint that nodes announce if they accept sessions of this version.
pub const ENDPOINT: &str = "session1";
/// The longest answer that [`Sessions::call`] takes, in bytes.
pub const MAX_ANSWER: usize = 4 << 20;

/// Why a node cannot make or accept sessions. See [`Sessions::start`].
#[derive(Debug, thiserror::Error)]
pub enum SessionStartError {
    /// The node cannot announce its endpoint.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// A node's calls, in both directions. Cheap to clone. Keeps the node alive. When the last clone is dropped, the sessions end.
///
/// ```no_run
/// use std::time::Duration;
///
/// use broadcast_session::{Refusal, Request, SessionConfig, Sessions};
///
/// # async fn f(node: broadcast::Handle) -> Result<(), Box<dyn std::error::Error>> {
/// let sessions = Sessions::start(&node, SessionConfig::default()).await?;
/// sessions.serve("double", async |mut request: Request| {
///     let body = request.bytes(100).await.map_err(|error| Refusal::new(1, error.to_string()))?;
///     let number = String::from_utf8_lossy(&body).parse::<u32>().map_err(|_| Refusal::new(2, "not a number"))?;
///     Ok((2 * number).to_string().into())
/// });
/// let answer = sessions.call("node2", "double", "21", Duration::from_secs(1)).await?;
/// assert_eq!(answer, "42");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Sessions {
    inner: Arc<Inner>,
    _stop_on_drop: Arc<StopOnDrop>,
}

/// Stops all sessions when it is dropped.
#[derive(Debug)]
struct StopOnDrop(watch::Sender<bool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// What the client side and the serving side share.
struct Inner {
    node: Handle,
    me: Identity,
    label: String,
    config: SessionConfig,
    keys: watch::Receiver<Arc<Keys>>,
    /// Set when all sessions are to end.
    stop: watch::Sender<bool>,
    services: RwLock<Services>,
    pool: Pool,
    limits: SessionLimits,
    counters: Arc<stats::Counters>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Sessions {
    /// From now on this node accepts sessions, and announces that to the others. Runs on the current runtime, which need not be
    /// the node's. To be called once for a node.
    ///
    /// # Errors
    ///
    /// See [`SessionStartError`].
    pub async fn start(node: &Handle, config: SessionConfig) -> Result<Self, SessionStartError> {
        let mut accepted = node.divert(handshake::MAGIC).await.ok_or(UpdateError::Stopped)?;
        let me = Identity { name: node.name().into(), id: node.id() };
        let (keys, following) = keys::follow(node).await;
        if keys.borrow().keyless && config.insecure_sessions {
            warn!(
                node = node.name(),
                event = "sessions_open",
                "this cluster has no key, and its nodes call each other all the same: whoever can reach {} can call its \
                 services in the name of any member",
                node.addr()
            );
        }
        let (stop, mut stopped) = watch::channel(false);
        let inner = Arc::new(Inner {
            node: node.clone(),
            me,
            label: node.label().into(),
            config,
            keys,
            stop: stop.clone(),
            services: RwLock::default(),
            pool: Pool::default(),
            limits: SessionLimits::default(),
            counters: Arc::default(),
        });
        let info = node.info_of(&inner.me.name).await.unwrap_or_else(|| NodeInfo::new(node.id()));
        node.update_info(info.endpoint(ENDPOINT, SocketAddr::from(([0; 4], node.addr().port())))).await?;
        let serving = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let accept = async {
                while let Some((stream, from)) = accepted.accept().await {
                    let Some(inner) = serving.upgrade() else { break };
                    server::spawn(inner, stream, from);
                }
            };
            select! {
                () = accept => {}
                () = following => {}
                _ = stopped.changed() => {}
            }
            if let Some(inner) = serving.upgrade() {
                inner.stop.send_replace(true);
                inner.pool.clear();
            }
        });
        Ok(Self { inner, _stop_on_drop: Arc::new(StopOnDrop(stop)) })
    }

    /// From now on `service` answers calls to `method`, in place of an earlier one. If a caller gives up before the service has
    /// returned, the service's future is dropped. A response in pieces learns of it when it sends the next piece, or by
    /// [`OutgoingBody::cancelled`].
    ///
    /// # Panics
    ///
    /// If `method` has not 1 to 64 letters, digits, `-`, `_`, `.` or `/`.
    pub fn serve<F>(&self, method: &str, service: impl Fn(Request) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Response, Refusal>> + Send + 'static,
    {
        self.add(method, service, Arc::clone(&self.inner.limits.shared));
    }

    /// As [`serve`](Self::serve), for a service that calls of other services must not hold up. It has limits of its own: 512
    /// calls at once, 256 of one member, and buffers of 64 MiB, 32 MiB for one member.
    ///
    /// # Panics
    ///
    /// As with [`serve`](Self::serve).
    pub fn serve_isolated<F>(&self, method: &str, service: impl Fn(Request) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Response, Refusal>> + Send + 'static,
    {
        self.add(method, service, Arc::new(ServiceQuota::isolated()));
    }

    #[doc(hidden)]
    #[deprecated(note = "now `serve_isolated`")]
    pub fn serve_apart<F>(&self, method: &str, service: impl Fn(Request) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Response, Refusal>> + Send + 'static,
    {
        self.serve_isolated(method, service);
    }

    fn add<F>(&self, method: &str, service: impl Fn(Request) -> F + Send + Sync + 'static, quota: Arc<ServiceQuota>)
    where
        F: Future<Output = Result<Response, Refusal>> + Send + 'static,
    {
        let service = Service { run: Arc::new(move |request| Box::pin(service(request))), quota };
        self.inner.services.write().unwrap_or_else(PoisonError::into_inner).add(method, service);
    }

    /// Calls a service of the node named `to`, and returns its response, of at most [`MAX_ANSWER`] bytes. The deadline
    /// `within` is at most 10 minutes.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; it is returned by the deadline.
    pub async fn call(
        &self,
        to: &str,
        method: &str,
        body: impl Into<Bytes>,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let within = within.min(MAX_CALL_TIME);
        let deadline = (Instant::now() + within, within);
        self.inner.counters.called();
        let body = body.into();
        let mut again = true;
        loop {
            let call = client::call(&self.inner, to, method, Some(deadline), SessionKind::Calls).await?;
            let answer = async {
                let mut answered = call.finish(body.clone()).await?;
                answered.incoming.all(MAX_ANSWER).await.map_err(|error| CallError::of_body(to, error))
            };
            match timeout_at(deadline.0, answer).await {
                // The session ended before the other side had looked at the call.
                Ok(Err(CallError::Unreachable { .. })) if std::mem::take(&mut again) => {}
                Ok(answered) => return answered,
                Err(_) => return Err(CallError::Deadline { to: to.into(), within }),
            }
        }
    }

    /// Begins a call in which both sides send pieces. With `within`, it is cut off after that time, of at most 10 minutes.
    /// Without, the response has to begin within 10 minutes, and then the call goes on as long as both sides like. [`Call`]
    /// has an example.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; the call has not begun then.
    pub async fn open(&self, to: &str, method: &str, within: Option<Duration>) -> Result<Call, CallError> {
        self.inner.counters.called();
        let deadline = within.map(|time| time.min(MAX_CALL_TIME)).map(|time| (Instant::now() + time, time));
        client::call(&self.inner, to, method, deadline, SessionKind::Streams).await
    }

    #[doc(hidden)]
    #[must_use]
    #[deprecated(note = "now `stats`")]
    pub fn figures(&self) -> SessionStats {
        self.stats()
    }

    /// The counters and gauges.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        self.inner.counters.snapshot()
    }

    /// The node whose calls these are.
    #[must_use]
    pub fn node(&self) -> &Handle {
        &self.inner.node
    }
}

impl Inner {
    fn service(&self, path: &str) -> Option<Service> {
        self.services.read().unwrap_or_else(PoisonError::into_inner).get(path)
    }

    fn has_stopped(&self) -> bool {
        *self.stop.borrow() || self.node.has_stopped()
    }

    /// Whether this node serves a caller that has the cluster's key.
    async fn admits(&self, call: &Responder, keys: &Keys, from: SocketAddr) -> Result<(), HandshakeRefusal> {
        if call.to != self.me.name || call.caller.name == self.me.name {
            return Err(HandshakeRefusal::Name);
        }
        if !keys.admits(from.ip(), self.config.insecure_sessions) {
            return Err(HandshakeRefusal::Insecure);
        }
        self.verify_member(&call.caller).await
    }

    /// Whether this is a live member with this id.
    async fn verify_member(&self, who: &Identity) -> Result<(), HandshakeRefusal> {
        let (_, info) = self.node.find(&who.name).await.ok_or(HandshakeRefusal::Stranger)?;
        // A member whose id is unknown is about to announce it.
        match info {
            Some(info) if info.id == who.id => Ok(()),
            Some(_) => Err(HandshakeRefusal::Id),
            None => Err(HandshakeRefusal::Stranger),
        }
    }
}

/// Public names that were changed, for programs that use them still.
mod former_names {
    #[doc(hidden)]
    #[deprecated(note = "now `Response`")]
    pub type Answer = super::Response;

    #[doc(hidden)]
    #[deprecated(note = "now `CallResponse`")]
    pub type Answered = super::CallResponse;

    #[doc(hidden)]
    #[deprecated(note = "now `SessionConfig`")]
    pub type Config = super::SessionConfig;

    #[doc(hidden)]
    #[deprecated(note = "now `SessionStats`")]
    pub type Figures = super::SessionStats;

    #[doc(hidden)]
    #[deprecated(note = "now `IncomingBody`")]
    pub type Incoming = super::IncomingBody;

    #[doc(hidden)]
    #[deprecated(note = "now `OutgoingBody`")]
    pub type Outgoing = super::OutgoingBody;

    #[doc(hidden)]
    #[deprecated(note = "now `HandshakeRefusal`")]
    pub type Refused = super::HandshakeRefusal;

    #[doc(hidden)]
    #[deprecated(note = "now `SessionStartError`")]
    pub type StartError = super::SessionStartError;
}

/// The code in the page about calls compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/calls.md")]
struct Page;
