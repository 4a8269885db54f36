//! How the store is, and what an operator does with it; and logging in, which gives back the token that was shown.

use broadcast_store::keys::KeysCommand;

use crate::{
    Etcd, Login, VERSION,
    kv::{signed, unsigned},
    messages::{
        AlarmMember, AlarmRequest, AlarmResponse, AuthenticateRequest, AuthenticateResponse, DefragmentRequest,
        DefragmentResponse, HashKVRequest, HashKVResponse, HashRequest, HashResponse, MoveLeaderRequest,
        MoveLeaderResponse, StatusRequest, StatusResponse,
        enums::{ALARM_DEACTIVATE, ALARM_GET, ALARM_NONE, ALARM_NOSPACE},
    },
    status::{AUTH_FAILED, AUTH_NOT_ENABLED, BAD_LEADER_TRANSFEREE, NOT_LEADER, Status},
};

impl Etcd {
    /// How this node's voter is; of a node that does not vote, the one that leads.
    pub(crate) async fn status(&self, _: StatusRequest) -> Result<StatusResponse, Status> {
        let voters = self.voters().await?;
        let best = Self::best(&voters)?;
        let me = self.0.node.id().get();
        let told = voters.iter().find(|status| status.id == me).unwrap_or(best);
        let leader = told.leader.as_ref().or(best.leader.as_ref());
        let leader = leader.and_then(|leader| best.voters.iter().find(|(_, name)| name == leader));
        let mut errors: Vec<String> = Vec::new();
        if told.alarm {
            errors.push(format!("memberID:{} alarm:NOSPACE ", told.id));
        }
        if leader.is_none() {
            errors.push("etcdserver: no leader".into());
        }
        let bytes = signed(told.bytes);
        Ok(StatusResponse {
            header: Some(self.header(told.revision)),
            version: VERSION.into(),
            dbSize: bytes,
            leader: leader.map_or(0, |(id, _)| *id),
            raftIndex: told.committed.unwrap_or_default(),
            raftTerm: told.term,
            raftAppliedIndex: told.applied.unwrap_or_default(),
            errors,
            dbSizeInUse: bytes,
            isLearner: told.learners.iter().any(|(id, _)| *id == me),
        })
    }

    pub(crate) async fn hash(&self, _: HashRequest) -> Result<HashResponse, Status> {
        let (hash, revision, _) = self.run(async |store| store.hash(0).await).await?;
        Ok(HashResponse { header: Some(self.header(revision)), hash })
    }

    pub(crate) async fn hash_kv(&self, request: HashKVRequest) -> Result<HashKVResponse, Status> {
        let revision = unsigned(request.revision);
        let (hash, revision, compacted) = self.run(async move |store| store.hash(revision).await).await?;
        // etcd has never compacted anything at -1.
        let compact_revision = if compacted == 0 { -1 } else { signed(compacted) };
        Ok(HashKVResponse { header: Some(self.header(revision)), hash, compact_revision })
    }

    /// There is one alarm, too little space, and all voters have it alike. It is raised by what finds no space, and by
    /// nobody else.
    pub(crate) async fn alarm(&self, request: AlarmRequest) -> Result<AlarmResponse, Status> {
        let of = request.alarm;
        let about_space = of == ALARM_NOSPACE || (request.action == ALARM_GET && of == ALARM_NONE);
        let voters = self.voters().await?;
        let raised = voters.iter().filter(|status| about_space && status.alarm);
        let alarms = raised.map(|status| AlarmMember { memberID: status.id, alarm: ALARM_NOSPACE }).collect();
        match request.action {
            ALARM_GET => {}
            ALARM_DEACTIVATE if about_space => drop(self.change(KeysCommand::Disarm).await?),
            ALARM_DEACTIVATE => {}
            _ => return Err(Self::missing("raising an alarm", "one is raised when space runs out")),
        }
        Ok(AlarmResponse { header: Some(self.header_now().await), alarms })
    }

    /// There is nothing to do: what is compacted takes no room. As etcd's, the answer has no header.
    pub(crate) async fn defragment(&self, _: DefragmentRequest) -> Result<DefragmentResponse, Status> {
        Ok(DefragmentResponse::default())
    }

    pub(crate) async fn move_leader(&self, request: MoveLeaderRequest) -> Result<MoveLeaderResponse, Status> {
        let to = request.targetID;
        let voters = self.voters().await?;
        let best = Self::best(&voters)?;
        if !voters.iter().any(|status| status.id == self.0.node.id().get() && status.leads) {
            return Err(NOT_LEADER);
        }
        if !best.voters.iter().any(|(id, _)| *id == to) {
            return Err(BAD_LEADER_TRANSFEREE);
        }
        self.run(async move |store| store.transfer_leadership(to).await).await?;
        Ok(MoveLeaderResponse { header: Some(self.header_now().await) })
    }

    /// A token is who somebody is: it is the password, whatever the name, and what is shown from then on.
    pub(crate) async fn authenticate(&self, request: AuthenticateRequest) -> Result<AuthenticateResponse, Status> {
        match (self.0.log_in)(&request.password) {
            Login::NotNeeded => Err(AUTH_NOT_ENABLED),
            Login::Unknown => Err(AUTH_FAILED),
            Login::Known => Ok(AuthenticateResponse { header: Some(self.header_now().await), token: request.password }),
        }
    }
}
