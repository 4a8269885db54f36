//! etcd's service `Cluster`. Its members are the voters of the store.

use std::collections::HashMap;

use broadcast_store::node::{VoterChange, VoterStatus};

use crate::{
    ENDPOINT, Etcd, TLS_ENDPOINT,
    messages::{Member, MemberListRequest, MemberListResponse, MemberRemoveRequest, MemberRemoveResponse},
    status::{MEMBER_NOT_FOUND, NO_LEADER, Status},
};

impl Etcd {
    pub(crate) async fn member_list(&self, _: MemberListRequest) -> Result<MemberListResponse, Status> {
        let members = self.members().await?;
        Ok(MemberListResponse { header: Some(self.current_header().await), members })
    }

    pub(crate) async fn member_remove(&self, request: MemberRemoveRequest) -> Result<MemberRemoveResponse, Status> {
        let members = self.members().await?;
        let name = members.into_iter().find(|member| member.ID == request.ID).map(|member| member.name);
        let name = name.ok_or(MEMBER_NOT_FOUND)?;
        self.run(async move |store| store.change_voters(VoterChange::Remove(name)).await).await?;
        let members = self.members().await?;
        Ok(MemberRemoveResponse { header: Some(self.current_header().await), members })
    }

    /// The status of each voter that answers.
    pub(crate) async fn voters(&self) -> Result<Vec<VoterStatus>, Status> {
        let voters = self.run(async |store| Ok(store.status().await)).await?;
        Ok(voters.into_iter().filter_map(|(_, status)| status.ok()).filter(|status| status.founded).collect())
    }

    /// The status that is most up to date on who votes: the leader's, if it answers.
    pub(crate) fn most_current(voters: &[VoterStatus]) -> Result<&VoterStatus, Status> {
        voters.iter().max_by_key(|status| (status.leader.is_some(), status.term, status.leads)).ok_or(NO_LEADER)
    }

    async fn members(&self) -> Result<Vec<Member>, Status> {
        let voters = self.voters().await?;
        let best = Self::most_current(&voters)?;
        let overview = self.0.node.overview().await;
        let seen = overview.members.iter().map(|seen| (seen.member.name.to_string(), seen));
        let seen: HashMap<_, _> = seen.collect();
        let member = |(id, name): &(u64, String), learns| {
            let seen = seen.get(name);
            let peer = seen.map(|seen| format!("http://{}", seen.member.addr));
            let urls = seen.into_iter().flat_map(|seen| seen.endpoints()).filter_map(|(service, addr)| match service {
                ENDPOINT => Some(format!("http://{addr}")),
                TLS_ENDPOINT => Some(format!("https://{addr}")),
                _ => None,
            });
            Member {
                ID: *id,
                name: name.clone(),
                peerURLs: peer.into_iter().collect(),
                clientURLs: urls.collect(),
                isLearner: learns,
            }
        };
        let voters = best.voters.iter().map(|voter| member(voter, false));
        Ok(voters.chain(best.learners.iter().map(|learner| member(learner, true))).collect())
    }
}
