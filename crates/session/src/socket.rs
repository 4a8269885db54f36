//! What is set on the connections of sessions.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tracing::debug;

/// How long the system waits for what it has sent to be taken.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);
/// When, and how often, it asks whether the other side of a silent connection is there.
const ASK_AFTER: Duration = Duration::from_secs(30);

/// Small messages are not held back, and a peer that is gone is noticed.
pub(crate) fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_AFTER);
    let set = stream.set_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    #[cfg(target_os = "linux")]
    let set = set.and_then(|()| socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED)));
    if let Err(error) = set {
        debug!(%error, "a session's peer that is gone may be noticed late");
    }
}
