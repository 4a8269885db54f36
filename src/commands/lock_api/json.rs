//! Locks and sessions as JSON, and the parts of requests for them.

use std::time::{Duration, UNIX_EPOCH};

use broadcast_gateway::Problem;
use broadcast_lock::{
    LockSessionConfig, Mode,
    message::{Holder, LockState, MAX_LOCK_DELAY, MAX_PERMITS, MAX_TTL, MIN_TTL, SessionState},
};
use serde::{Deserialize, Serialize};

use crate::commands::store_api::json::{lease_text, parse_lease, text_or_base64};

/// The parameters of a new session.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionParams {
    ttl: f64,
    #[serde(default)]
    lock_delay: f64,
    #[serde(default)]
    label: String,
    #[serde(default)]
    release_on_failure: bool,
}

/// Checks a number of seconds, and rounds it up to whole ones.
fn whole_seconds(name: &str, value: f64, least: u32, most: u32) -> Result<u32, Problem> {
    let rounded = value.ceil();
    // NaN is in no range.
    if !(f64::from(least)..=f64::from(most)).contains(&rounded) {
        return Err(Problem::bad_request(format_args!("{name} = {value}: it must be from {least} to {most} seconds")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in the range of such numbers")]
    Ok(rounded as u32)
}

impl SessionParams {
    /// The configuration of the session, based on `config` with the node's name and the time.
    pub(super) fn config(self, config: LockSessionConfig) -> Result<LockSessionConfig, Problem> {
        let Self { ttl, lock_delay, label, release_on_failure } = self;
        let ttl = whole_seconds("ttl", ttl, MIN_TTL, MAX_TTL)?;
        let lock_delay = whole_seconds("lock_delay", lock_delay, 0, MAX_LOCK_DELAY)?;
        Ok(LockSessionConfig { ttl, lock_delay, label, release_on_failure, ..config })
    }
}

/// A session that lives, and its TTL in seconds.
#[derive(Serialize)]
pub(super) struct SessionBody {
    pub(super) session: String,
    pub(super) ttl: u64,
}

/// Parses the fields `mode` and `permits`.
pub(super) fn parse_mode(mode: Option<&str>, permits: Option<u64>) -> Result<Mode, Problem> {
    match (mode, permits) {
        (None | Some("exclusive"), None) => Ok(Mode::Exclusive),
        (Some("shared"), None) => Ok(Mode::Shared),
        (Some("semaphore"), Some(permits)) => match u16::try_from(permits) {
            Ok(permits @ 1..=MAX_PERMITS) => Ok(Mode::Semaphore { permits }),
            _ => Err(Problem::bad_request(format_args!("permits = {permits}: it must be from 1 to {MAX_PERMITS}"))),
        },
        (Some("semaphore"), None) => {
            Err(Problem::bad_request("a semaphore needs permits: how many may hold it at once"))
        }
        (None | Some("exclusive" | "shared"), Some(_)) => {
            Err(Problem::bad_request("permits go with \"mode\": \"semaphore\" only; leave them out"))
        }
        (Some(other), _) => {
            let shown = broadcast::config::quote(other);
            Err(Problem::bad_request(format_args!("mode = {shown}: write exclusive, shared or semaphore")))
        }
    }
}

/// The fields `mode` and `permits`.
pub(in crate::commands) fn mode_fields(mode: Mode) -> (&'static str, Option<u16>) {
    match mode {
        Mode::Exclusive => ("exclusive", None),
        Mode::Shared => ("shared", None),
        Mode::Semaphore { permits } => ("semaphore", Some(permits)),
    }
}

/// How a lock is held.
#[derive(Serialize)]
struct ModeJson {
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    permits: Option<u16>,
}

impl ModeJson {
    fn new(mode: Mode) -> Self {
        let (mode, permits) = mode_fields(mode);
        Self { mode, permits }
    }
}

/// A holder of a lock, or a waiter in its queue.
#[derive(Serialize)]
pub(super) struct HolderJson {
    token: u64,
    session: String,
    node: String,
    label: String,
    #[serde(flatten)]
    mode: ModeJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    since: String,
}

impl HolderJson {
    pub(super) fn new(holder: &Holder) -> Self {
        let Holder { token, session, node, label, mode, value, since } = holder;
        let (value, value_base64) = if value.is_empty() { (None, None) } else { text_or_base64(value) };
        Self {
            token: *token,
            session: lease_text(*session),
            node: node.clone(),
            label: label.clone(),
            mode: ModeJson::new(*mode),
            value,
            value_base64,
            since: timestamp(*since),
        }
    }

    pub(super) fn all(holders: &[Holder]) -> Vec<Self> {
        holders.iter().map(Self::new).collect()
    }
}

/// A time in milliseconds since 1970 as text (RFC 3339).
fn timestamp(millis: u64) -> String {
    // RFC 3339 ends with the year 9999.
    const LATEST: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis.min(LATEST))).to_string()
}

/// A lock with its holders and its queue.
#[derive(Serialize)]
pub(super) struct LockJson {
    name: String,
    #[serde(flatten)]
    mode: Option<ModeJson>,
    holders: Vec<HolderJson>,
    waiting: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Vec<HolderJson>>,
}

impl LockJson {
    pub(super) fn new(lock: &LockState, with_queue: bool) -> Self {
        let LockState { name, holders, waiting, queue } = lock;
        let queue = with_queue.then(|| HolderJson::all(queue));
        let mode = holders.first().map(|holder| ModeJson::new(holder.mode));
        Self { name: name.to_string(), mode, holders: HolderJson::all(holders), waiting: *waiting, queue }
    }
}

/// A lock that a session holds or waits for.
#[derive(Serialize)]
struct LockOfSession {
    name: String,
    token: u64,
}

/// The state of a session.
#[derive(Serialize)]
pub(super) struct SessionJson {
    session: String,
    node: String,
    label: String,
    ttl: u32,
    lock_delay: u32,
    release_on_failure: bool,
    left: Option<f64>,
    since: String,
    holds: Vec<LockOfSession>,
    waits: Vec<LockOfSession>,
}

impl SessionJson {
    pub(super) fn new(state: &SessionState) -> Self {
        let SessionState { session, config, left, holds, waits } = state;
        let locks = |all: &[(broadcast_lock::Name, u64)]| {
            all.iter().map(|(name, token)| LockOfSession { name: name.to_string(), token: *token }).collect()
        };
        Self {
            session: lease_text(*session),
            node: config.node.clone(),
            label: config.label.clone(),
            ttl: config.ttl,
            lock_delay: config.lock_delay,
            release_on_failure: config.release_on_failure,
            left: left.map(|millis| Duration::from_millis(millis).as_secs_f64()),
            since: timestamp(config.since),
            holds: locks(holds),
            waits: locks(waits),
        }
    }
}

/// Parses the id of a session.
pub(super) fn parse_session(text: &str) -> Result<i64, Problem> {
    parse_lease(text).map_err(|_| {
        let shown = broadcast::config::quote(text);
        Problem::bad_request(format_args!(
            "session = {shown}: not a session; write the digits that opening it has answered, like 7c3f09a1b2d4e5f6"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_up_and_in_range() {
        assert_eq!(whole_seconds("ttl", 2.1, 2, 10).ok(), Some(3));
        for bad in [1.0, 11.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(whole_seconds("ttl", bad, 2, 10).is_err(), "{bad}");
        }
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn permits_go_with_semaphores() {
        assert_eq!(parse_mode(None, None).ok(), Some(Mode::Exclusive));
        assert_eq!(parse_mode(Some("semaphore"), Some(3)).ok(), Some(Mode::Semaphore { permits: 3 }));
        for (name, permits) in [
            (Some("semaphore"), None),
            (Some("semaphore"), Some(0)),
            (Some("semaphore"), Some(1 << 40)),
            (Some("shared"), Some(1)),
            (None, Some(1)),
            (Some("mutex"), None),
        ] {
            assert!(parse_mode(name, permits).is_err(), "{name:?} {permits:?}");
        }
    }
}
