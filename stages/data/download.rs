//! Downloads that go on where they broke off.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use contract::{Interrupted, Job, Progress};
use ureq::Body;
use ureq::http::{Response, StatusCode, header};

/// How often and how fast to try again.
pub struct Patience {
    pub tries: u32,
    /// Pause before the second try; it doubles each time.
    pub pause: Duration,
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
pub fn fetch(url: &str, part: &Path, bytes: u64, patience: Patience, job: &mut Job) -> Result<()> {
    for path in [part, &part.with_extension("etag")] {
        // We make none; what it leads to would be written over.
        if path.is_symlink() {
            std::fs::remove_file(path)?;
        }
    }
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
        StatusCode::OK => {
            refuse(&answer, bytes)?;
            file.write(true).truncate(true)
        }
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

/// Some hosts answer with a page (a quota, a warning about viruses, a login) where a file was.
fn refuse(answer: &Response<Body>, bytes: u64) -> Result<()> {
    let headers = answer.headers();
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    if text(header::CONTENT_TYPE).is_some_and(|t| t.starts_with("text/html")) {
        return Err(
            Final("the server answered with a web page and not with the file".into()).into(),
        );
    }
    match text(header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok()) {
        Some(n) if n != bytes => {
            let text = format!("the server offers {n} bytes, the official file has {bytes}");
            Err(Final(text).into())
        }
        _ => Ok(()),
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

#[cfg(test)]
pub mod testing {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// Answers one connection after the other with the given bytes, and closes each; gives back
    /// the requests.
    pub fn server(answers: Vec<Vec<u8>>) -> (String, JoinHandle<Vec<String>>) {
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
    pub fn answer(status: &str, length: usize, headers: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    pub const BODY: &[u8] = b"0123456789abcdefghij";
}

#[cfg(test)]
mod tests {
    use super::testing::{BODY, answer, server};
    use super::*;
    use crate::dataset::Dataset;
    use contract::testing::Bench;

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
    fn what_a_link_leads_to_is_not_written_over() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (part, mine) = (dir.path().join("file.part"), dir.path().join("mine"));
        std::fs::write(&mine, b"mine")?;
        std::os::unix::fs::symlink(&mine, &part)?;
        std::os::unix::fs::symlink(&mine, part.with_extension("etag"))?;
        let (got, _) = get(vec![answer("200 OK", 20, "ETag: \"v1\"\r\n", BODY)], &part);
        got?;
        assert_eq!(
            (std::fs::read(&mine)?, std::fs::read(&part)?),
            (b"mine".to_vec(), BODY.to_vec())
        );
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
        let page = answer(
            "200 OK",
            20,
            "Content-Type: text/html; charset=utf-8\r\n",
            BODY,
        );
        let (got, _) = get(vec![page], &part);
        assert_eq!(
            got.unwrap_err().to_string(),
            "the server answered with a web page and not with the file"
        );
        let (got, _) = get(vec![answer("200 OK", 7, "", b"virus!!")], &part);
        assert_eq!(
            got.unwrap_err().to_string(),
            "the server offers 7 bytes, the official file has 20"
        );
        let endless = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n0123456789abcdefghijk";
        let (got, _) = get(vec![endless.to_vec()], &part);
        assert_eq!(
            got.unwrap_err().to_string(),
            "the server sent more than 20 bytes"
        );
        assert!(!part.exists());
        Ok(())
    }
}
