#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| broadcast_gateway::fuzzing::authority(data));
