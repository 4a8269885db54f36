//! `broadcast health`: whether a node is healthy, asked by memberlist's ping or over its HTTP API.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use broadcast::probe;
use clap::Args;
use tokio::time::timeout;

use super::{
    client::{ApiClient, ApiResponse, ClientError},
    output::print_line,
};
use crate::{
    failure::Failure,
    settings::{
        client::{NODE, NodeUrl},
        envelope::EnvelopeArgs,
        node::BindArgs,
        tls::ClientTlsArgs,
        values::duration,
    },
    visible,
};

/// Check the health of a node: exit with 0 if it has joined its cluster, otherwise with 1
///
/// Use this as the health check of a container. It reads the same settings as the node, and asks the node that
/// listens on this host. With --node it asks over HTTP instead; then the node must be ready, which means that the
/// list of members is stable, too.
///
/// Over https, a node on this host need not have a certificate that this host trusts, unless --ca-file says whom to
/// trust: the check sends no secret.
///
/// With --live it exits with 0 as long as the node serves, whether it has joined or not. Use this for Docker Swarm
/// and for a liveness probe of Kubernetes. Swarm adds a container to DNS, and Kubernetes lets it run, only while
/// the check passes, and no node can join through a name that is not in DNS yet.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    broadcast health\n  \
    broadcast health --live\n  \
    broadcast health --bind 127.0.0.1:8000 --timeout 500ms\n  \
    broadcast health --node 10.0.0.1 --json")]
pub(super) struct HealthArgs {
    /// Ask over HTTP, where the node serves its API: HOST, HOST:PORT or a URL [default: send memberlist's ping to
    /// --bind]
    #[arg(long, env = NODE, value_name = "NODE")]
    node: Option<NodeUrl>,

    #[command(flatten)]
    tls: ClientTlsArgs,

    #[command(flatten)]
    bind: BindArgs,

    #[command(flatten)]
    envelope: EnvelopeArgs,

    /// Exit with 0 as long as the node serves, whether it has joined or not
    #[arg(long)]
    live: bool,

    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration)]
    timeout: Duration,

    /// Print the node's answer, as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: HealthArgs) -> Result<ExitCode, Failure> {
    match &args.node {
        Some(node) => over_http(node.clone(), &args).await,
        None => by_ping(args).await,
    }
}

async fn by_ping(args: HealthArgs) -> Result<ExitCode, Failure> {
    let addr = probe_address(args.bind.bind)?;
    let envelope = args.envelope.envelope()?;
    let health = probe(addr, &envelope, args.timeout).await.map_err(unhealthy)?;
    let well = health.joined || args.live;
    if args.json {
        print_line(&serde_json::to_string(&health).expect("bools and a number always serialise"))?;
        return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let members = members(health.members as u64);
    if !well {
        return Err(unhealthy(format!(
            "not joined yet, {members}; start one of the nodes it joins through, or see its log"
        )));
    }
    let joined = if health.joined { "joined" } else { "not joined yet" };
    print_line(&format!("healthy: {joined}, {members}"))?;
    Ok(ExitCode::SUCCESS)
}

async fn over_http(
    node: NodeUrl,
    &HealthArgs { live, timeout: limit, json, ref tls, .. }: &HealthArgs,
) -> Result<ExitCode, Failure> {
    let client = ApiClient::for_health(node, tls)?;
    let answer = timeout(limit, client.get(if live { "/livez" } else { "/readyz" }, "status")).await;
    let answer = answer.map_err(|_| unhealthy(format!("{} did not answer within {limit:?}", client.node)))?;
    let (well, answer) = match answer {
        Ok(answer) => (true, answer),
        Err(ClientError::Problem(answer)) if answer.json["status"].is_string() => (false, answer),
        Err(error) => return Err(unhealthy(error)),
    };
    let words = |answer: &ApiResponse| {
        format!("{}, {}", visible::escaped(answer.text("status")), members(answer.number("members")))
    };
    match (json, well) {
        (true, _) => print_line(&visible::escaped_json(&answer.text))?,
        (false, true) => print_line(&format!("healthy: {}", words(&answer)))?,
        (false, false) => return Err(unhealthy(words(&answer))),
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unhealthy(why: impl std::fmt::Display) -> Failure {
    Failure::other(format!("unhealthy: {why}"))
}

fn members(count: u64) -> String {
    if count == 1 { "1 member".into() } else { format!("{count} members") }
}

/// Where to reach a node that listens at `bind`: on loopback, if it listens at all addresses.
fn probe_address(bind: SocketAddr) -> Result<SocketAddr, Failure> {
    if bind.port() == 0 {
        return Err(Failure::usage(
            "BROADCAST_BIND (--bind) has port 0, and the system chose the node's port: give that one, which the node's log names",
        ));
    }
    let ip: IpAddr = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        _ => return Ok(bind),
    };
    Ok(SocketAddr::new(ip, bind.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_listens_everywhere_is_asked_on_loopback() {
        for (bind, asked) in [
            ("0.0.0.0:7946", "127.0.0.1:7946"),
            ("[::]:7946", "[::1]:7946"),
            ("127.0.0.2:1", "127.0.0.2:1"),
            ("[fd00::1]:2", "[fd00::1]:2"),
            ("[fe80::1%1]:2", "[fe80::1%1]:2"),
        ] {
            let bind = bind.parse().expect("an address");
            assert_eq!(probe_address(bind).expect("a port"), asked.parse().expect("an address"));
        }
        assert!(probe_address("0.0.0.0:0".parse().expect("an address")).is_err());
    }
}
