//! What goes wrong.

use crate::network::World;

/// What does it.
pub(crate) struct Nemesis {
    pub(crate) world: World,
    pub(crate) voters: u64,
}

impl Nemesis {
    pub(crate) fn leader(&self) -> Option<u64> {
        let peers = self.world.peers();
        peers.iter().find(|peer| peer.raft.is_leader()).map(|peer| peer.id)
    }

    /// The leader, or anybody.
    fn victim(&self) -> u64 {
        let any = 1 + self.world.below(self.voters);
        if self.world.chance(600) { self.leader().unwrap_or(any) } else { any }
    }

    fn cut(&self, cut: impl Fn(u64, u64) -> bool) {
        let all = 1..=self.voters;
        let pairs = all.clone().flat_map(|from| all.clone().map(move |to| (from, to)));
        self.world.lock().conditions.cut.extend(pairs.filter(|(from, to)| from != to && cut(*from, *to)));
    }

    fn power_off(&self, id: u64) {
        if let Some(peer) = self.world.peer(id) {
            peer.disk.end_after(0);
        }
    }

    /// One more thing goes wrong, until the network is well again.
    pub(crate) async fn fault(&self) {
        let world = &self.world;
        let victim = self.victim();
        match world.below(13) {
            // A crash in the middle of what the disk does.
            0 | 1 => {
                let steps = world.below(40);
                if let Some(peer) = world.peer(victim) {
                    peer.disk.end_after(steps);
                }
            }
            2 => self.power_off(victim),
            // The power goes off for all, or for most.
            3 | 4 => {
                let spared = world.below(2 * self.voters);
                (1..=self.voters).filter(|id| *id != spared).for_each(|id| self.power_off(id));
            }
            // Alone, both ways or one way.
            5 => self.cut(|from, to| from == victim || to == victim),
            6 => self.cut(|from, _| from == victim),
            7 => self.cut(|_, to| to == victim),
            // The victim is with fewer than half.
            8 => {
                let other = 1 + world.below(self.voters);
                let few = |id: u64| id == victim || self.voters > 3 && id == other;
                self.cut(|from, to| few(from) != few(to));
            }
            9 => (world.lock().conditions.lost, world.lock().conditions.doubled) = (150, 100),
            10 => drop(world.lock().conditions.sync.insert(victim, 400)),
            // A change of leaders, with voters that do not outlive their votes.
            11 => {
                world.lock().conditions.fatal_votes = 50;
                self.power_off(self.leader().unwrap_or(victim));
            }
            _ => {
                let next = 1 + world.below(self.voters);
                if let Some(leader) = self.leader().and_then(|leader| world.peer(leader)) {
                    let _ = leader.raft.trigger().transfer_leader(next).await;
                }
            }
        }
    }
}
