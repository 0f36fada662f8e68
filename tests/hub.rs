//! Data sets from the Hugging Face Hub, served by this test: `cargo test --release --features hub --test hub`.

#![cfg(feature = "hub")]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use common::{Said, Space};

/// Serves the files below a folder as the Hub does `refs/convert/parquet` of a data set, and says where.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a request");
            let mut request = vec![0; 1 << 16];
            let got = stream.read(&mut request).expect("its text");
            let request = String::from_utf8_lossy(&request[..got]).into_owned();
            let path = request.split_whitespace().nth(1).unwrap_or_default();
            let body = std::fs::read(folder.join(file(path))).unwrap_or_default();
            let status = if body.is_empty() {
                "404 Not Found"
            } else {
                "200 OK"
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"{}\"\r\nX-Repo-Commit: {}\r\n\
                 Connection: close\r\n\r\n",
                body.len(),
                blake3::hash(&body).to_hex(),
                "0123456789".repeat(4),
            );
            stream.write_all(head.as_bytes()).expect("an answer");
            if request.starts_with("GET") {
                stream.write_all(&body).expect("an answer");
            }
        }
    });
    format!("http://{address}")
}

/// `cifar10/plain_text/test/0000.parquet`.
fn file(path: &str) -> String {
    let set = if path.contains("cifar10") {
        "cifar10"
    } else {
        "fashion-mnist"
    };
    let parts: Vec<&str> = path.rsplit('/').take(3).collect();
    format!("{set}/{}/{}/{}", parts[2], parts[1], parts[0])
}

fn run(set: &str, endpoint: &str) -> (Space, Said) {
    let space = Space::new(&format!(
        "[stage.data]\nkind = 'dataset'\nparams.source = {{ kind = 'hub', set = '{set}' }}\n\
         params.valid = 0\nparams.train = 0\nparams.test = 0\nparams.jpeg_quality = 0\nparams.pad = 0\n"
    ));
    let home = space.path("hub");
    let said = space.shell(&format!(
        "HF_ENDPOINT={endpoint} HF_HOME={} repro run",
        home.display()
    ));
    (space, said)
}

/// The digest in the error is that of the pictures as they were drawn, which the script that made the files has
/// computed: every byte arrives where it belongs, and other pictures than the official ones are refused.
#[test]
fn pictures_of_the_hub_are_read_right_and_held_to_the_official_ones() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/hub");
    let digests = std::fs::read(golden.join("digests.json")).expect("tests/golden/hub.py");
    let digests: serde_json::Value = serde_json::from_slice(&digests).expect("JSON");
    let endpoint = serve(golden);
    for set in ["cifar10", "fashion-mnist"] {
        let digest = digests[format!("{set} train")].as_str().expect("a digest");
        let (_, said) = run(set, &endpoint);
        said.ends(1).complains(&format!(
            "{endpoint} has other images than {set}: content {digest}, not "
        ));
    }
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    let (_, said) = run("cifar10", "http://127.0.0.1:9");
    said.ends(1).complains(
        "read cifar10 from http://127.0.0.1:9; hint: is HF_ENDPOINT right, and the network there?",
    );
}
