//! Errors of the store as problems (RFC 9457).

use axum::http::{StatusCode, header};
use broadcast_gateway::Problem;
use broadcast_store::{Error, StoreError};
use serde::Serialize;

/// Part of a problem: the first revision that can still be read.
#[derive(Serialize)]
struct CompactedBody {
    compacted: u64,
}

/// The problem for an error, with its HTTP status.
pub(in crate::commands) fn problem(error: StoreError) -> Problem {
    let retryable = |problem: Problem| problem.header(header::RETRY_AFTER, "1");
    match error {
        StoreError::Refused(error) => refused(&error),
        error @ StoreError::NoVoters => {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, crate::settings::explain(&error.to_string()));
            retryable(problem)
        }
        error @ (StoreError::NoLeader { .. }
        | StoreError::DiskFull
        | StoreError::Busy { .. }
        | StoreError::Stopped(_)) => retryable(Problem::new(StatusCode::SERVICE_UNAVAILABLE, error)),
        error @ StoreError::NotPossible { .. } => Problem::new(StatusCode::CONFLICT, error),
        error @ StoreError::OtherStore { .. } => Problem::new(StatusCode::GONE, error),
        error @ StoreError::Unknown { .. } => Problem::new(StatusCode::GATEWAY_TIMEOUT, error),
        error @ StoreError::Answer { .. } => Problem::new(StatusCode::BAD_GATEWAY, error),
    }
}

fn refused(error: &Error) -> Problem {
    let status = match error {
        Error::Compacted { compacted, .. } => {
            return Problem::new(StatusCode::GONE, error).with(CompactedBody { compacted: *compacted });
        }
        Error::FutureRevision { .. }
        | Error::LeaseTtlTooLarge { .. }
        | Error::TooManyOps
        | Error::DuplicateKey { .. }
        | Error::KeyNotProvided
        | Error::ValueProvided
        | Error::LeaseProvided
        | Error::ResponseTooLarge => StatusCode::BAD_REQUEST,
        Error::LeaseNotFound { .. } | Error::LeaseExists { .. } | Error::KeyNotFound { .. } => StatusCode::CONFLICT,
        Error::NoSpace { .. } => StatusCode::INSUFFICIENT_STORAGE,
        Error::RequestTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::TooManyWatchers { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, error)
}
