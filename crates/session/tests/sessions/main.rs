//! Sessions between real nodes, on loopback and from host to host, with somebody in between.

mod calls;
mod disturbed;
mod hostile;
mod keys;
mod members;
mod strangers;
mod support;
