//! etcd's service `KV`: makes commands of the store from requests, and responses from the store's outcomes.

use broadcast_store::{
    Error,
    keys::{
        self, CompareOp, CompareTarget, Delete, DeleteOutcome, KeyRange, KeysCommand, KeysOutcome, Op, OpOutcome, Put,
        PutOutcome, Range, RangeOutcome, SortOrder, SortTarget, Txn,
    },
    machine,
    node::ReadRequest,
};

use crate::{
    Etcd,
    messages::{
        CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest,
        PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
        enums::{
            ASCEND, CREATE, DESCEND, GREATER, LEASE, LESS, MOD, NOT_EQUAL, SORT_CREATE, SORT_MOD, SORT_VALUE,
            SORT_VERSION, VALUE,
        },
    },
    status::{Code, EMPTY_KEY, KEY_NOT_FOUND, Status},
};

impl Etcd {
    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let read = ReadRequest { serializable: request.serializable, most_bytes: None, range: range(request) };
        let found = self.run(async move |store| store.read(read).await).await?;
        Ok(RangeResponse { header: Some(self.header(found.revision)), ..range_response(found) })
    }

    pub(crate) async fn put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        match self.propose(KeysCommand::Put(put(request))).await? {
            KeysOutcome::Put(done) => {
                Ok(PutResponse { header: Some(self.header(done.revision)), ..put_response(done) })
            }
            other => Err(unexpected_outcome(&other)),
        }
    }

    pub(crate) async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
        match self.propose(KeysCommand::Delete(delete(request))).await? {
            KeysOutcome::Delete(done) => {
                Ok(DeleteRangeResponse { header: Some(self.header(done.revision)), ..delete_response(done) })
            }
            other => Err(unexpected_outcome(&other)),
        }
    }

    pub(crate) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        match self.propose(KeysCommand::Txn(txn(request, keys::MAX_OPS)?)).await? {
            KeysOutcome::Txn { revision, succeeded, responses } => Ok(TxnResponse {
                header: Some(self.header(revision)),
                succeeded,
                responses: responses.into_iter().map(op_response).collect(),
            }),
            other => Err(unexpected_outcome(&other)),
        }
    }

    pub(crate) async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse, Status> {
        let outcome = self.propose(KeysCommand::Compact { revision: to_u64(request.revision) }).await?;
        Ok(CompactionResponse { header: Some(self.header(outcome.revision())) })
    }

    /// Has the voters agree on a command for keys.
    pub(crate) async fn propose(&self, command: KeysCommand) -> Result<KeysOutcome, Status> {
        let command = machine::Command::keys(&command)?;
        let outcome = self.run(async move |store| store.execute(command).await).await?;
        // An outcome proves that there is a leader.
        self.set_leader(0, true);
        match outcome {
            machine::Outcome::Keys(outcome) => Ok(outcome),
            other => Err(unexpected_outcome(&other)),
        }
    }
}

pub(crate) fn unexpected_outcome(outcome: &impl std::fmt::Debug) -> Status {
    Status::new(Code::Internal, format!("an outcome of another command: {outcome:?}"))
}

/// Negative numbers count as 0.
pub(crate) fn to_u64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// No revision and no count reaches the maximum.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn range(request: RangeRequest) -> Range {
    let RangeRequest { key, range_end: end, max_mod_revision, max_create_revision, .. } = request;
    let order = match request.sort_order {
        ASCEND => SortOrder::Ascend,
        DESCEND => SortOrder::Descend,
        _ => SortOrder::None,
    };
    let target = match request.sort_target {
        SORT_VERSION => SortTarget::Version,
        SORT_CREATE => SortTarget::Create,
        SORT_MOD => SortTarget::Mod,
        SORT_VALUE => SortTarget::Value,
        _ => SortTarget::Key,
    };
    // No key has a revision below 0.
    let none = max_mod_revision < 0 || max_create_revision < 0;
    Range {
        keys: KeyRange { key, end },
        limit: to_u64(request.limit),
        revision: to_u64(request.revision),
        order,
        target,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: if none { u64::MAX } else { to_u64(request.min_mod_revision) },
        max_mod_revision: to_u64(max_mod_revision),
        min_create_revision: to_u64(request.min_create_revision),
        max_create_revision: to_u64(max_create_revision),
    }
}

pub(crate) fn put(request: PutRequest) -> Put {
    let PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease } = request;
    Put { key, value, lease, prev_kv, ignore_value, ignore_lease }
}

pub(crate) fn delete(request: DeleteRangeRequest) -> Delete {
    let DeleteRangeRequest { key, range_end: end, prev_kv } = request;
    Delete { keys: KeyRange { key, end }, prev_kv }
}

/// Reads a transaction of at most `most` operations. The store checks a transaction, too. But it has no form for an empty
/// operation; and etcd reports the first thing that is wrong, so the order of the checks matters.
pub(crate) fn txn(request: TxnRequest, most: usize) -> Result<Txn, Status> {
    let TxnRequest { compare, success, failure } = request;
    let ops = compare.len().max(success.len()).max(failure.len());
    let left = most.checked_sub(ops).ok_or(Error::TooManyOps)?;
    compare.iter().try_for_each(|compare| check_key(&compare.key))?;
    let ops = |ops: Vec<RequestOp>| ops.into_iter().map(|request| op(request, left)).collect::<Result<_, _>>();
    Ok(Txn { compare: compare.into_iter().map(comparison).collect(), success: ops(success)?, failure: ops(failure)? })
}

fn check_key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() { Err(EMPTY_KEY) } else { Ok(()) }
}

fn op(request: RequestOp, most: usize) -> Result<Op, Status> {
    match request {
        RequestOp { request_txn: Some(request), .. } => txn(request, most).map(Op::Txn),
        RequestOp { request_delete_range: Some(request), .. } => {
            check_key(&request.key)?;
            Ok(Op::Delete(delete(request)))
        }
        RequestOp { request_put: Some(request), .. } => {
            let put = put(request);
            KeysCommand::Put(put.clone()).check()?;
            Ok(Op::Put(put))
        }
        RequestOp { request_range: Some(request), .. } => {
            check_key(&request.key)?;
            Ok(Op::Range(range(request)))
        }
        // etcd says this of an empty operation.
        _ => Err(KEY_NOT_FOUND),
    }
}

fn comparison(request: Compare) -> keys::Compare {
    let op = match request.result {
        GREATER => CompareOp::Greater,
        LESS => CompareOp::Less,
        NOT_EQUAL => CompareOp::NotEqual,
        _ => CompareOp::Equal,
    };
    let keys = KeyRange { key: request.key, end: request.range_end };
    let number = |given: Option<i64>, target: fn(u64) -> CompareTarget| {
        let given = given.unwrap_or_default();
        match u64::try_from(given) {
            Ok(given) => (op, target(given)),
            // The store has no numbers below 0. Each number of a key is greater than such a one, and none is the maximum: so
            // comparing with the maximum gives the same.
            Err(_) if matches!(op, CompareOp::Greater | CompareOp::NotEqual) => (CompareOp::NotEqual, target(u64::MAX)),
            Err(_) => (CompareOp::Equal, target(u64::MAX)),
        }
    };
    let (op, target) = match request.target {
        CREATE => number(request.create_revision, CompareTarget::Create),
        MOD => number(request.mod_revision, CompareTarget::Mod),
        VALUE => (op, CompareTarget::Value(request.value.unwrap_or_default())),
        LEASE => (op, CompareTarget::Lease(request.lease.unwrap_or_default())),
        _ => number(request.version, CompareTarget::Version),
    };
    keys::Compare { keys, op, target }
}

/// The header of a response within a transaction: it has the revision only.
fn inner_header(revision: u64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: to_i64(revision), ..ResponseHeader::default() })
}

pub(crate) fn key_value(kv: &keys::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key.clone(),
        create_revision: to_i64(kv.create_revision),
        mod_revision: to_i64(kv.mod_revision),
        version: to_i64(kv.version),
        value: kv.value.clone(),
        lease: kv.lease,
    }
}

pub(crate) fn range_response(found: RangeOutcome) -> RangeResponse {
    RangeResponse {
        header: inner_header(found.revision),
        kvs: found.kvs.iter().map(|kv| key_value(kv)).collect(),
        more: found.more,
        count: to_i64(found.count),
    }
}

pub(crate) fn put_response(done: PutOutcome) -> PutResponse {
    PutResponse { header: inner_header(done.revision), prev_kv: done.prev.map(|kv| key_value(&kv)) }
}

pub(crate) fn delete_response(done: DeleteOutcome) -> DeleteRangeResponse {
    DeleteRangeResponse {
        header: inner_header(done.revision),
        deleted: to_i64(done.deleted),
        prev_kvs: done.prev.iter().map(|kv| key_value(kv)).collect(),
    }
}

pub(crate) fn op_response(outcome: OpOutcome) -> ResponseOp {
    match outcome {
        OpOutcome::Range(found) => ResponseOp { response_range: Some(range_response(found)), ..ResponseOp::default() },
        OpOutcome::Put(done) => ResponseOp { response_put: Some(put_response(done)), ..ResponseOp::default() },
        OpOutcome::Delete(done) => {
            ResponseOp { response_delete_range: Some(delete_response(done)), ..ResponseOp::default() }
        }
        OpOutcome::Txn { succeeded, responses, .. } => {
            let responses = responses.into_iter().map(op_response).collect();
            // etcd leaves the header of a transaction within another one empty.
            let txn = TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses };
            ResponseOp { response_txn: Some(txn), ..ResponseOp::default() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_0_compares_as_a_number() {
        let compare = |result, version| {
            let compare = comparison(Compare { result, version: Some(version), key: "k".into(), ..Compare::default() });
            (compare.op, compare.target)
        };
        for (result, holds) in [(0, false), (GREATER, true), (LESS, false), (NOT_EQUAL, true)] {
            let op = if holds { CompareOp::NotEqual } else { CompareOp::Equal };
            assert_eq!(compare(result, -1), (op, CompareTarget::Version(u64::MAX)), "no version is as high");
        }
        assert_eq!(compare(GREATER, 3), (CompareOp::Greater, CompareTarget::Version(3)));
        let nothing = range(RangeRequest { max_mod_revision: -1, ..RangeRequest::default() });
        assert_eq!(nothing.min_mod_revision, u64::MAX);
        let all = range(RangeRequest { limit: -1, revision: -1, min_create_revision: -1, ..RangeRequest::default() });
        assert_eq!(all, Range::default());
    }

    #[test]
    fn an_operation_that_is_none_is_refused_as_etcd_does() {
        let of = |ops| txn(TxnRequest { success: ops, ..TxnRequest::default() }, keys::MAX_OPS);
        assert_eq!(of(vec![RequestOp::default()]), Err(KEY_NOT_FOUND));
        let keyless = RequestOp { request_range: Some(RangeRequest::default()), ..RequestOp::default() };
        assert_eq!(of(vec![keyless.clone(), RequestOp::default()]), Err(EMPTY_KEY), "the first one counts");
        let within = |ops| {
            let request_txn = Some(TxnRequest { failure: ops, ..TxnRequest::default() });
            of(vec![RequestOp { request_txn, ..RequestOp::default() }])
        };
        assert_eq!(within(vec![keyless.clone(); 127]), Err(EMPTY_KEY));
        assert_eq!(within(vec![keyless; 128]), Err(Error::TooManyOps.into()));
    }
}
