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

/// What room a call takes.
#[derive(Clone, Copy, Debug)]
struct Takes {
    /// For each byte of its message.
    weight: usize,
    /// Until it is answered; otherwise until it is understood.
    to_its_end: bool,
}

const ITS_LENGTH: Takes = Takes { weight: 1, to_its_end: true };
/// An operation of a few bytes is a structure of hundreds.
const OPERATIONS: Takes = Takes { weight: 16, to_its_end: true };
/// It waits for others.
const NOTHING_WHILE_IT_WAITS: Takes = Takes { weight: 1, to_its_end: false };

/// The paths of a call in JSON: etcd 3.4 has each at its former place as well.
macro_rules! at {
    ($path:literal) => {
        [concat!("/v3/", $path), concat!("/v3beta/", $path)]
    };
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
        all.unary("/etcdserverpb.KV/Range", at!("kv/range"), Read, call!(range));
        all.unary("/etcdserverpb.KV/Put", at!("kv/put"), Write, call!(put));
        all.unary("/etcdserverpb.KV/DeleteRange", at!("kv/deleterange"), Write, call!(delete_range));
        all.unary_that("/etcdserverpb.KV/Txn", at!("kv/txn"), Write, OPERATIONS, call!(txn));
        all.unary("/etcdserverpb.KV/Compact", at!("kv/compaction"), Write, call!(compact));
        all.unary("/etcdserverpb.Lease/LeaseGrant", at!("lease/grant"), Write, call!(grant));
        all.unary("/etcdserverpb.Lease/LeaseRevoke", at!("lease/revoke"), Write, call!(revoke));
        all.json(at!("kv/lease/revoke"), Write, call!(revoke));
        all.unary("/etcdserverpb.Lease/LeaseTimeToLive", at!("lease/timetolive"), Read, call!(time_to_live));
        all.json(at!("kv/lease/timetolive"), Read, call!(time_to_live));
        all.unary("/etcdserverpb.Lease/LeaseLeases", at!("lease/leases"), Read, call!(leases));
        all.json(at!("kv/lease/leases"), Read, call!(leases));
        all.stream("/etcdserverpb.Lease/LeaseKeepAlive", at!("lease/keepalive"), Write, Etcd::keep_all_alive);
        all.stream("/etcdserverpb.Watch/Watch", at!("watch"), Read, Etcd::watch);
        all.unary("/etcdserverpb.Cluster/MemberList", at!("cluster/member/list"), Read, call!(member_list));
        all.unary("/etcdserverpb.Cluster/MemberRemove", at!("cluster/member/remove"), Operate, call!(member_remove));
        all.unary("/etcdserverpb.Maintenance/Status", at!("maintenance/status"), Read, call!(status));
        all.unary("/etcdserverpb.Maintenance/Hash", at!("maintenance/hash"), Operate, call!(hash));
        all.unary("/etcdserverpb.Maintenance/HashKV", at!("maintenance/hashkv"), Operate, call!(hash_kv));
        all.unary("/etcdserverpb.Maintenance/Alarm", at!("maintenance/alarm"), Operate, call!(alarm));
        all.unary("/etcdserverpb.Maintenance/Defragment", at!("maintenance/defragment"), Operate, call!(defragment));
        let to = at!("maintenance/transfer-leadership");
        all.unary("/etcdserverpb.Maintenance/MoveLeader", to, Operate, call!(move_leader));
        all.unary("/etcdserverpb.Auth/Authenticate", at!("auth/authenticate"), Nothing, call!(authenticate));
        all.unary_that("/v3lockpb.Lock/Lock", at!("lock/lock"), Lock, NOTHING_WHILE_IT_WAITS, call!(lock));
        all.unary("/v3lockpb.Lock/Unlock", at!("lock/unlock"), Lock, call!(unlock));
        let campaign = at!("election/campaign");
        all.unary_that("/v3electionpb.Election/Campaign", campaign, Lock, NOTHING_WHILE_IT_WAITS, call!(campaign));
        all.unary("/v3electionpb.Election/Proclaim", at!("election/proclaim"), Lock, call!(proclaim));
        all.unary("/v3electionpb.Election/Leader", at!("election/leader"), Read, call!(leader));
        all.unary("/v3electionpb.Election/Resign", at!("election/resign"), Lock, call!(resign));
        all.stream("/v3electionpb.Election/Observe", at!("election/observe"), Read, Etcd::observe);
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
        path: &'static str,
        json: [&'static str; 2],
        access: Access,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: Message + Fields + Send + 'static,
        A: Message + Fields + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        self.unary_that(path, json, access, ITS_LENGTH, call);
    }

    /// The same, of one that takes another room.
    fn unary_that<Q, A, F>(
        &mut self,
        path: &'static str,
        json: [&'static str; 2],
        access: Access,
        takes: Takes,
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
                let (request, held) = grpc::Messages::new(body, etcd.room().clone(), takes.weight).one().await?;
                let _held = takes.to_its_end.then_some(held);
                called(etcd.clone(), request).await
            };
            grpc::answer(answered.await)
        };
        self.routes.push((path, access, post(answer)));
        self.json_that(json, access, takes, call);
    }

    /// The same, in JSON alone.
    fn json<Q, A, F>(
        &mut self,
        paths: [&'static str; 2],
        access: Access,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: Fields + Send + 'static,
        A: Fields + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        self.json_that(paths, access, ITS_LENGTH, call);
    }

    fn json_that<Q, A, F>(
        &mut self,
        paths: [&'static str; 2],
        access: Access,
        takes: Takes,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: Fields + Send + 'static,
        A: Fields + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        let etcd = self.etcd.clone();
        let answer = async move |request: Request| -> Response {
            let answered = async {
                let (requests, held) = http::all(request.into_body(), etcd.room(), takes.weight).await?;
                let _held = takes.to_its_end.then_some(held);
                call(etcd, requests.into_iter().next().unwrap_or_default()).await
            };
            http::answer(answered.await)
        };
        self.at_each(paths, access, post(answer));
    }

    /// A call of many messages with many answers. JSON has all messages in one body.
    fn stream<Q, A, S>(
        &mut self,
        path: &'static str,
        json: [&'static str; 2],
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
            let requests = Requests::Grpc(grpc::Messages::new(body, etcd.room().clone(), ITS_LENGTH.weight));
            grpc::answer_all(called(etcd, requests, needs_leader(&parts.headers)))
        };
        self.routes.push((path, access, post(answer)));
        let etcd = self.etcd.clone();
        let answer =
            async move |request: Request| match http::all(request.into_body(), etcd.room(), ITS_LENGTH.weight).await {
                Ok((requests, _)) => http::answer_all(call(etcd, Requests::Json(requests.into_iter()), false)),
                Err(status) => http::answer::<A>(Err(status)),
            };
        self.at_each(json, access, post(answer));
    }

    fn at_each(&mut self, paths: [&'static str; 2], access: Access, methods: MethodRouter) {
        self.routes.extend(paths.map(|path| (path, access, methods.clone())));
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
