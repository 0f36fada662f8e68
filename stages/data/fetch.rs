//! Official files: from `--data`, from earlier downloads, or from their official addresses, and
//! never under a final name before every byte is there and the pinned digest is right.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use ureq::http::{StatusCode, header};

use crate::contract::{Interrupted, Job, Progress};

/// A file that its publisher never changes.
pub struct Remote {
    /// Name under which it is kept and looked for.
    pub name: &'static str,
    pub url: &'static str,
    /// SHA-256 in hexadecimal.
    pub sha256: &'static str,
    pub bytes: u64,
}

/// The first of `places` that exists below the folder of `--data`.
pub fn local(job: &Job, places: &[&str]) -> Option<PathBuf> {
    let data = job.spec().data.as_ref()?;
    places
        .iter()
        .map(|place| data.join(place))
        .find(|path| path.exists())
}

/// The file, verified: an earlier download, or a new one.
pub fn download(remote: &Remote, job: &mut Job) -> Result<PathBuf> {
    let folder = job.spec().downloads.clone();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join(remote.name);
    if path.exists() {
        check(&path, remote.sha256)?;
        return Ok(path);
    }
    let part = folder.join(format!("{}.part", remote.name));
    job.note(format!(
        "downloading {} ({} bytes)",
        remote.url, remote.bytes
    ));
    fetch(remote.url, &part, remote.bytes, Patience::default(), job).with_context(|| {
        format!(
            "could not download {}; hint: put {} into a folder and name it with --data",
            remote.url, remote.name
        )
    })?;
    if let Err(error) = check(&part, remote.sha256) {
        // Going on from wrong bytes would never end well.
        std::fs::remove_file(&part).with_context(|| part.display().to_string())?;
        return Err(error);
    }
    std::fs::rename(&part, &path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Fails, naming the file, unless it has this SHA-256.
pub fn check(path: &Path, expected: &str) -> Result<()> {
    let found = sha256(path)?;
    ensure!(
        found == expected,
        "{} has SHA-256 {found}, the official file has {expected}; hint: delete it and run again",
        path.display()
    );
    Ok(())
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

/// How often and how fast to try again.
struct Patience {
    tries: u32,
    /// Pause before the second try; it doubles each time.
    pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 6,
            pause: Duration::from_secs(1),
        }
    }
}

/// Downloads into `part`, going on from what is there. A try that got anywhere does not count.
fn fetch(url: &str, part: &Path, bytes: u64, patience: Patience, job: &mut Job) -> Result<()> {
    let (mut left, mut pause) = (patience.tries, patience.pause);
    loop {
        let before = size(part);
        let error = match attempt(url, part, bytes, job) {
            Ok(()) if size(part) == bytes => return Ok(()),
            Ok(()) => anyhow::anyhow!(
                "the connection closed after {} of {bytes} bytes",
                size(part)
            ),
            Err(error) if error.is::<Interrupted>() || error.is::<Final>() => return Err(error),
            Err(error) => error,
        };
        if size(part) > before {
            (left, pause) = (patience.tries, patience.pause);
        }
        left -= 1;
        if left == 0 {
            return Err(error);
        }
        job.note(format!("{error:#}; trying again"));
        std::thread::sleep(pause);
        pause *= 2;
    }
}

/// An answer that another try will not change.
#[derive(Debug)]
struct Final(String);

impl std::fmt::Display for Final {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Final {}

fn attempt(url: &str, part: &Path, bytes: u64, job: &mut Job) -> Result<()> {
    let agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .http_status_as_error(false)
        .build()
        .new_agent();
    let tag = part.with_extension("etag");
    let have = size(part);
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
        // Without a known version of the file a server could join halves of two.
        if let Ok(tag) = std::fs::read_to_string(&tag) {
            request = request.header(header::IF_RANGE, tag);
        }
    }
    let mut answer = request.call()?;
    let status = answer.status();
    let mut file = OpenOptions::new();
    match status {
        StatusCode::PARTIAL_CONTENT if have > 0 => file.append(true),
        StatusCode::OK => file.write(true).truncate(true),
        // Ours is longer than theirs: start over.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            std::fs::remove_file(part)?;
            bail!("{url} is shorter than the {have} bytes already here");
        }
        status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
            return Err(Final(format!("the server answered {status}")).into());
        }
        status => bail!("the server answered {status}"),
    };
    let mut file = file
        .create(true)
        .open(part)
        .with_context(|| part.display().to_string())?;
    if let Some(value) = answer
        .headers()
        .get(header::ETAG)
        .and_then(|v| v.to_str().ok())
    {
        std::fs::write(&tag, value)?;
    }
    let mut body = answer.body_mut().as_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        if job.should_stop() {
            return Err(Interrupted.into());
        }
        let n = body.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        file.write_all(&buffer[..n])?;
        let done = size(part);
        if done > bytes {
            std::fs::remove_file(part)?;
            return Err(Final(format!("the server sent more than {bytes} bytes")).into());
        }
        job.progress(Progress {
            done,
            total: bytes,
            unit: "byte".into(),
            ..Progress::default()
        });
    }
    file.sync_all()?;
    let _ = std::fs::remove_file(tag);
    Ok(())
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::testing::Bench;
    use crate::dataset::Dataset;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// Answers one connection after the other with the given bytes, and closes each; gives back
    /// the requests.
    fn server(answers: Vec<Vec<u8>>) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let answer = |bytes: Vec<u8>| {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let lines = lines.map_while(|l| l.ok().filter(|l| !l.is_empty()));
                let request = lines.collect::<Vec<_>>().join("\n").to_lowercase();
                stream.write_all(&bytes).unwrap();
                request
            };
            answers.into_iter().map(answer).collect()
        });
        (url, served)
    }

    /// Says that `length` bytes follow, and sends `body`.
    fn answer(status: &str, length: usize, headers: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    const BODY: &[u8] = b"0123456789abcdefghij";

    fn get(answers: Vec<Vec<u8>>, part: &Path) -> (Result<()>, Vec<String>) {
        let (url, served) = server(answers);
        let patience = Patience {
            tries: 3,
            pause: Duration::from_millis(1),
        };
        let (mut job, _) = Bench::new::<Dataset>(&[]).job(None);
        let got = fetch(&url, part, BODY.len() as u64, patience, &mut job);
        (got, served.join().unwrap())
    }

    #[test]
    fn a_broken_connection_is_taken_up_where_it_broke() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let part = dir.path().join("file.part");
        let tag = "ETag: \"v1\"\r\n";
        let rest = "ETag: \"v1\"\r\nContent-Range: bytes 8-19/20\r\n";
        let answers = vec![
            answer("200 OK", 20, tag, &BODY[..8]),
            answer("503 Service Unavailable", 0, "", b""),
            answer("206 Partial Content", 12, rest, &BODY[8..]),
        ];
        let (got, requests) = get(answers, &part);
        got?;
        assert_eq!(std::fs::read(&part)?, BODY);
        assert!(!requests[0].contains("range"), "{}", requests[0]);
        for request in &requests[1..] {
            assert!(request.contains("range: bytes=8-"), "{request}");
            assert!(request.contains("if-range: \"v1\""), "{request}");
        }
        Ok(())
    }

    #[test]
    fn a_file_that_changed_meanwhile_is_begun_again() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let part = dir.path().join("file.part");
        std::fs::write(&part, b"old half")?;
        let (got, _) = get(vec![answer("200 OK", 20, "", BODY)], &part);
        got?;
        assert_eq!(std::fs::read(&part)?, BODY);
        Ok(())
    }

    #[test]
    fn some_answers_end_it_and_some_do_after_a_while() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let part = dir.path().join("file.part");
        let (got, _) = get(vec![answer("404 Not Found", 0, "", b"")], &part);
        assert_eq!(
            got.unwrap_err().to_string(),
            "the server answered 404 Not Found"
        );
        let busy = || answer("500 Internal Server Error", 0, "", b"");
        let (got, requests) = get(vec![busy(), busy(), busy()], &part);
        assert_eq!(requests.len(), 3);
        assert_eq!(
            got.unwrap_err().to_string(),
            "the server answered 500 Internal Server Error"
        );
        let (got, _) = get(
            vec![answer("200 OK", 21, "", b"0123456789abcdefghijk")],
            &part,
        );
        assert_eq!(
            got.unwrap_err().to_string(),
            "the server sent more than 20 bytes"
        );
        assert!(!part.exists());
        Ok(())
    }

    #[test]
    fn wrong_bytes_never_get_the_final_name() -> Result<()> {
        let (url, served) = server(vec![
            answer("200 OK", 20, "", BODY),
            answer("200 OK", 20, "", BODY),
        ]);
        let remote = |sha256: String| Remote {
            name: "file",
            url: url.clone().leak(),
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
}
