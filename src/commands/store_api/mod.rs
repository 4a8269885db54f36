//! The replicated store over HTTP: keys, transactions, watches, leases, voters and backups.
//!
//! A key is the rest of a path, and its value is the body: any bytes. Lists, transactions and events are JSON ([`json`]).
//! Whoever may read messages may read keys, and whoever may publish may change them. Voters and backups are for operators,
//! since a backup has everything.

pub(super) mod json;
mod keys;
mod leases;
mod metrics;
pub(super) mod problem;
mod snapshot;
mod txn;
mod voters;
mod watch;

use axum::routing::{get, post, put};
use broadcast_gateway::{Problem, RequiredScopes, Routes, Scope};

use crate::store::NodeStore;

/// The routes for the store of a node.
pub(super) fn routes(store: &NodeStore) -> Routes {
    const WRITE: RequiredScopes = RequiredScopes::read_write(Scope::Read, Scope::Publish);
    const VOTERS: RequiredScopes = RequiredScopes::read_write(Scope::Read, Scope::Operate);
    let all = get(keys::list).post(txn::txn).with_state(store.clone());
    let one = get(keys::get).put(keys::put).delete(keys::delete).with_state(store.clone());
    let lease = put(leases::keep_alive).delete(leases::revoke).with_state(store.clone());
    let counted = store.clone();
    let voter = put(voters::add).delete(voters::remove).with_state(store.clone());
    Routes::new(
        include_str!("openapi.json"),
        [
            ("/v1/kv", WRITE, all),
            ("/v1/kv/{*key}", WRITE, one),
            ("/v1/watch", RequiredScopes::scope(Scope::Read), get(watch::watch).with_state(store.clone())),
            ("/v1/leases", WRITE, post(leases::grant).with_state(store.clone())),
            ("/v1/leases/{lease}", WRITE, lease),
            ("/v1/store", RequiredScopes::scope(Scope::Read), get(voters::status).with_state(store.clone())),
            (
                "/v1/store/snapshot",
                RequiredScopes::scope(Scope::Operate),
                get(snapshot::save).with_state(store.clone()),
            ),
            ("/v1/store/voters/{name}", VOTERS, voter),
        ],
    )
    .script(include_str!("tab.js"))
    .metrics(move |sheet| counted.stats().map_or(Ok(()), |stats| metrics::write(sheet, &stats)))
}

/// Parses a number in a query.
pub(super) fn number(name: &str, value: Option<String>) -> Result<Option<u64>, Problem> {
    broadcast_gateway::parse_number(name, value, "a whole number; write one like 10")
}

/// Parses true or false in a query; false, if it is not there.
pub(super) fn flag(name: &str, value: Option<&str>) -> Result<bool, Problem> {
    match value {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => {
            let shown = broadcast::config::quote(other);
            Err(Problem::bad_request(format_args!("{name} = {shown}: write true or false")))
        }
    }
}

/// The rest of a path after `prefix`, with percent-encoding decoded.
pub(super) fn rest_of_path(path: &str, prefix: &str) -> Result<Vec<u8>, Problem> {
    let rest = path.strip_prefix(prefix).unwrap_or_default().as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    let mut at = 0;
    while let Some(byte) = rest.get(at) {
        if *byte != b'%' {
            bytes.push(*byte);
            at += 1;
            continue;
        }
        let digit = |at: usize| char::from(*rest.get(at)?).to_digit(16);
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
            let shown = broadcast::config::quote(path);
            return Err(Problem::bad_request(format_args!("{shown}: after % come two digits of base 16, as in %2F")));
        };
        bytes.push(u8::try_from(high * 16 + low).expect("two digits of base 16 are a byte"));
        at += 3;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_have_any_bytes() {
        let key = |path: &str| rest_of_path(path, "/v1/kv/").ok();
        assert_eq!(key("/v1/kv/a/b"), Some(b"a/b".to_vec()));
        assert_eq!(key("/v1/kv/a%2fb%00%FF+"), Some(b"a/b\0\xff+".to_vec()));
        for bad in ["/v1/kv/%", "/v1/kv/a%2", "/v1/kv/%zz", "/v1/kv/%+1"] {
            assert_eq!(key(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_described_is_what_is_served() {
        // It panics if the description is of other paths.
        let described: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).expect("JSON");
        assert_eq!(described["paths"].as_object().expect("paths").len(), 8);
    }
}
