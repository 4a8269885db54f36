//! The socket options of sessions.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::debug;

/// How long the system waits for the acknowledgement of what it has sent.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the system probes whether the other side of a silent connection is there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Sends small messages at once (`TCP_NODELAY`), and notices peers that are gone.
pub(crate) fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(KEEPALIVE_INTERVAL);
    let set = stream.set_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    let set = set.and_then(|()| socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT)));
    if let Err(error) = set {
        debug!(%error, "a session's peer that is gone may be noticed late");
    }
}
