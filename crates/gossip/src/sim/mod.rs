//! Nodes on a virtual clock and network: the very same [`Node`](crate::node::Node)s that the driver runs,
//! many at a time, with no sockets and no waiting. The same seed gives the same run.
//!
//! | module | holds |
//! |---|---|
//! | `network`, `agenda`, `link` | the virtual network |
//! | `scenario`, `faults` | what a run is of, and what goes wrong in it |
//! | `random` | scenarios that are made from a number |
//! | `run` | one run of a scenario |
//! | `checker`, `ranges` | what must hold in every run |
//! | `figures`, `histogram` | what came of it |
//! | `batch` | many runs at once |
//! | `lifeguard` | slow members, and what the others make of them |

mod agenda;
mod batch;
mod checker;
#[cfg(test)]
mod cluster;
mod digest;
mod faults;
mod figures;
mod histogram;
pub mod lifeguard;
mod link;
mod network;
mod random;
mod ranges;
mod run;
mod scenario;
#[cfg(test)]
mod tests;
mod trace;

pub use self::{
    batch::{Batch, Job},
    figures::{End, Figures, Outcome, Violation, table},
    random::Random,
    run::Control,
    scenario::{DEFAULT, MAX_SIZE, Scenario, ScenarioError, parse_seeds},
};
#[cfg(test)]
pub(crate) use self::{cluster::Sim, network::Notification};

use self::checker::Promises;

/// What nodes promise of messages.
const KEPT: Promises = Promises { complete: true, ordered: true };
