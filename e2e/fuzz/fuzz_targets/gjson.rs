#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lockstep::hostile::gjson_path(bytes));
