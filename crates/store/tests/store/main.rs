//! The replicated state, through what the crate shows.

mod anew;
mod clients;
mod counter;
mod hostile;
mod keys;
mod leases;
mod machines;
mod model;
mod properties;
mod snapshots;
mod steps;
mod support;
mod transactions;
mod watches;
