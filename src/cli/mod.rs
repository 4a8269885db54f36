//! The commands of the `broadcast` program.
