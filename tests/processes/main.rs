//! The real program: its commands, clusters of its processes on loopback, its HTTP API, those who mean it harm, and
//! the documents about it.

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod bad_input;
mod circles;
mod cli;
mod cluster;
mod crates;
mod documents;
mod follow;
mod health;
mod hostile;
mod http;
mod identity;
mod keys;
mod lock_api;
mod locks;
mod made_up;
mod settings;
mod silent;
mod sim;
mod store;
mod terminal;
mod timeline;
mod tls;
