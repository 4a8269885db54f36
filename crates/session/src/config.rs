//! Settings, and the constants that bound sessions.

use std::time::Duration;

/// The settings of sessions. Times and limits that nobody has needed to change yet are constants.
///
/// ```
/// use broadcast_session::SessionConfig;
///
/// let config = SessionConfig::default().insecure_sessions(true);
/// assert!(config.insecure_sessions);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionConfig {
    /// Whether nodes of a cluster without a key call each other from host to host; on one host they always do. With `true`,
    /// calls work without encryption, and whoever can send packets to a node can call its services under any member's name.
    /// With `false`, such calls fail with [`CallError::Insecure`](crate::CallError::Insecure).
    pub insecure_sessions: bool,
}

impl SessionConfig {
    /// Whether nodes without a key may call each other from host to host; see
    /// [`insecure_sessions`](Self::insecure_sessions).
    #[must_use]
    pub fn insecure_sessions(mut self, allowed: bool) -> Self {
        self.insecure_sessions = allowed;
        self
    }
}

/// How long connecting and the handshake may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Incoming handshakes at once, in all and from one address (in IPv6, one /64 network). A handshake takes two round trips, until
/// the caller has sent something that nobody else could.
pub(crate) const MAX_HANDSHAKES: usize = 256;
pub(crate) const MAX_HANDSHAKES_PER_HOST: usize = 32;
/// Incoming sessions at once, in all and of one member.
pub(crate) const MAX_SESSIONS: usize = 512;
pub(crate) const MAX_SESSIONS_PER_MEMBER: usize = 8;
/// Calls that are answered at once: of one session, of one member, of all, and of an isolated service. And responses in pieces
/// that are being sent, in all.
pub(crate) const MAX_CALLS_PER_SESSION: u32 = 256;
pub(crate) const MAX_CALLS_PER_MEMBER: usize = 1024;
pub(crate) const MAX_CALLS: usize = 4096;
pub(crate) const MAX_CALLS_ISOLATED: usize = 512;
pub(crate) const MAX_STREAMS: usize = 1 << 16;
/// Buffered bytes of gathered requests and of responses that are being sent: of all members, and of one. Each isolated service
/// has as many more.
pub(crate) const MAX_BUFFERED: usize = 64 << 20;
pub(crate) const MAX_BUFFERED_PER_MEMBER: usize = 32 << 20;
/// While something is buffered for a call, so many bytes have to come, or to go, in this time.
pub(crate) const PROGRESS_BYTES: usize = 64 << 10;
pub(crate) const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// The flow-control windows of a call and of a session, in bytes: how much may be on its way that nobody has taken yet.
pub(crate) const WINDOW: u32 = 256 << 10;
pub(crate) const SESSION_WINDOW: u32 = 2 << 20;
/// How much of a call waits for room in the windows, in bytes.
pub(crate) const SEND_BUFFER: usize = 64 << 10;
/// The longest headers of a request or response, in bytes.
pub(crate) const MAX_HEADER_BYTES: u32 = 4 << 10;
/// The longest name of a service.
pub(crate) const MAX_METHOD_NAME: usize = 64;
/// The longest text of a refusal, in bytes.
pub(crate) const MAX_REFUSAL_TEXT: usize = 4 << 10;
/// The longest time for a call with one answer; and for a call in pieces without a deadline, until its answer begins.
pub(crate) const MAX_CALL_TIME: Duration = Duration::from_secs(10 * 60);
/// While calls wait in a session, how often it pings the other side, and how long it waits for the pong before it ends.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);
pub(crate) const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// A session that nobody has used for so long is ended.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long calls to an unreachable node fail at once, without another attempt to connect.
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(200);
/// How long calls may go on when their session ends because its key was removed, its member has left, or the node stops.
pub(crate) const GRACE_PERIOD: Duration = Duration::from_secs(10);
