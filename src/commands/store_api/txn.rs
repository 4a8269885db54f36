//! Transactions: comparisons decide between two lists of operations, and all operations of that list happen at one revision.

use axum::{
    Extension,
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use broadcast::config::quote;
use broadcast_gateway::{AuditHandle, Problem, json_response, no_query, read_json_up_to};
use broadcast_store::keys::{
    Compare, CompareOp, CompareTarget, Delete, KeyRange, MAX_REQUEST, Op, OpOutcome, Put, Range, Txn,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    json::{KeyValueJson, RangeJson, bytes, parse_lease},
    problem::problem,
};
use crate::store::NodeStore;

/// The longest body: the longest request in base64, with room for the JSON around it.
const MAX_BODY: usize = 2 * MAX_REQUEST;

const EXAMPLE: &str = r#"{"compare": [{"key": "a", "version": 0}], "success": [{"put": {"key": "a", "value": "1"}}]}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TxnBody {
    #[serde(default)]
    compare: Vec<CompareBody>,
    #[serde(default)]
    success: Vec<OpBody>,
    #[serde(default)]
    failure: Vec<OpBody>,
}

/// A comparison: the first fields name the keys, `op` says how to compare, and one of the others says what with.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareBody {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    prefix: bool,
    #[serde(default)]
    op: OpName,
    version: Option<u64>,
    create_revision: Option<u64>,
    mod_revision: Option<u64>,
    lease: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum OpName {
    #[default]
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = "<")]
    Less,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum OpBody {
    Get(GetBody),
    Put(PutBody),
    Delete(DeleteBody),
    Txn(TxnBody),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GetBody {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    prefix: bool,
    #[serde(default)]
    limit: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutBody {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    lease: Option<String>,
    #[serde(default)]
    prev: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteBody {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    prefix: bool,
    #[serde(default)]
    prev: bool,
}

/// The response to a transaction.
#[derive(Serialize)]
struct TxnResponse {
    revision: u64,
    succeeded: bool,
    responses: Vec<OpResponse>,
}

/// The response to an operation in a transaction.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum OpResponse {
    Get(RangeJson),
    Put { prev: Option<KeyValueJson> },
    Delete { deleted: u64, prev: Vec<KeyValueJson> },
    Txn { succeeded: bool, responses: Vec<OpResponse> },
}

fn key(text: Option<String>, base64: Option<String>) -> Result<Bytes, Problem> {
    bytes("key", text, base64)?
        .ok_or_else(|| Problem::bad_request("an operation has no key; give each key or key_base64"))
}

fn keys(text: Option<String>, base64: Option<String>, prefix: bool) -> Result<KeyRange, Problem> {
    let key = key(text, base64)?;
    Ok(if prefix { KeyRange::prefix(key) } else { KeyRange::one(key) })
}

impl TxnBody {
    fn parse(self) -> Result<Txn, Problem> {
        let ops = |ops: Vec<OpBody>| ops.into_iter().map(OpBody::parse).collect::<Result<_, _>>();
        let compare = self.compare.into_iter().map(CompareBody::parse).collect::<Result<_, _>>()?;
        Ok(Txn { compare, success: ops(self.success)?, failure: ops(self.failure)? })
    }
}

impl CompareBody {
    fn parse(self) -> Result<Compare, Problem> {
        let value = bytes("value", self.value, self.value_base64)?;
        let lease = self.lease.map(|text| if text == "0" { Ok(0) } else { parse_lease(&text) }).transpose()?;
        let mut targets = [
            self.version.map(CompareTarget::Version),
            self.create_revision.map(CompareTarget::Create),
            self.mod_revision.map(CompareTarget::Mod),
            lease.map(CompareTarget::Lease),
            value.map(CompareTarget::Value),
        ]
        .into_iter()
        .flatten();
        let (Some(target), None) = (targets.next(), targets.next()) else {
            let detail =
                "a comparison is of one of version, create_revision, mod_revision, lease and value; give one of them";
            return Err(Problem::bad_request(detail));
        };
        let op = match self.op {
            OpName::Equal => CompareOp::Equal,
            OpName::NotEqual => CompareOp::NotEqual,
            OpName::Greater => CompareOp::Greater,
            OpName::Less => CompareOp::Less,
        };
        Ok(Compare { keys: keys(self.key, self.key_base64, self.prefix)?, op, target })
    }
}

impl OpBody {
    fn parse(self) -> Result<Op, Problem> {
        Ok(match self {
            Self::Get(GetBody { key, key_base64, prefix, limit }) => {
                Op::Range(Range { limit, ..Range::in_range(keys(key, key_base64, prefix)?) })
            }
            Self::Put(PutBody { key: text, key_base64, value, value_base64, lease, prev }) => Op::Put(Put {
                key: key(text, key_base64)?,
                value: bytes("value", value, value_base64)?.unwrap_or_default(),
                lease: lease.map(|text| parse_lease(&text)).transpose()?.unwrap_or_default(),
                prev_kv: prev,
                ..Put::default()
            }),
            Self::Delete(DeleteBody { key, key_base64, prefix, prev }) => {
                Op::Delete(Delete { keys: keys(key, key_base64, prefix)?, prev_kv: prev })
            }
            Self::Txn(txn) => Op::Txn(txn.parse()?),
        })
    }
}

fn responses(outcomes: &[OpOutcome]) -> Vec<OpResponse> {
    let response = |outcome: &OpOutcome| match outcome {
        OpOutcome::Range(found) => OpResponse::Get(RangeJson::new(found, true)),
        OpOutcome::Put(put) => OpResponse::Put { prev: put.prev.as_ref().map(KeyValueJson::of) },
        OpOutcome::Delete(delete) => {
            OpResponse::Delete { deleted: delete.deleted, prev: delete.prev.iter().map(KeyValueJson::of).collect() }
        }
        OpOutcome::Txn { succeeded, responses: inner, .. } => {
            OpResponse::Txn { succeeded: *succeeded, responses: responses(inner) }
        }
    };
    outcomes.iter().map(response).collect()
}

/// What operations change, in words for the audit log.
fn changes(ops: &[Op]) -> Vec<String> {
    let name = |key: &Bytes| quote(&String::from_utf8_lossy(key));
    let changes = |op: &Op| match op {
        Op::Range(_) => Vec::new(),
        Op::Put(put) => vec![format!("put {}", name(&put.key))],
        Op::Delete(Delete { keys, .. }) if *keys == KeyRange::one(keys.key.clone()) => {
            vec![format!("delete {}", name(&keys.key))]
        }
        Op::Delete(Delete { keys, .. }) => vec![format!("delete all that begin with {}", name(&keys.key))],
        Op::Txn(txn) => changes_of(txn),
    };
    ops.iter().flat_map(changes).collect()
}

/// What a transaction may change, in either of its lists.
fn changes_of(txn: &Txn) -> Vec<String> {
    [&txn.success, &txn.failure].into_iter().flat_map(|ops| changes(ops)).collect()
}

/// `POST /v1/kv`
pub(super) async fn txn(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    request: Request,
) -> Result<Response, Problem> {
    no_query(request.uri())?;
    let txn = read_json_up_to::<TxnBody>(request, MAX_BODY, EXAMPLE).await?.parse()?;
    match changes_of(&txn) {
        none if none.is_empty() => audit.aggregate(),
        changes => audit.describe(format_args!("may {}", changes.join(", "))),
    }
    let done = store.run(async move |store| store.txn(txn).await).await.map_err(problem)?;
    let (revision, succeeded, outcomes) = done;
    Ok(json_response(StatusCode::OK, &TxnResponse { revision, succeeded, responses: responses(&outcomes) }))
}
