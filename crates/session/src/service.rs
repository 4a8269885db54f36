//! Services: what a node answers calls with.

use std::{collections::HashMap, fmt, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    body::{BodyError, IncomingBody, OutgoingBody},
    config::MAX_METHOD_NAME,
    error::Refusal,
    handshake::Identity,
    limits::ServiceQuota,
};

/// An incoming call. [`Sessions`](crate::Sessions) has an example.
#[derive(Debug)]
pub struct Request {
    /// The caller: a live member that has the cluster's key.
    pub caller: Identity,
    /// The caller's address.
    pub from: SocketAddr,
    /// When the caller gives up; the response is cut off then. `None` for a call without a deadline.
    pub deadline: Option<Instant>,
    /// The body of the request.
    pub body: IncomingBody,
}

impl Request {
    /// The whole body, if it has at most `max` bytes. They count in the caller's buffers until this request is dropped; see
    /// [`IncomingBody::all`].
    ///
    /// # Errors
    ///
    /// See [`BodyError`].
    pub async fn bytes(&mut self, max: usize) -> Result<Bytes, BodyError> {
        self.body.all(max).await
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A service's response: bytes, or a stream of pieces.
///
/// ```
/// use broadcast_session::Response;
///
/// let whole: Response = "hello".into();
/// let pieces = Response::stream(async |mut body| {
///     for number in 0..3 {
///         if body.send(format!("{number}\n").into()).await.is_err() {
///             return;
///         }
///     }
///     let _ = body.end("".into()).await;
/// });
/// # drop((whole, pieces));
/// ```
pub struct Response(pub(crate) ResponseBody);

pub(crate) enum ResponseBody {
    Whole(Bytes),
    Stream(Box<dyn FnOnce(OutgoingBody) -> Task + Send>),
}

impl Response {
    /// A response in pieces, which `send` sends.
    pub fn stream<F: Future<Output = ()> + Send + 'static>(
        send: impl FnOnce(OutgoingBody) -> F + Send + 'static,
    ) -> Self {
        Self(ResponseBody::Stream(Box::new(move |outgoing| Box::pin(send(outgoing)))))
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ResponseBody::Whole(bytes) => write!(f, "Response({} bytes)", bytes.len()),
            ResponseBody::Stream(_) => write!(f, "Response(a stream)"),
        }
    }
}

impl<B: Into<Bytes>> From<B> for Response {
    fn from(bytes: B) -> Self {
        Self(ResponseBody::Whole(bytes.into()))
    }
}

/// What a service's function returns.
pub(crate) type ServiceFuture = Pin<Box<dyn Future<Output = Result<Response, Refusal>> + Send>>;

/// One service.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) run: Arc<dyn Fn(Request) -> ServiceFuture + Send + Sync>,
    /// The limits of its calls.
    pub(crate) quota: Arc<ServiceQuota>,
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
    (1..=MAX_METHOD_NAME).contains(&method.len()) && method.bytes().all(allowed)
}
