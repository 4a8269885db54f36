//! etcd's service `Maintenance`: the state of the store, and what an operator does with it. Also `Auth`, of which there is only
//! the login.

use broadcast_store::keys::KeysCommand;

use crate::{
    Etcd, LoginOutcome, VERSION,
    kv::{to_i64, to_u64},
    messages::{
        AlarmMember, AlarmRequest, AlarmResponse, AuthenticateRequest, AuthenticateResponse, DefragmentRequest,
        DefragmentResponse, HashKVRequest, HashKVResponse, HashRequest, HashResponse, MoveLeaderRequest,
        MoveLeaderResponse, StatusRequest, StatusResponse,
        enums::{ALARM_DEACTIVATE, ALARM_GET, ALARM_NONE, ALARM_NOSPACE},
    },
    status::{AUTH_FAILED, AUTH_NOT_ENABLED, BAD_LEADER_TRANSFEREE, NOT_LEADER, Status},
};

impl Etcd {
    /// The status of this node's voter. A node that does not vote tells that of the leader.
    pub(crate) async fn status(&self, _: StatusRequest) -> Result<StatusResponse, Status> {
        let voters = self.voters().await?;
        let best = Self::most_current(&voters)?;
        let me = self.0.node.id().get();
        let status = voters.iter().find(|status| status.id == me).unwrap_or(best);
        let leader = status.leader.as_ref().or(best.leader.as_ref());
        let leader = leader.and_then(|leader| best.voters.iter().find(|(_, name)| name == leader));
        let mut errors: Vec<String> = Vec::new();
        if status.alarm {
            errors.push(format!("memberID:{} alarm:NOSPACE ", status.id));
        }
        if leader.is_none() {
            errors.push("etcdserver: no leader".into());
        }
        let bytes = to_i64(status.bytes);
        Ok(StatusResponse {
            header: Some(self.header(status.revision)),
            version: VERSION.into(),
            dbSize: bytes,
            leader: leader.map_or(0, |(id, _)| *id),
            raftIndex: status.committed.unwrap_or_default(),
            raftTerm: status.term,
            raftAppliedIndex: status.applied.unwrap_or_default(),
            errors,
            dbSizeInUse: bytes,
            isLearner: status.learners.iter().any(|(id, _)| *id == me),
        })
    }

    pub(crate) async fn hash(&self, _: HashRequest) -> Result<HashResponse, Status> {
        let (hash, revision, _) = self.run(async |store| store.hash(0).await).await?;
        Ok(HashResponse { header: Some(self.header(revision)), hash })
    }

    pub(crate) async fn hash_kv(&self, request: HashKVRequest) -> Result<HashKVResponse, Status> {
        let revision = to_u64(request.revision);
        let (hash, revision, compacted) = self.run(async move |store| store.hash(revision).await).await?;
        // etcd has never compacted anything at -1.
        let compact_revision = if compacted == 0 { -1 } else { to_i64(compacted) };
        Ok(HashKVResponse { header: Some(self.header(revision)), hash, compact_revision })
    }

    /// There is one alarm, `NOSPACE`, and all voters have it together. Only a command that finds no space raises it.
    pub(crate) async fn alarm(&self, request: AlarmRequest) -> Result<AlarmResponse, Status> {
        let of = request.alarm;
        let about_space = of == ALARM_NOSPACE || (request.action == ALARM_GET && of == ALARM_NONE);
        let voters = self.voters().await?;
        let raised = voters.iter().filter(|status| about_space && status.alarm);
        let alarms = raised.map(|status| AlarmMember { memberID: status.id, alarm: ALARM_NOSPACE }).collect();
        match request.action {
            ALARM_GET => {}
            ALARM_DEACTIVATE if about_space => drop(self.propose(KeysCommand::Disarm).await?),
            ALARM_DEACTIVATE => {}
            _ => return Err(Self::not_supported("raising an alarm", "one is raised when space runs out")),
        }
        Ok(AlarmResponse { header: Some(self.current_header().await), alarms })
    }

    /// There is nothing to do: what is compacted takes no space. As etcd's, the response has no header.
    pub(crate) async fn defragment(&self, _: DefragmentRequest) -> Result<DefragmentResponse, Status> {
        Ok(DefragmentResponse::default())
    }

    pub(crate) async fn move_leader(&self, request: MoveLeaderRequest) -> Result<MoveLeaderResponse, Status> {
        let to = request.targetID;
        let voters = self.voters().await?;
        let best = Self::most_current(&voters)?;
        if !voters.iter().any(|status| status.id == self.0.node.id().get() && status.leads) {
            return Err(NOT_LEADER);
        }
        if !best.voters.iter().any(|(id, _)| *id == to) {
            return Err(BAD_LEADER_TRANSFEREE);
        }
        self.run(async move |store| store.transfer_leadership(to).await).await?;
        Ok(MoveLeaderResponse { header: Some(self.current_header().await) })
    }

    /// Logs in. The password is a token of the node, whatever the name, and the same token is given back: clients show it with
    /// each call from then on.
    pub(crate) async fn authenticate(&self, request: AuthenticateRequest) -> Result<AuthenticateResponse, Status> {
        match (self.0.check_password)(&request.password) {
            LoginOutcome::NotRequired => Err(AUTH_NOT_ENABLED),
            LoginOutcome::Rejected => Err(AUTH_FAILED),
            LoginOutcome::Accepted => {
                Ok(AuthenticateResponse { header: Some(self.current_header().await), token: request.password })
            }
        }
    }
}
