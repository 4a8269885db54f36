//! etcd's service `Lease`. Lock sessions are leases of the store, too, with ids of their own range: to clients of etcd they
//! do not exist.

use broadcast_lock::message::is_session;
use broadcast_store::machine::{Command, Outcome};
use rand::{TryRng as _, rngs::SysRng};

use crate::{
    Etcd,
    kv::{to_i64, unexpected_outcome},
    messages::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
        LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
        LeaseTimeToLiveResponse,
    },
    status::{Code, LEASE_EXIST, LEASE_NOT_FOUND, Status},
};

impl Etcd {
    pub(crate) async fn grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
        let LeaseGrantRequest { ID: wanted, TTL: ttl } = request;
        if is_session(wanted) {
            return Err(LEASE_EXIST);
        }
        loop {
            let id = if wanted == 0 { random_lease_id()? } else { wanted };
            let granted = self.run(async move |store| store.execute(Command::grant(id, ttl)).await).await;
            return match granted {
                Ok(Outcome::Granted { revision, lease, ttl }) => {
                    let header = Some(self.header(revision));
                    Ok(LeaseGrantResponse { header, ID: lease, TTL: ttl, error: String::new() })
                }
                Err(status) if status == LEASE_EXIST && wanted == 0 => continue,
                Err(status) => Err(status),
                Ok(other) => Err(unexpected_outcome(&other)),
            };
        }
    }

    pub(crate) async fn revoke(&self, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse, Status> {
        let lease = request.ID;
        if is_session(lease) {
            return Err(LEASE_NOT_FOUND);
        }
        match self.run(async move |store| store.execute(Command::revoke(lease)).await).await? {
            Outcome::LeaseEnded { revision, .. } => Ok(LeaseRevokeResponse { header: Some(self.header(revision)) }),
            other => Err(unexpected_outcome(&other)),
        }
    }

    /// A lease that does not exist has a time to live of 0 s.
    pub(crate) async fn keep_alive(&self, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Status> {
        let lease = request.ID;
        let remaining =
            if is_session(lease) { None } else { self.run(async move |store| store.keep_alive(lease).await).await? };
        let ttl = remaining.map_or(0, |ttl| to_i64(ttl.as_secs()));
        Ok(LeaseKeepAliveResponse { header: Some(self.current_header().await), ID: lease, TTL: ttl })
    }

    /// A lease that does not exist has -1 s left.
    pub(crate) async fn time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Status> {
        let LeaseTimeToLiveRequest { ID: lease, keys } = request;
        let found = self.run(async move |store| store.lease(lease, keys).await).await?;
        let header = Some(self.header(found.revision));
        let status = found.leases.into_iter().next().filter(|_| !is_session(lease));
        let Some(status) = status else {
            return Ok(LeaseTimeToLiveResponse { header, ID: lease, TTL: -1, ..LeaseTimeToLiveResponse::default() });
        };
        Ok(LeaseTimeToLiveResponse {
            header,
            ID: lease,
            TTL: to_i64(status.left.as_secs()),
            grantedTTL: to_i64(status.granted.as_secs()),
            keys: status.keys,
        })
    }

    pub(crate) async fn leases(&self, _: LeaseLeasesRequest) -> Result<LeaseLeasesResponse, Status> {
        let found = self.run(async |store| store.leases().await).await?;
        let leases = found.leases.iter().filter(|status| !is_session(status.lease));
        let leases = leases.map(|status| LeaseStatus { ID: status.lease }).collect();
        Ok(LeaseLeasesResponse { header: Some(self.header(found.revision)), leases })
    }
}

/// A random id, below those of lock sessions.
fn random_lease_id() -> Result<i64, Status> {
    let random = SysRng.try_next_u64().map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    Ok(to_i64(random >> 2).max(1))
}
