//! Official files: from `--data`, from earlier downloads, or from their official addresses, and
//! never under a final name before every byte is there and the pinned digest is right.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use contract::{Interrupted, Job};
use sha2::{Digest, Sha256};

use super::download::{Patience, fetch};
use super::guess;

/// A file that its publisher never changes.
pub struct Remote {
    /// Name under which it is kept and looked for.
    pub name: &'static str,
    pub url: &'static str,
    /// Another host of the same bytes, asked if the first fails.
    pub mirror: Option<&'static str>,
    /// SHA-256 in hexadecimal.
    pub sha256: &'static str,
    pub bytes: u64,
}

/// The first of `places` that exists below the folder of `--data`. A folder that is not there is an error, and one that
/// holds none of them is said: a download may come next.
pub fn local(job: &mut Job, places: &[&str]) -> Result<Option<PathBuf>> {
    let Some(data) = job.spec().data.clone() else {
        return Ok(None);
    };
    ensure!(
        data.is_dir(),
        "--data {}: there is no such folder; hint: is it spelled right, and mounted?",
        data.display()
    );
    let found = places
        .iter()
        .map(|place| data.join(place))
        .find(|path| path.exists());
    if found.is_none() {
        job.note(format!(
            "--data {} holds no {}",
            data.display(),
            places.join(", no ")
        ));
    }
    Ok(found)
}

/// The file, verified: an earlier download, or a new one.
pub fn download(remote: &Remote, job: &mut Job) -> Result<PathBuf> {
    let folder = job.spec().downloads.clone();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(remote.name);
    if path.exists() {
        remote.check(&path)?;
        return Ok(path);
    }
    let part = folder.join(format!("{}.part", remote.name));
    let mut got = get(remote.url, remote, &part, job);
    if let (Err(error), Some(mirror)) = (&got, remote.mirror)
        && !error.is::<Interrupted>()
    {
        job.note(format!("{error:#}"));
        got = get(mirror, remote, &part, job);
    }
    got?;
    if let Err(error) = remote.check(&part) {
        // Going on from wrong bytes would never end well.
        std::fs::remove_file(&part).with_context(|| part.display().to_string())?;
        return Err(error);
    }
    std::fs::rename(&part, &path).with_context(|| path.display().to_string())?;
    Ok(path)
}

fn get(url: &str, remote: &Remote, part: &Path, job: &mut Job) -> Result<()> {
    job.note(format!("downloading {url} ({} bytes)", remote.bytes));
    fetch(url, part, remote.bytes, Patience::default(), job).with_context(|| {
        format!(
            "could not download {url}; hint: put {} into a folder and name it with --data",
            remote.name
        )
    })
}

impl Remote {
    /// Fails, naming the file, unless these are its bytes: all of them, and with the pinned digest.
    pub fn check(&self, path: &Path) -> Result<()> {
        let name = path.display();
        let length = std::fs::metadata(path)
            .with_context(|| name.to_string())?
            .len();
        let again = "hint: delete it and run again";
        if length != self.bytes {
            let mut start = vec![];
            File::open(path)
                .with_context(|| format!("cannot open {name}"))?
                .take(512)
                .read_to_end(&mut start)?;
            let other = guess::other(&start)
                .and_then(|other| Some(other.split_once("; hint")?.0.to_string()));
            // Official files are archives themselves.
            let other = other.filter(|other| !other.ends_with("archive"));
            bail!(
                "{name} has {length} bytes, the official file has {}{}; {again}",
                self.bytes,
                other.map(|other| format!(": {other}")).unwrap_or_default()
            );
        }
        let found = sha256(path)?;
        ensure!(
            found == self.sha256,
            "{name} has SHA-256 {found}, the official file has {}; {again}",
            self.sha256
        );
        Ok(())
    }
}

/// SHA-256 of a file in hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file
            .read(&mut buffer)
            .with_context(|| path.display().to_string())?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
    }
}

pub fn sha256_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::download::testing::{BODY, answer, server};
    use super::*;
    use crate::dataset::Dataset;
    use contract::testing::Bench;

    #[test]
    fn wrong_bytes_never_get_the_final_name() -> Result<()> {
        let (url, served) = server(vec![
            answer("200 OK", 20, "", BODY),
            answer("200 OK", 20, "", BODY),
        ]);
        let remote = |sha256: String| Remote {
            name: "file",
            url: url.clone().leak(),
            mirror: None,
            sha256: sha256.leak(),
            bytes: 20,
        };
        let bench = Bench::new::<Dataset>(&[]);
        let (mut job, _) = bench.job(None);
        let folder = job.spec().downloads.clone();
        let error = download(&remote(sha256_of(b"other")), &mut job)
            .unwrap_err()
            .to_string();
        assert!(error.contains("file.part has SHA-256"), "{error}");
        assert_eq!(std::fs::read_dir(&folder)?.count(), 0);

        let path = download(&remote(sha256_of(BODY)), &mut job)?;
        assert_eq!(std::fs::read(&path)?, BODY);
        served.join().unwrap();
        // From now on without the network, and not if it was damaged.
        assert_eq!(download(&remote(sha256_of(BODY)), &mut job)?, path);
        std::fs::write(&path, b"damaged")?;
        let error = download(&remote(sha256_of(BODY)), &mut job)
            .unwrap_err()
            .to_string();
        assert!(error.contains("hint: delete it and run again"), "{error}");
        Ok(())
    }
    /// A host that sends a page instead of the file, and another that has it.
    #[test]
    fn a_mirror_is_asked_where_the_first_host_fails() -> Result<()> {
        let page = answer("200 OK", 5, "Content-Type: text/html\r\n", b"quota");
        let (first, asked) = server(vec![page]);
        let (second, _) = server(vec![answer("200 OK", 20, "", BODY)]);
        let remote = Remote {
            name: "file",
            url: first.leak(),
            mirror: Some(second.leak()),
            sha256: sha256_of(BODY).leak(),
            bytes: 20,
        };
        let (mut job, said) = Bench::new::<Dataset>(&[]).job(None);
        assert_eq!(std::fs::read(download(&remote, &mut job)?)?, BODY);
        assert_eq!(asked.join().unwrap().len(), 1);
        let said = String::from_utf8(said.lock().unwrap().clone())?;
        assert!(said.contains("a web page and not with the file"), "{said}");
        Ok(())
    }
}
