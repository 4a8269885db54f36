//! Two live nodes with one name.
//!
//! The node that had it first keeps it. Whoever sees both reports the conflict to its application, and sends each of the two
//! the "alive" of the other, since neither gossips to its own name: so both report it, too.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Event, Membership, MembershipOutput, NodeName, Target, encode_alive};
use crate::wire::{Alive, Message, packet};

/// For how long the same conflict is not reported again.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// How many conflicts are remembered, so that they are not reported again.
const MAX_CONFLICTS: usize = 1024;

/// Conflicts that were reported lately: by name, the address that claimed it, and when.
pub(super) type Conflicts = BTreeMap<NodeName, (SocketAddr, Instant)>;

impl Membership {
    /// Another node claims the name of a live member.
    pub(super) fn report_conflict(&mut self, now: Instant, name: &NodeName, claim: &Alive) {
        let Some(record) = self.members.get(name.as_bytes()) else { return };
        let (holder, claimant) = (Target::from(record), claim.address.socket_addr());
        let is_recent = |at: Instant| now.saturating_duration_since(at) < REPORT_INTERVAL;
        if self.conflicts.get(name).is_some_and(|&(known, at)| known == claimant && is_recent(at)) {
            return;
        }
        self.conflicts.retain(|_, (_, at)| is_recent(*at));
        if self.conflicts.len() >= MAX_CONFLICTS {
            return;
        }
        self.conflicts.insert(name.clone(), (claimant, now));
        self.recorder.counts.name_conflicts += 1;
        let holder_alive = encode_alive(record);
        if *name != self.me {
            let claimant_alive = packet::encode_message(&Message::Alive(claim.clone()));
            self.outputs.push_back(MembershipOutput::Packet {
                to: holder,
                messages: vec![claimant_alive],
                piggyback: false,
            });
        }
        let to = Target::unknown(claimant);
        self.outputs.push_back(MembershipOutput::Packet { to, messages: vec![holder_alive], piggyback: false });
        self.emit(Event::NameConflict { name: name.clone(), holder: holder.addr, claimant });
    }
}
