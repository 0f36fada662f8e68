//! The program behind `repro` in a build with CUDA: see main.rs.

fn main() -> std::process::ExitCode {
    repro::cmd::main(repro::pipeline::kinds::KINDS)
}
