//! What serf's messages do to a node, for [`crate::fuzzing`].

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Serf, Tags};
use crate::{
    config::{Bounds, Config, Profile},
    membership::Membership,
};

/// A sequence of messages and states, each behind its length: whatever they say, what is kept has its bound.
pub fn serf(data: &[u8]) {
    let mut now = Instant::now();
    let tuning = Profile::Lan.tuning();
    let config = Config::new("me").bounds(Bounds { max_members: 16, ..Bounds::default() }).tuning(tuning.clone());
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
        // What cannot be used is refused, and changes nothing that is looked at here.
        let _ = serf.handle(now, &message, &membership);
        let _ = serf.merge(now, &message, (len & 1 == 1, len & 2 == 2), &membership);
        let _ = Serf::ours_in(&message);
        let mut out = Vec::new();
        serf.fill(2, tuning.udp_buffer_size, &mut out);
        while serf.poll_output().is_some() {}
        for (what, held, bound) in serf.sizes() {
            assert!(held <= bound, "{held} {what}, {bound} at most");
        }
    }
    let state = serf.state(&membership, None);
    assert!(Serf::ours_in(&state).is_ok(), "what this node says it can read");
}
