//! Bad data through the binary: one error that names the file, and nothing half-written.

mod common;

use std::io::Write;
use std::path::Path;

use common::{Said, Space};
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Crc};

fn dataset(source: &str) -> Space {
    Space::new(&format!(
        "[pipeline]\ntitle = \"bad data\"\n\n[stage.dataset]\nkind = \"dataset\"\n\
         params = {{ valid = 0, train = 0, test = 0, source = {source} }}\n"
    ))
}

/// Runs with `data` as the folder of `--data`; the run fails and leaves no result.
#[track_caller]
fn fails(space: &Space) -> Said {
    let said = space.repro("run --device cpu --data data").ends(1);
    assert!(files(&space.path("artifacts/results")).is_empty());
    assert!(files(&space.path("artifacts/downloads")).is_empty());
    said
}

/// Files below a folder, except records of what failed.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return vec![];
    };
    let paths = entries.map(|e| e.expect("an entry").path());
    paths
        .flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] })
        .collect()
}

fn put(space: &Space, name: &str, bytes: &[u8]) {
    let path = space.path(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(path, bytes).expect("a file");
}

/// A black picture. Readers tell the format by the content, so it may be called `.jpg`.
fn png(width: u32, height: u32) -> Vec<u8> {
    let mut packed = ZlibEncoder::new(vec![], Compression::fast());
    for _ in 0..height {
        packed
            .write_all(&vec![0; 1 + 3 * width as usize])
            .expect("memory");
    }
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend([8, 2, 0, 0, 0]);
    let chunks = [
        (b"IHDR", header),
        (b"IDAT", packed.finish().expect("memory")),
        (b"IEND", vec![]),
    ];
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    for (name, content) in chunks {
        let mut crc = Crc::new();
        crc.update(name);
        crc.update(&content);
        file.extend((content.len() as u32).to_be_bytes());
        file.extend(name);
        file.extend(content);
        file.extend(crc.sum().to_be_bytes());
    }
    file
}

#[test]
fn an_archive_that_is_not_the_official_one() {
    let space = dataset("{ kind = \"cifar10\" }");
    put(&space, "data/cifar-10-binary.tar.gz", b"half of an archive");
    fails(&space)
        .complains("data/cifar-10-binary.tar.gz has SHA-256 ")
        .complains("the official file has c4a38c50");
    let space = dataset("{ kind = \"cifar10\" }");
    put(
        &space,
        "data/cifar-10-batches-bin/data_batch_1.bin",
        &[7; 3073],
    );
    fails(&space).complains("data_batch_1.bin has 3073 bytes, 10000 images take 30730000");
}

#[test]
fn a_truncated_file_and_one_of_other_content() {
    let space = dataset("{ kind = \"fashion-mnist\" }");
    let mut gz = GzEncoder::new(vec![], Compression::fast());
    gz.write_all(&[1; 5000]).expect("memory");
    let gz = gz.finish().expect("memory");
    let name = "data/fashion-mnist/train-images-idx3-ubyte.gz";
    put(&space, name, &gz[..gz.len() / 2]);
    fails(&space).complains("train-images-idx3-ubyte.gz is not a whole gzip file");
    put(&space, name, &gz);
    fails(&space).complains("train-images-idx3-ubyte.gz: its content has SHA-256");
}

#[test]
fn faces_that_are_damaged_or_missing_or_of_another_size() {
    let source =
        "{ kind = \"celeba\", files = 3, test_files = 1, top = 4, left = 4, crop = 8, size = 8 }";
    let space = dataset(source);
    let face = |n: usize| format!("data/img_align_celeba/{n:06}.jpg");
    put(&space, &face(1), &png(16, 16));
    put(&space, &face(2), &png(16, 16)[..60]);
    fails(&space).complains("img_align_celeba lacks 000003.jpg, params.source.files = 3");
    put(&space, &face(3), &png(16, 17));
    fails(&space).complains("000002.jpg is not a picture that can be read");
    put(&space, &face(2), &png(16, 16));
    fails(&space).complains("000003.jpg is 16x17, ");
    put(&space, &face(3), &png(16, 16));
    space.repro("run --device cpu --data data").ends(0);
}

#[test]
fn pictures_that_pipeline_toml_does_not_mean() {
    let space = dataset(
        "{ kind = \"image-folder\", folder = \"mine\", digest = \"0\", size = 8, channels = 3, \
         test = 1, seed = 0 }",
    );
    put(&space, "data/mine/a.png", &png(8, 8));
    put(&space, "data/mine/b.png", &png(9, 8));
    let said = fails(&space).complains("data/mine has digest ");
    let right = said
        .err
        .split("has digest ")
        .nth(1)
        .and_then(|t| t.split(',').next());
    space.edit(
        "pipeline.toml",
        "digest = \"0\"",
        &format!("digest = {:?}", right.expect("it is said")),
    );
    space.repro("run --device cpu --data data").ends(0);
}

#[test]
fn weights_that_are_damaged_or_no_numbers() {
    let space = dataset("{ kind = \"cifar10\" }");
    put(&space, "a/1.png", &png(8, 8));
    put(&space, "a/2.png", &png(8, 8));
    let state = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/state.pth");
    let state = std::fs::read(state).expect("a golden file");
    put(&space, "cut.pth", &state[..state.len() / 2]);
    put(&space, "other.pth", &state);
    space
        .repro("fid a a --weights cut.pth")
        .ends(1)
        .complains("cut.pth is not a whole .pth file");
    space
        .repro("fid a a --weights other.pth")
        .ends(1)
        .complains("other.pth: there is no tensor Conv2d_1a_3x3.conv.weight");
    let header = r#"{"Conv2d_1a_3x3.conv.weight":{"dtype":"F32","shape":[32,3,3,3],"data_offsets":[0,3456]}}"#;
    let nan = f32::NAN.to_le_bytes().repeat(864);
    let file = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &nan,
    ]
    .concat();
    put(&space, "nan.safetensors", &file);
    space
        .repro("fid a a --weights nan.safetensors")
        .ends(1)
        .complains("nan.safetensors: tensor Conv2d_1a_3x3.conv.weight holds NaN or infinity");
}

#[test]
fn one_image_has_no_covariance() {
    let space = Space::new(
        r#"
[pipeline]
title = "too few"

[stage.dataset]
kind = "dataset"
params = { valid = 0, train = 10, test = 1, source = { kind = "embedded", look = { kind = "grey" } } }

[stage.extractor]
kind = "extractor"
params.network = { kind = "classifier", seed = 0, width = 2, features = 4, epochs = 0, batch = 64, lr = 1e-3 }

[stage.features]
kind = "features"
in.images = "dataset.test"
in.extractor = "extractor.network"
params = { batch = 50, n = 1, seed = 0, resize = "tf-legacy" }
"#,
    );
    let said = space.repro("run --device cpu").ends(1);
    said.complains("test.safetensors: 1 images are too few for a covariance");
    let all = files(&space.path("artifacts/results"));
    assert!(
        !all.iter().any(|f| f.ends_with("gaussian.safetensors")),
        "{all:?}"
    );
}
