//! The state that all requests share.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use broadcast::{Handle, rate::RateLimiter};

use super::{
    GatewayConfig,
    access::RequiredScopes,
    audit::Audit,
    body::BodyBudget,
    event_feed::EventFeed,
    journal::Journal,
    routes::{OpenApi, WriteMetrics},
    status_cache::{LongResponses, NodeStatus, StatusCache},
    tls::handshakes::HandshakeQueue,
    view_cache::ViewCache,
};

/// How often the log may say that clients were cut off.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

/// The state that all requests share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) node: Handle,
    pub(super) config: GatewayConfig,
    /// By the path of the route.
    pub(super) required_scopes: HashMap<&'static str, RequiredScopes>,
    pub(super) audit: Arc<Audit>,
    pub(super) handshakes: HandshakeQueue,
    /// The description of the API.
    pub(super) openapi: OpenApi,
    /// Writes the metrics of mounted routes.
    pub(super) mounted_metrics: Vec<WriteMetrics>,
    /// The scripts of mounted routes, for the page.
    pub(super) scripts: String,
    pub(super) journal: Journal,
    pub(super) event_feed: EventFeed,
    /// Set once the members have settled: then the node is ready.
    pub(super) settled: OnceLock<()>,
    pub(super) counts: Counts,
    pub(super) bodies: BodyBudget,
    pub(super) snapshots: StatusCache,
    pub(super) views: ViewCache,
    pub(super) long_responses: LongResponses,
}

impl App {
    /// `journal_id` distinguishes this node's journal from all others.
    pub(super) fn new(
        node: Handle,
        config: GatewayConfig,
        required_scopes: HashMap<&'static str, RequiredScopes>,
        openapi: OpenApi,
        mounted_metrics: Vec<WriteMetrics>,
        scripts: String,
        journal_id: u64,
    ) -> Self {
        Self {
            audit: Arc::new(Audit::new(node.name())),
            handshakes: HandshakeQueue::default(),
            required_scopes,
            journal: Journal::new(journal_id),
            event_feed: EventFeed::new(),
            settled: OnceLock::new(),
            counts: Counts::default(),
            bodies: BodyBudget::new(config.timeouts.body),
            snapshots: StatusCache::default(),
            views: ViewCache::new(),
            long_responses: LongResponses::new(),
            openapi,
            mounted_metrics,
            scripts,
            config,
            node,
        }
    }

    /// The node's status, as it is now.
    pub(super) async fn look(&self) -> Arc<NodeStatus> {
        self.snapshots.take(&self.node).await
    }
}

/// Counters of the server, for its metrics.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) connections: AtomicUsize,
    pub(super) followers: AtomicUsize,
    /// Connections, and requests of HTTP/2, beyond the limit.
    pub(super) refused: AtomicU64,
    /// TLS handshakes that failed.
    pub(super) handshakes_failed: AtomicU64,
    /// Followers that did not keep up, and connections that took nothing of a response.
    pub(super) cut_off: AtomicU64,
    /// How many of those the log has told, and when it may tell more.
    logged: Mutex<(u64, RateLimiter)>,
}

impl Counts {
    /// Counts a client that is cut off. The log says so, unless it has just said so: then this one counts for the next time.
    pub(super) fn cut_off(&self, why: impl fmt::Display) {
        let all = self.cut_off.fetch_add(1, Ordering::Relaxed) + 1;
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, limit) = &mut *logged;
        if limit.take(Instant::now(), LOGGED_EVERY, Duration::ZERO) {
            let count = all.saturating_sub(*before);
            *before = all;
            tracing::warn!(count, "HTTP clients cut off: {count}, the last one because {why}");
        }
    }
}
