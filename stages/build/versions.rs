//! What this crate is compiled with, for the records of results.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Sets `REPRO_RUSTC` and `REPRO_CANDLE` for the crate, each where it is known.
pub fn tell(root: &Path) {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output();
    let said = said.ok().and_then(|o| String::from_utf8(o.stdout).ok());
    if let Some(version) = said.as_deref().and_then(|s| s.split_whitespace().nth(1)) {
        println!("cargo::rustc-env=REPRO_RUSTC={version}");
    }
    // A crate cannot ask for the versions that were chosen for it; outside of its workspace there
    // is no lock file beside it.
    let lock = root.join("../Cargo.lock");
    if let Ok(text) = fs::read_to_string(&lock) {
        println!("cargo::rerun-if-changed={}", lock.display());
        if let Some(version) = locked(&text, "candle-core") {
            println!("cargo::rustc-env=REPRO_CANDLE={version}");
        }
    }
}

fn locked<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1)?.strip_prefix("version = \"")?;
    version.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::locked;

    #[test]
    fn a_version_is_found_in_a_lock_file() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"ab\"\nversion = \"2.0.0\"\n";
        assert_eq!(locked(lock, "ab"), Some("2.0.0"));
        assert_eq!(locked(lock, "b"), None);
    }
}
