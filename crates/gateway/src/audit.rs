//! The audit log: who changed what from outside, or tried to, from where, and what came of it.
//!
//! Each request with a method that is not safe (RFC 9110, section 9.2.1) is told on one line, with the target
//! [`TARGET`], so that filters can choose it, at level `info`. A line names the token, or else the subject of the
//! client's certificate; never a token, a query or a body. It names the route as the server has it and not the path that
//! was asked for, which may be anything.
//!
//! # High rates
//!
//! What may come thousands of times a second is publishing and its like, and what is not done, whoever asks for it. The
//! first of each kind is told at once, and then every [`EVERY`] how many more there were; a kind is the same caller, address,
//! route and outcome. A batch is one line, with the number of its messages. More than [`KINDS`] kinds at the same time are
//! counted together: of callers with a token or a certificate, and of those without one, who leave the former their room.
//! So the log has no more than some lines a second of it, whoever calls. Other changes are rare, and each is told.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{Method, StatusCode};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::info;

use crate::access::{Bearer, NOBODY, Scope};

/// What filters know it by: `BROADCAST_LOG=warn,audit=info`.
pub(crate) const TARGET: &str = "audit";
/// How often it is told of a kind how many more there were.
const EVERY: Duration = Duration::from_secs(10);
/// Of how many kinds, of those who are known and of the others each.
const KINDS: usize = 32;

/// How many messages a request has published so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Published(Arc<AtomicU64>);

impl Published {
    pub(crate) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Token(Arc<str>),
    Certificate(Arc<str>),
    Anonymous,
    /// It has shown something that is no token.
    Stranger,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Outcome {
    Answered(StatusCode),
    /// The client was gone before there was an answer.
    Aborted,
}

impl Outcome {
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
struct Kind {
    who: Who,
    from: IpAddr,
    method: &'static str,
    route: Arc<str>,
    outcome: Outcome,
}

impl Kind {
    /// Whether it is known who calls.
    fn is_known(&self) -> bool {
        matches!(self.who, Who::Token(_) | Who::Certificate(_))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u64,
    published: u64,
}

impl Sum {
    fn add(&mut self, published: u64) {
        self.count += 1;
        self.published += published;
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Audit {
    node: Arc<str>,
    sums: Mutex<Sums>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct Sums {
    /// Those that were told, with what came after that.
    kinds: HashMap<Kind, Sum>,
    /// Those for which there was no room.
    others: Sum,
}

/// A request that is being answered. Told when it is dropped, whatever has become of it.
#[derive(Debug)]
pub(crate) struct Entry {
    audit: Arc<Audit>,
    who: Who,
    from: SocketAddr,
    method: &'static str,
    route: Arc<str>,
    /// Whether many of its kind may come.
    is_frequent: bool,
    published: Published,
    outcome: Outcome,
}

impl Entry {
    /// What it publishes is to be counted there.
    pub(crate) fn published(&self) -> Published {
        self.published.clone()
    }

    /// It was answered.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.outcome = Outcome::Answered(status);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.audit.note(self);
    }
}

impl Audit {
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.into(), sums: Mutex::default(), begun: Notify::new() }
    }

    /// A request that may change something. `route` is nothing where there is none; `scope` is what it needs.
    pub(crate) fn begin(
        self: &Arc<Self>,
        (bearer, certificate): (&Bearer, Option<&Arc<str>>),
        from: SocketAddr,
        method: &Method,
        route: Option<&str>,
        scope: Option<Scope>,
    ) -> Entry {
        let who = match (bearer, certificate) {
            (Bearer::Named(name, _), _) => Who::Token(Arc::clone(name)),
            (Bearer::Stranger, _) => Who::Stranger,
            (_, Some(subject)) => Who::Certificate(Arc::clone(subject)),
            _ => Who::Anonymous,
        };
        let is_frequent = !matches!(scope, Some(Scope::Operate | Scope::Deploy));
        let (audit, route) = (Arc::clone(self), route.unwrap_or("none").into());
        let (published, outcome) = (Published::default(), Outcome::Aborted);
        Entry { audit, who, from, method: known(method), route, is_frequent, published, outcome }
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Nothing in between leaves it half done.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, entry: &Entry) {
        let published = entry.published.0.load(Ordering::Relaxed);
        let kind = Kind {
            who: entry.who.clone(),
            from: entry.from.ip(),
            method: entry.method,
            route: Arc::clone(&entry.route),
            outcome: entry.outcome,
        };
        if entry.is_frequent || !kind.outcome.is_done() {
            let mut sums = self.sums();
            if let Some(sum) = sums.kinds.get_mut(&kind) {
                return sum.add(published);
            }
            if sums.kinds.keys().filter(|other| other.is_known() == kind.is_known()).count() >= KINDS {
                return sums.others.add(published);
            }
            if sums.kinds.is_empty() {
                self.begun.notify_one();
            }
            sums.kinds.insert(kind.clone(), Sum::default());
        }
        self.tell(&kind, Some(entry.from.port()), Sum { count: 1, published });
    }

    /// Tells how many more there were, now and then, for as long as it is polled.
    pub(crate) async fn keep(&self) -> std::convert::Infallible {
        loop {
            self.begun.notified().await;
            while !self.sums().kinds.is_empty() {
                sleep_until(Instant::now() + EVERY).await;
                self.tell_more();
            }
        }
    }

    /// Tells how many more there were. Kinds of which there was none more are forgotten.
    pub(crate) fn tell_more(&self) {
        let (more, others) = {
            let mut sums = self.sums();
            sums.kinds.retain(|_, sum| sum.count > 0);
            let more: Vec<_> = sums.kinds.iter_mut().map(|(kind, sum)| (kind.clone(), std::mem::take(sum))).collect();
            (more, std::mem::take(&mut sums.others))
        };
        for (kind, sum) in more {
            self.tell(&kind, None, sum);
        }
        let Sum { count, published } = others;
        if count > 0 {
            let node = &*self.node;
            info!(target: TARGET, node, event = "audit", count, published, "audit: {count} more requests of others");
        }
    }

    fn tell(&self, kind: &Kind, port: Option<u16>, Sum { count, published }: Sum) {
        let node = &*self.node;
        let Kind { who, from, method, route, outcome } = kind;
        let (by, name) = match who {
            Who::Token(name) => ("token", &**name),
            Who::Certificate(subject) => ("certificate", &**subject),
            Who::Anonymous => ("nothing", NOBODY[0]),
            Who::Stranger => ("unknown token", NOBODY[1]),
        };
        let status = match outcome {
            Outcome::Answered(status) => Some(status.as_u16()),
            Outcome::Aborted => None,
        };
        // A subject may have any letters; between quotes it ends where it ends.
        let told = if by == "certificate" { format!("{name:?}") } else { name.into() };
        let place = port.map_or_else(|| from.to_string(), |port| SocketAddr::new(*from, port).to_string());
        let published = (published > 0).then_some(published);
        let messages = published.map(|published| format!(", {published} published")).unwrap_or_default();
        let answer = status.map(|status| format!(" ({status})")).unwrap_or_default();
        let times = if port.is_some() { String::new() } else { format!(", {count} times more") };
        let outcome = outcome.name();
        info!(
            target: TARGET,
            node,
            event = "audit",
            who = name,
            by,
            from = place,
            method,
            route = &**route,
            status,
            outcome,
            count,
            published,
            "audit: {told} from {place}: {method} {route} {outcome}{answer}{messages}{times}"
        );
    }
}

/// The methods that there are; others may be as long as a head.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        _ => "other",
    }
}
