//! The state of the store as its voters tell it, and changes of who votes.

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

use super::{flag, json::id_text, problem::problem, rest_of_path};
use crate::store::NodeStore;

/// The state of the store.
#[derive(Debug, Default, Serialize)]
struct StoreStatusBody {
    /// The id of the store.
    cluster: Option<String>,
    term: u64,
    leader: Option<String>,
    /// The newest revision that any voter has.
    revision: u64,
    /// The first revision that can be read.
    compacted: u64,
    voters: Vec<VoterBody>,
    /// What an operator should look at.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct VoterBody {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Whether it has a vote in the store.
    votes: bool,
    /// Whether it belongs to another store.
    #[serde(skip)]
    is_of_another: bool,
    leads: bool,
    /// How many log entries it lacks, as the leader knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag: Option<u64>,
    #[serde(flatten)]
    figures: Option<VoterFigures>,
    /// Why it does not answer, or what is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct VoterFigures {
    last: u64,
    /// The term of the last entry.
    last_term: u64,
    applied: u64,
    revision: u64,
    bytes: u64,
    quota: u64,
    log_bytes: u64,
    snapshot_bytes: u64,
    /// How many times it has synced its log.
    syncs: u64,
    sync_ms: SyncTimesBody,
    leases: u64,
    watchers: u64,
    ephemeral: bool,
    has_room: bool,
}

/// How long the last syncs took, in milliseconds.
#[derive(Debug, Serialize)]
struct SyncTimesBody {
    median: f64,
    longest: f64,
}

/// The voter that was changed.
#[derive(Serialize)]
struct VoterChangedBody {
    name: String,
}

impl StoreStatusBody {
    fn new(reports: Vec<(String, Result<VoterStatus, String>)>) -> Self {
        let mut status = Self::default();
        let founded = || reports.iter().filter_map(|(_, report)| report.as_ref().ok()).filter(|report| report.founded);
        // A voter of a former store may still run. It has no leader, and the new store's revisions are far beyond its own.
        // Terms of different stores cannot be compared.
        let store =
            founded().max_by_key(|report| (report.leader.is_some(), report.revision)).map(|report| report.cluster);
        let of_store = || founded().filter(|report| Some(report.cluster) == store);
        // The voter with the latest term knows best, and a leader knows more than a follower.
        let best = of_store().max_by_key(|report| (report.term, report.leads, report.leader.is_some()));
        let Some(best) = best.cloned() else {
            status.problems.push(match reports.is_empty() {
                true => crate::settings::explain(&StoreError::NoVoters.to_string()),
                false => "the store has not been founded yet; all voters have to be there for that".into(),
            });
            let voters =
                reports.into_iter().map(|(name, report)| VoterBody::new(name, report, &VoterStatus::default()));
            status.voters.extend(voters);
            return status;
        };
        status.cluster = best.cluster.map(id_text);
        (status.term, status.leader) = (best.term, best.leader.clone());
        status.revision = of_store().map(|report| report.revision).max().unwrap_or_default();
        status.compacted = of_store().map(|report| report.compacted).max().unwrap_or_default();
        if best.leader.is_none() {
            status.problems.push("no voter leads; nothing can be read or written until one does".into());
        }
        for (name, report) in reports {
            if let Ok(VoterStatus { founded: true, cluster, .. }) = &report
                && *cluster != best.cluster
            {
                let other = cluster.map(|id| format!(", {id:016x}")).unwrap_or_default();
                let remedy = "stop it and empty its data directory";
                status.problems.push(format!("{name} is of another store{other}: {remedy}"));
            }
            status.voters.push(VoterBody::new(name, report, &best));
        }
        // Voters that are not members of the cluster now.
        for (id, name) in &best.voters {
            if !status.voters.iter().any(|voter| voter.name == *name) {
                let problem = Err("it is not a live member of the cluster".into());
                let mut voter = VoterBody::new(name.clone(), problem, &best);
                voter.id = Some(id_text(*id));
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

impl VoterBody {
    fn new(name: String, report: Result<VoterStatus, String>, best: &VoterStatus) -> Self {
        let lag = best.lags.iter().find(|(voter, _)| *voter == name).map(|(_, lag)| *lag);
        let report = match report {
            Ok(report) => report,
            Err(problem) => {
                let votes = best.voters.iter().any(|(_, voter)| *voter == name);
                let problem = Some(problem);
                let (leads, is_of_another) = (false, false);
                return Self { name, id: None, votes, is_of_another, leads, lag, figures: None, problem };
            }
        };
        let is_of_another = report.founded && best.founded && report.cluster != best.cluster;
        Self {
            name,
            id: Some(id_text(report.id)),
            votes: !is_of_another && best.voters.iter().any(|(id, _)| *id == report.id),
            is_of_another,
            leads: !is_of_another && report.leads,
            lag: lag.or(report.leads.then_some(0)).filter(|_| !is_of_another),
            problem: report.failure.clone(),
            figures: Some(VoterFigures {
                last: report.last.unwrap_or_default(),
                last_term: report.last_term.unwrap_or_default(),
                applied: report.applied.unwrap_or_default(),
                revision: report.revision,
                bytes: report.bytes,
                quota: report.quota,
                log_bytes: report.log_bytes,
                snapshot_bytes: report.snapshot_bytes,
                syncs: report.syncs,
                sync_ms: SyncTimesBody { median: ms(report.sync_median), longest: ms(report.sync_longest) },
                leases: report.leases,
                watchers: report.watchers,
                ephemeral: report.ephemeral,
                has_room: report.has_room,
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
    let reports = store.run(async |store| Ok(store.status().await)).await.map_err(problem)?;
    Ok(json_response(StatusCode::OK, &StoreStatusBody::new(reports)))
}

/// The name of a node in a path.
fn name_in_path(uri: &Uri) -> Result<String, Problem> {
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
    let name = name_in_path(&uri)?;
    let change = if flag("replace", replace.as_deref())? {
        audit.describe("replaces the one before");
        VoterChange::Replace(name.clone())
    } else {
        VoterChange::Add(name.clone())
    };
    change_voters(&store, change, name).await
}

/// `DELETE /v1/store/voters/NAME`
pub(super) async fn remove(State(store): State<NodeStore>, uri: Uri) -> Result<Response, Problem> {
    no_query(&uri)?;
    let name = name_in_path(&uri)?;
    change_voters(&store, VoterChange::Remove(name.clone()), name).await
}

async fn change_voters(store: &NodeStore, change: VoterChange, name: String) -> Result<Response, Problem> {
    match store.run(async move |store| store.change_voters(change).await).await {
        Ok(()) => Ok(json_response(StatusCode::OK, &VoterChangedBody { name })),
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
            let reports = [(1, former), (2, now), (3, &waits)];
            let reports = reports.map(|(id, report)| (format!("node{id}"), Ok(report.clone())));
            StoreStatusBody::new(reports.into())
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
        // The store with a leader is the one that works.
        former.leader = Some("node3".into());
        assert_eq!(status(&former, &now).cluster.as_deref(), Some("000000000000000f"));
    }
}
