//! Whether nodes understand each other: memberlist's `verifyProtocol`.
//!
//! All members of a cluster have to speak a version of two protocols that all live ones understand: memberlist's own,
//! and its delegate's. One that does not would make every later exchange of views fail, whoever's it is.
//!
//! A view is checked in time proportional to its records and the members, whatever it says: what the members speak
//! and understand is summed up once, and looked through again only for a member's own record that does not fit the
//! sum, which holds if it does not fit itself.

use std::collections::{HashMap, HashSet};

use super::{MemberState, Membership, Refusal};
use crate::wire::{NodeState, PushPull, Versions};

/// The protocols, and where a node's versions have what it understands of them: from, to, and what it speaks.
const KINDS: [(&str, usize); 2] = [("protocol", 0), ("delegate protocol", 3)];

/// What members have in common of one protocol.
#[derive(Clone, Copy, Debug)]
struct Common {
    /// What every live one understands: from, and to.
    understood: (u8, u8),
    /// The lowest and the highest version that any speaks.
    spoken: (u8, u8),
}

impl Membership {
    /// What all members but one have in common, of each protocol.
    fn common(&self, but: Option<&[u8]>) -> [Common; 2] {
        KINDS.map(|(_, at)| {
            let mut common = Common { understood: (0, u8::MAX), spoken: (u8::MAX, 0) };
            for record in self.members.iter() {
                let versions = record.versions;
                if record.state() == MemberState::Alive {
                    let (min, max) = common.understood;
                    common.understood = (min.max(versions[at]), max.min(versions[at + 1]));
                }
                if but != Some(record.name.as_bytes()) {
                    let (low, high) = common.spoken;
                    common.spoken = (low.min(versions[at + 2]), high.max(versions[at + 2]));
                }
            }
            common
        })
    }

    /// Whether a node with these versions and all members understand each other.
    pub(super) fn check_compatible(&self, name: &[u8], versions: Versions) -> Result<(), Refusal> {
        // Whoever is like a member has been found compatible with it.
        if self.members.iter().any(|record| record.versions == versions) {
            return Ok(());
        }
        check(name, versions, &self.common(Some(name)))
    }

    /// Whether all members of both views speak a version that all live ones understand, and all that are alive in the
    /// other understand this node's. Of those that are suspected there it gives who does not: they are to be passed over.
    pub(super) fn check_versions<'a>(&self, remote: &'a PushPull) -> Result<HashMap<&'a [u8], Refusal>, Refusal> {
        // First, whoever of theirs does not fit: what follows would find that all the others do not fit it.
        let common = self.common(None);
        let mut but: HashMap<&[u8], [Common; 2]> = HashMap::new();
        let mut like_members = HashSet::new();
        let mut misfits = HashMap::new();
        for node in &remote.nodes {
            let Some(versions) = node.versions else { continue };
            let Err(refusal) = check(&node.name, versions, &common) else { continue };
            match node.state {
                NodeState::Alive if !like_members.contains(&versions) => {
                    // Only one that speaks like nobody else can be what it does not fit itself: these are few.
                    let common = but.entry(&node.name).or_insert_with(|| self.common(Some(&node.name)));
                    if check(&node.name, versions, common).is_err() {
                        self.check_compatible(&node.name, versions)?;
                        like_members.insert(versions);
                    }
                }
                NodeState::Suspect => drop(misfits.insert(&*node.name, refusal)),
                _ => {}
            }
        }
        let local = self.members.iter().map(|r| (r.name.as_bytes(), r.state() == MemberState::Alive, r.versions));
        let remote = remote.nodes.iter().map(|node| {
            (&*node.name, node.state == NodeState::Alive && node.versions.is_some(), node.versions.unwrap_or_default())
        });
        let everybody = || local.clone().chain(remote.clone());
        for (kind, at) in KINDS {
            let range = |(min, max), versions: Versions| (versions[at].max(min), versions[at + 1].min(max));
            let (min, max) = everybody().filter(|n| n.1).map(|n| n.2).fold((0, u8::MAX), range);
            for (name, _, versions) in everybody() {
                let version = versions[at + 2];
                if version < min || version > max {
                    return Err(Refusal::Incompatible { name: name.into(), kind, version, min, max });
                }
            }
        }
        Ok(misfits)
    }
}

/// Whether a node with these versions fits what members have in common.
fn check(name: &[u8], versions: Versions, common: &[Common; 2]) -> Result<(), Refusal> {
    for ((kind, at), common) in KINDS.into_iter().zip(common) {
        let [min, max, version] = [versions[at], versions[at + 1], versions[at + 2]];
        let (lowest, highest) = common.spoken;
        let deaf = |version| Refusal::Deaf { name: name.into(), kind, version, min, max };
        if lowest < min {
            return Err(deaf(lowest));
        }
        if highest > max {
            return Err(deaf(highest));
        }
        let (min, max) = (common.understood.0.max(min), common.understood.1.min(max));
        if !(min..=max).contains(&version) {
            return Err(Refusal::Incompatible { name: name.into(), kind, version, min, max });
        }
    }
    Ok(())
}
