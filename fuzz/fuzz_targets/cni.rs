#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bocker_net::fuzz::cni(bytes));
