//! The program is no library: what it reads is taken in here as it stands there.

#![no_main]
#![allow(dead_code)]

#[path = "../../src/commands/timeline/entry.rs"]
mod entry;
#[path = "../../src/commands/timeline/fuzzing.rs"]
mod fuzzing;
#[path = "../../src/commands/timeline/line.rs"]
mod line;
#[path = "../../src/visible.rs"]
mod visible;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::timeline(data));
