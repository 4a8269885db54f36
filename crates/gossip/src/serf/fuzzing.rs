//! The fuzz target of serf's messages, for [`crate::fuzzing`].

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Serf, Tags};
use crate::{
    config::{Config, Profile, ResourceLimits},
    membership::Membership,
};

/// Feeds a sequence of messages and states, each behind its length: whatever they say, what is kept stays within its
/// limits.
pub fn serf(data: &[u8]) {
    let mut now = Instant::now();
    let tuning = Profile::Lan.tuning();
    let config = Config::new("me")
        .resource_limits(ResourceLimits { max_members: 16, ..ResourceLimits::default() })
        .tuning(tuning.clone());
    let address = SocketAddr::from(([10, 0, 0, 1], 7946)).into();
    let membership = Membership::new(now, &config, address, [1, 5, 2, 2, 0xb1, 4], 1);
    let mut serf = Serf::new("me".into(), Tags::new(), true, tuning.retransmit_mult, tuning.udp_buffer_size);
    let data = Bytes::copy_from_slice(data);
    let mut rest = &data[..];
    while let Some((&len, behind)) = rest.split_first() {
        let (message, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        let message = data.slice_ref(message);
        now += Duration::from_millis(50);
        // What is refused changes nothing that is checked here.
        let _ = serf.handle(now, &message, &membership);
        let _ = serf.merge(now, &message, (len & 1 == 1, len & 2 == 2), &membership);
        let _ = Serf::broadcast_state_in(&message);
        let mut out = Vec::new();
        serf.take_broadcasts(2, tuning.udp_buffer_size, &mut out);
        while serf.poll_output().is_some() {}
        for (what, held, bound) in serf.sizes() {
            assert!(held <= bound, "{held} {what}, {bound} at most");
        }
    }
    let state = serf.state(&membership, None);
    assert!(Serf::broadcast_state_in(&state).is_ok(), "a node can read its own state");
}
