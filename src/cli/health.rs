//! `broadcast health`: whether the node of this host is well.

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
};

use super::{Failure, HealthArgs};
use crate::probe;

pub(super) async fn run(args: HealthArgs) -> Result<ExitCode, Failure> {
    let addr = reachable(args.bind.bind)?;
    let envelope = args.envelope.envelope()?;
    let health =
        probe(addr, &envelope, args.timeout).await.map_err(|error| Failure::other(format!("unhealthy: {error}")))?;
    let members = match health.members {
        1 => "1 member".into(),
        members => format!("{members} members"),
    };
    if !health.joined {
        return Err(Failure::other(format!(
            "unhealthy: not joined yet, {members}; start one of the nodes it joins through, or see its log"
        )));
    }
    // Nobody reads it: the exit code says it too.
    let _ = writeln!(io::stdout(), "healthy: joined, {members}");
    Ok(ExitCode::SUCCESS)
}

/// Where to ask a node that listens at `bind`.
fn reachable(bind: SocketAddr) -> Result<SocketAddr, Failure> {
    if bind.port() == 0 {
        return Err(Failure::usage(
            "BROADCAST_BIND (--bind) has port 0, and the system chose the node's port: give that one, which the node's log names",
        ));
    }
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
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
        ] {
            let bind = bind.parse().expect("an address");
            assert_eq!(reachable(bind).expect("a port"), asked.parse().expect("an address"));
        }
        assert!(reachable("0.0.0.0:0".parse().expect("an address")).is_err());
    }
}
