//! Results that `gc` keeps under a name of a person's: a file a name, in `pins/`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::base::digest::Fingerprint;
use crate::base::read;

/// The folder in the store.
pub(super) const PINS: &str = "pins";

/// What is kept, and of what it was the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pin {
    #[serde(skip_deserializing)]
    pub name: String,
    pub at: String,
    pub profile: String,
    #[serde(default)]
    pub set: Vec<String>,
    /// As they were named; everything if there are none.
    #[serde(default)]
    pub stages: Vec<String>,
    pub results: Vec<Fingerprint>,
}

/// Letters that a name may have besides letters and digits.
const ALSO: &str = "-_.+@";
const LONGEST: usize = 100;

/// True for a name that is a file's and prints.
pub fn is_name(name: &str) -> bool {
    let usual = |c: char| c.is_alphanumeric() || ALSO.contains(c);
    let begins = name.starts_with(char::is_alphanumeric);
    begins && name.len() <= LONGEST && name.chars().all(usual)
}

/// All of them, by name. One that cannot be read is an error: nobody knows what it keeps.
pub fn all(root: &Path) -> io::Result<Vec<Pin>> {
    let folder = root.join(PINS);
    let entries = match fs::read_dir(&folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_name(&name) {
            let wrong = |e: io::Error| io::Error::new(e.kind(), format!("{name}: {e}"));
            let text = read::own_bytes(&folder.join(&name), read::TOLD).map_err(wrong)?;
            let pin = serde_json::from_slice::<Pin>(&text).map_err(|e| wrong(e.into()))?;
            all.push(Pin { name, ..pin });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// Writes a new one. Needs the lock, shared, so that `gc` is not about to remove what it keeps.
pub fn add(root: &Path, pin: &Pin) -> io::Result<()> {
    let folder = root.join(PINS);
    match fs::create_dir(&folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let mut file = super::new_file(&folder)?;
    file.write_all(&serde_json::to_vec_pretty(pin)?)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(place(root, &pin.name))
        .map_err(|e| e.error)?;
    super::durable::sync_folder(&folder)
}

pub fn remove(root: &Path, name: &str) -> io::Result<()> {
    fs::remove_file(place(root, name))
}

pub fn exists(root: &Path, name: &str) -> bool {
    read::open_own(OpenOptions::new().read(true), &place(root, name)).is_ok()
}

fn place(root: &Path, name: &str) -> PathBuf {
    root.join(PINS).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_file_and_prints() {
        for name in ["v1", "paper-2026", "a.b_c", "Grün"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", ".x", "-x", "a/b", "a b", "a\n", "a\u{202e}b"] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        assert_eq!(all(dir.path())?, []);
        let pin = Pin {
            name: "v1".into(),
            at: "now".into(),
            profile: "quick".into(),
            set: Vec::new(),
            stages: Vec::new(),
            results: vec![Fingerprint::of("x")],
        };
        add(dir.path(), &pin)?;
        assert!(add(dir.path(), &pin).is_err(), "it is there");
        assert_eq!(all(dir.path())?, [pin]);
        fs::write(place(dir.path(), "v2"), "{")?;
        assert!(all(dir.path()).is_err_and(|e| e.to_string().starts_with("v2: ")));
        remove(dir.path(), "v2")?;
        assert_eq!(all(dir.path())?.len(), 1);
        Ok(())
    }
}
