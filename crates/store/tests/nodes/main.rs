//! The store on real nodes, sockets and disks.

mod backups;
mod basics;
#[path = "../store/counter.rs"]
mod counter;
mod support;
mod upgrade;
mod voters;
