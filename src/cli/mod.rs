//! The commands of the `broadcast` program.

mod log;
mod name;
mod ptr;
