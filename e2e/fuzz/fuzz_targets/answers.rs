#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockstep_providers::hostile::answers(bytes));
