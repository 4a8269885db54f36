//! The default name of a node: the host name; in a container, a readable name.
//!
//! The host name of a container is its id, unless it was given one. On a network of its own, Docker's name server maps the
//! container's address to its name, `project-sender-3` on `project_default`. It is asked directly, because the resolver of
//! the C library would answer from `/etc/hosts`, where Docker puts the id.

mod ptr;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rand::{TryRng as _, rngs::SysRng};
use tokio::{net::UdpSocket, time};

/// How long the start of the node may wait for the name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// The default name of a node on this host.
///
/// # Errors
///
/// The host's name cannot be found out.
pub(crate) async fn default_name() -> io::Result<String> {
    let host = hostname::get()?.to_string_lossy().into_owned();
    if !is_container_id(&host) {
        return Ok(host);
    }
    let readable = time::timeout(LOOKUP_TIMEOUT, container_name(&host)).await;
    Ok(readable.ok().flatten().unwrap_or(host))
}

fn is_container_id(host: &str) -> bool {
    host.len() == 12 && host.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

async fn container_name(host: &str) -> Option<String> {
    let servers = name_servers(&std::fs::read_to_string("/etc/resolv.conf").ok()?);
    let interfaces = if_addrs::get_if_addrs().ok()?;
    for addr in interfaces.iter().filter(|interface| !interface.is_loopback()).map(if_addrs::Interface::ip) {
        for server in &servers {
            if let Ok(Some(pointer)) = ask(*server, addr).await
                && let Some(name) = readable_name(&pointer, host)
            {
                return Some(name);
            }
        }
    }
    None
}

fn name_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()?.parse::<IpAddr>().ok()
    });
    // The resolver of the C library uses three, too.
    servers.take(3).map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// Asks a name server for the name of an address.
async fn ask(server: SocketAddr, addr: IpAddr) -> io::Result<Option<String>> {
    let id = SysRng.try_next_u32().unwrap_or_default() as u16;
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&ptr::question(id, addr).map_err(io::Error::other)?).await?;
    let mut answer = [0; 1232];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(answer) = ptr::answer(id, &answer[..length]) {
            return Ok(answer);
        }
    }
}

/// The readable part of `container.network`, as Docker names a container on a network.
///
/// Compose names the container `project-service-3` (v1: `project_service_3`) and the network
/// `project_network`; without the project that is `service-3`.
fn readable_name(pointer: &str, host: &str) -> Option<String> {
    let pointer = pointer.trim_end_matches('.');
    let (container, network) = pointer.split_once('.')?;
    if container.is_empty() || network.is_empty() || container == host {
        return None;
    }
    // A project's name may contain `_`: the longest that fits both names is right.
    let projects = network.rmatch_indices('_').map(|(end, _)| &network[..end]);
    let service = projects.filter(|project| !project.is_empty()).find_map(|project| {
        let service = container.strip_prefix(project)?.strip_prefix(['-', '_'])?;
        let (name, number) = service.rsplit_once(['-', '_'])?;
        let numbered = !name.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        numbered.then(|| service.replace('_', "-"))
    });
    Some(service.unwrap_or_else(|| container.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_id_is_told_from_a_name() {
        for id in ["0123456789ab", "123456789012", "cafecafecafe"] {
            assert!(is_container_id(id), "{id}");
        }
        for name in ["", "node1", "0123456789a", "0123456789abc", "0123456789aB", "sender-00003"] {
            assert!(!is_container_id(name), "{name}");
        }
    }

    #[test]
    fn dockers_names_become_readable() {
        for (pointer, name) in [
            ("demo-sender-3.demo_default", "sender-3"),
            ("demo-sender-3.demo_default.", "sender-3"),
            ("demo_sender_3.demo_default", "sender-3"),
            ("demo-my_sender-3.demo_gossip_net", "my-sender-3"),
            ("my_demo-sender-3.my_demo_default", "sender-3"),
            ("my-demo-sender-3.my-demo_default", "sender-3"),
            ("a_b_3.a_b_net", "b-3"),
            ("node1.demo_default", "node1"),
            ("demo-sender.demo_default", "demo-sender"),
            ("sender-3.other_default", "sender-3"),
            ("wonderful_name.mynet", "wonderful_name"),
        ] {
            assert_eq!(readable_name(pointer, "0123456789ab").as_deref(), Some(name), "{pointer}");
        }
        for useless in ["", ".", "localhost", "0123456789ab", "0123456789ab.mynet", ".mynet", "name."] {
            assert_eq!(readable_name(useless, "0123456789ab"), None, "{useless}");
        }
    }

    #[test]
    fn the_name_servers_are_those_of_resolv_conf() {
        let text =
            "# nameserver 9.9.9.9\nsearch lan\nnameserver 127.0.0.11\noptions ndots:0\nnameserver ::1\nnameserver x\n";
        assert_eq!(name_servers(text), ["127.0.0.11:53", "[::1]:53"].map(|addr| addr.parse().expect("an address")));
        assert_eq!(name_servers(&"nameserver 1.1.1.1\n".repeat(9)).len(), 3);
    }

    #[tokio::test]
    async fn a_name_server_is_asked_for_an_address() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = server.local_addr().expect("a bound socket has an address");
        let answer = async {
            let mut question = [0; 512];
            let (length, from) = server.recv_from(&mut question).await.expect("a question");
            // Someone guesses, and guesses wrong: that is not the answer.
            server.send_to(&[0; 12], from).await.expect("the asker listens");
            // The question comes back with one record: a pointer from its name (at 12) to "a.b".
            let mut answer = question[..length].to_vec();
            answer[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1]);
            answer.extend_from_slice(b"\xc0\x0c\0\x0c\0\x01\0\0\0\0\0\x05\x01a\x01b\0");
            server.send_to(&answer, from).await.expect("the asker listens");
        };
        let ask = time::timeout(Duration::from_secs(10), ask(addr, "10.0.0.1".parse().expect("an address")));
        let (name, ()) = tokio::join!(ask, answer);
        assert_eq!(name.expect("in time").expect("an answer").as_deref(), Some("a.b"));
    }
}
