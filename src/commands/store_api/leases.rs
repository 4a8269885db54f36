//! Leases: keys that are deleted unless somebody says in time that they are still wanted.

use std::time::Duration;

use axum::{
    Extension,
    extract::{Request, State},
    http::{StatusCode, Uri},
    response::Response,
};
use broadcast_gateway::{AuditHandle, Problem, json_response, no_query, read_json};
use broadcast_lock::message::is_session;
use broadcast_store::{Error, StoreError};
use serde::{Deserialize, Serialize};

use super::{
    json::{lease, lease_text},
    problem::problem,
    rest_of_path,
};
use crate::store::NodeStore;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    ttl: u32,
}

/// A lease, and how long it lives from now on.
#[derive(Serialize)]
struct Lease {
    lease: String,
    ttl: u64,
}

/// A lease that has ended.
#[derive(Serialize)]
struct Revoked {
    lease: String,
}

/// The lease that a path names.
fn named(uri: &Uri) -> Result<i64, Problem> {
    no_query(uri)?;
    let text = rest_of_path(uri.path(), "/v1/leases/")?;
    let lease = lease(&String::from_utf8_lossy(&text))?;
    if is_session(lease) {
        let detail = format!("{} is a session of locks; ask /v1/sessions for it", lease_text(lease));
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    Ok(lease)
}

fn gone(lease: i64) -> Problem {
    let detail = Error::LeaseNotFound { lease };
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// `POST /v1/leases`
pub(super) async fn grant(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let Wanted { ttl } = read_json(request, "{\"ttl\": 60}, in seconds").await?;
    if ttl == 0 {
        return Err(Problem::bad_request("ttl = 0: a lease lives for a second at least"));
    }
    let ttl = Duration::from_secs(ttl.into());
    let (lease, ttl) = store.run(async move |store| store.grant(ttl).await).await.map_err(problem)?;
    audit.describe(format_args!("lease {}", lease_text(lease)));
    Ok(json_response(StatusCode::OK, &Lease { lease: lease_text(lease), ttl: ttl.as_secs() }))
}

/// `PUT /v1/leases/LEASE`
pub(super) async fn keep_alive(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    uri: Uri,
) -> Result<Response, Problem> {
    audit.aggregate();
    let lease = named(&uri)?;
    let kept = store.run(async move |store| store.keep_alive(lease).await).await.map_err(problem)?;
    let ttl = kept.ok_or_else(|| gone(lease))?;
    Ok(json_response(StatusCode::OK, &Lease { lease: lease_text(lease), ttl: ttl.as_secs() }))
}

/// `DELETE /v1/leases/LEASE`
pub(super) async fn revoke(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let lease = named(&uri)?;
    match store.run(async move |store| store.revoke(lease).await).await {
        Ok(()) => Ok(json_response(StatusCode::OK, &Revoked { lease: lease_text(lease) })),
        Err(StoreError::Refused(Error::LeaseNotFound { lease })) => Err(gone(lease)),
        Err(error) => Err(problem(error)),
    }
}
