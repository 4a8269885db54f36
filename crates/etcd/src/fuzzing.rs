//! What the fuzzer `etcd` in `fuzz/` runs, and what the ordinary tests replay of what it found.

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

use std::fmt::Debug;

use axum::body::Body;
use broadcast_lock::{machine::Locks, message::is_session};
use broadcast_store::{
    keys,
    machine::{self, LogId, State},
};
use futures_util::FutureExt as _;
use prost::Message;

use crate::{
    grpc::{MemoryBudget, MessageReader},
    http,
    json::{self, JsonMessage},
    kv,
    messages::{
        CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LockRequest, PutRequest,
        RangeRequest, TxnRequest, WatchRequest,
    },
    status::Status,
};

/// Bits of the first byte of a request: it is in JSON, or it has gRPC's prefix already.
const JSON: u8 = 0x80;
const FRAMED: u8 = 0x40;
/// The longest text of an error, in bytes: a hundred characters of what is refused, and why.
const MAX_ERROR_TEXT: usize = 600;

/// Requests, one after the other: a byte that says which and in which form, two for its length, and the request. Two members
/// carry out what they ask for, the second as it is in the log; both have the same state then, which is whole.
pub fn etcd(mut data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // Limits of time are set in it.
    let _entered = runtime.enter();
    let [mut first, mut second] = [(); 2].map(|()| State::with(vec![Locks::machine()]));
    let mut at = LogId { index: 0, term: 1 };
    while let [kind, low, high, rest @ ..] = data {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, rest) = rest.split_at(length);
        data = rest;
        let Ok(Some(command)) = read(*kind, body, &first) else { continue };
        at.index += 1;
        assert_eq!(first.check(&command), Ok(()), "what is proposed can be read by all: {command:?}");
        let again = machine::Command::decode(&command.encode()).expect("what was written is read");
        let outcome = first.apply(at, &command).expect("no member has to stop");
        assert_eq!(second.apply(at, &again).expect("nor the other"), outcome);
        if let machine::Outcome::Keys(outcome) = outcome {
            match outcome {
                keys::KeysOutcome::Put(done) => check_json(&kv::put_response(done)),
                keys::KeysOutcome::Delete(done) => check_json(&kv::delete_response(done)),
                keys::KeysOutcome::Txn { responses, .. } => {
                    responses.into_iter().for_each(|response| check_json(&kv::op_response(response)));
                }
                _ => {}
            }
        }
        first.keys().assert_invariants();
        first.take_events();
    }
    assert_eq!(first.hash(), second.hash());
}

/// What a request asks for, if it is one that changes anything.
fn read(kind: u8, body: &[u8], state: &State) -> Result<Option<machine::Command>, Status> {
    let keys = |command: keys::KeysCommand| Ok(Some(machine::Command::keys(&command)?));
    match kind & !(JSON | FRAMED) {
        0 => keys(keys::KeysCommand::Put(kv::put(request::<PutRequest>(kind, body)?))),
        1 => keys(keys::KeysCommand::Delete(kv::delete(request::<DeleteRangeRequest>(kind, body)?))),
        2 => keys(keys::KeysCommand::Txn(kv::txn(request::<TxnRequest>(kind, body)?, keys::MAX_OPS)?)),
        3 => {
            let CompactionRequest { revision, .. } = request(kind, body)?;
            keys(keys::KeysCommand::Compact { revision: kv::to_u64(revision) })
        }
        4 => {
            let LeaseGrantRequest { ID: id, TTL: ttl } = request(kind, body)?;
            // Who grants one draws another id.
            Ok((id != 0 && !is_session(id)).then(|| machine::Command::grant(id, ttl)))
        }
        5 => {
            let LeaseRevokeRequest { ID: id } = request(kind, body)?;
            Ok((!is_session(id)).then(|| machine::Command::revoke(id)))
        }
        6 => {
            let found = state.keys().range(&kv::range(request::<RangeRequest>(kind, body)?))?;
            check_json(&kv::range_response(found));
            Ok(None)
        }
        7 => request::<WatchRequest>(kind, body).map(|_| None),
        _ => request::<LockRequest>(kind, body).map(|_| None),
    }
}

/// As it comes from a client, which is refused in few words.
fn request<M>(kind: u8, body: &[u8]) -> Result<M, Status>
where
    M: Message + JsonMessage + Clone + PartialEq + Debug,
{
    let budget = MemoryBudget::default();
    let body_of = |body: &[u8]| Body::from(body.to_vec());
    // All of it is there: nothing waits.
    let read = if kind & JSON == 0 {
        let length = u32::try_from(body.len()).expect("it has 16 bits").to_be_bytes();
        let framed = if kind & FRAMED == 0 { &[&[0], &length[..], body].concat() } else { body };
        MessageReader::new(body_of(framed), budget, 1)
            .read_one()
            .now_or_never()
            .map(|read| read.map(|(message, _)| message))
    } else {
        let read = http::read_messages(body_of(body), &budget, 1).now_or_never();
        read.map(|read| read.map(|(messages, _)| messages.into_iter().next().unwrap_or_default()))
    };
    let read: Result<M, Status> = read.expect("it is there");
    match &read {
        Ok(message) => {
            assert_eq!(M::decode(&*message.encode_to_vec()).as_ref(), Ok(message));
            check_json(message);
        }
        Err(status) => assert!(status.message.len() < MAX_ERROR_TEXT, "{}", status.message),
    }
    read
}

/// What is answered can be written in JSON.
fn check_json(message: &impl JsonMessage) {
    let text = json::write(message).to_string();
    serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_holds() {
        super::replay::replay("etcd", super::etcd);
    }
}
