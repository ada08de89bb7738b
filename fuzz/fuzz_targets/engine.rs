#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kontiki_fuzz_targets::run("engine", bytes));
