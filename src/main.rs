//! The `broadcast` program.
fn main() {}
