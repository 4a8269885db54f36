//! The gateway: a node's HTTP API for programs in any language, and its page for people.
//!
//! A [`Server`] listens on a port, and serves a node ([`Handle`]) until that has stopped. It knows the node's public interface
//! and nothing beneath it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use broadcast_gateway::{Access, GatewayConfig, Server, Tokens};
//!
//! let node = broadcast::start(broadcast::Config::new("node1")).await?;
//! let tokens = Tokens::new(Tokens::parse("ci: read,publish e1P9ZZSdSHckQPbIDwl6VbxzIkfqMAAq")?)?;
//! let config = GatewayConfig { access: Access::with(tokens), ..GatewayConfig::new("127.0.0.1:8946".parse()?) };
//! Server::bind(config)?.spawn(node)?;
//! // curl -H "Authorization: Bearer e1P9…" http://127.0.0.1:8946/v1/members
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - **Health checks are answered first**, whatever the load: `/healthz`, `/livez`, `/readyz` and gRPC's health check.
//! - **Every route requires a scope**, or says that it requires none. A request without it changes nothing
//!   ([`RequiredScopes`]).
//! - **Every change is in the audit log** ([`AUDIT_TARGET`]).
//! - **Memory is bounded**: connections, streams, bodies, followers and what is kept for them have limits, and a client that is
//!   slow costs nobody else anything.
//! - **Errors are problem details** (RFC 9457): each says what was wrong, with which value, and what to do ([`Problem`]).
//!
//! # How it is put together
//!
//! | module | what it has |
//! |---|---|
//! | `accept`, `connection`, `transport`, `tls` | from the socket to a request: the accept loop, TLS, HTTP/1.1 and HTTP/2 |
//! | `trace`, `guard`, `access`, `audit` | the middleware that each request passes: logging, checking, auditing |
//! | `routes` | routes and their description (OpenAPI); those that others mount |
//! | `publish` | `POST /v1/messages` |
//! | `streams`, `journal`, `event_feed`, `stream_format` | following messages and events: server-sent events or JSON lines |
//! | `cluster`, `views`, `status_cache` | how the node sees its cluster, and how other members see it |
//! | `metrics`, `metrics_writer` | `GET /metrics`, for Prometheus |
//! | `grpc`, `grpc_health` | what all gRPC has in common, and its health check |
//! | `page` | the page for people |
//! | `body`, `query`, `problem`, `chunks` | reading bodies and queries, writing responses |
//! | `background` | what runs as long as the node is served |
//!
//! A program adds its own routes by [`Server::mount`]: they have the same guard, limits, log and description, their metrics are
//! told with those of the node, and their script runs in the page.
//!
//! # One request, from the socket to the response
//!
//! A client sends `POST /v1/messages` with a message:
//!
//! 1. `accept::serve`, the accept loop, takes the connection. If the limit allows, it gets a `ConnectionPermit`.
//! 2. `Acceptor::admit` does the TLS handshake, if there is TLS (`tls_handshake`), and looks at the first bytes (`sniff`). A
//!    health check stays on this thread. Any other connection is handed to the second thread, which serves all clients.
//! 3. `Service::serve_http1` or `Http2Connection::serve` reads the head and calls `Service::respond`.
//! 4. The request passes the middleware: `trace::request` logs it; `guard::check` finds the route's [`RequiredScopes`] and the
//!    caller's token, begins an audit entry if something may change, and refuses what is not allowed.
//! 5. The router calls the handler, `publish::publish`. That reads the query (`query::read`) and the body
//!    (`body::read_within`), and publishes the message by [`Handle::try_publish`].
//! 6. The handler waits for acknowledgements if the client asked for them, and gives a response, or a [`Problem`]. When the
//!    audit entry is dropped, it is logged.
//!
//! The message comes back from the node, as from every other: `App::run_background` writes it into the `journal`, once for all
//! followers. Each `MessageStream` (`GET /v1/messages`) reads on from its own position.
//!
//! # What can go wrong
//!
//! - *Too many connections*: those beyond [`GatewayConfig::max_connections`] are answered 503, but for health checks.
//! - *Many busy clients*: they share one thread, and health checks have another (`accept`).
//! - *Clients that are slow*: to ask, to send or to read, each has a time limit ([`Timeouts`]). A follower that does not read
//!   is overtaken in the journal and cut off; nobody waits for it.
//! - *Bodies without end*: a message has a limit; a batch is read line by line, no faster than the cluster takes it.
//! - *Web pages of others in the user's browser*: refused by their origin (`guard`).
//! - *Callers without permission*: refused by the scopes of their token (`access`). With TLS nobody on the way sees the token.
//! - *A flood of requests*: it takes time of the threads of the server. [`Server::spawn`] gives it two of its own, so gossip
//!   goes on.

#![deny(missing_docs, unreachable_pub)]

mod accept;
mod access;
mod app;
mod audit;
mod background;
mod body;
mod chunks;
mod cluster;
mod connection;
mod event_feed;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
mod grpc_health;
mod guard;
mod journal;
mod metrics;
mod metrics_writer;
mod page;
mod problem;
mod publish;
mod query;
mod routes;
mod status_cache;
mod stream_format;
mod streams;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod transport;
mod view_cache;
mod views;

use std::{
    convert::Infallible,
    future::ready,
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Router,
    extract::Request,
    http::{HeaderMap, StatusCode},
    middleware,
    routing::{MethodRouter, get, post},
};
use broadcast::Handle;
use rand::{TryRng as _, rngs::SysRng};
use socket2::{Domain, Socket, Type};
use tokio::{net::TcpListener, runtime, sync::oneshot};

pub use self::{
    access::{Access, NamedToken, RequiredScopes, Scope, Scopes, Token, TokenName, Tokens, TokensError},
    audit::{AuditHandle, TARGET as AUDIT_TARGET},
    body::{read_bytes, read_json, read_json_up_to},
    guard::{Origin, insufficient_scope},
    metrics_writer::MetricsWriter,
    problem::{Problem, json_response, json_text_response},
    publish::{ACK_TIME, MAX_ACK_TIME, MAX_BODY},
    query::{parse_number, read as read_query, reject_any as no_query},
    routes::Routes,
    tls::{Certificate, Pem, Tls, TlsError, crypto_provider},
};
use self::{app::App, background::NodeSubscriptions};

#[doc(hidden)]
#[deprecated(note = "renamed to `GatewayConfig`")]
pub type Config = GatewayConfig;
#[doc(hidden)]
#[deprecated(note = "renamed to `Timeouts`")]
pub type Times = Timeouts;
#[doc(hidden)]
#[deprecated(note = "renamed to `RequiredScopes`")]
pub type Needs = RequiredScopes;
#[doc(hidden)]
#[deprecated(note = "renamed to `AuditHandle`")]
pub type Audited = AuditHandle;
#[doc(hidden)]
#[deprecated(note = "renamed to `MetricsWriter`")]
pub type Sheet<'a> = MetricsWriter<'a>;

/// The port on which the API listens by default.
pub const DEFAULT_PORT: u16 = 8946;
/// The default of [`GatewayConfig::max_connections`].
pub const MAX_CONNECTIONS: usize = 4096;

/// How many connections the system queues until they are accepted. Of many that come at once, those beyond it try again after
/// a second.
const BACKLOG: i32 = 1024;

/// The configuration of a [`Server`].
///
/// ```
/// use broadcast_gateway::GatewayConfig;
///
/// let config = GatewayConfig { max_connections: 500, ..GatewayConfig::new(([127, 0, 0, 1], 8946).into()) };
/// assert!(config.access.is_open() && config.tls.is_none());
/// ```
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The address to listen on; port 0 lets the system choose. An address that others reach, as `0.0.0.0`, lets other machines
    /// call: then set tokens and TLS.
    pub addr: SocketAddr,
    /// The tokens that callers must show; health checks need none. Without tokens everybody who reaches the address may call,
    /// and web pages are told apart by the name they call the node by.
    pub access: Access,
    /// The certificate with which the port speaks TLS, and nothing else then. A handshake costs more than most requests, and
    /// clients have to trust the certificate; without TLS everybody on the way reads tokens and messages.
    pub tls: Option<Tls>,
    /// The origins of web pages that may call, besides the node's own page. Each one may do what the user's token allows.
    pub origins: Vec<Origin>,
    /// How many connections may be open at once, at least 1. With more, more clients can follow at the same time; each takes a
    /// file descriptor and up to some hundred KiB of memory. Beyond it, clients are answered 503.
    pub max_connections: usize,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// Translates a text for callers that names a setting. Names of settings are fields of this type or of
    /// [`broadcast::Config`], in backquotes; a program puts its own names in their place. The default leaves the text as it is.
    pub explain: fn(&str) -> String,
    /// The name of the thread that [`Server::spawn`] starts; the one for clients has `-clients` behind it. Linux shows 15 bytes
    /// of each.
    pub thread_name: &'static str,
}

/// How long clients may take. Longer times are kinder to slow networks; shorter ones free the connections of clients that are
/// gone or mean harm sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the head of a request; also for a TLS handshake, and how long a connection may be idle. Longer keeps connections
    /// open for the next request; shorter makes room for others.
    pub head: Duration,
    /// For a body, and for each line of a batch. Longer lets slow clients send large bodies; shorter limits how long a body's
    /// memory is held.
    pub body: Duration,
    /// How long a client may take nothing of its response. Longer tolerates pauses of the network; shorter frees what waits to
    /// be sent sooner.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let [head, body, stall] = [15, 30, 30].map(Duration::from_secs);
        Self { head, body, stall }
    }
}

impl GatewayConfig {
    /// Without tokens and without TLS, for no page but the node's own.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            access: Access::open(),
            tls: None,
            origins: Vec::new(),
            max_connections: MAX_CONNECTIONS,
            timeouts: Timeouts::default(),
            explain: str::to_owned,
            thread_name: "http",
        }
    }
}

/// The server cannot listen on its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve HTTP on {addr}: {source}; stop what uses it, or set another `addr`, port 0 for any free one")]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// The error of the system.
    pub source: io::Error,
}

/// An HTTP server for a node. [`bind`](Self::bind) it, [`mount`](Self::mount) routes, then [`spawn`](Self::spawn) it. The
/// [crate](self) has an example.
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    addr: SocketAddr,
    config: GatewayConfig,
    mounted: Vec<Routes>,
    /// Set if only mounted routes are served: adapts the headers of each request first.
    only: Option<fn(&mut HeaderMap)>,
}

impl Server {
    /// Listens. Connections queue until the server runs.
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn bind(config: GatewayConfig) -> Result<Self, BindError> {
        let listen = || {
            let socket = Socket::new(Domain::for_address(config.addr), Type::STREAM, None)?;
            // Connections of a server that has just stopped may be in TIME_WAIT, and would keep the address taken.
            socket.set_reuse_address(cfg!(unix))?;
            socket.bind(&config.addr.into())?;
            socket.listen(BACKLOG)?;
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            let addr = listener.local_addr()?;
            Ok((listener, addr))
        };
        match listen() {
            Ok((listener, addr)) => Ok(Self { listener, addr, config, mounted: Vec::new(), only: None }),
            Err(source) => Err(BindError { addr: config.addr, source }),
        }
    }

    /// The address that it listens on, with the port that the system chose.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves these routes as well, with the same guard and limits. See [`Routes::new`] for an example.
    ///
    /// # Panics
    ///
    /// Not here, but once the server runs: if two routes have the same path.
    #[must_use]
    pub fn mount(mut self, routes: Routes) -> Self {
        self.mounted.push(routes);
        self
    }

    /// Serves mounted routes only: a port for another protocol, with the same guard and limits. `adapt` may change the headers
    /// of each request before the guard sees them, since protocols carry tokens in their own ways.
    #[must_use]
    pub fn only(self, adapt: fn(&mut HeaderMap)) -> Self {
        Self { only: Some(adapt), ..self }
    }

    /// Serves `node` until it has stopped. Must run within a tokio runtime. Prefer [`Server::spawn`] where many clients come:
    /// there, health checks do not wait for them.
    ///
    /// # Errors
    ///
    /// The runtime does not take the socket.
    pub async fn run(self, node: Handle) -> io::Result<()> {
        let subscriptions = NodeSubscriptions::new(&node);
        self.run_on(node, subscriptions, runtime::Handle::current()).await
    }

    /// Runs here, and serves all clients but health checks on `clients`.
    async fn run_on(self, node: Handle, subscriptions: NodeSubscriptions, clients: runtime::Handle) -> io::Result<()> {
        let Self { listener, config, mounted, only, .. } = self;
        let listener = TcpListener::from_std(listener)?;
        // Without randomness from the system, the time distinguishes this journal from others.
        let journal_id = SysRng.try_next_u64().unwrap_or_else(|_| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64
        });
        let own = own_routes().into_iter().map(|(path, required_scopes, _)| (path, required_scopes));
        let own = own.chain([(grpc_health::METHODS, RequiredScopes::NONE)]).filter(|_| only.is_none());
        let required_scopes = own.chain(mounted.iter().flat_map(Routes::required_scopes)).collect();
        let mounted_metrics = mounted.iter().filter_map(|routes| routes.metrics.clone()).collect();
        let scripts = mounted.iter().filter_map(|routes| routes.script).collect();
        let openapi = routes::describe(OPENAPI, &mounted);
        let app = Arc::new(App::new(node, config, required_scopes, openapi, mounted_metrics, scripts, journal_id));
        let router = build_router(&app, mounted, only);
        let background = async {
            if only.is_some() {
                return Arc::clone(&app).run_audit(subscriptions).await;
            }
            let background = clients.spawn(Arc::clone(&app).run_background(subscriptions));
            // An error means that it has panicked, and so has ended.
            let _ = tokio::join!(background, app.wait_until_settled());
        };
        accept::serve(listener, Arc::clone(&app), router, clients.clone(), background).await;
        app.audit.log_remaining();
        Ok(())
    }

    /// Serves `node` until it has stopped, on two threads of its own. So no number of requests delays the node or a health
    /// check.
    ///
    /// # Errors
    ///
    /// The system does not start a thread.
    pub fn spawn(self, node: Handle) -> io::Result<thread::JoinHandle<()>> {
        let runtime = || runtime::Builder::new_current_thread().enable_all().build();
        let (first, clients) = (runtime()?, runtime()?);
        let (serving, served) = oneshot::channel::<Infallible>();
        let handle = clients.handle().clone();
        // Before the threads begin, so that no message is missed.
        let subscriptions = NodeSubscriptions::new(&node);
        let name = self.config.thread_name;
        let clients = thread::Builder::new().name(format!("{name}-clients")).spawn(move || {
            // Nothing is ever sent: it ends when the other thread drops its end.
            let _ = clients.block_on(served);
            // Connections that are still open have had their time.
            clients.shutdown_background();
        })?;
        thread::Builder::new().name(name.into()).spawn(move || {
            if let Err(error) = first.block_on(self.run_on(node, subscriptions, handle)) {
                tracing::error!(%error, "HTTP is not served");
            }
            first.shutdown_background();
            drop(serving);
            // An error means that it has panicked, and so has ended.
            let _ = clients.join();
        })
    }
}

/// The API's description.
const OPENAPI: &str = include_str!("openapi.json");

/// The gateway's own routes, as `openapi.json` describes them. gRPC's health check and mounted routes come besides.
fn own_routes() -> [(&'static str, RequiredScopes, MethodRouter<Arc<App>>); 11] {
    const READ: RequiredScopes = RequiredScopes::scope(Scope::Read);
    const PUBLISH: RequiredScopes = RequiredScopes::read_write(Scope::Read, Scope::Publish);
    [
        ("/", READ, get(page::page)),
        ("/openapi.json", READ, get(page::openapi)),
        ("/healthz", RequiredScopes::NONE, get(cluster::healthz)),
        ("/livez", RequiredScopes::NONE, get(cluster::healthz)),
        ("/readyz", RequiredScopes::NONE, get(cluster::readyz)),
        ("/metrics", READ, get(metrics::metrics)),
        ("/v1/messages", PUBLISH, get(streams::messages).post(publish::publish)),
        ("/v1/members", READ, get(cluster::members)),
        ("/v1/cluster", READ, get(cluster::cluster)),
        ("/v1/views", READ, get(views::views)),
        ("/v1/events", READ, get(streams::events)),
    ]
}

fn build_router(app: &Arc<App>, mounted: Vec<Routes>, only: Option<fn(&mut HeaderMap)>) -> Router {
    let grpc_health = (grpc_health::METHODS, RequiredScopes::NONE, post(grpc_health::call));
    let own = own_routes().into_iter().chain([grpc_health]).filter(|_| only.is_none());
    let own = own.map(|(path, _, methods)| (path, methods.with_state(Arc::clone(app))));
    let limits = Extension(app.bodies.clone());
    let mounted = mounted.into_iter().flat_map(|routes| routes.methods);
    let mounted = mounted.map(|(path, _, methods)| (path, methods.layer(limits.clone())));
    let all = own.chain(mounted).fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    let remedy =
        if only.is_some() { "see the protocol's own documentation" } else { "GET /openapi.json lists what there is" };
    let router = all
        .fallback(async move || {
            Problem::new(StatusCode::NOT_FOUND, format_args!("there is nothing at this path; {remedy}"))
        })
        .method_not_allowed_fallback(async || {
            let detail = "this method is not allowed here; the header Allow lists those that are";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .layer(middleware::from_fn_with_state(Arc::clone(app), guard::check))
        .layer(middleware::from_fn_with_state(Arc::clone(app), trace::request));
    match only {
        Some(adapt) => router.layer(middleware::map_request(move |mut request: Request| {
            adapt(request.headers_mut());
            ready(request)
        })),
        None => router,
    }
}
