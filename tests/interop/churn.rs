//! Mixed.
use crate::support::require::Case;
pub fn cases(missing: Option<&String>) -> Vec<Case> {
    let _ = missing;
    Vec::new()
}
