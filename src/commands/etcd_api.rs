//! Serves the store to clients of etcd as the settings say: at a port of its own, with the limits, tokens and TLS of the HTTP
//! API.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Extension,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    middleware::{self, Next},
};
use broadcast::Handle;
use broadcast_etcd::{ENDPOINT, Etcd, LoginOutcome, OpenStore, Permission, Route, TLS_ENDPOINT};
use broadcast_gateway::{AuditHandle, GatewayConfig, RequiredScopes, Routes, Scope, Server};
use tracing::{info, warn};

use super::http_api::{ServeConfig, ServerThread};
use crate::{failure::Failure, settings::etcd::EtcdArgs, store::NodeStore};

/// The port for clients of etcd, which listens already and is served once the node runs; nothing, if it is off.
pub(super) struct EtcdApi(Option<(Server, ServeConfig)>);

impl EtcdApi {
    /// Listens, unless it is off. If the default address is taken, by an etcd perhaps, the node starts without it.
    pub(super) fn bind(args: &EtcdArgs, serving: &ServeConfig, node: &str, votes: bool) -> Result<Self, Failure> {
        let Some(addr) = args.addr(votes) else { return Ok(Self(None)) };
        match Server::bind(GatewayConfig { thread_name: "etcd", ..serving.config(addr) }) {
            Ok(server) => {
                let addr = server.addr();
                if serving.is_open_at(addr) {
                    warn!(
                        node,
                        event = "etcd_open",
                        %addr,
                        "the store is open to everyone who reaches {addr}: set BROADCAST_TOKEN, or BROADCAST_ETCD=127.0.0.1"
                    );
                }
                Ok(Self(Some((server, serving.clone()))))
            }
            Err(error) if args.is_by_default() => {
                warn!(
                    node,
                    event = "etcd_off",
                    %addr,
                    "the store is not served to clients of etcd: {addr}: {}; set BROADCAST_ETCD to another address, or to off",
                    error.source
                );
                Ok(Self(None))
            }
            Err(error) => Err(Failure::other(format!(
                "cannot serve clients of etcd at {addr}: {}; stop what uses it, or set BROADCAST_ETCD (--etcd) to another \
                 address, port 0 for any free one",
                error.source
            ))),
        }
    }

    /// Whether clients of etcd are served.
    pub(super) fn is_served(&self) -> bool {
        self.0.is_some()
    }

    /// The service that other nodes are told of, and its address.
    pub(super) fn endpoint(&self) -> Option<(&'static str, SocketAddr)> {
        let service = |serving: &ServeConfig| if serving.scheme() == "https" { TLS_ENDPOINT } else { ENDPOINT };
        self.0.as_ref().map(|(server, serving)| (service(serving), server.addr()))
    }

    /// Serves clients of etcd until the node has stopped.
    pub(super) fn serve(self, node: &Handle, store: &NodeStore) -> Result<ServerThread, Failure> {
        let Some((server, serving)) = self.0 else { return Ok(ServerThread(None)) };
        let (addr, store, access) = (server.addr(), store.clone(), serving.access().clone());
        let open: OpenStore = Arc::new(move || {
            let store = store.clone();
            Box::pin(async move { store.running().await })
        });
        let check_password = move |password: &str| match access.knows(password) {
            None => LoginOutcome::NotRequired,
            Some(true) => LoginOutcome::Accepted,
            Some(false) => LoginOutcome::Rejected,
        };
        let etcd = Etcd::new(node.clone(), open, Arc::new(check_password));
        let server = server.only(adapt_authorization).mount(Routes::undescribed(etcd.routes().into_iter().map(route)));
        let thread = server.spawn(node.clone()).map_err(Failure::start)?;
        info!(
            node = node.name(),
            event = "etcd",
            %addr,
            scheme = serving.scheme(),
            "serves the store to clients of etcd at {}://{addr}",
            serving.scheme()
        );
        Ok(ServerThread(Some(thread)))
    }
}

/// Gives a route the scope it needs. The audit log counts changes of keys together: there are too many for a line each.
fn route((path, permission, methods): Route) -> (&'static str, RequiredScopes, axum::routing::MethodRouter) {
    let count = async |Extension(audit): Extension<AuditHandle>, request: Request, next: Next| {
        audit.aggregate();
        next.run(request).await
    };
    match permission {
        Permission::Public => (path, RequiredScopes::NONE, methods),
        Permission::Read => (path, RequiredScopes::read_only(Scope::Read), methods),
        Permission::Write => (path, RequiredScopes::scope(Scope::Publish), methods.layer(middleware::from_fn(count))),
        Permission::Lock => (path, RequiredScopes::scope(Scope::Locks), methods.layer(middleware::from_fn(count))),
        Permission::Operate => (path, RequiredScopes::scope(Scope::Operate), methods),
    }
}

/// Makes a bearer token of what clients of etcd send: the metadata `token`, or `authorization` without a scheme.
fn adapt_authorization(headers: &mut HeaderMap) {
    let plain = |value: &HeaderValue| value.to_str().is_ok_and(|value| !value.trim().contains(' '));
    let shown =
        headers.remove("token").or_else(|| headers.get(header::AUTHORIZATION).filter(|value| plain(value)).cloned());
    let Some(shown) = shown else { return };
    let bearer = [b"Bearer ", shown.as_bytes()].concat();
    if let Ok(mut bearer) = HeaderValue::from_bytes(&bearer) {
        bearer.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, bearer);
    }
}
