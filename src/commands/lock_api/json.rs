//! Locks and sessions as JSON.

use std::time::{Duration, UNIX_EPOCH};

use broadcast_gateway::Problem;
use broadcast_lock::{
    LockSessionConfig, Mode,
    message::{Holder, LockState, MAX_LOCK_DELAY, MAX_PERMITS, MAX_TTL, MIN_TTL, SessionState},
};
use serde::{Deserialize, Serialize};

use crate::commands::store_api::json::{lease, lease_text, text_or_base64};

/// What a session is to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    ttl: f64,
    #[serde(default)]
    lock_delay: f64,
    #[serde(default)]
    label: String,
    #[serde(default)]
    release_on_failure: bool,
}

/// Whole seconds, rounded up.
fn seconds(name: &str, value: f64, least: u32, most: u32) -> Result<u32, Problem> {
    let rounded = value.ceil();
    // What is no number is in no range.
    if !(f64::from(least)..=f64::from(most)).contains(&rounded) {
        return Err(Problem::bad_request(format_args!("{name} = {value}: it must be from {least} to {most} seconds")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in the range of such numbers")]
    Ok(rounded as u32)
}

impl Wanted {
    /// The same for a session of a node, whose own `config` has its name and the time.
    pub(super) fn checked(self, config: LockSessionConfig) -> Result<LockSessionConfig, Problem> {
        let Self { ttl, lock_delay, label, release_on_failure } = self;
        let ttl = seconds("ttl", ttl, MIN_TTL, MAX_TTL)?;
        let lock_delay = seconds("lock_delay", lock_delay, 0, MAX_LOCK_DELAY)?;
        Ok(LockSessionConfig { ttl, lock_delay, label, release_on_failure, ..config })
    }
}

/// A session that was opened, or is kept alive.
#[derive(Serialize)]
pub(super) struct Session {
    pub(super) session: String,
    pub(super) ttl: u64,
}

/// How a lock is to be held, as two fields say.
pub(super) fn mode(mode: Option<&str>, permits: Option<u64>) -> Result<Mode, Problem> {
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

/// How a lock is held.
#[derive(Serialize)]
pub(super) struct Held {
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    permits: Option<u16>,
}

impl Held {
    fn of(mode: Mode) -> Self {
        let (mode, permits) = match mode {
            Mode::Exclusive => ("exclusive", None),
            Mode::Shared => ("shared", None),
            Mode::Semaphore { permits } => ("semaphore", Some(permits)),
        };
        Self { mode, permits }
    }
}

/// Somebody who holds a lock, or waits for it.
#[derive(Serialize)]
pub(super) struct Place {
    token: u64,
    session: String,
    node: String,
    label: String,
    #[serde(flatten)]
    held: Held,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    since: String,
}

impl Place {
    pub(super) fn of(holder: &Holder) -> Self {
        let Holder { token, session, node, label, mode, value, since } = holder;
        let (value, value_base64) = if value.is_empty() { (None, None) } else { text_or_base64(value) };
        Self {
            token: *token,
            session: lease_text(*session),
            node: node.clone(),
            label: label.clone(),
            held: Held::of(*mode),
            value,
            value_base64,
            since: time(*since),
        }
    }

    pub(super) fn all(holders: &[Holder]) -> Vec<Self> {
        holders.iter().map(Self::of).collect()
    }
}

/// A time that was told in milliseconds since 1970, by whatever clock.
fn time(millis: u64) -> String {
    // What is later cannot be written.
    const LATEST: u64 = 253_402_300_799_999;
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis.min(LATEST))).to_string()
}

/// A lock that somebody holds or waits for.
#[derive(Serialize)]
pub(super) struct LockJson {
    name: String,
    #[serde(flatten)]
    held: Option<Held>,
    holders: Vec<Place>,
    waiting: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<Vec<Place>>,
}

impl LockJson {
    pub(super) fn of(lock: &LockState, with_queue: bool) -> Self {
        let LockState { name, holders, waiting, queue } = lock;
        let queue = with_queue.then(|| Place::all(queue));
        let held = holders.first().map(|holder| Held::of(holder.mode));
        Self { name: name.to_string(), held, holders: Place::all(holders), waiting: *waiting, queue }
    }
}

/// A lock of a session.
#[derive(Serialize)]
struct Named {
    name: String,
    token: u64,
}

/// A session as it is.
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
    holds: Vec<Named>,
    waits: Vec<Named>,
}

impl SessionJson {
    pub(super) fn of(state: &SessionState) -> Self {
        let SessionState { session, config, left, holds, waits } = state;
        let named = |all: &[(broadcast_lock::Name, u64)]| {
            all.iter().map(|(name, token)| Named { name: name.to_string(), token: *token }).collect()
        };
        Self {
            session: lease_text(*session),
            node: config.node.clone(),
            label: config.label.clone(),
            ttl: config.ttl,
            lock_delay: config.lock_delay,
            release_on_failure: config.release_on_failure,
            left: left.map(|millis| Duration::from_millis(millis).as_secs_f64()),
            since: time(config.since),
            holds: named(holds),
            waits: named(waits),
        }
    }
}

/// A session that was written as 16 digits of base 16.
pub(super) fn session(text: &str) -> Result<i64, Problem> {
    lease(text).map_err(|_| {
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
        assert_eq!(seconds("ttl", 2.1, 2, 10).ok(), Some(3));
        for bad in [1.0, 11.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(seconds("ttl", bad, 2, 10).is_err(), "{bad}");
        }
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn permits_go_with_semaphores() {
        assert_eq!(mode(None, None).ok(), Some(Mode::Exclusive));
        assert_eq!(mode(Some("semaphore"), Some(3)).ok(), Some(Mode::Semaphore { permits: 3 }));
        for (name, permits) in [
            (Some("semaphore"), None),
            (Some("semaphore"), Some(0)),
            (Some("semaphore"), Some(1 << 40)),
            (Some("shared"), Some(1)),
            (None, Some(1)),
            (Some("mutex"), None),
        ] {
            assert!(mode(name, permits).is_err(), "{name:?} {permits:?}");
        }
    }
}
