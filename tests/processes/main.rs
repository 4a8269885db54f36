//! The program: its commands, clusters on loopback, its HTTP API, hostile peers, and the documents about it.

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod bad_input;
mod cli;
mod cluster;
mod crates;
mod documents;
mod follow;
mod health;
mod hostile;
mod http;
mod identity;
mod invented_members;
mod keys;
mod lock_api;
mod locks;
mod module_cycles;
mod settings;
mod silent_connections;
mod sim;
mod store;
mod terminal;
mod timeline;
mod tls;
