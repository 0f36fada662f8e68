#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code, reason = "each target asks one thing")]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::pipeline(bytes));
