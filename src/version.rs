//! What `broadcast --version` prints. `build.rs` finds out the commit and the target.

/// The version with the commit, like `0.1.0 (1f0e9d8c7b6a)`; without it, if nobody knew it when the program was built.
pub(crate) const SHORT: &str = env!("VERSION_AND_COMMIT");

/// The same with the target of the build, and with what is built in.
pub(crate) const LONG: &str = concat!(
    env!("VERSION_AND_COMMIT"),
    "\ntarget    ",
    env!("BUILD"),
    "\nfeatures  memberlist, serf, store, locks, etcd, http2, tls, sim"
);
