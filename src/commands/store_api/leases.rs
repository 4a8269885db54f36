//! Leases: their keys are deleted unless somebody keeps the lease alive in time.

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
    json::{lease_text, parse_lease},
    problem::problem,
    rest_of_path,
};
use crate::store::NodeStore;

/// The body of a grant.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantRequest {
    ttl: u32,
}

/// A lease, and how many seconds it lives from now on.
#[derive(Serialize)]
struct LeaseBody {
    lease: String,
    ttl: u64,
}

/// A lease that is revoked.
#[derive(Serialize)]
struct RevokedBody {
    lease: String,
}

/// The lease in a path.
fn lease_in_path(uri: &Uri) -> Result<i64, Problem> {
    no_query(uri)?;
    let text = rest_of_path(uri.path(), "/v1/leases/")?;
    let lease = parse_lease(&String::from_utf8_lossy(&text))?;
    if is_session(lease) {
        let detail = format!("{} is a session of locks; ask /v1/sessions for it", lease_text(lease));
        return Err(Problem::new(StatusCode::NOT_FOUND, detail));
    }
    Ok(lease)
}

fn not_found(lease: i64) -> Problem {
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
    let GrantRequest { ttl } = read_json(request, "{\"ttl\": 60}, in seconds").await?;
    if ttl == 0 {
        return Err(Problem::bad_request("ttl = 0: a lease lives for a second at least"));
    }
    let ttl = Duration::from_secs(ttl.into());
    let (lease, ttl) = store.run(async move |store| store.grant(ttl).await).await.map_err(problem)?;
    audit.describe(format_args!("lease {}", lease_text(lease)));
    Ok(json_response(StatusCode::OK, &LeaseBody { lease: lease_text(lease), ttl: ttl.as_secs() }))
}

/// `PUT /v1/leases/LEASE`
pub(super) async fn keep_alive(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    uri: Uri,
) -> Result<Response, Problem> {
    audit.aggregate();
    let lease = lease_in_path(&uri)?;
    let kept = store.run(async move |store| store.keep_alive(lease).await).await.map_err(problem)?;
    let ttl = kept.ok_or_else(|| not_found(lease))?;
    Ok(json_response(StatusCode::OK, &LeaseBody { lease: lease_text(lease), ttl: ttl.as_secs() }))
}

/// `DELETE /v1/leases/LEASE`
pub(super) async fn revoke(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let lease = lease_in_path(&uri)?;
    match store.run(async move |store| store.revoke(lease).await).await {
        Ok(()) => Ok(json_response(StatusCode::OK, &RevokedBody { lease: lease_text(lease) })),
        Err(StoreError::Refused(Error::LeaseNotFound { lease })) => Err(not_found(lease)),
        Err(error) => Err(problem(error)),
    }
}
