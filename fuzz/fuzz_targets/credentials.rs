#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bocker_pull::fuzz::credentials(bytes));
