//! The tests of build.rs, which Cargo does not run by itself.

#[allow(dead_code, reason = "Cargo runs main, tests do not")]
#[path = "../build.rs"]
mod build;
