//! Errors of locks as problems (RFC 9457).

use axum::http::StatusCode;
use broadcast_gateway::Problem;
use broadcast_lock::{LockError, Refusal, message::Holder};
use serde::Serialize;

use super::json::HolderJson;
use crate::commands::store_api::problem::problem as store_problem;

/// Part of a problem: who holds the lock.
#[derive(Serialize)]
struct HoldersBody {
    holders: Vec<HolderJson>,
}

/// Part of a problem: the highest token that a fence has seen.
#[derive(Serialize)]
struct HighestTokenBody {
    highest: u64,
}

/// The problem for an error, with its HTTP status.
pub(super) fn problem(error: LockError) -> Problem {
    match error {
        LockError::Refused(refusal) => refused(&refusal),
        LockError::Taken { holders } => taken(&holders),
        error @ LockError::SessionEnded { .. } => Problem::new(StatusCode::NOT_FOUND, error),
        LockError::Store(error) => store_problem(error),
        error @ LockError::UnexpectedAnswer(_) => Problem::new(StatusCode::BAD_GATEWAY, error),
    }
}

fn taken(holders: &[Holder]) -> Problem {
    let error = LockError::Taken { holders: holders.to_vec() };
    Problem::new(StatusCode::CONFLICT, error).with(HoldersBody { holders: HolderJson::all(holders) })
}

fn refused(refusal: &Refusal) -> Problem {
    let status = match refusal {
        Refusal::StaleToken { highest, .. } => {
            return Problem::new(StatusCode::PRECONDITION_FAILED, refusal).with(HighestTokenBody { highest: *highest });
        }
        Refusal::Invalid(_) | Refusal::TokenNotIssued { .. } => StatusCode::BAD_REQUEST,
        Refusal::NoSession { .. } | Refusal::Free { .. } => StatusCode::NOT_FOUND,
        Refusal::SessionExists { .. } | Refusal::AlreadyQueued { .. } | Refusal::NotHeld { .. } => StatusCode::CONFLICT,
        Refusal::NoSpace { .. }
        | Refusal::KeysFull { .. }
        | Refusal::TooManyFences { .. }
        | Refusal::TooManyEntries { .. } => StatusCode::INSUFFICIENT_STORAGE,
    };
    Problem::new(status, refusal)
}
