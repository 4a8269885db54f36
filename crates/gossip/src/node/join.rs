//! Joining, and finding back: each seed is looked for until it is a member, for ever.
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
//! A seed is a *member* when any address that its name last resolved to is that of a live member, or all
//! are this node's own. Members are looked after now and then, missing ones at once when a member is
//! lost, and again with a delay that doubles up to a limit, jittered. Names are resolved anew each time,
//! and every address is tried. So nodes may start in any order, seeds may come back at new addresses,
//! and the sides of a healed partition find each other as long as one has a seed on the other. As one
//! name may stand for nodes on both sides, those addresses of a member that are not live ones' are tried
//! too, more rarely, and nobody is bothered with what came of it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::RngExt;

use super::{Action, Event, Node, Timer};
use crate::{config::Seed, membership::Record};

/// The delay after the first failed attempt; it doubles with each.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// What the delay is limited to. Also how often a seed that is a member is looked after.
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// How often the name of a seed that is a member is resolved anew, and its other addresses are tried.
const REFRESH: Duration = Duration::from_secs(30);
/// Failures in a row from which the application is told, about a second after the first: nodes that are
/// started together find each other sooner than that.
const TOLD_FROM: u32 = 4;
/// How many addresses of one seed are tried in one attempt, chosen at random if there are more.
const MAX_ADDRESSES: usize = 32;

/// The seeds, by their place in the configuration.
#[derive(Debug)]
pub(super) struct Seeds {
    list: Vec<SeedState>,
    stopped: bool,
    /// Whether another live node was seen to have this node's name when last joining.
    name_taken: bool,
}

#[derive(Debug)]
struct SeedState {
    seed: Seed,
    /// What its name last resolved to.
    addrs: Vec<SocketAddr>,
    /// Failed attempts since the last success.
    failures: u32,
    /// When all its addresses were last found to be members', or tried.
    found: Option<Instant>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Waiting,
    LookingUp,
    /// Exchanges under way, whether one succeeded, and what went wrong last.
    Joining {
        pending: usize,
        joined: bool,
        reason: String,
    },
}

impl Seeds {
    pub(super) fn new(seeds: Vec<Seed>) -> Self {
        let state = |seed| SeedState { seed, addrs: Vec::new(), failures: 0, found: None, phase: Phase::Waiting };
        Self { list: seeds.into_iter().map(state).collect(), stopped: false, name_taken: false }
    }

    /// Looks for no seed any more.
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

    /// A member is gone; if it was a seed, it is looked for at once.
    pub(super) fn look_for_seeds(&mut self, now: Instant) {
        for index in 0..self.seeds.list.len() {
            if matches!(self.seeds.list[index].phase, Phase::Waiting) && !self.is_found(index) {
                let delay = FIRST_DELAY.mul_f64(self.rng.random_range(0.5..1.5));
                self.timers.set(Timer::Seed(index), now + delay);
            }
        }
    }

    /// Looks for a seed if it is missing.
    pub(super) fn check_seed(&mut self, now: Instant, index: usize) {
        if self.seeds.stopped || !matches!(self.seeds.list[index].phase, Phase::Waiting) {
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
        state.phase = Phase::LookingUp;
        self.actions.push_back(Action::Lookup { seed: state.seed.clone() });
    }

    fn is_member(&self, index: usize) -> bool {
        let me = self.me().addr();
        let addrs = &self.seeds.list[index].addrs;
        let live = |addr: &SocketAddr| *addr != me && self.is_live(*addr);
        addrs.iter().any(live) || (!addrs.is_empty() && addrs.iter().all(|addr| *addr == me))
    }

    /// Whether nothing is left to do about a seed. While this node's name is another's, there is: the seed
    /// may be a member, but this node is none to it.
    fn is_found(&self, index: usize) -> bool {
        self.is_member(index) && !self.seeds.name_taken
    }

    fn is_live(&self, addr: SocketAddr) -> bool {
        self.membership.find_addr(addr).is_some_and(Record::is_live)
    }

    fn wait_for_seed(&mut self, now: Instant, index: usize, delay: Duration) {
        self.seeds.list[index].phase = Phase::Waiting;
        self.timers.set(Timer::Seed(index), now + delay.mul_f64(self.rng.random_range(0.5..1.5)));
    }

    /// Takes the addresses that a name resolved to, or why it did not.
    pub fn handle_lookup(&mut self, now: Instant, seed: &Seed, result: Result<Vec<SocketAddr>, String>) {
        for index in 0..self.seeds.list.len() {
            let state = &self.seeds.list[index];
            if state.seed == *seed && matches!(state.phase, Phase::LookingUp) {
                self.join_seed(now, index, result.clone());
            }
        }
        if let Ok(found) = &result {
            self.check_own(now, seed, found);
        }
        self.settle(now);
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
        self.seeds.list[index].phase = Phase::Joining { pending: addrs.len(), joined: false, reason: String::new() };
        for addr in addrs {
            self.push_pull(now, addr, Some(index));
        }
    }

    /// An exchange of views with one address of a seed has ended.
    pub(super) fn end_join(&mut self, now: Instant, index: usize, result: Result<(), String>) {
        let Phase::Joining { pending, joined, reason } = &mut self.seeds.list[index].phase else { return };
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
        // That the name is taken was told as a conflict of names.
        if state.failures >= TOLD_FROM && !self.seeds.name_taken {
            self.events.push_back(Event::SeedUnreachable { seed: state.seed.clone(), reason });
        }
        self.wait_for_seed(now, index, LONGEST_DELAY.min(FIRST_DELAY * 2_u32.pow(doublings)));
    }
}
