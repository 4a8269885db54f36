//! What may be set, and what may not.

use std::time::Duration;

/// How sessions are made and served. Times and bounds that nobody has needed to change yet are constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Whether nodes of a cluster without a key talk to each other from host to host. Then whoever can send packets to a
    /// node can call its services, under any member's name. Between processes of one host they always do.
    pub insecure_sessions: bool,
}

impl Config {
    /// Whether nodes without a key may call each other from host to host; see
    /// [`insecure_sessions`](Self::insecure_sessions).
    #[must_use]
    pub fn insecure_sessions(mut self, allowed: bool) -> Self {
        self.insecure_sessions = allowed;
        self
    }
}

/// How long connecting may take, and the handshake.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);
/// Handshakes of callers at once, and of those at one address (of IPv6, one network of 64 bits). A handshake takes two round
/// trips, until the caller has said something that only it can.
pub(crate) const HANDSHAKES: usize = 256;
pub(crate) const HANDSHAKES_OF_ONE: usize = 32;
/// Sessions that others have with this node at once, and that one of them has.
pub(crate) const SESSIONS: usize = 512;
pub(crate) const SESSIONS_OF_ONE: usize = 8;
/// Calls that are answered at once, of one session, of one member and of all; of services that have calls of their own, for
/// each of these; and answers in pieces that are under way, of all.
pub(crate) const CALLS_OF_SESSION: u32 = 256;
pub(crate) const CALLS_OF_ONE: usize = 1024;
pub(crate) const CALLS: usize = 4096;
pub(crate) const CALLS_APART: usize = 512;
pub(crate) const STREAMS: usize = 1 << 16;
/// Bytes that are held for calls of others: of what is gathered of them, and of answers that are being sent. Of all members,
/// and of one; as many more for each service that has calls of its own.
pub(crate) const HELD: usize = 64 << 20;
pub(crate) const HELD_OF_ONE: usize = 32 << 20;
/// While something is held for a call, so many bytes have to come, or to go, in this time.
pub(crate) const PACE_BYTES: usize = 64 << 10;
pub(crate) const PACE: Duration = Duration::from_secs(30);
/// What a call may have on its way that nobody has taken yet, in bytes, and all calls of a session.
pub(crate) const WINDOW: u32 = 256 << 10;
pub(crate) const SESSION_WINDOW: u32 = 2 << 20;
/// The most that is held of what a call is to send and does not fit in the windows.
pub(crate) const SEND_BUFFER: usize = 64 << 10;
/// The heads of requests and answers, in bytes.
pub(crate) const HEADS: u32 = 4 << 10;
/// The longest name of a service.
pub(crate) const METHOD: usize = 64;
/// The longest text of a refusal, in bytes.
pub(crate) const REFUSAL: usize = 4 << 10;
/// The longest time that a call with one answer may take; and one in pieces without a time of its own, until its answer begins.
pub(crate) const LONGEST: Duration = Duration::from_secs(10 * 60);
/// A session in which calls wait is asked so often whether the other side is there, and ended if it does not answer so long.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);
pub(crate) const PONG_WITHIN: Duration = Duration::from_secs(10);
/// A session is ended that nobody has used for so long.
pub(crate) const IDLE: Duration = Duration::from_secs(300);
/// A node that could not be reached is not tried again for so long.
pub(crate) const PAUSE: Duration = Duration::from_millis(200);
/// How long calls may go on whose session is to end, as its key is no longer the cluster's, or the node stops.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
