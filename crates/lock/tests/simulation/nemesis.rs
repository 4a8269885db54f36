//! When something goes wrong, and what has to be so once everything is well again.

use std::time::Duration;

use broadcast_store::machine::{LeaseEndReason, Machines};
use futures_util::future::join_all;
use openraft::{async_runtime::WatchReceiver as _, type_config::TypeConfigExt as _};

use crate::{
    client,
    faults::Nemesis,
    journal::{self, RecordingLocks},
    network::{C, NetworkConditions, World},
    random::Random,
    voter::{found, now},
};

/// How many clients there are.
const CLIENTS: usize = 8;

impl Nemesis {
    fn check(&self) {
        let failures = [self.world.lock().history.failures(), &journal::problems()].concat();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    /// All voters have the same, and nothing is left of any client.
    async fn until_equal(&self) {
        let (began, world) = (now(), &self.world);
        loop {
            self.check();
            let states: Vec<_> = world
                .peers()
                .iter()
                .map(|peer| {
                    let failure = peer.raft.metrics().borrow_watched().running_state.clone().err();
                    assert!(failure.is_none(), "{failure:?}");
                    peer.state.read(|replica, at| {
                        let locks = replica.state.machine::<RecordingLocks>().map(|locks| locks.locks.counts());
                        (at, replica.state.hash(), replica.state.leases().len(), locks)
                    })
                })
                .collect();
            let are_equal = states.len() as u64 == self.voters && states.iter().all(|state| *state == states[0]);
            if are_equal && matches!(states.first(), Some((_, _, 0, Some((0, 0, 0))))) {
                return;
            }
            assert!(
                now() < began + Duration::from_secs(40),
                "all should be equal, and nobody hold a lock: {states:?}, leader {:?}",
                self.leader()
            );
            C::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Compares the voters' whole states, whenever two of them are as far.
async fn compare(world: World) {
    loop {
        C::sleep(Duration::from_millis(100)).await;
        for peer in world.peers() {
            let (index, hash) = peer.state.read(|replica, index| (index, replica.state.hash()));
            if let Some(index) = index {
                world.lock().history.check_state(peer.id, index, hash);
            }
        }
    }
}

/// Gives what has happened, in numbers.
pub(crate) async fn scenario(seed: u64) -> [u64; 10] {
    drop(journal::take());
    let mut random = Random::new(seed);
    let voters = if random.below(4) == 0 { 5 } else { 3 };
    let rounds = 3 + random.below(3);
    let world = World::new(random, Machines::default().with(RecordingLocks::machine));
    let nemesis = Nemesis { world: world.clone(), voters };
    found(&world, voters).await;
    drop(C::spawn(compare(world.clone())));
    let clients: Vec<_> = (0..CLIENTS).map(|_| C::spawn(client::run(world.clone(), voters))).collect();
    C::sleep(Duration::from_secs(3)).await;
    for _ in 0..rounds {
        nemesis.fault().await;
        // Two at a time, now and then.
        if world.chance(300) {
            C::sleep(Duration::from_millis(world.below(1000))).await;
            nemesis.fault().await;
        }
        C::sleep(Duration::from_millis(world.below(8000))).await;
        world.lock().conditions = NetworkConditions::normal();
        C::sleep(Duration::from_millis(world.below(5000))).await;
        nemesis.check();
    }
    world.lock().done = true;
    world.lock().history.calm_since = Some(now());
    for finished in join_all(clients).await {
        finished.expect("a client does not panic");
    }
    nemesis.until_equal().await;
    let journal = journal::take();
    let mut inner = world.lock();
    let log = inner.history.check(&journal);
    assert!(inner.history.failures().is_empty(), "{:#?}", inner.history.failures());
    let register = &inner.history.register;
    let expired = log.ended.values().filter(|(why, _)| *why == LeaseEndReason::Expired).count();
    [
        journal.steps.len() as u64,
        log.grants.iter().map(Vec::len).sum::<usize>() as u64,
        log.waited.len() as u64,
        log.forced.len() as u64,
        expired as u64,
        register.accepted,
        register.refused,
        inner.crashes,
        inner.leaders.len() as u64,
        inner.installed,
    ]
}
