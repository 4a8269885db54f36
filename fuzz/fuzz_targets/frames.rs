#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| broadcast_session::fuzzing::man_in_the_middle(data));
