//! Reads, puts and deletes keys. HTTP's preconditions (RFC 9110, section 13.1) make a change depend on the key's revision, and
//! `fence` makes a put depend on a lock.

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use broadcast::config::quote;
use broadcast_gateway::{AuditHandle, Problem, json_response, read_bytes, read_query};
use broadcast_lock::{LockError, Name, Refusal};
use broadcast_store::{
    keys::{
        Compare, CompareOp, CompareTarget, Delete, KeyRange, KeyValue, KeysCommand, KeysOutcome, MAX_REQUEST, Op,
        OpOutcome, Put, PutOutcome, Range, RangeOutcome, SortOrder, SortTarget, Txn,
    },
    node::ReadRequest,
};
use bytes::Bytes;
use serde::Serialize;

use super::{
    flag,
    json::{KeyValueJson, RangeJson, lease_text, parse_lease},
    number,
    problem::problem,
    rest_of_path,
};
use crate::store::NodeStore;

/// How many keys a list has at most, unless the request has `limit`.
const DEFAULT_LIMIT: u64 = 1000;
/// The largest `limit`.
const MAX_LIMIT: u64 = 100_000;
/// The most bytes of keys and values in a list.
const MAX_LIST_BYTES: u64 = 4 << 20;

/// The response to a put.
#[derive(Serialize)]
struct PutResponse {
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev: Option<KeyValueJson>,
}

/// The response to a delete.
#[derive(Serialize)]
struct DeleteResponse {
    revision: u64,
    deleted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev: Option<Vec<KeyValueJson>>,
}

/// Part of a problem: the revision of a key that does not match the precondition.
#[derive(Serialize)]
struct MismatchBody {
    mod_revision: u64,
}

/// The key in a path.
fn key(uri: &Uri) -> Result<Bytes, Problem> {
    rest_of_path(uri.path(), "/v1/kv/").map(Bytes::from)
}

/// `GET /v1/kv/KEY`
pub(super) async fn get(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let [revision, serializable] = read_query(&uri, ["revision", "serializable"])?;
    let key = key(&uri)?;
    let name = quote(&String::from_utf8_lossy(&key));
    let range = Range { revision: number("revision", revision)?.unwrap_or_default(), ..Range::of(key) };
    let serializable = flag("serializable", serializable.as_deref())?;
    let found = read(&store, ReadRequest { range, serializable, most_bytes: None }).await?;
    let kv =
        found.kvs.first().ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format_args!("there is no key {name}")))?;
    let mut response = Response::new(Body::from(kv.value.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    let mut add = |name: &'static str, value: String| {
        let value = HeaderValue::from_str(&value).expect("numbers can be in a header");
        headers.insert(HeaderName::from_static(name), value);
    };
    add("etag", format!("\"{}\"", kv.mod_revision));
    add("store-revision", found.revision.to_string());
    add("kv-create-revision", kv.create_revision.to_string());
    add("kv-mod-revision", kv.mod_revision.to_string());
    add("kv-version", kv.version.to_string());
    if kv.lease != 0 {
        add("kv-lease", lease_text(kv.lease));
    }
    Ok(response)
}

/// `GET /v1/kv`
pub(super) async fn list(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    let names = ["key", "prefix", "start", "limit", "revision", "sort", "keys_only", "count_only", "serializable"];
    let [key, prefix, start, limit, revision, sort, keys_only, count_only, serializable] = read_query(&uri, names)?;
    let keys = match (key, prefix, start) {
        (Some(key), None, None) => KeyRange::one(key),
        (Some(_), ..) => {
            return Err(Problem::bad_request("key goes with neither prefix nor start; give one or the other"));
        }
        (None, prefix, start) => from(KeyRange::prefix(prefix.unwrap_or_default()), start)?,
    };
    let limit = match number("limit", limit)? {
        None => DEFAULT_LIMIT,
        Some(limit @ 1..=MAX_LIMIT) => limit,
        Some(limit) => {
            return Err(Problem::bad_request(format_args!("limit = {limit}: it must be from 1 to {MAX_LIMIT}")));
        }
    };
    let (target, order) = parse_sort(sort.as_deref())?;
    let keys_only = flag("keys_only", keys_only.as_deref())?;
    let range = Range {
        limit,
        revision: number("revision", revision)?.unwrap_or_default(),
        order,
        target,
        keys_only,
        count_only: flag("count_only", count_only.as_deref())?,
        ..Range::in_range(keys)
    };
    let serializable = flag("serializable", serializable.as_deref())?;
    let found = read(&store, ReadRequest { range, serializable, most_bytes: Some(MAX_LIST_BYTES) }).await?;
    Ok(json_response(StatusCode::OK, &RangeJson::new(&found, !keys_only)))
}

/// The part of a range from `start` on.
fn from(all: KeyRange, start: Option<String>) -> Result<KeyRange, Problem> {
    let Some(start) = start.map(Bytes::from).filter(|start| *start > all.key) else { return Ok(all) };
    if !all.contains(&start) {
        return Err(Problem::bad_request("start does not begin with prefix; write the first key that you want"));
    }
    Ok(KeyRange { key: start, end: all.end })
}

/// Parses `sort=key`, or `sort=-mod` for the greatest first.
fn parse_sort(sort: Option<&str>) -> Result<(SortTarget, SortOrder), Problem> {
    let Some(sort) = sort else { return Ok((SortTarget::Key, SortOrder::None)) };
    let (by, order) = match sort.strip_prefix('-') {
        Some(by) => (by, SortOrder::Descend),
        None => (sort, SortOrder::Ascend),
    };
    let target = match by {
        "key" => SortTarget::Key,
        "version" => SortTarget::Version,
        "create" => SortTarget::Create,
        "mod" => SortTarget::Mod,
        "value" => SortTarget::Value,
        _ => {
            let detail = format!(
                "sort = {}: write key, version, create, mod or value, with - before it for the greatest first",
                quote(sort)
            );
            return Err(Problem::bad_request(detail));
        }
    };
    Ok((target, order))
}

async fn read(store: &NodeStore, read: ReadRequest) -> Result<RangeOutcome, Problem> {
    store.run(async move |store| store.read(read).await).await.map_err(problem)
}

/// What a key must be for a change to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precondition {
    /// Anything.
    None,
    /// `If-None-Match: *`: the key does not exist.
    Absent,
    /// `If-Match: *`: the key exists.
    Present,
    /// `If-Match: "7"`: the key was last changed at this revision.
    Unchanged(u64),
}

impl Precondition {
    /// Parses the headers (RFC 9110, section 13.1).
    fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        let wrong = |name: &str, value: &HeaderValue, remedy: &str| {
            let shown = quote(&String::from_utf8_lossy(value.as_bytes()));
            Problem::bad_request(format_args!("{name} = {shown}: {remedy}"))
        };
        match (headers.get(header::IF_MATCH), headers.get(header::IF_NONE_MATCH)) {
            (None, None) => Ok(Self::None),
            (None, Some(value)) if value.as_bytes() == b"*" => Ok(Self::Absent),
            (None, Some(value)) => Err(wrong("If-None-Match", value, "only * is known here: the key is not there yet")),
            (Some(value), None) if value.as_bytes() == b"*" => Ok(Self::Present),
            (Some(value), None) => {
                let digits = value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
                let revision = digits.and_then(|digits| digits.parse().ok()).filter(|revision| *revision > 0);
                let remedy = "write the ETag of a key, like \"7\", or *";
                revision.map(Self::Unchanged).ok_or_else(|| wrong("If-Match", value, remedy))
            }
            (Some(_), Some(_)) => Err(Problem::bad_request("send If-Match or If-None-Match, and not both")),
        }
    }

    /// The comparison of a transaction that checks it.
    fn compare(self, key: &Bytes) -> Option<Compare> {
        let (op, target) = match self {
            Self::None => return None,
            Self::Absent => (CompareOp::Equal, CompareTarget::Version(0)),
            Self::Present => (CompareOp::Greater, CompareTarget::Version(0)),
            Self::Unchanged(revision) => (CompareOp::Equal, CompareTarget::Mod(revision)),
        };
        Some(Compare { keys: KeyRange::one(key.clone()), op, target })
    }
}

/// Does an operation if the precondition holds. Gives its outcome and the newest revision.
async fn change_if(
    store: &NodeStore,
    key: &Bytes,
    precondition: Precondition,
    op: Op,
) -> Result<(u64, OpOutcome), Problem> {
    let compare = precondition.compare(key).into_iter().collect();
    let look = Op::Range(Range { keys_only: true, ..Range::of(key.clone()) });
    let txn = Txn { compare, success: vec![op], failure: vec![look] };
    let (revision, held, mut responses) = store.run(async move |store| store.txn(txn).await).await.map_err(problem)?;
    let outcome = responses.pop().ok_or_else(|| {
        Problem::new(StatusCode::BAD_GATEWAY, "the store does not tell what became of this; read before you try again")
    })?;
    match outcome {
        outcome if held => Ok((revision, outcome)),
        OpOutcome::Range(found) => {
            let mod_revision = found.kvs.first().map_or(0, |kv| kv.mod_revision);
            let detail = match mod_revision {
                0 => "the key is not there; nothing has changed".to_owned(),
                now => format!("the key was changed at revision {now}; nothing has changed now"),
            };
            Err(Problem::new(StatusCode::PRECONDITION_FAILED, detail).with(MismatchBody { mod_revision }))
        }
        other => Err(Problem::new(StatusCode::BAD_GATEWAY, format_args!("the store answers {other:?} to a read"))),
    }
}

/// `PUT /v1/kv/KEY`
pub(super) async fn put(State(store): State<NodeStore>, request: Request) -> Result<Response, Problem> {
    let [lease, prev, fence] = read_query(request.uri(), ["lease", "prev", "fence"])?;
    let key = key(request.uri())?;
    let precondition = Precondition::parse(request.headers())?;
    let lease = lease.map(|text| parse_lease(&text)).transpose()?.unwrap_or_default();
    let prev_kv = flag("prev", prev.as_deref())?;
    let fence = fence.map(|text| FenceToken::parse(&text)).transpose()?;
    if fence.is_some() && precondition != Precondition::None {
        return Err(Problem::bad_request("If-Match and If-None-Match do not go with fence; leave one out"));
    }
    let value = read_bytes(request, MAX_REQUEST, "a shorter value").await?;
    let put = Put { key: key.clone(), value, lease, prev_kv, ..Put::default() };
    let (revision, prev) = if let Some(fence) = fence {
        let done = fence.put(&store, put).await?;
        (done.revision, done.prev)
    } else if precondition == Precondition::None {
        let done = store.run(async move |store| store.put(put).await).await.map_err(problem)?;
        (done.revision, done.prev)
    } else {
        match change_if(&store, &key, precondition, Op::Put(put)).await? {
            (revision, OpOutcome::Put(done)) => (revision, done.prev),
            (revision, _) => (revision, None),
        }
    };
    Ok(json_response(StatusCode::OK, &PutResponse { revision, prev: prev.as_ref().map(KeyValueJson::of) }))
}

/// A lock that must still be held with this token: `fence=NAME:TOKEN`.
struct FenceToken {
    name: Name,
    token: u64,
}

impl FenceToken {
    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |why: &dyn std::fmt::Display| {
            let shown = quote(text);
            Problem::bad_request(format_args!(
                "fence = {shown}: {why}; write the lock and the token, like jobs/nightly:12"
            ))
        };
        let (name, token) = text.rsplit_once(':').ok_or_else(|| wrong(&"there is no :"))?;
        let token = token.parse().map_err(|_| wrong(&"the token is no number"))?;
        Ok(Self { name: Name::new(name).map_err(|error| wrong(&error))?, token })
    }

    /// Puts a key if the token still holds the lock, in one atomic step.
    async fn put(self, store: &NodeStore, put: Put) -> Result<PutOutcome, Problem> {
        let Self { name, token } = self;
        let refused = format!("token {token} does not hold {name} any more; nothing has changed");
        let fenced =
            store.run_locks(async move |locks| locks.fenced_write(name, token, &KeysCommand::Put(put)).await).await;
        match fenced {
            Ok(KeysOutcome::Put(done)) => Ok(done),
            Ok(other) => {
                Err(Problem::new(StatusCode::BAD_GATEWAY, format_args!("the store answers {other:?} to a put")))
            }
            Err(LockError::Refused(Refusal::NotHeld { .. })) => {
                Err(Problem::new(StatusCode::PRECONDITION_FAILED, refused))
            }
            Err(LockError::Store(error)) => Err(problem(error)),
            Err(error) => Err(Problem::new(StatusCode::BAD_GATEWAY, error)),
        }
    }
}

/// `DELETE /v1/kv/KEY`
pub(super) async fn delete(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let [prefix, prev] = read_query(&uri, ["prefix", "prev"])?;
    let (is_prefix, prev_kv) = (flag("prefix", prefix.as_deref())?, flag("prev", prev.as_deref())?);
    let key = key(&uri)?;
    let precondition = Precondition::parse(&headers)?;
    if is_prefix && precondition != Precondition::None {
        return Err(Problem::bad_request(
            "If-Match and If-None-Match are for one key, and prefix for many; leave one out",
        ));
    }
    let keys = if is_prefix {
        audit.describe("all keys that begin with it");
        KeyRange::prefix(key.clone())
    } else {
        KeyRange::one(key.clone())
    };
    let delete = Delete { keys, prev_kv };
    let done = if precondition == Precondition::None {
        store.run(async move |store| store.delete(delete).await).await.map_err(problem)?
    } else {
        match change_if(&store, &key, precondition, Op::Delete(delete)).await? {
            (_, OpOutcome::Delete(done)) => done,
            (revision, _) => broadcast_store::keys::DeleteOutcome { revision, ..Default::default() },
        }
    };
    let kvs = |prev: &[std::sync::Arc<KeyValue>]| prev.iter().map(KeyValueJson::of).collect();
    let prev = prev_kv.then(|| kvs(&done.prev));
    Ok(json_response(StatusCode::OK, &DeleteResponse { revision: done.revision, deleted: done.deleted, prev }))
}
