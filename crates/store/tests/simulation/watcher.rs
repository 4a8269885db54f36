//! Those who watch the keys, each at one voter first, and tell the history what they are told.

use std::{collections::BTreeMap, time::Duration};

use broadcast_store::{
    keys::{KeyRange, Watch, WatchEvent},
    node::Watcher,
};
use openraft::type_config::TypeConfigExt as _;

use crate::{
    network::{C, World},
    voter::now,
};

/// Watches all keys, at one voter first and, when that is gone, at any; as each revision is told, it is compared with
/// what others were told.
pub(crate) async fn observe(world: World, first: u64) {
    let mut next = 2;
    let mut at = first;
    let mut states = BTreeMap::new();
    loop {
        C::sleep(Duration::from_millis(20)).await;
        let Some(peer) = world.peer(at) else {
            at = if world.chance(500) { first } else { world.peers().first().map_or(first, |peer| peer.id) };
            continue;
        };
        let watch = Watch { keys: KeyRange::all(), start_revision: next, prev_kv: true, ..Watch::default() };
        let (mut watcher, _) = Watcher::begin(&peer.state, watch).expect("it can be watched");
        while world.lives(&peer) {
            let Ok(event) = C::timeout(Duration::from_millis(200), watcher.next()).await else { continue };
            if !world.lives(&peer) {
                break;
            }
            match event {
                WatchEvent::Changes { revision, events } => {
                    if revision != next {
                        world.fail(format!("at voter {at}, revision {next} should be told, and {revision} is"));
                    }
                    next = revision + 1;
                    world.lock().history.check_revision(first, revision, &events, now());
                }
                other => world.fail(format!("at voter {at}: {other:?}")),
            }
            let (index, hash) = peer.state.read(|replica, index| {
                (index, index.filter(|index| index.is_multiple_of(16)).map(|_| replica.state.hash()))
            });
            if let (Some(index), Some(hash)) = (index, hash)
                && states.insert(index, hash).is_none()
            {
                world.lock().history.check_state(at, index, hash);
            }
        }
        world.lock().history.watches += 1;
    }
}
