//! Calls between the nodes of a cluster: authenticated, encrypted, many at once over one connection.
//!
//! A node calls a service of another one by the other's name, and each knows who the other is. What gossip spreads is for
//! everybody; this is for one, who answers.
//!
//! # On the wire
//!
//! A session is a TCP connection to the members' port, whose first byte is none that memberlist knows. The
//! [`handshake`] comes first, then frames (`frames.rs`) with HTTP/2 in them, which brings many calls, pieces in both
//! directions, and that nobody sends more than the other takes. A node calls on its own sessions, of which it has two with
//! each node at most: one for calls with one answer, one for those in pieces, so that pieces that nobody reads hold up no
//! call.
//!
//! Nodes of ours that accept calls tell so, as the endpoint [`ENDPOINT`] of their [`NodeInfo`]; to others nothing of this is
//! ever sent.
//!
//! # States
//!
//! | a session is | until |
//! |---|---|
//! | being made | both have proven that they have the cluster's key; 5 s at most |
//! | open | 5 minutes pass without a call, the key is removed from the cluster, a side is no live member any more or has another id, stops, or does not answer a ping for 10 s |
//! | ending | no call is under way; 10 s at most. New calls make a new session |
//!
//! # What can go wrong
//!
//! - *A man in the middle* can cut a connection. Whatever else he does to it cuts it, too: what was changed, left out,
//!   repeated, moved or sent back cannot be read. He learns how much is said, and when.
//! - *A member that has the cluster's key* can say that it has any name. It is believed if a live member has that name, and
//!   has told that id by gossip. Whom that is not good enough for has to trust no member.
//! - *No key*: everybody is believed. So calls stay on one host, unless [`Config::insecure_sessions`] allows more.
//! - *A stranger* can hold 32 handshakes, for 5 s each; in IPv6, as many from each network of 64 bits, and 256 in all.
//! - *A member that is slow, or silent*: what waits for it is bounded by the windows of HTTP/2, 256 KiB a call and 2 MiB a
//!   session, 8 sessions a member, 512 in all. What is held of the bodies that services gather, and of the answers that
//!   nobody has taken yet, is bounded by 64 MiB, 32 MiB a member, and has to go on by 64 KiB every 30 s.
//! - *A call that is broken off* may have been carried out; [`CallError::has_begun`] tells when it was not. Services whose
//!   calls may not be carried out twice have to recognise them.

#![deny(missing_docs, unreachable_pub)]

mod body;
mod bounds;
mod client;
mod config;
mod encrypted;
mod error;
mod figures;
mod frames;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod handshake;
mod keys;
mod members;
mod noise;
mod pool;
mod server;
mod service;
mod socket;
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

pub use self::{
    body::{BodyError, Incoming, Outgoing},
    client::{Answered, Call},
    config::Config,
    error::{CallError, Refusal},
    figures::Figures,
    handshake::{Identity, Refused},
    service::{Answer, Request},
};
use self::{
    bounds::{Bounds, Share},
    config::LONGEST,
    handshake::Responder,
    keys::Keys,
    pool::{Lane, Pool},
    service::{Service, Services},
};

/// The endpoint that nodes tell which accept sessions of this version.
pub const ENDPOINT: &str = "session1";
/// The longest answer that [`Sessions::call`] takes, in bytes.
pub const MAX_ANSWER: usize = 4 << 20;

/// Why a node cannot make or accept sessions.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot tell the others that it does.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// The calls of one node, in both directions. Cheap to clone. While one of these is kept, so is the node; when the last is
/// dropped, its sessions end.
#[derive(Clone, Debug)]
pub struct Sessions {
    inner: Arc<Inner>,
    _last: Arc<Last>,
}

/// Ends everything when it is dropped.
#[derive(Debug)]
struct Last(watch::Sender<bool>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

/// What the two sides share.
struct Inner {
    node: Handle,
    me: Identity,
    label: String,
    config: Config,
    keys: watch::Receiver<Arc<Keys>>,
    /// Set when there is nothing to call or serve any more.
    stop: watch::Sender<bool>,
    services: RwLock<Services>,
    pool: Pool,
    bounds: Bounds,
    figures: Arc<figures::Counts>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Sessions {
    /// From now on this node accepts sessions, and tells the others so. Runs on the runtime that it is called on, which need
    /// not be that of the node. A node has these once.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(node: &Handle, config: Config) -> Result<Self, StartError> {
        let mut accepted = node.divert(handshake::FIRST).await.ok_or(UpdateError::Stopped)?;
        let me = Identity { name: node.name().into(), id: node.id() };
        let (keys, following) = keys::follow(node).await;
        if keys.borrow().open && config.insecure_sessions {
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
            bounds: Bounds::default(),
            figures: Arc::default(),
        });
        let info = node.info_of(&inner.me.name).await.unwrap_or_else(|| NodeInfo::new(node.id()));
        node.update_info(info.endpoint(ENDPOINT, SocketAddr::from(([0; 4], node.addr().port())))).await?;
        let serving = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let accept = async {
                while let Some((stream, from)) = accepted.accept().await {
                    let Some(inner) = serving.upgrade() else { break };
                    server::begin(inner, stream, from);
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
        Ok(Self { inner, _last: Arc::new(Last(stop)) })
    }

    /// From now on calls to `method` are answered by `service`, instead of by whatever answered them before. A call whose
    /// caller gives up is dropped where it waits, until it answers; an answer in pieces learns of that when it sends the next
    /// one, or by [`Outgoing::unwanted`].
    ///
    /// # Panics
    ///
    /// If `method` has not 1 to 64 letters, digits, `-`, `_`, `.` or `/`.
    pub fn serve<F>(&self, method: &str, service: impl Fn(Request) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Answer, Refusal>> + Send + 'static,
    {
        self.add(method, service, Arc::clone(&self.inner.bounds.share));
    }

    /// As [`serve`](Self::serve), for a service that calls of other services must not hold up: it answers 512 calls at once,
    /// 256 of one member, and 64 MiB are held for them, 32 MiB for one member, besides what all others have.
    ///
    /// # Panics
    ///
    /// As with [`serve`](Self::serve).
    pub fn serve_apart<F>(&self, method: &str, service: impl Fn(Request) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<Answer, Refusal>> + Send + 'static,
    {
        self.add(method, service, Arc::new(Share::apart()));
    }

    fn add<F>(&self, method: &str, service: impl Fn(Request) -> F + Send + Sync + 'static, share: Arc<Share>)
    where
        F: Future<Output = Result<Answer, Refusal>> + Send + 'static,
    {
        let service = Service { run: Arc::new(move |request| Box::pin(service(request))), share };
        self.inner.services.write().unwrap_or_else(PoisonError::into_inner).add(method, service);
    }

    /// Calls a service of the node named `to`, and gives its answer, of at most [`MAX_ANSWER`] bytes.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; one comes no later than `within`, which is 10 minutes at most.
    pub async fn call(
        &self,
        to: &str,
        method: &str,
        body: impl Into<Bytes>,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let within = within.min(LONGEST);
        let deadline = (Instant::now() + within, within);
        self.inner.figures.called();
        let body = body.into();
        let mut again = true;
        loop {
            let call = client::call(&self.inner, to, method, Some(deadline), Lane::Calls).await?;
            let answer = async {
                let mut answered = call.finish(body.clone()).await?;
                answered.incoming.all(MAX_ANSWER).await.map_err(|error| CallError::of_body(to, error))
            };
            match timeout_at(deadline.0, answer).await {
                // Its session ended, and the other side has not looked at it.
                Ok(Err(CallError::Unreachable { .. })) if std::mem::take(&mut again) => {}
                Ok(answered) => return answered,
                Err(_) => return Err(CallError::Deadline { to: to.into(), within }),
            }
        }
    }

    /// Begins a call of which both sides may send pieces as long as they like. With `within` it is broken off after that
    /// time, which is 10 minutes at most. Without, it goes on as long as both want, once its answer has begun: that has 10
    /// minutes.
    ///
    /// # Errors
    ///
    /// See [`CallError`]; nothing has begun then.
    pub async fn open(&self, to: &str, method: &str, within: Option<Duration>) -> Result<Call, CallError> {
        self.inner.figures.called();
        let deadline = within.map(|time| time.min(LONGEST)).map(|time| (Instant::now() + time, time));
        client::call(&self.inner, to, method, deadline, Lane::Streams).await
    }

    /// What has been counted.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.inner.figures.take()
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

    /// Whether a caller that has the cluster's key is served.
    async fn admits(&self, call: &Responder, keys: &Keys, from: SocketAddr) -> Result<(), Refused> {
        if call.to != self.me.name || call.caller.name == self.me.name {
            return Err(Refused::Name);
        }
        if !keys.admits(from.ip(), self.config.insecure_sessions) {
            return Err(Refused::Insecure);
        }
        self.know(&call.caller).await
    }

    /// Whether this is a live member.
    async fn know(&self, who: &Identity) -> Result<(), Refused> {
        let (_, info) = self.node.find(&who.name).await.ok_or(Refused::Stranger)?;
        // Whoever has not told its id yet is about to.
        match info {
            Some(info) if info.id == who.id => Ok(()),
            Some(_) => Err(Refused::Id),
            None => Err(Refused::Stranger),
        }
    }
}

/// The code in the page about calls compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/calls.md")]
struct Page;
