#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| broadcast_etcd::fuzzing::etcd(data));
