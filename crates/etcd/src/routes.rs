//! The calls by their paths: those of gRPC, and of the JSON that etcd's gateway makes of them.

use axum::{
    extract::Request,
    http::HeaderMap,
    response::Response,
    routing::{MethodRouter, get, post},
};
use futures_util::Stream;
use prost::Message;

use crate::{Etcd, grpc, http, json::Fields, messages::DefragmentResponse, status::Status};

/// What a caller has to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: whoever reaches the node may call.
    Nothing,
    /// To look at keys, leases and how the store is.
    Read,
    /// To change keys and leases.
    Write,
    /// To take and give back locks, and to stand for election.
    Lock,
    /// To change how the store runs.
    Operate,
}

/// How much room each byte of a transaction takes: an operation of a few bytes is a structure of hundreds.
const TXN_WEIGHT: usize = 16;

/// How much room each byte of a call takes.
fn weight(path: &str) -> usize {
    if path.ends_with("/Txn") { TXN_WEIGHT } else { 1 }
}

/// Whether a call waits for others, and so takes no room once it is understood.
fn waits(path: &str) -> bool {
    ["/Lock", "/Campaign"].iter().any(|end| path.ends_with(end))
}

/// A call: its path, what a caller has to be allowed, and what it does.
pub type Route = (&'static str, Access, MethodRouter);

/// A call of one message with one answer.
macro_rules! call {
    ($method:ident) => {
        async move |etcd: Etcd, request| etcd.$method(request).await
    };
}

impl Etcd {
    /// All calls.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        use Access::{Lock, Nothing, Operate, Read, Write};
        let mut all = Calls { etcd: self, routes: Vec::new() };
        all.unary(["/etcdserverpb.KV/Range", "/v3/kv/range"], Read, call!(range));
        all.unary(["/etcdserverpb.KV/Put", "/v3/kv/put"], Write, call!(put));
        all.unary(["/etcdserverpb.KV/DeleteRange", "/v3/kv/deleterange"], Write, call!(delete_range));
        all.unary(["/etcdserverpb.KV/Txn", "/v3/kv/txn"], Write, call!(txn));
        all.unary(["/etcdserverpb.KV/Compact", "/v3/kv/compaction"], Write, call!(compact));
        all.unary(["/etcdserverpb.Lease/LeaseGrant", "/v3/lease/grant"], Write, call!(grant));
        all.unary(["/etcdserverpb.Lease/LeaseRevoke", "/v3/lease/revoke"], Write, call!(revoke));
        all.json("/v3/kv/lease/revoke", Write, call!(revoke));
        all.unary(["/etcdserverpb.Lease/LeaseTimeToLive", "/v3/lease/timetolive"], Read, call!(time_to_live));
        all.json("/v3/kv/lease/timetolive", Read, call!(time_to_live));
        all.unary(["/etcdserverpb.Lease/LeaseLeases", "/v3/lease/leases"], Read, call!(leases));
        all.json("/v3/kv/lease/leases", Read, call!(leases));
        all.stream(["/etcdserverpb.Lease/LeaseKeepAlive", "/v3/lease/keepalive"], Write, Etcd::keep_all_alive);
        all.stream(["/etcdserverpb.Watch/Watch", "/v3/watch"], Read, Etcd::watch);
        all.unary(["/etcdserverpb.Cluster/MemberList", "/v3/cluster/member/list"], Read, call!(member_list));
        all.unary(["/etcdserverpb.Cluster/MemberRemove", "/v3/cluster/member/remove"], Operate, call!(member_remove));
        all.unary(["/etcdserverpb.Maintenance/Status", "/v3/maintenance/status"], Read, call!(status));
        all.unary(["/etcdserverpb.Maintenance/Hash", "/v3/maintenance/hash"], Operate, call!(hash));
        all.unary(["/etcdserverpb.Maintenance/HashKV", "/v3/maintenance/hashkv"], Operate, call!(hash_kv));
        all.unary(["/etcdserverpb.Maintenance/Alarm", "/v3/maintenance/alarm"], Operate, call!(alarm));
        all.unary(["/etcdserverpb.Maintenance/Defragment", "/v3/maintenance/defragment"], Operate, call!(defragment));
        let move_leader = ["/etcdserverpb.Maintenance/MoveLeader", "/v3/maintenance/transfer-leadership"];
        all.unary(move_leader, Operate, call!(move_leader));
        all.unary(["/etcdserverpb.Auth/Authenticate", "/v3/auth/authenticate"], Nothing, call!(authenticate));
        all.unary(["/v3lockpb.Lock/Lock", "/v3/lock/lock"], Lock, call!(lock));
        all.unary(["/v3lockpb.Lock/Unlock", "/v3/lock/unlock"], Lock, call!(unlock));
        all.unary(["/v3electionpb.Election/Campaign", "/v3/election/campaign"], Lock, call!(campaign));
        all.unary(["/v3electionpb.Election/Proclaim", "/v3/election/proclaim"], Lock, call!(proclaim));
        all.unary(["/v3electionpb.Election/Leader", "/v3/election/leader"], Read, call!(leader));
        all.unary(["/v3electionpb.Election/Resign", "/v3/election/resign"], Lock, call!(resign));
        all.stream(["/v3electionpb.Election/Observe", "/v3/election/observe"], Read, Etcd::observe);
        for (service, why) in http::MISSING {
            let answer = async move |request: Request| match grpc::refusal(&request.into_parts().0) {
                Some(answer) => answer,
                None => grpc::answer::<DefragmentResponse>(Err(Status::unimplemented(why))),
            };
            all.routes.push((service, Read, post(answer)));
        }
        let (version, health) = (self.clone(), self.clone());
        all.routes.push(("/version", Nothing, get(async move || version.version())));
        all.routes.push(("/health", Nothing, get(async move || health.health().await)));
        all.routes
    }
}

struct Calls<'a> {
    etcd: &'a Etcd,
    routes: Vec<Route>,
}

impl Calls<'_> {
    /// A call of one message with one answer, in gRPC and in JSON.
    fn unary<Q, A, F>(
        &mut self,
        [path, json]: [&'static str; 2],
        access: Access,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: Message + Fields + Send + 'static,
        A: Message + Fields + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        let (etcd, called) = (self.etcd.clone(), call.clone());
        let answer = async move |request: Request| {
            let (parts, body) = request.into_parts();
            if let Some(answer) = grpc::refusal(&parts) {
                return answer;
            }
            let answered = async {
                if needs_leader(&parts.headers) {
                    etcd.need_leader().await?;
                }
                let (request, held) = grpc::Messages::new(body, etcd.room().clone(), weight(path)).one().await?;
                let _held = (!waits(path)).then_some(held);
                called(etcd.clone(), request).await
            };
            grpc::answer(answered.await)
        };
        self.routes.push((path, access, post(answer)));
        self.json_weighing(json, access, weight(path), call);
    }

    /// The same, in JSON alone.
    fn json<Q, A, F>(
        &mut self,
        path: &'static str,
        access: Access,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: Fields + Send + 'static,
        A: Fields + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        self.json_weighing(path, access, 1, call);
    }

    fn json_weighing<Q, A, F>(
        &mut self,
        path: &'static str,
        access: Access,
        weight: usize,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: Fields + Send + 'static,
        A: Fields + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        let etcd = self.etcd.clone();
        let answer = async move |request: Request| -> Response {
            let answered = async {
                let (requests, _held) = http::all(request.into_body(), etcd.room(), weight).await?;
                call(etcd, requests.into_iter().next().unwrap_or_default()).await
            };
            http::answer(answered.await)
        };
        self.routes.push((path, access, post(answer)));
    }

    /// A call of many messages with many answers. JSON has all messages in one body.
    fn stream<Q, A, S>(
        &mut self,
        [path, json]: [&'static str; 2],
        access: Access,
        call: impl Fn(Etcd, Requests<Q>, bool) -> S + Clone + Send + Sync + 'static,
    ) where
        Q: Message + Fields + Default + Send + 'static,
        A: Message + Fields + 'static,
        S: Stream<Item = Result<A, Status>> + Send + 'static,
    {
        let (etcd, called) = (self.etcd.clone(), call.clone());
        let answer = async move |request: Request| {
            let (parts, body) = request.into_parts();
            if let Some(answer) = grpc::refusal(&parts) {
                return answer;
            }
            let requests = Requests::Grpc(grpc::Messages::new(body, etcd.room().clone(), 1));
            grpc::answer_all(called(etcd, requests, needs_leader(&parts.headers)))
        };
        self.routes.push((path, access, post(answer)));
        let etcd = self.etcd.clone();
        let answer = async move |request: Request| match http::all(request.into_body(), etcd.room(), 1).await {
            Ok((requests, _)) => http::answer_all(call(etcd, Requests::Json(requests.into_iter()), false)),
            Err(status) => http::answer::<A>(Err(status)),
        };
        self.routes.push((json, access, post(answer)));
    }
}

/// What a client sends in the course of a call.
pub(crate) enum Requests<Q> {
    Grpc(grpc::Messages),
    Json(std::vec::IntoIter<Q>),
}

impl<Q: Message + Default> Requests<Q> {
    /// The next one; nothing at the end. Nothing is lost when this is given up.
    pub(crate) async fn next(&mut self) -> Result<Option<Q>, Status> {
        match self {
            Self::Grpc(messages) => messages.next().await,
            Self::Json(requests) => Ok(requests.next()),
        }
    }

    /// What was read last takes no room any more.
    pub(crate) fn is_dealt_with(&mut self) {
        if let Self::Grpc(messages) = self {
            messages.is_dealt_with();
        }
    }
}

/// Whether a call is to fail at once where nobody leads.
fn needs_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}
