//! Locks within locks: a command that holds a lock and asks for it once more would wait for itself.

use std::{env, time::Duration};

use hyper::StatusCode;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    super::{
        client::{Call, Client, Trouble},
        look::list,
        tail::encoded,
    },
    ask::{Ask, Mode},
};
use crate::{failure::Failure, visible};

/// The sessions of the locks that a command is run under, the outermost first, with spaces between them.
pub(super) const SESSIONS: &str = "BROADCAST_LOCK_SESSIONS";
/// How long it may take to see who holds what.
const LOOK: Duration = Duration::from_secs(2);

/// The sessions that this is run under. They may have ended, where a command has left something behind.
fn outer() -> Vec<String> {
    env::var(SESSIONS).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// What a command has that is run under this session as well.
pub(super) fn with(session: &str) -> String {
    let mut sessions = outer();
    sessions.push(session.to_owned());
    sessions.join(" ")
}

/// Refuses what would wait for ever for what this is run under. What waits for some time only is not looked at, and neither
/// is anything where the node does not answer.
pub(super) async fn check(client: &Client, ask: &Ask) -> Result<(), Failure> {
    let sessions = outer();
    if sessions.is_empty() || ask.wait.is_some() {
        return Ok(());
    }
    let looking = async {
        for name in &ask.names {
            let path = format!("/v1/locks/{}", encoded(name));
            let lock = match client.call(Call { path: &path, has: "name", ..Call::default() }).await {
                Ok(answer) => answer.json,
                Err(Trouble::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => continue,
                Err(_) => return Ok(()),
            };
            if is_in_the_way(&lock, &sessions, ask.mode) {
                let name = visible::escaped(name);
                return Err(Failure::other(format!(
                    "{name} is held by the command that this is part of, and would be waited for for ever; leave it out \
                     here, or say how long to wait (--wait)"
                )));
            }
        }
        Ok(())
    };
    timeout(LOOK, looking).await.unwrap_or(Ok(()))
}

/// Whether those of these sessions that hold a lock keep it from whoever asks so.
fn is_in_the_way(lock: &Value, sessions: &[String], mode: Mode) -> bool {
    let is_ours = |holder: &&Value| holder["session"].as_str().is_some_and(|id| sessions.iter().any(|each| each == id));
    let ours = list(&lock["holders"]).filter(is_ours).count() as u64;
    let leaves_room = match (lock["mode"].as_str(), mode) {
        (Some("shared"), Mode::Shared) => true,
        (Some("semaphore"), Mode::Semaphore(permits)) => {
            ours < lock["permits"].as_u64().unwrap_or(u64::MAX).min(permits.into())
        }
        _ => false,
    };
    ours > 0 && !leaves_room
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_leaves_no_room_is_in_the_way() {
        let lock = |mode: &str, permits: Option<u64>| json!({"name": "a", "mode": mode, "permits": permits, "holders": [{"session": "1"}, {"session": "2"}]});
        let ours = ["2".to_owned(), "3".to_owned()];
        assert!(is_in_the_way(&lock("exclusive", None), &ours, Mode::Exclusive));
        assert!(is_in_the_way(&lock("exclusive", None), &ours, Mode::Shared));
        assert!(is_in_the_way(&lock("shared", None), &ours, Mode::Exclusive));
        assert!(!is_in_the_way(&lock("shared", None), &ours, Mode::Shared));
        assert!(is_in_the_way(&lock("shared", None), &ours, Mode::Semaphore(3)));
        assert!(!is_in_the_way(&lock("semaphore", Some(2)), &ours, Mode::Semaphore(3)), "the other one may go");
        assert!(is_in_the_way(&lock("semaphore", Some(2)), &ours, Mode::Semaphore(1)));
        let both = ["1".to_owned(), "2".to_owned()];
        assert!(is_in_the_way(&lock("semaphore", Some(2)), &both, Mode::Semaphore(3)));
        assert!(!is_in_the_way(&lock("exclusive", None), &ours[1..], Mode::Exclusive), "it holds it no more");
        assert!(!is_in_the_way(&json!({"name": "a", "holders": [], "waiting": 1}), &ours, Mode::Exclusive));
    }
}
