//! Official files that are cut off, or are not the official ones.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::files::put;
use super::{dataset, fails};

#[test]
fn a_truncated_archive() {
    for (source, name) in [
        ("{ kind = \"cifar10\" }", "cifar-10-binary.tar.gz"),
        (
            "{ kind = \"celeba\", files = 202599, test_files = 0, top = 45, left = 25, crop = 128, size = 64 }",
            "img_align_celeba.zip",
        ),
    ] {
        let space = dataset(source);
        put(&space, &format!("data/{name}"), b"half of an archive");
        let file = format!("data/{name} has 18 bytes, the official file has 1");
        fails(&space, &file, "hint: delete it and run again");
        let page = b"<!doctype html><title>Quota exceeded</title>";
        put(&space, &format!("data/{name}"), page);
        let file = format!("data/{name} has 44 bytes, the official file has 1");
        fails(
            &space,
            &file,
            ": it is a web page; hint: delete it and run again",
        );
    }
}

#[test]
fn an_archive_of_the_right_length_with_the_wrong_digest() {
    let space = dataset("{ kind = \"cifar10\" }");
    put(&space, "data/cifar-10-binary.tar.gz", b"");
    let path = space.path("data/cifar-10-binary.tar.gz");
    // A hole: it takes no space.
    let file = std::fs::OpenOptions::new().write(true).open(path);
    file.and_then(|f| f.set_len(170_052_171)).expect("a file");
    fails(
        &space,
        "data/cifar-10-binary.tar.gz has SHA-256 ",
        "the official file has c4a38c50",
    );
}

#[test]
fn an_unpacked_archive_that_is_not_whole() {
    let space = dataset("{ kind = \"cifar10\" }");
    put(
        &space,
        "data/cifar-10-batches-bin/data_batch_1.bin",
        &[7; 3073],
    );
    let why = "has 3073 bytes, 10000 images take 30730000";
    fails(&space, "cifar-10-batches-bin/data_batch_1.bin", why);
    std::fs::remove_file(space.path("data/cifar-10-batches-bin/data_batch_1.bin")).expect("there");
    fails(
        &space,
        "cannot read",
        "cifar-10-batches-bin/data_batch_1.bin",
    );
}

#[test]
fn a_truncated_file_and_one_of_other_content() {
    let space = dataset("{ kind = \"fashion-mnist\" }");
    let mut gz = GzEncoder::new(vec![], Compression::fast());
    gz.write_all(&[1; 5000]).expect("memory");
    let gz = gz.finish().expect("memory");
    let name = "data/fashion-mnist/train-images-idx3-ubyte.gz";
    put(&space, name, &gz[..gz.len() / 2]);
    fails(&space, name, "is not a whole gzip file");
    put(&space, name, &gz);
    fails(&space, name, "its content has SHA-256");
}
