//! The settings of the program: each has its flag, variable, default, check and help in one place.

pub(crate) mod access;
pub(crate) mod client;
pub(crate) mod envelope;
pub(crate) mod http;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod name;
pub(crate) mod node;
mod size;
pub(crate) mod values;
