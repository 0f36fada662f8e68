//! Arguments in, exit code out; the only mention of the library's kinds.

fn main() -> std::process::ExitCode {
    repro::cmd::main(stages::STAGES)
}
