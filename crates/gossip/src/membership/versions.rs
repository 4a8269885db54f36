//! Whether nodes understand each other's protocol versions: memberlist's `verifyProtocol`.
//!
//! There are two protocols, memberlist's own and its delegate's. Of each, all members must speak a version that all live
//! ones understand. A member that does not would make every later exchange of views fail, between any two nodes.
//!
//! The check of a view takes time proportional to its records and the members, whatever is in it. What members have in
//! common is worked out once. It is worked out again only for a record that does not fit, and only without the member
//! that the record is about: the member's old versions may be what its new ones do not fit.

use std::collections::{HashMap, HashSet};

use super::{MemberState, Membership, MembershipError};
use crate::wire::{NodeState, PushPull, Versions};

/// The protocols, and the index in [`Versions`] of what a node understands of each: min, max, and the one it speaks.
const PROTOCOL_KINDS: [(&str, usize); 2] = [("protocol", 0), ("delegate protocol", 3)];

/// What members have in common in one protocol.
#[derive(Clone, Copy, Debug)]
struct CommonVersions {
    /// What every live member understands: min and max.
    understood: (u8, u8),
    /// The lowest and the highest version that any member speaks.
    spoken: (u8, u8),
}

impl Membership {
    /// What all members have in common, `except` one, in each protocol.
    fn common_versions(&self, except: Option<&[u8]>) -> [CommonVersions; 2] {
        PROTOCOL_KINDS.map(|(_, at)| {
            let mut common = CommonVersions { understood: (0, u8::MAX), spoken: (u8::MAX, 0) };
            for record in self.members.iter() {
                let versions = record.versions;
                if record.state() == MemberState::Alive {
                    let (min, max) = common.understood;
                    common.understood = (min.max(versions[at]), max.min(versions[at + 1]));
                }
                if except != Some(record.name.as_bytes()) {
                    let (low, high) = common.spoken;
                    common.spoken = (low.min(versions[at + 2]), high.max(versions[at + 2]));
                }
            }
            common
        })
    }

    /// Checks whether a node with these versions and all other members understand each other.
    pub(super) fn check_compatible(&self, name: &[u8], versions: Versions) -> Result<(), MembershipError> {
        // Another member with the same versions was checked before.
        if self.members.iter().any(|record| record.versions == versions) {
            return Ok(());
        }
        check_overlap(name, versions, &self.common_versions(Some(name)))
    }

    /// Checks whether all members of both views speak versions that all live ones understand, and all that are alive in the
    /// other view understand this one's. Gives the suspected ones that do not, which are to be passed over.
    pub(super) fn check_versions<'a>(
        &self,
        remote: &'a PushPull,
    ) -> Result<HashMap<&'a [u8], MembershipError>, MembershipError> {
        // First the nodes of theirs that do not fit: the check below would blame all others instead.
        let common = self.common_versions(None);
        let mut without_member: HashMap<&[u8], [CommonVersions; 2]> = HashMap::new();
        let mut like_members = HashSet::new();
        let mut misfits = HashMap::new();
        for node in &remote.nodes {
            let Some(versions) = node.versions else { continue };
            let Err(error) = check_overlap(&node.name, versions, &common) else { continue };
            match node.state {
                NodeState::Alive if !like_members.contains(&versions) => {
                    // Only a member whose versions nobody else has can be what its own record does not fit: these are few.
                    let common =
                        without_member.entry(&node.name).or_insert_with(|| self.common_versions(Some(&node.name)));
                    if check_overlap(&node.name, versions, common).is_err() {
                        self.check_compatible(&node.name, versions)?;
                        like_members.insert(versions);
                    }
                }
                NodeState::Suspect => drop(misfits.insert(&*node.name, error)),
                _ => {}
            }
        }
        let local = self.members.iter().map(|r| (r.name.as_bytes(), r.state() == MemberState::Alive, r.versions));
        let remote = remote.nodes.iter().map(|node| {
            (&*node.name, node.state == NodeState::Alive && node.versions.is_some(), node.versions.unwrap_or_default())
        });
        let everybody = || local.clone().chain(remote.clone());
        for (kind, at) in PROTOCOL_KINDS {
            let range = |(min, max), versions: Versions| (versions[at].max(min), versions[at + 1].min(max));
            let (min, max) = everybody().filter(|n| n.1).map(|n| n.2).fold((0, u8::MAX), range);
            for (name, _, versions) in everybody() {
                let version = versions[at + 2];
                if version < min || version > max {
                    return Err(MembershipError::IncompatibleVersion { name: name.into(), kind, version, min, max });
                }
            }
        }
        Ok(misfits)
    }
}

/// Checks whether a node with these versions fits what members have in common.
fn check_overlap(name: &[u8], versions: Versions, common: &[CommonVersions; 2]) -> Result<(), MembershipError> {
    for ((kind, at), common) in PROTOCOL_KINDS.into_iter().zip(common) {
        let [min, max, version] = [versions[at], versions[at + 1], versions[at + 2]];
        let (lowest, highest) = common.spoken;
        let not_understood =
            |version| MembershipError::VersionNotUnderstood { name: name.into(), kind, version, min, max };
        if lowest < min {
            return Err(not_understood(lowest));
        }
        if highest > max {
            return Err(not_understood(highest));
        }
        let (min, max) = (common.understood.0.max(min), common.understood.1.min(max));
        if !(min..=max).contains(&version) {
            return Err(MembershipError::IncompatibleVersion { name: name.into(), kind, version, min, max });
        }
    }
    Ok(())
}
