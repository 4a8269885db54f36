//! The messages of etcd 3.4: `etcdserverpb`, `v3lockpb` and `v3electionpb`. They are protocol buffers, and JSON as etcd's
//! gateway has it.
//!
//! Types and fields have etcd's names; etcd's own documentation describes them. A macro makes of each line the field with its
//! tag on the wire and its name in JSON. Each choice of a `oneof` is an optional field: on the wire that is the same.
//!
//! ```
//! use broadcast_etcd::messages::PutRequest;
//! use prost::Message as _;
//!
//! let put = PutRequest { key: "greeting".into(), value: "hello".into(), ..PutRequest::default() };
//! assert_eq!(PutRequest::decode(&*put.encode_to_vec()), Ok(put));
//! ```

#![allow(missing_docs, reason = "these are etcd's, and described there")]
#![allow(non_snake_case, reason = "fields have etcd's names, which JSON has, too")]

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::json::{JsonField, JsonMessage};

/// The values of enumerations on the wire, as far as they are used. 0 is the default.
pub mod enums {
    pub const ASCEND: i32 = 1;
    pub const DESCEND: i32 = 2;
    pub const SORT_VERSION: i32 = 1;
    pub const SORT_CREATE: i32 = 2;
    pub const SORT_MOD: i32 = 3;
    pub const SORT_VALUE: i32 = 4;
    pub const GREATER: i32 = 1;
    pub const LESS: i32 = 2;
    pub const NOT_EQUAL: i32 = 3;
    pub const CREATE: i32 = 1;
    pub const MOD: i32 = 2;
    pub const VALUE: i32 = 3;
    pub const LEASE: i32 = 4;
    pub const DELETE: i32 = 1;
    pub const NOPUT: i32 = 0;
    pub const NODELETE: i32 = 1;
    pub const ALARM_GET: i32 = 0;
    pub const ALARM_ACTIVATE: i32 = 1;
    pub const ALARM_DEACTIVATE: i32 = 2;
    pub const ALARM_NONE: i32 = 0;
    pub const ALARM_NOSPACE: i32 = 1;
}

macro_rules! messages {
    ($($name:ident { $($field:ident: [$($kind:tt)+] $type:ty = $tag:tt,)* })*) => {$(
        #[derive(Clone, PartialEq, prost::Message)]
        pub struct $name { $(#[prost($($kind)+, tag = $tag)] pub $field: $type,)* }

        impl JsonMessage for $name {
            #[allow(unused_variables, reason = "some messages are empty")]
            fn read_field(&mut self, name: &str, value: Value) -> Result<(), String> {
                $(if crate::json::is_named(stringify!($field), name) {
                    self.$field = JsonField::read(stringify!($field), value)?;
                    return Ok(());
                })*
                Ok(())
            }

            #[allow(unused_variables, reason = "some messages are empty")]
            fn write_fields(&self, to: &mut Map<String, Value>) {
                $(if let Some(value) = JsonField::write(&self.$field, stringify!($field)) {
                    to.insert(crate::json::name(stringify!($field)).to_owned(), value);
                })*
            }
        }
    )*};
}

messages! {
    ResponseHeader {
        cluster_id: [uint64] u64 = "1",
        member_id: [uint64] u64 = "2",
        revision: [int64] i64 = "3",
        raft_term: [uint64] u64 = "4",
    }
    KeyValue {
        key: [bytes = "bytes"] Bytes = "1",
        create_revision: [int64] i64 = "2",
        mod_revision: [int64] i64 = "3",
        version: [int64] i64 = "4",
        value: [bytes = "bytes"] Bytes = "5",
        lease: [int64] i64 = "6",
    }
    Event {
        r#type: [int32] i32 = "1",
        kv: [message, optional] Option<KeyValue> = "2",
        prev_kv: [message, optional] Option<KeyValue> = "3",
    }

    RangeRequest {
        key: [bytes = "bytes"] Bytes = "1",
        range_end: [bytes = "bytes"] Bytes = "2",
        limit: [int64] i64 = "3",
        revision: [int64] i64 = "4",
        sort_order: [int32] i32 = "5",
        sort_target: [int32] i32 = "6",
        serializable: [bool] bool = "7",
        keys_only: [bool] bool = "8",
        count_only: [bool] bool = "9",
        min_mod_revision: [int64] i64 = "10",
        max_mod_revision: [int64] i64 = "11",
        min_create_revision: [int64] i64 = "12",
        max_create_revision: [int64] i64 = "13",
    }
    RangeResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        kvs: [message, repeated] Vec<KeyValue> = "2",
        more: [bool] bool = "3",
        count: [int64] i64 = "4",
    }
    PutRequest {
        key: [bytes = "bytes"] Bytes = "1",
        value: [bytes = "bytes"] Bytes = "2",
        lease: [int64] i64 = "3",
        prev_kv: [bool] bool = "4",
        ignore_value: [bool] bool = "5",
        ignore_lease: [bool] bool = "6",
    }
    PutResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        prev_kv: [message, optional] Option<KeyValue> = "2",
    }
    DeleteRangeRequest {
        key: [bytes = "bytes"] Bytes = "1",
        range_end: [bytes = "bytes"] Bytes = "2",
        prev_kv: [bool] bool = "3",
    }
    DeleteRangeResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        deleted: [int64] i64 = "2",
        prev_kvs: [message, repeated] Vec<KeyValue> = "3",
    }
    RequestOp {
        request_range: [message, optional] Option<RangeRequest> = "1",
        request_put: [message, optional] Option<PutRequest> = "2",
        request_delete_range: [message, optional] Option<DeleteRangeRequest> = "3",
        request_txn: [message, optional] Option<TxnRequest> = "4",
    }
    ResponseOp {
        response_range: [message, optional] Option<RangeResponse> = "1",
        response_put: [message, optional] Option<PutResponse> = "2",
        response_delete_range: [message, optional] Option<DeleteRangeResponse> = "3",
        response_txn: [message, optional] Option<TxnResponse> = "4",
    }
    Compare {
        result: [int32] i32 = "1",
        target: [int32] i32 = "2",
        key: [bytes = "bytes"] Bytes = "3",
        version: [int64, optional] Option<i64> = "4",
        create_revision: [int64, optional] Option<i64> = "5",
        mod_revision: [int64, optional] Option<i64> = "6",
        value: [bytes = "bytes", optional] Option<Bytes> = "7",
        lease: [int64, optional] Option<i64> = "8",
        range_end: [bytes = "bytes"] Bytes = "64",
    }
    TxnRequest {
        compare: [message, repeated] Vec<Compare> = "1",
        success: [message, repeated] Vec<RequestOp> = "2",
        failure: [message, repeated] Vec<RequestOp> = "3",
    }
    TxnResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        succeeded: [bool] bool = "2",
        responses: [message, repeated] Vec<ResponseOp> = "3",
    }
    CompactionRequest {
        revision: [int64] i64 = "1",
        physical: [bool] bool = "2",
    }
    CompactionResponse { header: [message, optional] Option<ResponseHeader> = "1", }

    WatchRequest {
        create_request: [message, optional] Option<WatchCreateRequest> = "1",
        cancel_request: [message, optional] Option<WatchCancelRequest> = "2",
        progress_request: [message, optional] Option<WatchProgressRequest> = "3",
    }
    WatchCreateRequest {
        key: [bytes = "bytes"] Bytes = "1",
        range_end: [bytes = "bytes"] Bytes = "2",
        start_revision: [int64] i64 = "3",
        progress_notify: [bool] bool = "4",
        filters: [int32, repeated] Vec<i32> = "5",
        prev_kv: [bool] bool = "6",
        watch_id: [int64] i64 = "7",
        fragment: [bool] bool = "8",
    }
    WatchCancelRequest { watch_id: [int64] i64 = "1", }
    WatchProgressRequest {}
    WatchResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        watch_id: [int64] i64 = "2",
        created: [bool] bool = "3",
        canceled: [bool] bool = "4",
        compact_revision: [int64] i64 = "5",
        cancel_reason: [string] String = "6",
        fragment: [bool] bool = "7",
        events: [message, repeated] Vec<Event> = "11",
    }

    LeaseGrantRequest {
        TTL: [int64] i64 = "1",
        ID: [int64] i64 = "2",
    }
    LeaseGrantResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        ID: [int64] i64 = "2",
        TTL: [int64] i64 = "3",
        error: [string] String = "4",
    }
    LeaseRevokeRequest { ID: [int64] i64 = "1", }
    LeaseRevokeResponse { header: [message, optional] Option<ResponseHeader> = "1", }
    LeaseKeepAliveRequest { ID: [int64] i64 = "1", }
    LeaseKeepAliveResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        ID: [int64] i64 = "2",
        TTL: [int64] i64 = "3",
    }
    LeaseTimeToLiveRequest {
        ID: [int64] i64 = "1",
        keys: [bool] bool = "2",
    }
    LeaseTimeToLiveResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        ID: [int64] i64 = "2",
        TTL: [int64] i64 = "3",
        grantedTTL: [int64] i64 = "4",
        keys: [bytes = "bytes", repeated] Vec<Bytes> = "5",
    }
    LeaseLeasesRequest {}
    LeaseStatus { ID: [int64] i64 = "1", }
    LeaseLeasesResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        leases: [message, repeated] Vec<LeaseStatus> = "2",
    }

    Member {
        ID: [uint64] u64 = "1",
        name: [string] String = "2",
        peerURLs: [string, repeated] Vec<String> = "3",
        clientURLs: [string, repeated] Vec<String> = "4",
        isLearner: [bool] bool = "5",
    }
    MemberListRequest {}
    MemberListResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        members: [message, repeated] Vec<Member> = "2",
    }
    MemberRemoveRequest { ID: [uint64] u64 = "1", }
    MemberRemoveResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        members: [message, repeated] Vec<Member> = "2",
    }

    StatusRequest {}
    StatusResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        version: [string] String = "2",
        dbSize: [int64] i64 = "3",
        leader: [uint64] u64 = "4",
        raftIndex: [uint64] u64 = "5",
        raftTerm: [uint64] u64 = "6",
        raftAppliedIndex: [uint64] u64 = "7",
        errors: [string, repeated] Vec<String> = "8",
        dbSizeInUse: [int64] i64 = "9",
        isLearner: [bool] bool = "10",
    }
    HashRequest {}
    HashResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        hash: [uint32] u32 = "2",
    }
    HashKVRequest { revision: [int64] i64 = "1", }
    HashKVResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        hash: [uint32] u32 = "2",
        compact_revision: [int64] i64 = "3",
    }
    AlarmRequest {
        action: [int32] i32 = "1",
        memberID: [uint64] u64 = "2",
        alarm: [int32] i32 = "3",
    }
    AlarmMember {
        memberID: [uint64] u64 = "1",
        alarm: [int32] i32 = "2",
    }
    AlarmResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        alarms: [message, repeated] Vec<AlarmMember> = "2",
    }
    DefragmentRequest {}
    DefragmentResponse { header: [message, optional] Option<ResponseHeader> = "1", }
    MoveLeaderRequest { targetID: [uint64] u64 = "1", }
    MoveLeaderResponse { header: [message, optional] Option<ResponseHeader> = "1", }

    AuthenticateRequest {
        name: [string] String = "1",
        password: [string] String = "2",
    }
    AuthenticateResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        token: [string] String = "2",
    }

    LockRequest {
        name: [bytes = "bytes"] Bytes = "1",
        lease: [int64] i64 = "2",
    }
    LockResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        key: [bytes = "bytes"] Bytes = "2",
    }
    UnlockRequest { key: [bytes = "bytes"] Bytes = "1", }
    UnlockResponse { header: [message, optional] Option<ResponseHeader> = "1", }

    LeaderKey {
        name: [bytes = "bytes"] Bytes = "1",
        key: [bytes = "bytes"] Bytes = "2",
        rev: [int64] i64 = "3",
        lease: [int64] i64 = "4",
    }
    CampaignRequest {
        name: [bytes = "bytes"] Bytes = "1",
        lease: [int64] i64 = "2",
        value: [bytes = "bytes"] Bytes = "3",
    }
    CampaignResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        leader: [message, optional] Option<LeaderKey> = "2",
    }
    ProclaimRequest {
        leader: [message, optional] Option<LeaderKey> = "1",
        value: [bytes = "bytes"] Bytes = "2",
    }
    ProclaimResponse { header: [message, optional] Option<ResponseHeader> = "1", }
    LeaderRequest { name: [bytes = "bytes"] Bytes = "1", }
    LeaderResponse {
        header: [message, optional] Option<ResponseHeader> = "1",
        kv: [message, optional] Option<KeyValue> = "2",
    }
    ResignRequest { leader: [message, optional] Option<LeaderKey> = "1", }
    ResignResponse { header: [message, optional] Option<ResponseHeader> = "1", }
}
