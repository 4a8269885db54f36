//! The audit log: who changed what from outside, or tried to, from where, and with what outcome.
//!
//! Each request that may change something, or that only an operator may make, has one line in the log, at level `info`, with
//! the target [`TARGET`] by which filters choose it. The line names the token, or else the subject of the client's
//! certificate, and the path, up to [`MAX_DETAIL_BYTES`]. It never has a token itself, a query or a body; handlers add what matters
//! of these ([`AuditHandle::describe`]).
//!
//! # High rates
//!
//! Each change has a line of its own, and so has a request that broke off, which may have changed something. Other requests
//! are aggregated: those that were refused or failed, and those that change nothing lasting, as publishing does
//! ([`AuditHandle::aggregate`]). Of these, the first with the same caller, address, route and outcome is logged at once, and
//! then every [`SUMMARY_INTERVAL`] how many more there were. A batch is one line, with the number of its messages.
//!
//! At most [`MAX_KEYS`] such kinds are told apart for callers with a token or a certificate, and as many for all others: so
//! nobody without a token takes the room of those with one. What is beyond is counted together. So whoever changes nothing
//! causes no more than some lines a second.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{Method, StatusCode, Uri};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::info;

use crate::access::{Credentials, UNAUTHENTICATED_NAMES};

/// The target of the audit log, by which filters choose it: `BROADCAST_LOG=warn,audit=info`. Its lines have the level `info`.
pub const TARGET: &str = "audit";
/// How often the log says how many more requests of a kind there were.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);
/// How many kinds are told apart, for authenticated callers and for the others each.
const MAX_KEYS: usize = 32;
/// How much of a path is logged, and of what a handler adds, in bytes.
const MAX_DETAIL_BYTES: usize = 512;

/// What a handler adds to the audit entry of its request. Each request that may change something has one in its extensions:
///
/// ```
/// use axum::Extension;
/// use broadcast_gateway::AuditHandle;
///
/// async fn set_filter(Extension(audit): Extension<AuditHandle>, filter: String) {
///     audit.describe(format_args!("filter = {filter}"));
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct AuditHandle(Arc<AuditDetails>);

#[derive(Debug, Default)]
struct AuditDetails {
    published: AtomicU64,
    is_aggregated: AtomicBool,
    what: OnceLock<String>,
}

impl AuditHandle {
    /// Describes the change, if the path does not say it. The log has the first 512 bytes; only the first call counts. Call
    /// this before anything changes: a request that breaks off is logged, too.
    pub fn describe(&self, what: impl fmt::Display) {
        let _ = self.0.what.set(truncated(&what.to_string()));
    }

    /// Aggregates this request with others like it, instead of logging each. For requests that come often and change nothing
    /// lasting.
    pub fn aggregate(&self) {
        self.0.is_aggregated.store(true, Ordering::Relaxed);
    }

    /// Counts a message that was published.
    pub(crate) fn count_message(&self) {
        self.0.published.fetch_add(1, Ordering::Relaxed);
    }
}

/// As much of a text as is logged.
fn truncated(text: &str) -> String {
    let end = (0..=MAX_DETAIL_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    if end < text.len() { format!("{}… ({} bytes)", &text[..end], text.len()) } else { text.into() }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Principal {
    Token(Arc<str>),
    Certificate(Arc<str>),
    Anonymous,
    /// It has shown a token that the node does not know.
    UnknownToken,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AuditOutcome {
    Answered(StatusCode),
    /// The client was gone before there was a response.
    Aborted,
}

impl AuditOutcome {
    fn may_have_changed(self) -> bool {
        self.is_done() || self == Self::Aborted
    }

    fn is_done(self) -> bool {
        matches!(self, Self::Answered(status) if status.is_success())
    }

    fn name(self) -> &'static str {
        match self {
            _ if self.is_done() => "done",
            Self::Answered(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => "refused",
            Self::Answered(_) => "failed",
            Self::Aborted => "aborted",
        }
    }
}

/// A kind of requests: those with the same key are aggregated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AuditKey {
    who: Principal,
    from: IpAddr,
    method: &'static str,
    route: Arc<str>,
    outcome: AuditOutcome,
}

impl AuditKey {
    /// Whether the caller has shown a token or a certificate.
    fn is_authenticated(&self) -> bool {
        matches!(self.who, Principal::Token(_) | Principal::Certificate(_))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    count: u64,
    published: u64,
}

impl Tally {
    fn add(&mut self, published: u64) {
        self.count += 1;
        self.published += published;
    }
}

/// The audit log of a server.
#[derive(Debug)]
pub(crate) struct Audit {
    node: Arc<str>,
    tallies: Mutex<Tallies>,
    tally_begun: Notify,
}

#[derive(Debug, Default)]
struct Tallies {
    /// The kinds that were logged, with what came after that.
    by_key: HashMap<AuditKey, Tally>,
    /// Requests of kinds beyond [`MAX_KEYS`].
    others: Tally,
}

/// The audit entry of a request. It is logged when it is dropped, whatever became of the request.
#[derive(Debug)]
pub(crate) struct AuditEntry {
    audit: Arc<Audit>,
    who: Principal,
    from: SocketAddr,
    method: &'static str,
    route: Arc<str>,
    path: String,
    handle: AuditHandle,
    outcome: AuditOutcome,
}

impl AuditEntry {
    /// The handle for the handler of the request.
    pub(crate) fn handle(&self) -> AuditHandle {
        self.handle.clone()
    }

    /// Records the status of the response.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.outcome = AuditOutcome::Answered(status);
    }
}

impl Drop for AuditEntry {
    fn drop(&mut self) {
        self.audit.record(self);
    }
}

impl Audit {
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.into(), tallies: Mutex::default(), tally_begun: Notify::new() }
    }

    /// Begins the entry of a request. `route` is `None` where no route matches.
    pub(crate) fn begin(
        self: &Arc<Self>,
        (credentials, certificate): (&Credentials, Option<&Arc<str>>),
        from: SocketAddr,
        (method, uri): (&Method, &Uri),
        route: Option<&str>,
    ) -> AuditEntry {
        let who = match (credentials, certificate) {
            (Credentials::Token(name, _), _) => Principal::Token(Arc::clone(name)),
            (Credentials::Unknown, _) => Principal::UnknownToken,
            (_, Some(subject)) => Principal::Certificate(Arc::clone(subject)),
            _ => Principal::Anonymous,
        };
        let (audit, route, path) = (Arc::clone(self), route.unwrap_or("none").into(), truncated(uri.path()));
        AuditEntry {
            audit,
            who,
            from,
            method: method_name(method),
            route,
            path,
            handle: AuditHandle::default(),
            outcome: AuditOutcome::Aborted,
        }
    }

    fn tallies(&self) -> MutexGuard<'_, Tallies> {
        // No panic under this lock leaves it half done.
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, entry: &AuditEntry) {
        let details = &entry.handle.0;
        let published = details.published.load(Ordering::Relaxed);
        let key = AuditKey {
            who: entry.who.clone(),
            from: entry.from.ip(),
            method: entry.method,
            route: Arc::clone(&entry.route),
            outcome: entry.outcome,
        };
        if details.is_aggregated.load(Ordering::Relaxed) || !key.outcome.may_have_changed() {
            let mut tallies = self.tallies();
            if let Some(tally) = tallies.by_key.get_mut(&key) {
                return tally.add(published);
            }
            if tallies.by_key.keys().filter(|other| other.is_authenticated() == key.is_authenticated()).count()
                >= MAX_KEYS
            {
                return tallies.others.add(published);
            }
            if tallies.by_key.is_empty() {
                self.tally_begun.notify_one();
            }
            tallies.by_key.insert(key.clone(), Tally::default());
        }
        self.log(&key, Some(entry), Tally { count: 1, published });
    }

    /// Logs every [`SUMMARY_INTERVAL`] how many more requests there were, as long as it is polled.
    pub(crate) async fn log_summaries(&self) -> std::convert::Infallible {
        loop {
            self.tally_begun.notified().await;
            while !self.tallies().by_key.is_empty() {
                sleep_until(Instant::now() + SUMMARY_INTERVAL).await;
                self.log_remaining();
            }
        }
    }

    /// Logs how many more requests of each kind there were, and forgets kinds of which there were none.
    pub(crate) fn log_remaining(&self) {
        let (more, others) = {
            let mut tallies = self.tallies();
            tallies.by_key.retain(|_, tally| tally.count > 0);
            let more: Vec<_> =
                tallies.by_key.iter_mut().map(|(key, tally)| (key.clone(), std::mem::take(tally))).collect();
            (more, std::mem::take(&mut tallies.others))
        };
        for (key, tally) in more {
            self.log(&key, None, tally);
        }
        let Tally { count, published } = others;
        if count > 0 {
            let node = &*self.node;
            info!(target: TARGET, node, event = "audit", count, published, "audit: {count} more requests of others");
        }
    }

    /// Logs one request, or how many more of its kind there were.
    fn log(&self, key: &AuditKey, one: Option<&AuditEntry>, Tally { count, published }: Tally) {
        let node = &*self.node;
        let AuditKey { who, from, method, route, outcome } = key;
        let (by, name) = match who {
            Principal::Token(name) => ("token", &**name),
            Principal::Certificate(subject) => ("certificate", &**subject),
            Principal::Anonymous => ("nothing", UNAUTHENTICATED_NAMES[0]),
            Principal::UnknownToken => ("unknown token", UNAUTHENTICATED_NAMES[1]),
        };
        let status = match outcome {
            AuditOutcome::Answered(status) => Some(status.as_u16()),
            AuditOutcome::Aborted => None,
        };
        // A subject may have any characters: quotes show where it ends.
        let told = if by == "certificate" { format!("{name:?}") } else { name.into() };
        let place = one.map_or_else(|| from.to_string(), |one| one.from.to_string());
        let path = one.map(|one| &*one.path);
        let what = one.and_then(|one| one.handle.0.what.get()).map(|what| &**what);
        let published = (published > 0).then_some(published);
        let messages = published.map(|published| format!(", {published} published")).unwrap_or_default();
        let answer = status.map(|status| format!(" ({status})")).unwrap_or_default();
        let times = if one.is_some() { String::new() } else { format!(", {count} times more") };
        let (asked, outcome) = (path.unwrap_or(route), outcome.name());
        let changes = what.map(|what| format!(", {what}")).unwrap_or_default();
        info!(
            target: TARGET,
            node,
            event = "audit",
            who = name,
            by,
            from = place,
            method,
            route = &**route,
            path,
            what,
            status,
            outcome,
            count,
            published,
            "audit: {told} from {place}: {method} {asked} {outcome}{answer}{changes}{messages}{times}"
        );
    }
}

/// The name of a method for the log. An unknown one may be as long as a head.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        _ => "other",
    }
}
