//! Nested locks: a command that runs under a lock and requests it again would wait for itself. It is refused instead.

use std::{env, time::Duration};

use broadcast_lock::Mode;
use hyper::StatusCode;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    super::{
        client::{ApiClient, ApiRequest, ClientError, url_encoded},
        table::items,
    },
    request::LockRequest,
};
use crate::{failure::Failure, visible};

/// The sessions of the locks that a command runs under, the outermost first, separated by spaces.
pub(super) const SESSIONS: &str = "BROADCAST_LOCK_SESSIONS";
/// How long the check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The sessions that this process runs under. They may have ended, if a command left this process behind.
fn outer() -> Vec<String> {
    env::var(SESSIONS).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// The variable for a command that runs under one more session.
pub(super) fn with(session: &str) -> String {
    let mut sessions = outer();
    sessions.push(session.to_owned());
    sessions.join(" ")
}

/// Refuses a request that would wait for ever for a session this process runs under. A request with a time limit passes, and
/// so does every request if the node does not answer.
pub(super) async fn check(client: &ApiClient, request: &LockRequest) -> Result<(), Failure> {
    let sessions = outer();
    if sessions.is_empty() || request.wait.is_some() {
        return Ok(());
    }
    let looking = async {
        for name in &request.names {
            let path = format!("/v1/locks/{}", url_encoded(name));
            let lock = match client.call(ApiRequest { path: &path, expects: "name", ..ApiRequest::default() }).await {
                Ok(answer) => answer.json,
                Err(ClientError::Problem(answer)) if answer.status == StatusCode::NOT_FOUND => continue,
                Err(_) => return Ok(()),
            };
            if is_in_the_way(&lock, &sessions, request.mode) {
                let name = visible::escaped(name);
                return Err(Failure::other(format!(
                    "{name} is held by the command that this is part of, and would be waited for for ever; leave it out \
                     here, or say how long to wait (--wait)"
                )));
            }
        }
        Ok(())
    };
    timeout(CHECK_TIMEOUT, looking).await.unwrap_or(Ok(()))
}

/// Whether the sessions hold the lock, and in a way that excludes a request in this mode.
fn is_in_the_way(lock: &Value, sessions: &[String], mode: Mode) -> bool {
    let is_ours = |holder: &&Value| holder["session"].as_str().is_some_and(|id| sessions.iter().any(|each| each == id));
    let ours = items(&lock["holders"]).filter(is_ours).count() as u64;
    let leaves_room = match (lock["mode"].as_str(), mode) {
        (Some("shared"), Mode::Shared) => true,
        (Some("semaphore"), Mode::Semaphore { permits }) => {
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
        assert!(is_in_the_way(&lock("shared", None), &ours, Mode::Semaphore { permits: 3 }));
        assert!(
            !is_in_the_way(&lock("semaphore", Some(2)), &ours, Mode::Semaphore { permits: 3 }),
            "the other one may go"
        );
        assert!(is_in_the_way(&lock("semaphore", Some(2)), &ours, Mode::Semaphore { permits: 1 }));
        let both = ["1".to_owned(), "2".to_owned()];
        assert!(is_in_the_way(&lock("semaphore", Some(2)), &both, Mode::Semaphore { permits: 3 }));
        assert!(!is_in_the_way(&lock("exclusive", None), &ours[1..], Mode::Exclusive), "it holds it no more");
        assert!(!is_in_the_way(&json!({"name": "a", "holders": [], "waiting": 1}), &ours, Mode::Exclusive));
    }
}
