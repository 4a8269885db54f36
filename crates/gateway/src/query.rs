//! What a request asks beside its path.

use std::error::Error as _;

use axum::{extract::Query, http::Uri};
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// What is asked, of the parameters that `known` lists.
pub(super) fn read<T: DeserializeOwned>(uri: &Uri, known: &str) -> Result<T, Problem> {
    let Query(asked) = Query::try_from_uri(uri).map_err(|rejection| {
        // What it says itself is about types of the program.
        let cause = rejection.source().map_or_else(|| rejection.to_string(), ToString::to_string);
        Problem::bad_request(format_args!(
            "the query is not valid: {cause}; the parameters are {known}, each at most once"
        ))
    })?;
    Ok(asked)
}

/// What takes no query is asked without one.
///
/// # Errors
///
/// The answer to give, 400, if there is one.
pub fn none(uri: &Uri) -> Result<(), Problem> {
    match uri.query().unwrap_or_default() {
        "" => Ok(()),
        query => Err(Problem::bad_request(format_args!(
            "{:?} takes no parameters, but was asked with {query:?}",
            uri.path()
        ))),
    }
}
