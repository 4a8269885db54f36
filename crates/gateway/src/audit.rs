//! The audit log: who changed what from outside, or tried to, from where, and what came of it.
//!
//! Each request with a method that is not safe (RFC 9110, section 9.2.1), or that only an operator may make, is told on one
//! line, with the target [`TARGET`], so that filters can choose it, at level `info`. A line names the token, or else the
//! subject of the client's certificate, and the path that was asked for, as far as [`MAX_WHAT`] goes; never a token, a query
//! or a body. Of these, handlers add [what matters](Audited::what).
//!
//! # High rates
//!
//! Each change is told, and so is what broke off, which may have changed something. Publishing and its like change nothing
//! that stays ([`Audited::count_together`]), and what was refused or failed changed nothing. Of those, the first of each kind is
//! told at once, and then every [`EVERY`] how many more there were; a kind is the same caller, address, route and outcome. A
//! batch is one line, with the number of its messages. More than [`KINDS`] kinds at the same time are counted together: of
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

use crate::access::{Bearer, NOBODY};

/// What filters know the audit log by: `BROADCAST_LOG=warn,audit=info`. Its lines have the level `info`.
pub const TARGET: &str = "audit";
/// How often it is told of a kind how many more there were.
const EVERY: Duration = Duration::from_secs(10);
/// Of how many kinds, of those who are known and of the others each.
const KINDS: usize = 32;
/// How much of a path is told, and of what a handler adds, in bytes.
const MAX_WHAT: usize = 512;

/// What a handler knows of its request that the audit log is to tell. Each request that may change something has one in
/// its extensions.
#[derive(Clone, Debug, Default)]
pub struct Audited(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    published: AtomicU64,
    is_frequent: AtomicBool,
    what: OnceLock<String>,
}

impl Audited {
    /// What it changes, if the path does not say that. The first 512 bytes are told, and only the first time counts. To be
    /// called before anything changes: a request that breaks off is told, too.
    pub fn what(&self, what: impl fmt::Display) {
        let _ = self.0.what.set(cut(&what.to_string()));
    }

    /// Many requests like it may come, each of which changes nothing that stays. They are counted together, and not
    /// told one by one.
    pub fn count_together(&self) {
        self.0.is_frequent.store(true, Ordering::Relaxed);
    }

    /// One message more was published.
    pub(crate) fn one_more(&self) {
        self.0.published.fetch_add(1, Ordering::Relaxed);
    }
}

/// As much of it as is told.
fn cut(text: &str) -> String {
    let end = (0..=MAX_WHAT.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    if end < text.len() { format!("{}… ({} bytes)", &text[..end], text.len()) } else { text.into() }
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
    path: String,
    audited: Audited,
    outcome: Outcome,
}

impl Entry {
    /// For its handler.
    pub(crate) fn audited(&self) -> Audited {
        self.audited.clone()
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

    /// A request that may change something. `route` is nothing where there is none.
    pub(crate) fn begin(
        self: &Arc<Self>,
        (bearer, certificate): (&Bearer, Option<&Arc<str>>),
        from: SocketAddr,
        (method, uri): (&Method, &Uri),
        route: Option<&str>,
    ) -> Entry {
        let who = match (bearer, certificate) {
            (Bearer::Named(name, _), _) => Who::Token(Arc::clone(name)),
            (Bearer::Stranger, _) => Who::Stranger,
            (_, Some(subject)) => Who::Certificate(Arc::clone(subject)),
            _ => Who::Anonymous,
        };
        let (audit, route, path) = (Arc::clone(self), route.unwrap_or("none").into(), cut(uri.path()));
        Entry {
            audit,
            who,
            from,
            method: known(method),
            route,
            path,
            audited: Audited::default(),
            outcome: Outcome::Aborted,
        }
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        // Nothing in between leaves it half done.
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, entry: &Entry) {
        let known = &entry.audited.0;
        let published = known.published.load(Ordering::Relaxed);
        let kind = Kind {
            who: entry.who.clone(),
            from: entry.from.ip(),
            method: entry.method,
            route: Arc::clone(&entry.route),
            outcome: entry.outcome,
        };
        if known.is_frequent.load(Ordering::Relaxed) || !kind.outcome.may_have_changed() {
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
        self.tell(&kind, Some(entry), Sum { count: 1, published });
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

    /// Tells of one request, or of how many more like it there were.
    fn tell(&self, kind: &Kind, one: Option<&Entry>, Sum { count, published }: Sum) {
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
        let place = one.map_or_else(|| from.to_string(), |one| one.from.to_string());
        let path = one.map(|one| &*one.path);
        let what = one.and_then(|one| one.audited.0.what.get()).map(|what| &**what);
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
fn known(method: &Method) -> &'static str {
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
