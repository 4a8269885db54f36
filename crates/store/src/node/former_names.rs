//! Former names, for programs that still have them.

use super::{LeaseList, ReadRequest, StoreConfig, StoreStats, VoterChange};

/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `StoreConfig`")]
pub type Config = StoreConfig;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `VoterChange`")]
pub type Change = VoterChange;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `ReadRequest`")]
pub type Read = ReadRequest;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `StoreStats`")]
pub type Figures = StoreStats;
/// Renamed.
#[doc(hidden)]
#[deprecated(note = "renamed to `LeaseList`")]
pub type FoundLeases = LeaseList;
