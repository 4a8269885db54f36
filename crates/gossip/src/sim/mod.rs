//! A deterministic simulator: the same [`Node`](crate::node::Node)s that the driver runs, many at a time, on a virtual clock and
//! network with injected faults. A checker looks at every step. The same seed always produces the same run. [`RunControl`] has an
//! example.
//!
//! | module | contents |
//! |---|---|
//! | `network`, `event_queue`, `link` | the virtual network, a discrete-event simulation |
//! | `scenario`, `fault_schedule` | the description of a run, and the faults to inject |
//! | `random` | random scenarios |
//! | `run` | one run of a scenario |
//! | `checker`, `range_set` | what must hold in every run |
//! | `outcome`, `histogram` | results and reports |
//! | `batch` | many runs at once |
//! | [`lifeguard`] | the experiments of the Lifeguard paper |
//! | `cluster` | clusters for unit tests |

mod batch;
mod checker;
#[cfg(test)]
mod cluster;
mod digest;
mod event_queue;
mod fault_schedule;
mod histogram;
pub mod lifeguard;
mod link;
mod network;
mod outcome;
mod random;
mod range_set;
mod run;
mod scenario;
#[cfg(test)]
mod tests;
mod trace;

pub use self::{
    batch::{Batch, Job},
    outcome::{RunEnd, RunOutcome, RunStats, Violation, table},
    random::RandomScenario,
    run::RunControl,
    scenario::{DEFAULT, MAX_SIZE, Scenario, ScenarioError, parse_seeds},
};
#[cfg(test)]
pub(crate) use self::{cluster::Sim, network::Notification};

/// Public names that were changed, for programs that use them still.
mod former_names {
    #[doc(hidden)]
    #[deprecated(note = "now `RunControl`")]
    pub type Control = super::RunControl;

    #[doc(hidden)]
    #[deprecated(note = "now `RunEnd`")]
    pub type End = super::RunEnd;

    #[doc(hidden)]
    #[deprecated(note = "now `RunStats`")]
    pub type Figures = super::RunStats;

    #[doc(hidden)]
    #[deprecated(note = "now `RunOutcome`")]
    pub type Outcome = super::RunOutcome;

    #[doc(hidden)]
    #[deprecated(note = "now `RandomScenario`")]
    pub type Random = super::RandomScenario;
}

use self::checker::Guarantees;
pub use self::former_names::*;

/// What nodes guarantee.
const GUARANTEES: Guarantees = Guarantees { complete: true, ordered: true };
