//! How the store is, and who votes.

use axum::{
    Extension,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use broadcast_gateway::{AuditHandle, Problem, json_response, no_query, read_query};
use broadcast_store::{
    StoreError,
    node::{VoterChange, VoterStatus},
};
use serde::Serialize;

use super::{flag, problem::problem, rest_of_path};
use crate::store::NodeStore;

/// How the store is, as its voters tell it.
#[derive(Debug, Default, Serialize)]
struct Status {
    /// Its id.
    cluster: Option<String>,
    term: u64,
    leader: Option<String>,
    /// The newest revision that any voter has.
    revision: u64,
    /// The first revision that can be read.
    compacted: u64,
    voters: Vec<Voter>,
    /// What somebody should look at.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Voter {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Whether it has a vote in the store.
    votes: bool,
    /// Whether it is of a store of its own, beside this one.
    #[serde(skip)]
    is_of_another: bool,
    leads: bool,
    /// How many entries it does not have yet, as the leader says.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    #[serde(flatten)]
    figures: Option<Figures>,
    /// Why it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Figures {
    last: u64,
    /// The term that this entry is of.
    last_term: u64,
    applied: u64,
    revision: u64,
    bytes: u64,
    quota: u64,
    log_bytes: u64,
    snapshot_bytes: u64,
    /// How often it has synced its log.
    syncs: u64,
    sync_ms: SyncTimes,
    leases: u64,
    watchers: u64,
    ephemeral: bool,
    has_room: bool,
}

/// How long its last syncs took.
#[derive(Debug, Serialize)]
struct SyncTimes {
    median: f64,
    longest: f64,
}

/// What was changed.
#[derive(Serialize)]
struct Changed {
    name: String,
}

impl Status {
    fn of(told: Vec<(String, Result<VoterStatus, String>)>) -> Self {
        let mut status = Self::default();
        let founded = || told.iter().filter_map(|(_, told)| told.as_ref().ok()).filter(|told| told.founded);
        // A voter of a former store may be there yet. It has no leader, and one that was founded anew has gone on far
        // beyond its revision. Terms of different stores say nothing of each other.
        let store = founded().max_by_key(|told| (told.leader.is_some(), told.revision)).map(|told| told.cluster);
        let well = || founded().filter(|told| Some(told.cluster) == store);
        // Whoever has seen the latest term knows best, and who leads knows better than who follows.
        let best = well().max_by_key(|told| (told.term, told.leads, told.leader.is_some()));
        let Some(best) = best.cloned() else {
            status.problems.push(match told.is_empty() {
                true => crate::settings::explain(&StoreError::NoVoters.to_string()),
                false => "the store has not been founded yet; all voters have to be there for that".into(),
            });
            status.voters.extend(told.into_iter().map(|(name, told)| Voter::of(name, told, &VoterStatus::default())));
            return status;
        };
        status.cluster = best.cluster.map(|id| format!("{id:016x}"));
        (status.term, status.leader) = (best.term, best.leader.clone());
        status.revision = well().map(|told| told.revision).max().unwrap_or_default();
        status.compacted = well().map(|told| told.compacted).max().unwrap_or_default();
        if best.leader.is_none() {
            status.problems.push("no voter leads; nothing can be read or written until one does".into());
        }
        for (name, told) in told {
            if let Ok(VoterStatus { founded: true, cluster, .. }) = &told
                && *cluster != best.cluster
            {
                let other = cluster.map(|id| format!(", {id:016x}")).unwrap_or_default();
                let remedy = "stop it and empty its data directory";
                status.problems.push(format!("{name} is of another store{other}: {remedy}"));
            }
            status.voters.push(Voter::of(name, told, &best));
        }
        // Those that vote, and are not even seen.
        for (id, name) in &best.voters {
            if !status.voters.iter().any(|voter| voter.name == *name) {
                let problem = Err("it is not a live member of the cluster".into());
                let mut voter = Voter::of(name.clone(), problem, &best);
                voter.id = Some(format!("{id:016x}"));
                status.voters.push(voter);
            }
        }
        for voter in &status.voters {
            let name = &voter.name;
            status.problems.extend(voter.problem.iter().map(|problem| format!("{name}: {problem}")));
            if voter.problem.is_none() && !voter.votes && !voter.is_of_another {
                let remedy = format!("`broadcast voters add {name}`, or `replace {name}` if it has lost its disk");
                status.problems.push(format!("{name} has the role voter, and no vote in this store: {remedy}"));
            }
            if voter.figures.as_ref().is_some_and(|figures| !figures.has_room) {
                status.problems.push(format!("{name}: its disk is full, and it takes no more writes"));
            }
        }
        if best.alarm {
            let (bytes, quota) = (best.bytes, best.quota);
            status.problems.push(format!("{bytes} of {quota} bytes are taken, and nothing more can be put"));
        }
        status
    }
}

impl Voter {
    fn of(name: String, told: Result<VoterStatus, String>, best: &VoterStatus) -> Self {
        let lag = best.lags.iter().find(|(voter, _)| *voter == name).map(|(_, lag)| *lag);
        let told = match told {
            Ok(told) => told,
            Err(problem) => {
                let votes = best.voters.iter().any(|(_, voter)| *voter == name);
                let problem = Some(problem);
                let (leads, is_of_another) = (false, false);
                return Self { name, id: None, votes, is_of_another, leads, lag, figures: None, problem };
            }
        };
        let is_of_another = told.founded && best.founded && told.cluster != best.cluster;
        Self {
            name,
            id: Some(format!("{:016x}", told.id)),
            votes: !is_of_another && best.voters.iter().any(|(id, _)| *id == told.id),
            is_of_another,
            leads: !is_of_another && told.leads,
            lag: lag.or(told.leads.then_some(0)).filter(|_| !is_of_another),
            problem: told.failure.clone(),
            figures: Some(Figures {
                last: told.last.unwrap_or_default(),
                last_term: told.last_term.unwrap_or_default(),
                applied: told.applied.unwrap_or_default(),
                revision: told.revision,
                bytes: told.bytes,
                quota: told.quota,
                log_bytes: told.log_bytes,
                snapshot_bytes: told.snapshot_bytes,
                syncs: told.syncs,
                sync_ms: SyncTimes { median: ms(told.sync_median), longest: ms(told.sync_longest) },
                leases: told.leases,
                watchers: told.watchers,
                ephemeral: told.ephemeral,
                has_room: told.has_room,
            }),
        }
    }
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

/// `GET /v1/store`
pub(super) async fn status(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let told = store.run(async |store| Ok(store.status().await)).await.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &Status::of(told)))
}

/// The node that a path names.
fn named(uri: &Uri) -> Result<String, Problem> {
    let name = String::from_utf8(rest_of_path(uri.path(), "/v1/store/voters/")?).ok();
    let name = name.filter(|name| broadcast::config::check_name(name).is_ok());
    name.ok_or_else(|| Problem::bad_request("this is not the name of a node; GET /v1/members lists them"))
}

/// `PUT /v1/store/voters/NAME`
pub(super) async fn add(
    State(store): State<NodeStore>,
    Extension(audit): Extension<AuditHandle>,
    uri: Uri,
) -> Result<Response, Problem> {
    let [replace] = read_query(&uri, ["replace"])?;
    let name = named(&uri)?;
    let wanted = if flag("replace", replace.as_deref())? {
        audit.describe("replaces the one before");
        VoterChange::Replace(name.clone())
    } else {
        VoterChange::Add(name.clone())
    };
    change(&store, wanted, name).await
}

/// `DELETE /v1/store/voters/NAME`
pub(super) async fn remove(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let name = named(&uri)?;
    change(&store, VoterChange::Remove(name.clone()), name).await
}

async fn change(store: &NodeStore, change: VoterChange, name: String) -> Result<Response, Problem> {
    match store.run(async move |store| store.change_voters(change).await).await {
        Ok(()) => Ok(json_response(StatusCode::OK, &Changed { name })),
        // The leader says why not.
        Err(StoreError::NotPossible { why }) => Err(Problem::new(StatusCode::CONFLICT, why)),
        Err(error) => Err(problem(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_of_a_former_store_are_named_and_not_believed() {
        let voters = |ids: &[u64]| ids.iter().map(|id| (*id, format!("node{id}"))).collect();
        let mut former =
            VoterStatus { id: 1, founded: true, cluster: Some(0xf), term: 9, revision: 30, ..Default::default() };
        former.voters = voters(&[1, 2, 3]);
        let mut now = VoterStatus {
            id: 2,
            founded: true,
            cluster: Some(0xa),
            term: 1,
            revision: 1_000_000_020,
            ..Default::default()
        };
        now.voters = voters(&[2]);
        let waits = VoterStatus { id: 3, ..Default::default() };
        let status = |former: &VoterStatus, now: &VoterStatus| {
            let told = [(1, former), (2, now), (3, &waits)].map(|(id, told)| (format!("node{id}"), Ok(told.clone())));
            Status::of(told.into())
        };
        let led = VoterStatus { leads: true, leader: Some("node2".into()), ..now.clone() };
        for now in [&led, &now] {
            let status = status(&former, now);
            assert_eq!((status.cluster.as_deref(), status.term), (Some("000000000000000a"), 1));
            assert_eq!((status.leader, status.revision), (now.leader.clone(), 1_000_000_020));
            let votes: Vec<_> = status.voters.iter().map(|voter| voter.votes).collect();
            assert_eq!(votes, [false, true, false]);
            let problems = status.problems.join("\n");
            let remedy = "node1 is of another store, 000000000000000f: stop it and empty its data directory";
            assert!(problems.contains(remedy), "{problems}");
            assert!(!problems.contains("voters add node1") && problems.contains("voters add node3"), "{problems}");
        }
        // Whatever leads is what can be used.
        former.leader = Some("node3".into());
        assert_eq!(status(&former, &now).cluster.as_deref(), Some("000000000000000f"));
    }
}
