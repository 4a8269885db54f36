//! Two nodes with one name.
//!
//! The live holder keeps it. Whoever sees both tells its application, and each of the two of the other,
//! since neither gossips to its own name: so both tell theirs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Event, Membership, NodeName, Output, Target, encode_alive};
use crate::wire::{Alive, Message, packet};

/// The same conflict is not reported again for this long.
const SILENCE: Duration = Duration::from_secs(30);
/// How many conflicts are remembered, so as not to report them again.
const MAX_CONFLICTS: usize = 1024;

/// The conflicts that were reported of late: by name, who claimed it, and when.
pub(super) type Conflicts = BTreeMap<NodeName, (SocketAddr, Instant)>;

impl Membership {
    /// Somebody claims the name of a live member.
    pub(super) fn report_conflict(&mut self, now: Instant, name: &NodeName, claim: &Alive) {
        let Some(record) = self.members.get(name.as_bytes()) else { return };
        let (holder, claimant) = (Target::from(record), claim.address.socket_addr());
        let fresh = |at: Instant| now.saturating_duration_since(at) < SILENCE;
        if self.conflicts.get(name).is_some_and(|&(known, at)| known == claimant && fresh(at)) {
            return;
        }
        self.conflicts.retain(|_, (_, at)| fresh(*at));
        if self.conflicts.len() >= MAX_CONFLICTS {
            return;
        }
        self.conflicts.insert(name.clone(), (claimant, now));
        self.counting.counts.name_conflicts += 1;
        let held = encode_alive(record);
        if *name != self.me {
            let claimed = packet::encode_message(&Message::Alive(claim.clone()));
            self.outputs.push_back(Output::Packet { to: holder, messages: vec![claimed], piggyback: false });
        }
        let to = Target::unknown(claimant);
        self.outputs.push_back(Output::Packet { to, messages: vec![held], piggyback: false });
        self.emit(Event::NameConflict { name: name.clone(), holder: holder.addr, claimant });
    }
}
