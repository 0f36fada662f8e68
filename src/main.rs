//! Arguments in, exit code out.
//!
//! With CUDA this program only finds NVIDIA's libraries and becomes `repro-cuda`, which is linked
//! to them: otherwise a missing one would be the loader's to report, before our first line runs.

#[cfg(any(feature = "cuda", test))]
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "only tests use it"))]
mod cuda_loader;

#[cfg(feature = "cuda")]
fn main() -> std::process::ExitCode {
    cuda_loader::main()
}

#[cfg(not(feature = "cuda"))]
fn main() -> std::process::ExitCode {
    repro::cmd::main(repro::pipeline::kinds::KINDS)
}
