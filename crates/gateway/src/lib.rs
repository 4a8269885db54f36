//! The node from outside: an HTTP API for programs in any language, and a page for people.
//!
//! # States
//!
//! A [`Server`] is bound, then runs until its node has stopped: then those who follow are told so, and it
//! ends. Each connection is a task of its own (`accept`, `connection`), in HTTP/1.1 or HTTP/2; each message is put into
//! words once, for all who follow (`journal`), and so is what happens (`bulletin`).
//!
//! Whoever has more to serve mounts its [`Routes`]: they are guarded, limited, logged and described as the gateway's own,
//! its metrics are told with those of the node, and its script runs in the page.
//!
//! # What can go wrong
//!
//! - *Too many connections*: more than [`Config::max_connections`] are answered 503 and closed, but for health checks.
//! - *Clients that are many, and busy*: health checks are answered by another thread than they are (`accept`).
//! - *Clients that are slow to ask, slow to send, or do not read*: each has a time limit. One that follows
//!   messages and does not read is overtaken in the journal and cut off; nobody waits for it.
//! - *Bodies without end*: a message has a limit; a batch is read as it comes, and no faster than the cluster
//!   takes it.
//! - *Other web pages in the user's browser*: refused by where they come from (`guard`).
//! - *Those who may not*: refused by the scopes of the token that they show (`access`); with TLS nobody between sees that
//!   token (`tls`). Changes are told in a log of their own (`audit`).
//! - *A flood of requests* takes time of the thread that the server runs on: give it one that is not the node's
//!   ([`Server::spawn`] gives it two), and the gossip goes on beside it.
//!
//! This room knows the [`Handle`] and nothing beneath it.

#![deny(missing_docs, unreachable_pub)]

mod accept;
mod access;
mod app;
mod audit;
mod body;
mod bulletin;
mod connection;
mod events;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
mod grpc_health;
mod guard;
mod journal;
mod keep;
mod look;
mod metrics;
mod page;
mod pieces;
mod problem;
mod publish;
mod query;
mod recent_views;
mod routes;
mod sheet;
mod snapshot;
#[cfg(test)]
mod tests;
mod tls;
mod trace;
mod transport;
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
    access::{Access, NamedToken, Needs, Scope, Scopes, Token, TokenName, Tokens, TokensError},
    audit::{Audited, TARGET as AUDIT_TARGET},
    body::{read, read_bytes, read_up_to},
    guard::{Origin, lacks},
    problem::{Problem, answer},
    publish::{ACK_TIME, MAX_ACK_TIME, MAX_BODY},
    query::{none as no_query, number, read as read_query},
    routes::Routes,
    sheet::Sheet,
    tls::{Certificate, Pem, Tls, TlsError, provider as tls_provider},
};
use self::{app::App, keep::News};

/// The port the API listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8946;
/// Connections at once, unless told otherwise.
pub const MAX_CONNECTIONS: usize = 4096;

/// Connections that wait to be accepted: with fewer, some of many that come at once have to try again after a second.
const BACKLOG: i32 = 1024;
/// How the API is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 lets the system choose.
    pub addr: SocketAddr,
    /// What callers have to show. The health checks need nothing.
    pub access: Access,
    /// With what the port speaks TLS, and nothing else then.
    pub tls: Option<Tls>,
    /// Origins of web pages that may call, besides the node's own.
    pub origins: Vec<Origin>,
    /// How many connections may be open at once, at least 1.
    pub max_connections: usize,
    /// How long clients may take.
    pub times: Times,
    /// Puts the program's own names into what a caller is told of a setting, which is the name of a field here or in
    /// [`broadcast::Config`], between backquotes. Leaves the text as it is, unless told otherwise.
    pub explain: fn(&str) -> String,
}

/// How long clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// For a request's head, and how long a connection may stand without one; for the handshake of TLS, too.
    pub head: Duration,
    /// For a body, and for each part of a batch's.
    pub body: Duration,
    /// How long they may take nothing of what they are sent.
    pub stall: Duration,
}

impl Default for Times {
    fn default() -> Self {
        let [head, body, stall] = [15, 30, 30].map(Duration::from_secs);
        Self { head, body, stall }
    }
}

impl Config {
    /// Without a token and without TLS, for nobody's pages but the node's own.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            access: Access::open(),
            tls: None,
            origins: Vec::new(),
            max_connections: MAX_CONNECTIONS,
            times: Times::default(),
            explain: str::to_owned,
        }
    }
}

/// The API cannot be served there.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve HTTP on {addr}: {source}; stop what uses it, or set another `addr`, port 0 for any free one")]
pub struct BindError {
    /// The address.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    addr: SocketAddr,
    config: Config,
    mounted: Vec<Routes>,
    /// Whether only what is mounted is served, and what is done to the headers of each request first.
    only: Option<fn(&mut HeaderMap)>,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn bind(config: Config) -> Result<Self, BindError> {
        let listen = || {
            let socket = Socket::new(Domain::for_address(config.addr), Type::STREAM, None)?;
            // What has just stopped may have left connections that wait for stray packets.
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

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves these as well, to the same callers, within the same limits.
    ///
    /// # Panics
    ///
    /// Not here, but once it runs: two of all routes have the same path.
    #[must_use]
    pub fn mount(mut self, routes: Routes) -> Self {
        self.mounted.push(routes);
        self
    }

    /// Serves nothing but what is mounted: a port of its own for another protocol, with the same guard and limits. `adapt`
    /// may change the headers of each request before it is judged: protocols show tokens in their own ways.
    #[must_use]
    pub fn only(self, adapt: fn(&mut HeaderMap)) -> Self {
        Self { only: Some(adapt), ..self }
    }

    /// Serves `node` until it has stopped. Must run within a tokio runtime. [`Server::spawn`] serves many clients better:
    /// health checks do not wait for them there.
    ///
    /// # Errors
    ///
    /// The runtime does not take the socket.
    pub async fn run(self, node: Handle) -> io::Result<()> {
        let news = News::of(&node);
        self.run_beside(node, news, runtime::Handle::current()).await
    }

    /// The same; all clients but health checks are served by `others`.
    async fn run_beside(self, node: Handle, news: News, others: runtime::Handle) -> io::Result<()> {
        let Self { listener, config, mounted, only, .. } = self;
        let listener = TcpListener::from_std(listener)?;
        // Without a system source of randomness, the time differs as well.
        let life = SysRng.try_next_u64().unwrap_or_else(|_| {
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64
        });
        let own = routes().into_iter().map(|(path, needs, _)| (path, needs));
        let own = own.chain([(grpc_health::METHODS, Needs::NOTHING)]).filter(|_| only.is_none());
        let needs = own.chain(mounted.iter().flat_map(Routes::needs)).collect();
        let more_metrics = mounted.iter().filter_map(|routes| routes.metrics.clone()).collect();
        let scripts = mounted.iter().filter_map(|routes| routes.script).collect();
        let openapi = routes::describe(OPENAPI, &mounted);
        let app = Arc::new(App::new(node, config, needs, openapi, more_metrics, scripts, life));
        let router = router(&app, mounted, only);
        let kept = async {
            if only.is_some() {
                return Arc::clone(&app).keep_audit(news).await;
            }
            let kept = others.spawn(Arc::clone(&app).keep(news));
            // Should it have panicked, it has ended as well.
            let _ = tokio::join!(kept, app.settle());
        };
        accept::serve(listener, Arc::clone(&app), router, others.clone(), kept).await;
        app.audit.tell_more();
        Ok(())
    }

    /// The same, on two threads of its own, so that no number of requests holds up the node, nor a health check.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub fn spawn(self, node: Handle) -> io::Result<thread::JoinHandle<()>> {
        let runtime = || runtime::Builder::new_current_thread().enable_all().build();
        let (first, others) = (runtime()?, runtime()?);
        let (serving, served) = oneshot::channel::<Infallible>();
        let handle = others.handle().clone();
        // However late the threads begin, nothing is missed.
        let news = News::of(&node);
        let others = thread::Builder::new().name("http-clients".into()).spawn(move || {
            // It is an error that ends it: nothing is ever sent.
            let _ = others.block_on(served);
            // A connection that is left has had its time.
            others.shutdown_background();
        })?;
        thread::Builder::new().name("http".into()).spawn(move || {
            if let Err(error) = first.block_on(self.run_beside(node, news, handle)) {
                tracing::error!(%error, "HTTP is not served");
            }
            first.shutdown_background();
            drop(serving);
            // Should it have panicked, it has ended as well.
            let _ = others.join();
        })
    }
}

/// What the API says of itself.
const OPENAPI: &str = include_str!("openapi.json");

/// What `openapi.json` describes, with what a caller needs: all there is but what is mounted, and gRPC.
fn routes() -> [(&'static str, Needs, MethodRouter<Arc<App>>); 11] {
    const READ: Needs = Needs::scope(Scope::Read);
    const PUBLISH: Needs = Needs::to_look_and_to_change(Scope::Read, Scope::Publish);
    [
        ("/", READ, get(page::page)),
        ("/openapi.json", READ, get(page::openapi)),
        ("/healthz", Needs::NOTHING, get(look::healthz)),
        ("/livez", Needs::NOTHING, get(look::healthz)),
        ("/readyz", Needs::NOTHING, get(look::readyz)),
        ("/metrics", READ, get(metrics::metrics)),
        ("/v1/messages", PUBLISH, get(follow::messages).post(publish::publish)),
        ("/v1/members", READ, get(look::members)),
        ("/v1/cluster", READ, get(look::cluster)),
        ("/v1/views", READ, get(views::views)),
        ("/v1/events", READ, get(follow::events)),
    ]
}

fn router(app: &Arc<App>, mounted: Vec<Routes>, only: Option<fn(&mut HeaderMap)>) -> Router {
    let grpc_health = (grpc_health::METHODS, Needs::NOTHING, post(grpc_health::call));
    let own = routes().into_iter().chain([grpc_health]).filter(|_| only.is_none());
    let own = own.map(|(path, _, methods)| (path, methods.with_state(Arc::clone(app))));
    let limits = Extension(app.bodies.clone());
    let others = mounted.into_iter().flat_map(|routes| routes.methods);
    let others = others.map(|(path, _, methods)| (path, methods.layer(limits.clone())));
    let all = own.chain(others).fold(Router::new(), |router, (path, methods)| router.route(path, methods));
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
