//! Nodes on a virtual clock and network: the very same [`Node`](crate::node::Node) that the driver runs,
//! many at a time, with no sockets and no waiting. The same seed gives the same run.

mod adapter;
mod agenda;
#[cfg(test)]
mod cluster;
mod digest;
mod link;
mod network;
mod streams;
mod trace;

#[cfg(test)]
pub(crate) use self::cluster::Sim;
