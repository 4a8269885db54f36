//! Joining, and rejoining: each seed is looked for until it is a member, for ever.
//!
//! # States of a seed
//!
//! ```text
//!            timer, not a member                 names resolved
//!   waiting ─────────────────────► looking up ─────────────────────► joining
//!      ▲                               │ failed                         │ all exchanges ended
//!      └───────────────────────────────┴────────────────────────────────┘
//! ```
//!
//! A seed is a *member* when any address that its name last resolved to is a live member's, or all are this node's own. Seeds
//! that are members are checked now and then. Missing ones are looked for at once when a member is lost, and again with a
//! delay that doubles up to a limit, with jitter. Names are resolved again each time, and every address is tried. So nodes
//! may start in any order, seeds may come back at new addresses, and the sides of a healed partition find each other as
//! long as one has a seed on the other. As one name may stand for nodes on both sides, the other addresses of a seed that
//! is a member are tried, too, but less often and without reports of failures.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{Action, Event, Node, Timer};
use crate::{config::Seed, membership::Record};

/// The delay after the first failed attempt. It doubles with each.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay, and how often a seed is checked that is a member.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// How often the name of a seed that is a member is resolved again, and its other addresses are tried.
const REFRESH: Duration = Duration::from_secs(30);
/// From so many failures in a row on, the application is told. It takes about a second: nodes that are started together find
/// each other sooner.
const TOLD_FROM: u32 = 4;
/// How many addresses of one seed are tried in one attempt, chosen at random if there are more.
const MAX_ADDRESSES: usize = 32;

/// The seeds, by their index in the configuration.
#[derive(Debug)]
pub(super) struct Seeds {
    list: Vec<SeedState>,
    stopped: bool,
    /// Whether another live node had this node's name when it last joined.
    name_taken: bool,
}

#[derive(Debug)]
struct SeedState {
    seed: Seed,
    /// What its name last resolved to.
    addrs: Vec<SocketAddr>,
    /// Failed attempts since the last success.
    failures: u32,
    /// When all its addresses were last found to be members', or were tried.
    found: Option<Instant>,
    phase: SeedPhase,
}

#[derive(Debug)]
enum SeedPhase {
    Waiting,
    LookingUp,
    /// Push/pull exchanges under way, whether one has succeeded, and what went wrong last.
    Joining {
        pending: usize,
        joined: bool,
        reason: String,
    },
}

impl Seeds {
    pub(super) fn new(seeds: Vec<Seed>) -> Self {
        let state = |seed| SeedState { seed, addrs: Vec::new(), failures: 0, found: None, phase: SeedPhase::Waiting };
        Self { list: seeds.into_iter().map(state).collect(), stopped: false, name_taken: false }
    }

    /// Stops looking for seeds.
    pub(super) fn stop(&mut self) {
        self.stopped = true;
    }

    pub(super) fn name_taken(&self) -> bool {
        self.name_taken
    }

    pub(super) fn set_name_taken(&mut self, taken: bool) {
        self.name_taken = taken;
    }
}

impl Node {
    pub(super) fn start_joining(&mut self, now: Instant) {
        if self.seeds.list.is_empty() {
            self.set_ready();
        }
        for index in 0..self.seeds.list.len() {
            self.check_seed(now, index);
        }
    }

    /// Looks at once for the seeds that are not members: a member is gone, which may have been one.
    pub(super) fn look_for_seeds(&mut self, now: Instant) {
        for index in 0..self.seeds.list.len() {
            if matches!(self.seeds.list[index].phase, SeedPhase::Waiting) && !self.is_found(index) {
                let delay = FIRST_DELAY.mul_f64(self.rng.random_range(0.5..1.5));
                self.timers.set(Timer::Seed(index), now + delay);
            }
        }
    }

    /// Looks for a seed if it is missing.
    pub(super) fn check_seed(&mut self, now: Instant, index: usize) {
        if self.seeds.stopped || !matches!(self.seeds.list[index].phase, SeedPhase::Waiting) {
            return;
        }
        if self.is_found(index) {
            let state = &mut self.seeds.list[index];
            state.failures = 0;
            if state.found.is_some_and(|found| now.saturating_duration_since(found) < REFRESH) {
                self.wait_for_seed(now, index, LONGEST_DELAY);
                return;
            }
        }
        let state = &mut self.seeds.list[index];
        state.phase = SeedPhase::LookingUp;
        self.actions.push_back(Action::Lookup { seed: state.seed.clone() });
    }

    fn is_member(&self, index: usize) -> bool {
        let me = self.me().addr();
        let addrs = &self.seeds.list[index].addrs;
        let live = |addr: &SocketAddr| *addr != me && self.is_live(*addr);
        addrs.iter().any(live) || (!addrs.is_empty() && addrs.iter().all(|addr| *addr == me))
    }

    /// Whether nothing is left to do about a seed. While this node's name is another's, something is: the seed may be a member
    /// to this node, but not this node to the seed.
    fn is_found(&self, index: usize) -> bool {
        self.is_member(index) && !self.seeds.name_taken
    }

    fn is_live(&self, addr: SocketAddr) -> bool {
        self.membership.find_addr(addr).is_some_and(Record::is_live)
    }

    fn wait_for_seed(&mut self, now: Instant, index: usize, delay: Duration) {
        self.seeds.list[index].phase = SeedPhase::Waiting;
        self.timers.set(Timer::Seed(index), now + delay.mul_f64(self.rng.random_range(0.5..1.5)));
    }

    /// Takes the addresses that a name resolved to, or why it did not resolve.
    pub fn handle_lookup(&mut self, now: Instant, seed: &Seed, result: Result<Vec<SocketAddr>, String>) {
        for index in 0..self.seeds.list.len() {
            let state = &self.seeds.list[index];
            if state.seed == *seed && matches!(state.phase, SeedPhase::LookingUp) {
                self.join_seed(now, index, result.clone());
            }
        }
        if let Ok(found) = &result {
            self.handle_own_lookup(now, seed, found);
        }
        self.process_outputs(now);
    }

    fn join_seed(&mut self, now: Instant, index: usize, result: Result<Vec<SocketAddr>, String>) {
        if self.seeds.stopped {
            return;
        }
        let mut addrs = match result {
            Ok(addrs) if addrs.is_empty() => return self.miss_seed(now, index, "its name has no address".into()),
            Ok(addrs) => addrs,
            Err(reason) => return self.miss_seed(now, index, reason),
        };
        addrs.sort_unstable();
        addrs.dedup();
        self.seeds.list[index].addrs = addrs.clone();
        let (me, refused) = (self.me().addr(), self.seeds.name_taken);
        addrs.retain(|addr| *addr != me && (refused || !self.is_live(*addr)));
        if addrs.is_empty() {
            return self.find_seed(now, index);
        }
        while addrs.len() > MAX_ADDRESSES {
            let out = self.rng.random_range(0..addrs.len());
            addrs.swap_remove(out);
        }
        self.seeds.list[index].phase =
            SeedPhase::Joining { pending: addrs.len(), joined: false, reason: String::new() };
        for addr in addrs {
            self.push_pull(now, addr, Some(index));
        }
    }

    /// A push/pull exchange with one address of a seed has ended.
    pub(super) fn end_join(&mut self, now: Instant, index: usize, result: Result<(), String>) {
        let SeedPhase::Joining { pending, joined, reason } = &mut self.seeds.list[index].phase else { return };
        *pending -= 1;
        match result {
            Ok(()) => *joined = true,
            Err(error) => *reason = error,
        }
        if *pending > 0 {
            return;
        }
        if *joined {
            self.find_seed(now, index);
        } else {
            let reason = std::mem::take(reason);
            self.miss_seed(now, index, reason);
        }
    }

    fn find_seed(&mut self, now: Instant, index: usize) {
        let state = &mut self.seeds.list[index];
        (state.failures, state.found) = (0, Some(now));
        if !self.ready {
            self.set_ready();
        }
        self.wait_for_seed(now, index, LONGEST_DELAY);
    }

    fn miss_seed(&mut self, now: Instant, index: usize, reason: String) {
        if self.is_found(index) {
            return self.find_seed(now, index);
        }
        let state = &mut self.seeds.list[index];
        let doublings = state.failures.min(16);
        state.failures += 1;
        // That the name is taken was reported as a conflict of names.
        if state.failures >= TOLD_FROM && !self.seeds.name_taken {
            self.events.push_back(Event::SeedUnreachable { seed: state.seed.clone(), reason });
        }
        self.wait_for_seed(now, index, LONGEST_DELAY.min(FIRST_DELAY * 2_u32.pow(doublings)));
    }
}
