//! What is on disk, on real files and on a disk in memory that forgets what was not synced.

mod cluster;
mod folders;
mod log_crash;
mod log_faults;
mod random;
mod snapshot_pace;
mod snapshots;
mod suite;
mod table;
