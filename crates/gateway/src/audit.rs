//! The audit log: who changed what from outside, or tried to, from where, and what came of it.
//!
//! Each request with a method that is not safe (RFC 9110, section 9.2.1), or that only an operator may make, is told on one
//! line, with the target [`TARGET`], so that filters can choose it, at level `info`. A line names the token, or else the
//! subject of the client's certificate, and the path that was asked for, as far as [`MAX_DETAIL_BYTES`] goes; never a token, a query
//! or a body. Of these, handlers add [what matters](Audited::what).
//!
//! # High rates
//!
//! Each change is told, and so is what broke off, which may have changed something. Publishing and its like change nothing
//! that stays ([`AuditHandle::aggregate`]), and what was refused or failed changed nothing. Of those, the first of each kind is
//! told at once, and then every [`SUMMARY_INTERVAL`] how many more there were; a kind is the same caller, address, route and outcome. A
//! batch is one line, with the number of its messages. More than [`MAX_KEYS`] kinds at the same time are counted together: of
//! callers with a token or a certificate, and of those without one, who leave the former their room. So who changes nothing
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

/// What filters know the audit log by: `BROADCAST_LOG=warn,audit=info`. Its lines have the level `info`.
pub const TARGET: &str = "audit";
/// How often it is told of a kind how many more there were.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);
/// Of how many kinds, of those who are known and of the others each.
const MAX_KEYS: usize = 32;
/// How much of a path is told, and of what a handler adds, in bytes.
const MAX_DETAIL_BYTES: usize = 512;

/// What a handler knows of its request that the audit log is to tell. Each request that may change something has one in
/// its extensions.
#[derive(Clone, Debug, Default)]
pub struct AuditHandle(Arc<AuditDetails>);

#[derive(Debug, Default)]
struct AuditDetails {
    published: AtomicU64,
    is_aggregated: AtomicBool,
    what: OnceLock<String>,
}

impl AuditHandle {
    /// What it changes, if the path does not say that. The first 512 bytes are told, and only the first time counts. To be
    /// called before anything changes: a request that breaks off is told, too.
    pub fn describe(&self, what: impl fmt::Display) {
        let _ = self.0.what.set(truncated(&what.to_string()));
    }

    /// Many requests like it may come, each of which changes nothing that stays. They are counted together, and not
    /// told one by one.
    pub fn aggregate(&self) {
        self.0.is_aggregated.store(true, Ordering::Relaxed);
    }

    /// One message more was published.
    pub(crate) fn count_message(&self) {
        self.0.published.fetch_add(1, Ordering::Relaxed);
    }
}

/// As much of it as is told.
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
    /// It has shown something that is no token.
    UnknownToken,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AuditOutcome {
    Answered(StatusCode),
    /// The client was gone before there was an answer.
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

/// Requests that are told together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AuditKey {
    who: Principal,
    from: IpAddr,
    method: &'static str,
    route: Arc<str>,
    outcome: AuditOutcome,
}

impl AuditKey {
    /// Whether it is known who calls.
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

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Audit {
    node: Arc<str>,
    tallies: Mutex<Tallies>,
    tally_begun: Notify,
}

#[derive(Debug, Default)]
struct Tallies {
    /// Those that were told, with what came after that.
    by_key: HashMap<AuditKey, Tally>,
    /// Those for which there was no room.
    others: Tally,
}

/// A request that is being answered. Told when it is dropped, whatever has become of it.
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
    /// For its handler.
    pub(crate) fn handle(&self) -> AuditHandle {
        self.handle.clone()
    }

    /// It was answered.
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

    /// A request that may change something. `route` is nothing where there is none.
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
        // Nothing in between leaves it half done.
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

    /// Tells how many more there were, now and then, for as long as it is polled.
    pub(crate) async fn log_summaries(&self) -> std::convert::Infallible {
        loop {
            self.tally_begun.notified().await;
            while !self.tallies().by_key.is_empty() {
                sleep_until(Instant::now() + SUMMARY_INTERVAL).await;
                self.log_remaining();
            }
        }
    }

    /// Tells how many more there were. Kinds of which there was none more are forgotten.
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

    /// Tells of one request, or of how many more like it there were.
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
        // A subject may have any letters; between quotes it ends where it ends.
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

/// The methods that there are; others may be as long as a head.
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
