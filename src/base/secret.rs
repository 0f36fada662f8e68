//! Values of variables that may be secrets. A manifest must tell a changed value from the same one,
//! and nobody who reads the store, a page or an archive may learn it: so it holds a digest under a key
//! that stays in the store. Without the key, a short password could be found by trying.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::base::digest::Digest;
use crate::base::read;

/// The key of one store.
#[derive(Clone, Copy, Default)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// Its name in a store.
pub const NAME: &str = "key";

impl Key {
    /// The store's key. One that is not there yet has been used for no result.
    pub fn of(root: &Path) -> Self {
        let text = read::own_text(&root.join(NAME), 1 << 10).unwrap_or_default();
        text.trim()
            .parse::<Digest>()
            .map_or_else(|_| Self::default(), |digest| Self(digest.0))
    }

    /// Makes one where there is none, in the store's turn. Who may write in the store has to read it: else
    /// their secrets would count under another key.
    pub fn make(root: &Path) -> io::Result<()> {
        let path = root.join(NAME);
        if fs::symlink_metadata(&path).is_ok() {
            return Ok(());
        }
        let shared = fs::metadata(root).is_ok_and(|meta| meta.mode() & 0o020 != 0);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(if shared { 0o640 } else { 0o600 })
            .open(&path)?;
        writeln!(file, "{}", Digest(random())).inspect_err(|_| {
            // Half a key would be taken for none for good.
            let _ = fs::remove_file(&path);
        })
    }

    pub fn digest(&self, value: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.0, value).as_bytes())
    }
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err() {
        // The standard library asks the kernel in another way.
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
        }
    }
    bytes
}

/// What begins a line that holds a digest in the place of a value.
pub const MARK: &str = "secret ";

/// How a manifest tells a variable's value: in clear, or by its digest if it may be a secret.
pub fn told(name: &str, value: &str, clear: String, key: &Key) -> String {
    match is_secret(name, value) {
        true => format!("{MARK}{}", &key.digest(value.as_bytes()).to_string()[..32]),
        false => clear,
    }
}

/// True by the name, or because the value is an address with a password in it.
fn is_secret(name: &str, value: &str) -> bool {
    const WORDS: [&str; 16] = [
        "TOKEN",
        "KEY",
        "SECRET",
        "PASS",
        "PWD",
        "CRED",
        "AUTH",
        "PRIVATE",
        "COOKIE",
        "SESSION",
        "SIGNATURE",
        "CERT",
        "DSN",
        "JWT",
        "BEARER",
        "WEBHOOK",
    ];
    let name = name.to_uppercase();
    let part = |word: &str| name.split('_').any(|part| part == word);
    let password = |value: &str| {
        let authority = value.split_once("://").map(|(_, rest)| rest);
        let authority = authority.and_then(|rest| rest.split('/').next());
        authority.is_some_and(|a| {
            a.rsplit_once('@')
                .is_some_and(|(user, _)| user.contains(':'))
        })
    };
    WORDS.iter().any(|word| name.contains(word)) || part("PAT") || part("PIN") || password(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names_or_by_a_password_in_an_address() {
        for name in [
            "HF_TOKEN",
            "wandb_api_key",
            "AWS_SECRET_ACCESS_KEY",
            "DB_PASSWORD",
            "GITHUB_PAT",
            "PGPASSFILE",
        ] {
            assert!(is_secret(name, "x"), "{name}");
        }
        for name in [
            "MODE",
            "PATH",
            "LANG",
            "PYTHONPATH",
            "CUDA_VISIBLE_DEVICES",
            "OMP_NUM_THREADS",
        ] {
            assert!(!is_secret(name, "https://host/a:b@c"), "{name}");
        }
        assert!(is_secret("DATABASE_URL", "postgres://me:pw@host/db"));
    }

    #[test]
    fn a_digest_depends_on_the_store_and_tells_nothing() -> io::Result<()> {
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let told = |dir: &Path| {
            Key::make(dir)?;
            Ok::<_, io::Error>(told(
                "A_TOKEN",
                "hunter2",
                "\"hunter2\"".into(),
                &Key::of(dir),
            ))
        };
        let (a, b) = (told(one.path())?, told(two.path())?);
        assert!(
            a.starts_with(MARK) && a != b && !a.contains("hunter2"),
            "{a} {b}"
        );
        assert_eq!(a, told(one.path())?, "the key stays");
        Ok(())
    }
}
