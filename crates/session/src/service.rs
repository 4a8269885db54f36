//! What a node does for others that call it.

use std::{collections::HashMap, fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    body::{BodyError, Incoming, Outgoing},
    bounds::Share,
    config::METHOD,
    error::Refusal,
    handshake::Identity,
};

/// A call that came.
#[derive(Debug)]
pub struct Request {
    /// Who calls: a live member, which has the cluster's key.
    pub caller: Identity,
    /// From which address.
    pub from: SocketAddr,
    /// When the caller gives up; the answer is broken off then. `None` for what has no end.
    pub deadline: Option<Instant>,
    /// What it sends.
    pub body: Incoming,
}

impl Request {
    /// All that the caller sends, if that is no more than `max` bytes. They count as held for the caller until this request
    /// is dropped; see [`Incoming::all`].
    ///
    /// # Errors
    ///
    /// See [`BodyError`].
    pub async fn bytes(&mut self, max: usize) -> Result<Bytes, BodyError> {
        self.body.all(max).await
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a service answers.
pub struct Answer(pub(crate) Kind);

pub(crate) enum Kind {
    Whole(Bytes),
    Stream(Box<dyn FnOnce(Outgoing) -> Task + Send>),
}

impl Answer {
    /// An answer in pieces, which `send` sends.
    pub fn stream<F: Future<Output = ()> + Send + 'static>(send: impl FnOnce(Outgoing) -> F + Send + 'static) -> Self {
        Self(Kind::Stream(Box::new(move |outgoing| Box::pin(send(outgoing)))))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Whole(bytes) => write!(f, "Answer({} bytes)", bytes.len()),
            Kind::Stream(_) => write!(f, "Answer(a stream)"),
        }
    }
}

impl<B: Into<Bytes>> From<B> for Answer {
    fn from(bytes: B) -> Self {
        Self(Kind::Whole(bytes.into()))
    }
}

/// What a service's function gives.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// One service.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) run: Arc<dyn Fn(Request) -> Answering + Send + Sync>,
    /// What its calls may hold.
    pub(crate) share: Arc<Share>,
}

/// The services of a node, by name.
#[derive(Default)]
pub(crate) struct Services(HashMap<String, Service>);

impl Services {
    pub(crate) fn add(&mut self, method: &str, service: Service) {
        assert!(is_method(method), "{method:?} is not the name of a service");
        self.0.insert(method.into(), service);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Service> {
        self.0.get(path.strip_prefix('/')?).cloned()
    }
}

/// Whether a service may have this name.
pub(crate) fn is_method(method: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    (1..=METHOD).contains(&method.len()) && method.bytes().all(allowed)
}
