//! The routes: each call with its path in gRPC, its paths in JSON, and what a caller must be allowed.
//!
//! [`Etcd::routes`] is the table. `RouteBuilder` makes a handler of each line: it reads the request in its encoding, calls the
//! method of [`Etcd`], and writes the response. So a method knows nothing of encodings.

use axum::{
    extract::Request,
    http::HeaderMap,
    response::Response,
    routing::{MethodRouter, get, post},
};
use futures_util::Stream;
use prost::Message;

use crate::{Etcd, grpc, http, json::JsonMessage, messages::DefragmentResponse, status::Status};

/// What a caller must be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: whoever reaches the port may call.
    Public,
    /// To read keys, leases and the state of the store.
    Read,
    /// To change keys and leases.
    Write,
    /// To acquire and release locks, and to campaign in elections.
    Lock,
    /// To change voters, and how the store runs.
    Operate,
}

/// The memory that a call takes of the budget.
#[derive(Clone, Copy, Debug)]
struct RequestCost {
    /// Bytes for each byte of its message.
    weight: usize,
    /// Whether it takes them until it is result, or only until its message is read.
    until_answered: bool,
}

const UNARY_COST: RequestCost = RequestCost { weight: 1, until_answered: true };
/// An operation of a few bytes becomes a structure of hundreds.
const TXN_COST: RequestCost = RequestCost { weight: 16, until_answered: true };
/// A call that waits for other clients, perhaps for hours.
const WAITING_COST: RequestCost = RequestCost { weight: 1, until_answered: false };

/// The paths of a call in JSON: etcd 3.4 has each at its former path, too.
macro_rules! json_paths {
    ($path:literal) => {
        [concat!("/v3/", $path), concat!("/v3beta/", $path)]
    };
}

/// The calls that etcd has and this does not: the path in gRPC, those in JSON, and the text that clients get.
const UNSUPPORTED_METHODS: [(&str, &[&str], &str); 7] = [
    ("/etcdserverpb.Cluster/MemberAdd", &json_paths!("cluster/member/add"), ADD_VOTER),
    (
        "/etcdserverpb.Cluster/MemberUpdate",
        &json_paths!("cluster/member/update"),
        "etcdserver: a member tells its addresses itself; restart it with others",
    ),
    ("/etcdserverpb.Cluster/MemberPromote", &json_paths!("cluster/member/promote"), ADD_VOTER),
    ("/etcdserverpb.Maintenance/Snapshot", &json_paths!("maintenance/snapshot"), SNAPSHOT),
    (
        "/etcdserverpb.Maintenance/Downgrade",
        &json_paths!("maintenance/downgrade"),
        "etcdserver: there is nothing to downgrade here",
    ),
    // But for `Authenticate`.
    ("/etcdserverpb.Auth/{method}", &json_paths!("auth/{*method}"), AUTH),
    ("/etcdserverpb.KV/RangeStream", &[], "etcdserver: call Range with a limit, and go on after the last key"),
];
const ADD_VOTER: &str = "etcdserver: a node is made a voter by its name: broadcast voters add NAME";
const SNAPSHOT: &str =
    "etcdserver: a snapshot of this store has a format of its own: broadcast store snapshot save FILE";
const AUTH: &str = "etcdserver: users and roles are not served here; the node's tokens say who may do what";

/// A route: its path, what a caller must be allowed, and its handler.
pub type Route = (&'static str, Permission, MethodRouter);

/// A method of [`Etcd`], as a function that its route calls.
macro_rules! call {
    ($method:ident) => {
        async move |etcd: Etcd, request| etcd.$method(request).await
    };
}

impl Etcd {
    /// All routes. The [crate] shows how to mount them.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        use Permission::{Lock, Operate, Public, Read, Write};
        let mut builder = RouteBuilder { etcd: self, routes: Vec::new() };
        builder.unary("/etcdserverpb.KV/Range", json_paths!("kv/range"), Read, call!(range));
        builder.unary("/etcdserverpb.KV/Put", json_paths!("kv/put"), Write, call!(put));
        builder.unary("/etcdserverpb.KV/DeleteRange", json_paths!("kv/deleterange"), Write, call!(delete_range));
        builder.unary_with_cost("/etcdserverpb.KV/Txn", json_paths!("kv/txn"), Write, TXN_COST, call!(txn));
        builder.unary("/etcdserverpb.KV/Compact", json_paths!("kv/compaction"), Write, call!(compact));
        builder.unary("/etcdserverpb.Lease/LeaseGrant", json_paths!("lease/grant"), Write, call!(grant));
        builder.unary("/etcdserverpb.Lease/LeaseRevoke", json_paths!("lease/revoke"), Write, call!(revoke));
        builder.json_only(json_paths!("kv/lease/revoke"), Write, call!(revoke));
        builder.unary(
            "/etcdserverpb.Lease/LeaseTimeToLive",
            json_paths!("lease/timetolive"),
            Read,
            call!(time_to_live),
        );
        builder.json_only(json_paths!("kv/lease/timetolive"), Read, call!(time_to_live));
        builder.unary("/etcdserverpb.Lease/LeaseLeases", json_paths!("lease/leases"), Read, call!(leases));
        builder.json_only(json_paths!("kv/lease/leases"), Read, call!(leases));
        builder.stream(
            "/etcdserverpb.Lease/LeaseKeepAlive",
            json_paths!("lease/keepalive"),
            Write,
            Etcd::keep_alive_stream,
        );
        builder.stream("/etcdserverpb.Watch/Watch", json_paths!("watch"), Read, Etcd::watch);
        builder.unary("/etcdserverpb.Cluster/MemberList", json_paths!("cluster/member/list"), Read, call!(member_list));
        builder.unary(
            "/etcdserverpb.Cluster/MemberRemove",
            json_paths!("cluster/member/remove"),
            Operate,
            call!(member_remove),
        );
        builder.unary("/etcdserverpb.Maintenance/Status", json_paths!("maintenance/status"), Read, call!(status));
        builder.unary("/etcdserverpb.Maintenance/Hash", json_paths!("maintenance/hash"), Operate, call!(hash));
        builder.unary("/etcdserverpb.Maintenance/HashKV", json_paths!("maintenance/hashkv"), Operate, call!(hash_kv));
        builder.unary("/etcdserverpb.Maintenance/Alarm", json_paths!("maintenance/alarm"), Operate, call!(alarm));
        builder.unary(
            "/etcdserverpb.Maintenance/Defragment",
            json_paths!("maintenance/defragment"),
            Operate,
            call!(defragment),
        );
        let to = json_paths!("maintenance/transfer-leadership");
        builder.unary("/etcdserverpb.Maintenance/MoveLeader", to, Operate, call!(move_leader));
        builder.unary("/etcdserverpb.Auth/Authenticate", json_paths!("auth/authenticate"), Public, call!(authenticate));
        builder.unary_with_cost("/v3lockpb.Lock/Lock", json_paths!("lock/lock"), Lock, WAITING_COST, call!(lock));
        builder.unary("/v3lockpb.Lock/Unlock", json_paths!("lock/unlock"), Lock, call!(unlock));
        let campaign = json_paths!("election/campaign");
        builder.unary_with_cost("/v3electionpb.Election/Campaign", campaign, Lock, WAITING_COST, call!(campaign));
        builder.unary("/v3electionpb.Election/Proclaim", json_paths!("election/proclaim"), Lock, call!(proclaim));
        builder.unary("/v3electionpb.Election/Leader", json_paths!("election/leader"), Read, call!(leader));
        builder.unary("/v3electionpb.Election/Resign", json_paths!("election/resign"), Lock, call!(resign));
        builder.stream("/v3electionpb.Election/Observe", json_paths!("election/observe"), Read, Etcd::observe);
        for (service, json, why) in UNSUPPORTED_METHODS {
            let handler = async move |request: Request| match grpc::reject_other_http(&request.into_parts().0) {
                Some(response) => response,
                None => grpc::unary_response::<DefragmentResponse>(Err(Status::unimplemented(why))),
            };
            builder.routes.push((service, Read, post(handler)));
            let refuse = async move || http::unary_response::<DefragmentResponse>(Err(Status::unimplemented(why)));
            builder.routes.extend(json.iter().map(|path| (*path, Read, post(refuse))));
        }
        let (version, health) = (self.clone(), self.clone());
        builder.routes.push(("/version", Public, get(async move || version.version())));
        builder.routes.push(("/health", Public, get(async move || health.health().await)));
        builder.routes
    }
}

/// Makes the handlers.
struct RouteBuilder<'a> {
    etcd: &'a Etcd,
    routes: Vec<Route>,
}

impl RouteBuilder<'_> {
    /// A unary call, in gRPC and in JSON.
    fn unary<Q, A, F>(
        &mut self,
        path: &'static str,
        json: [&'static str; 2],
        permission: Permission,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: Message + JsonMessage + Send + 'static,
        A: Message + JsonMessage + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        self.unary_with_cost(path, json, permission, UNARY_COST, call);
    }

    /// A unary call with a memory cost of its own.
    fn unary_with_cost<Q, A, F>(
        &mut self,
        path: &'static str,
        json: [&'static str; 2],
        permission: Permission,
        cost: RequestCost,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: Message + JsonMessage + Send + 'static,
        A: Message + JsonMessage + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        let (etcd, called) = (self.etcd.clone(), call.clone());
        let handler = async move |request: Request| {
            let (parts, body) = request.into_parts();
            if let Some(response) = grpc::reject_other_http(&parts) {
                return response;
            }
            let result = async {
                if needs_leader(&parts.headers) {
                    etcd.require_leader().await?;
                }
                let (request, reservation) =
                    grpc::MessageReader::new(body, etcd.budget().clone(), cost.weight).read_one().await?;
                let _reservation = cost.until_answered.then_some(reservation);
                called(etcd.clone(), request).await
            };
            grpc::unary_response(result.await)
        };
        self.routes.push((path, permission, post(handler)));
        self.json_with_cost(json, permission, cost, call);
    }

    /// A unary call at paths that only JSON has.
    fn json_only<Q, A, F>(
        &mut self,
        paths: [&'static str; 2],
        permission: Permission,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: JsonMessage + Send + 'static,
        A: JsonMessage + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        self.json_with_cost(paths, permission, UNARY_COST, call);
    }

    fn json_with_cost<Q, A, F>(
        &mut self,
        paths: [&'static str; 2],
        permission: Permission,
        cost: RequestCost,
        call: impl Fn(Etcd, Q) -> F + Clone + Send + Sync + 'static,
    ) where
        Q: JsonMessage + Send + 'static,
        A: JsonMessage + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        let etcd = self.etcd.clone();
        let handler = async move |request: Request| -> Response {
            let result = async {
                let (requests, reservation) =
                    http::read_messages(request.into_body(), etcd.budget(), cost.weight).await?;
                let _reservation = cost.until_answered.then_some(reservation);
                call(etcd, requests.into_iter().next().unwrap_or_default()).await
            };
            http::unary_response(result.await)
        };
        self.push_json(paths, permission, post(handler));
    }

    /// A call with a stream of requests and a stream of responses. In JSON, one body has all requests.
    fn stream<Q, A, S>(
        &mut self,
        path: &'static str,
        json: [&'static str; 2],
        permission: Permission,
        call: impl Fn(Etcd, Requests<Q>, bool) -> S + Clone + Send + Sync + 'static,
    ) where
        Q: Message + JsonMessage + Default + Send + 'static,
        A: Message + JsonMessage + 'static,
        S: Stream<Item = Result<A, Status>> + Send + 'static,
    {
        let (etcd, called) = (self.etcd.clone(), call.clone());
        let handler = async move |request: Request| {
            let (parts, body) = request.into_parts();
            if let Some(response) = grpc::reject_other_http(&parts) {
                return response;
            }
            let requests = Requests::Grpc(grpc::MessageReader::new(body, etcd.budget().clone(), UNARY_COST.weight));
            grpc::streaming_response(called(etcd, requests, needs_leader(&parts.headers)))
        };
        self.routes.push((path, permission, post(handler)));
        let etcd = self.etcd.clone();
        let handler = async move |request: Request| match http::read_messages(
            request.into_body(),
            etcd.budget(),
            UNARY_COST.weight,
        )
        .await
        {
            Ok((requests, _)) => http::streaming_response(call(etcd, Requests::Json(requests.into_iter()), false)),
            Err(status) => http::unary_response::<A>(Err(status)),
        };
        self.push_json(json, permission, post(handler));
    }

    fn push_json(&mut self, paths: [&'static str; 2], permission: Permission, methods: MethodRouter) {
        self.routes.extend(paths.map(|path| (path, permission, methods.clone())));
    }
}

/// The requests of a streaming call.
pub(crate) enum Requests<Q> {
    Grpc(grpc::MessageReader),
    Json(std::vec::IntoIter<Q>),
}

impl<Q: Message + Default> Requests<Q> {
    /// The next request; nothing at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Q>, Status> {
        match self {
            Self::Grpc(messages) => messages.next().await,
            Self::Json(requests) => Ok(requests.next()),
        }
    }

    /// Gives back the memory of the request that was read last.
    pub(crate) fn release(&mut self) {
        if let Self::Grpc(messages) = self {
            messages.release();
        }
    }
}

/// Whether a call is to fail at once where there is no leader.
fn needs_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}
