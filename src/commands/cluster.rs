//! `broadcast members` and `broadcast status`: the cluster as one node sees it.

use std::{fmt::Write as _, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    client::{ApiClient, ApiResponse},
    output,
    table::{cell, comma_separated, items, table},
};
use crate::{failure::Failure, settings::client::ClientArgs, visible};

/// List the members of the cluster, as one node sees them
///
/// RTT is how long a member takes to answer the node. LAG is how many of the node's messages the member has not
/// acknowledged; "loose" means that it has not kept up, and that publishers no longer wait for it. Members of KIND
/// memberlist cannot acknowledge. ROLES and ID are what the member has told about itself, as nodes of this release do.
/// REACH is how messages get to the member: udp as usual, udp<=N if larger datagrams do not arrive, tcp if no datagrams
/// do. Members that are dead or have left stay in the list as long as the node remembers them.
///
/// Exit codes: 0, the members were listed; 1, the node did not answer or refused; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  broadcast members\n  broadcast members --node 10.0.0.1:8946 --json")]
pub(super) struct MembersArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Show the state of a node and its cluster, as the node sees it
///
/// For each node that has published messages, it shows how many of them this node knows of, how many it has
/// delivered, how many all members have, and how many it still keeps for members that lack them.
///
/// Exit codes: 0, the state was shown; 1, the node did not answer or refused; 2, wrong usage.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  broadcast status\n  broadcast status --node 10.0.0.1:8946 --json")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    client: ClientArgs,
}

pub(super) async fn members(args: MembersArgs) -> Result<ExitCode, Failure> {
    show(&args.client, "/v1/members", members_table).await
}

pub(super) async fn status(args: StatusArgs) -> Result<ExitCode, Failure> {
    show(&args.client, "/v1/cluster", status_text).await
}

async fn show(args: &ClientArgs, path: &str, text: fn(&ApiResponse) -> String) -> Result<ExitCode, Failure> {
    let answer = ApiClient::new(args)?.get(path, "node").await?;
    output::print_response(args, &answer, text)?;
    Ok(ExitCode::SUCCESS)
}

fn members_table(answer: &ApiResponse) -> String {
    let mut rows =
        vec![["NAME", "STATE", "KIND", "ADDRESS", "RTT", "REACH", "LAG", "ROLES", "ID", "META"].map(String::from)];
    for member in items(&answer.json["members"]) {
        let rtt = match member["rtt_ms"].as_f64() {
            _ if member["self"] == true => "itself".into(),
            Some(ms) => format!("{ms:.1} ms"),
            None => "-".into(),
        };
        let meta = [&member["meta"], &member["meta_base64"]].into_iter().find_map(Value::as_str).unwrap_or("-");
        let [name, state, kind, addr] = ["name", "state", "kind", "addr"].map(|field| cell(&member[field]));
        let loose = if member["loose"] == true { " (loose)" } else { "" };
        let reach = match member["max_datagram"].as_u64() {
            _ if member["self"] == true => "-".into(),
            Some(max) => format!("udp<={max}"),
            None => cell(&member["reach"]),
        };
        let (lag, roles, id) = (cell(&member["lag"]) + loose, comma_separated(&member["roles"]), cell(&member["id"]));
        rows.push([name, state, kind, addr, rtt, reach, lag, roles, id, visible::escaped(meta)]);
    }
    table(&rows)
}

fn status_text(answer: &ApiResponse) -> String {
    let status = &answer.json;
    let yes = |field: &str| if status[field] == true { "yes" } else { "no" };
    let counts = |field: &str| {
        let counts = status[field].as_object().into_iter().flatten();
        counts.map(|(name, count)| format!("{} {}", cell(count), name.replace('_', " "))).collect::<Vec<_>>().join(", ")
    };
    let health = match answer.number("health_score") {
        0 => "well".into(),
        score => format!("slow to hear from others, {score} of 8 (health score)"),
    };
    let mut text = format!(
        "{} at {}, broadcast {}\nid       {}\nroles    {}\njoined   {}\nsettled  {}\nhealth   {health}\nmembers  {}\nwaiting  {}\n",
        cell(&status["node"]),
        cell(&status["addr"]),
        cell(&status["version"]),
        cell(&status["id"]),
        comma_separated(&status["roles"]),
        yes("joined"),
        yes("settled"),
        counts("members"),
        counts("queues"),
    );
    let loose = items(&status["loose"]).map(cell).collect::<Vec<_>>().join(", ");
    if !loose.is_empty() {
        let _ = writeln!(text, "loose    {loose}: publishers do not wait for them any more, until they have caught up");
    }
    let mut rows = vec![["ORIGIN", "EPOCH", "DELIVERED", "OF", "BY ALL", "RETAINED"].map(String::from)];
    let fields = ["origin", "epoch", "next", "end", "floor", "retained"];
    rows.extend(items(&status["origins"]).map(|origin| fields.map(|field| cell(&origin[field]))));
    if rows.len() > 1 {
        let _ = write!(text, "\n{}", table(&rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use serde_json::json;

    use super::*;

    fn answer(json: Value) -> ApiResponse {
        ApiResponse { status: StatusCode::OK, text: json.to_string(), json }
    }

    #[test]
    fn members_stand_in_columns() {
        let table = members_table(&answer(json!({"node": "node1", "members": [
            {"name": "node1", "self": true, "state": "alive", "kind": "broadcast", "addr": "127.0.0.1:7946",
             "meta": "a\nb", "rtt_ms": null, "lag": null, "reach": "udp", "max_datagram": null,
             "id": "00c0ffee00c0ffee", "roles": ["cache", "sender"]},
            {"name": "go", "self": false, "state": "suspect", "kind": "memberlist", "addr": "127.0.0.1:40925",
             "meta": null, "rtt_ms": 0.314, "lag": 17, "reach": "udp", "max_datagram": null},
            {"name": "slow", "self": false, "state": "alive", "kind": "broadcast", "addr": "127.0.0.1:1",
             "meta": null, "rtt_ms": null, "lag": 3, "loose": true, "reach": "tcp", "max_datagram": null},
            {"name": "node3", "self": false, "state": "alive", "kind": "broadcast", "addr": "127.0.0.1:40926",
             "meta": null, "rtt_ms": 0.314, "lag": 0, "reach": "small-udp", "max_datagram": 1232},
        ]})));
        assert_eq!(
            table,
            "NAME   STATE    KIND        ADDRESS          RTT     REACH      LAG        ROLES         ID                META\n\
             node1  alive    broadcast   127.0.0.1:7946   itself  -          -          cache,sender  00c0ffee00c0ffee  a\\nb\n\
             go     suspect  memberlist  127.0.0.1:40925  0.3 ms  udp        17         -             -                 -\n\
             slow   alive    broadcast   127.0.0.1:1      -       tcp        3 (loose)  -             -                 -\n\
             node3  alive    broadcast   127.0.0.1:40926  0.3 ms  udp<=1232  0          -             -                 -\n"
        );
    }
}
