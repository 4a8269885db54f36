//! A request for locks: which ones, in which mode, and for how long, from the flags to the body that the API takes.

use std::{ffi::OsString, ops::RangeInclusive, process, time::Duration};

use broadcast_lock::{
    MAX_NAME_BYTES, Mode, Name, NameError,
    message::{MAX_LABEL_BYTES, MAX_LOCK_DELAY, MAX_NAMES, MAX_TTL, MAX_VALUE_BYTES, MIN_TTL},
};
use clap::Args;
use serde_json::{Map, Value, json};

use super::super::{lock_api::mode_fields, supervisor::Program};
use crate::settings::values::{duration, duration_in};

const TTLS: RangeInclusive<Duration> = Duration::from_secs(MIN_TTL as u64)..=Duration::from_secs(MAX_TTL as u64);
const DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(MAX_LOCK_DELAY as u64);

/// The flags that `broadcast lock` and `broadcast elect` share.
#[derive(Debug, Args)]
pub(super) struct HoldArgs {
    /// How soon the lock passes to somebody else after no node hears of this command any more; COMMAND is ended by then
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = ttl)]
    ttl: Duration,

    /// Wait this long at most [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,

    /// Do not wait: exit with 124 if somebody else holds it
    #[arg(long = "try", conflicts_with = "wait")]
    try_once: bool,

    /// After a loss, keep others out for this long, in which what COMMAND began may end
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = lock_delay)]
    lock_delay: Duration,

    /// Lose it as soon as the cluster takes the asked node for failed, and not only when the TTL is over
    #[arg(long)]
    release_on_failure: bool,

    /// What `broadcast locks` shows beside it [default: COMMAND's name, the process and the host]
    #[arg(long, value_name = "TEXT", value_parser = label)]
    label: Option<String>,
}

/// A request for one lock or several, which are granted all together or not at all.
#[derive(Clone, Debug)]
pub(super) struct LockRequest {
    pub(super) names: Vec<String>,
    pub(super) mode: Mode,
    pub(super) ttl: Duration,
    /// How long to wait; as long as it takes, if none.
    pub(super) wait: Option<Duration>,
    lock_delay: Duration,
    release_on_failure: bool,
    label: String,
    value: Option<String>,
}

impl HoldArgs {
    pub(super) fn request(
        self,
        names: Vec<String>,
        mode: Mode,
        value: Option<String>,
        program: Option<&Program>,
    ) -> LockRequest {
        LockRequest {
            names,
            mode,
            ttl: self.ttl,
            wait: if self.try_once { Some(Duration::ZERO) } else { self.wait },
            lock_delay: self.lock_delay,
            release_on_failure: self.release_on_failure,
            label: self.label.unwrap_or_else(|| default_label(program.map(|program| &program.name))),
            value,
        }
    }
}

impl LockRequest {
    /// The body of the API's request. `wait` is the time that is left.
    pub(super) fn body(&self, wait: Option<Duration>) -> Value {
        let session = json!({
            "ttl": self.ttl.as_secs(),
            "lock_delay": self.lock_delay.as_secs(),
            "label": self.label,
            "release_on_failure": self.release_on_failure,
        });
        let mut body = Map::new();
        body.insert("names".into(), self.names.clone().into());
        body.insert("session".into(), session);
        let (mode, permits) = mode_fields(self.mode);
        body.insert("mode".into(), mode.into());
        let optional = [
            ("permits", permits.map(Value::from)),
            ("wait", wait.map(|wait| wait.as_secs_f64().into())),
            ("value", self.value.clone().map(Value::from)),
        ];
        body.extend(optional.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))));
        body.into()
    }
}

fn default_label(program: Option<&OsString>) -> String {
    let name = program.map_or_else(|| "broadcast lock".into(), |name| name.to_string_lossy());
    let name = name.rsplit('/').next().unwrap_or_default();
    let host = hostname::get().unwrap_or_default();
    let label = format!("{name} (process {} on {})", process::id(), host.to_string_lossy());
    let end = (0..=MAX_LABEL_BYTES.min(label.len())).rev().find(|end| label.is_char_boundary(*end));
    label[..end.unwrap_or_default()].into()
}

/// Parses the name of a lock.
pub(super) fn name(text: &str) -> Result<String, String> {
    let problem = |error| match error {
        NameError::Length(0) => "a lock has a name; write one like jobs/nightly".into(),
        NameError::Length(length) => format!("it is {length} bytes long; shorten it to {MAX_NAME_BYTES}"),
        NameError::Slash(_) => "a name neither begins nor ends with /; write one like jobs/nightly".into(),
        NameError::Control(_) => "a name has no control characters; write one like jobs/nightly".into(),
    };
    Name::new(text).map(String::from).map_err(problem)
}

/// All names of a request; none may be given twice.
pub(super) fn names(first: String, more: Vec<String>) -> Result<Vec<String>, String> {
    let mut names = vec![first];
    for name in more {
        if names.contains(&name) {
            return Err(format!("--also = {name:?}: it is named twice; name each lock once"));
        }
        names.push(name);
    }
    if names.len() > MAX_NAMES {
        return Err(format!("--also: these are {} locks; ask for {MAX_NAMES} at most", names.len()));
    }
    Ok(names)
}

fn ttl(text: &str) -> Result<Duration, String> {
    whole_seconds(duration_in(text, &TTLS)?)
}

fn lock_delay(text: &str) -> Result<Duration, String> {
    whole_seconds(duration_in(text, &DELAYS)?)
}

fn whole_seconds(duration: Duration) -> Result<Duration, String> {
    if duration.subsec_nanos() == 0 { Ok(duration) } else { Err("not whole seconds; write a duration like 10s".into()) }
}

fn label(text: &str) -> Result<String, String> {
    up_to(text, MAX_LABEL_BYTES)
}

pub(super) fn value(text: &str) -> Result<String, String> {
    up_to(text, MAX_VALUE_BYTES)
}

fn up_to(text: &str, most: usize) -> Result<String, String> {
    if text.len() > most {
        Err(format!("it is {} bytes long; shorten it to {most}", text.len()))
    } else {
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(mode: Mode, value: Option<&str>) -> LockRequest {
        let (ttl, wait) = (Duration::from_secs(10), None);
        let (names, label) = (vec!["a".to_owned(), "b/c".to_owned()], "why".to_owned());
        let (lock_delay, value) = (Duration::from_secs(1), value.map(String::from));
        LockRequest { names, mode, ttl, wait, lock_delay, release_on_failure: false, label, value }
    }

    #[test]
    fn what_is_asked_is_what_the_api_takes() {
        let session = json!({"ttl": 10, "lock_delay": 1, "label": "why", "release_on_failure": false});
        assert_eq!(
            request(Mode::Exclusive, None).body(None),
            json!({"names": ["a", "b/c"], "session": session, "mode": "exclusive"})
        );
        assert_eq!(
            request(Mode::Semaphore { permits: 3 }, Some("at 10.0.0.1")).body(Some(Duration::from_millis(1500))),
            json!({"names": ["a", "b/c"], "session": session, "mode": "semaphore", "permits": 3, "wait": 1.5,
                "value": "at 10.0.0.1"})
        );
        assert_eq!(request(Mode::Shared, None).body(Some(Duration::ZERO))["wait"], json!(0.0));
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        for text in ["", "/a", "a/", "/", "a\0b", &"n".repeat(256)] {
            assert!(name(text).is_err(), "{text:?}");
        }
        for text in ["a", "jobs/nightly", "a//b", "ä", &"n".repeat(255)] {
            assert_eq!(name(text).as_deref(), Ok(text));
        }
        assert_eq!(names("a".into(), vec!["b".into()]), Ok(vec!["a".into(), "b".into()]));
        assert!(names("a".into(), vec!["b".into(), "a".into()]).expect_err("twice").contains("twice"));
        assert!(names("a".into(), (0..16).map(|n| n.to_string()).collect()).expect_err("17").contains("17 locks"));
    }

    #[test]
    fn durations_are_whole_seconds() {
        assert_eq!(ttl("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(ttl("1m"), Ok(Duration::from_secs(60)));
        assert!(ttl("1s").is_err() && ttl("2500ms").is_err() && ttl("2days").is_err() && ttl("5").is_err());
        assert_eq!(lock_delay("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn a_label_is_short_and_has_no_arguments() {
        let label = default_label(Some(&"/usr/bin/job".into()));
        assert!(label.starts_with(&format!("job (process {} on ", process::id())), "{label}");
        assert!(default_label(Some(&"ä".repeat(300).into())).len() <= MAX_LABEL_BYTES);
    }
}
