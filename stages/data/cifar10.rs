//! CIFAR-10, binary version: five training batches and one test batch of 10,000 records.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use contract::Job;
use flate2::read::GzDecoder;

use super::fetch::{self, Remote};
use super::images::Images;
use super::source::Splits;

const ARCHIVE: Remote = Remote {
    name: "cifar-10-binary.tar.gz",
    url: "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    mirror: None,
    sha256: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    bytes: 170_052_171,
};

const FOLDER: &str = "cifar-10-batches-bin";
/// As torchvision unpacks it.
const PYTHON: &str = "cifar-10-batches-py";
const TRAIN: [&str; 5] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
];
const TEST: &str = "test_batch.bin";

/// A label and three planes of 32x32 values: red, green, blue.
const RECORD: usize = 1 + 3 * PLANE;
const PLANE: usize = 32 * 32;
const BATCH: usize = 10_000 * RECORD;

/// What [`content`] gives for the official images, whatever their order.
pub const TRAIN_CONTENT: &str = "008099c0c1cc0ba89e6dd7ec80c9e200";
pub const TEST_CONTENT: &str = "e2d1d50b6841a2227a70322eaf61d5b0";

pub fn load(job: &mut Job) -> Result<Splits> {
    let batches = read(&folder(job)?)?;
    let (train, test) = batches.split_at(TRAIN.len());
    Ok(Splits {
        train: images(train)?,
        valid: None,
        test: images(test)?,
    })
}

/// Where the files, or their archive, lie below a folder; unread.
pub fn found(folder: &Path) -> Option<PathBuf> {
    let places = [FOLDER, TEST, ARCHIVE.name].map(|place| folder.join(place));
    places.into_iter().find(|path| path.exists())
}

/// The folder of the six files: given, or unpacked from a given or downloaded archive.
fn folder(job: &mut Job) -> Result<PathBuf> {
    let given = fetch::local(job, &[FOLDER, TEST, ARCHIVE.name])?;
    if let Some(given) = &given {
        if given.ends_with(FOLDER) {
            return Ok(given.clone());
        }
        if given.ends_with(TEST) {
            let folder = given.parent().context("BUG: a file without a folder")?;
            return Ok(folder.to_path_buf());
        }
    } else if let Some(python) = job.spec().data.as_ref().map(|data| data.join(PYTHON))
        && python.exists()
    {
        job.note(format!(
            "{} is the Python version; the binary one is read",
            python.display()
        ));
    }
    let unpacked = job.spec().downloads.join(FOLDER);
    if unpacked.exists() {
        return Ok(unpacked);
    }
    let archive = match given {
        Some(given) => {
            ARCHIVE.check(&given)?;
            given
        }
        None => fetch::download(&ARCHIVE, job)?,
    };
    unpack(&archive, &unpacked)?;
    Ok(unpacked)
}

/// Unpacks beside `folder` and renames, so that the folder is whole or not there.
fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let above = folder.parent().context("BUG: a folder without a place")?;
    std::fs::create_dir_all(above).with_context(|| above.display().to_string())?;
    let scratch = tempfile::tempdir_in(above).with_context(|| above.display().to_string())?;
    let broken = || format!("{} is not a whole archive", archive.display());
    let file = File::open(archive).with_context(broken)?;
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    for entry in archive.entries().with_context(broken)? {
        let mut entry = entry.with_context(broken)?;
        let path = entry.path().with_context(broken)?.into_owned();
        // Only the files we know, by their names: an archive cannot write anywhere else.
        let name = path.file_name().and_then(|n| n.to_str());
        if let Some(name) = name.filter(|n| TRAIN.contains(n) || *n == TEST) {
            entry
                .unpack(scratch.path().join(name))
                .with_context(broken)?;
        }
    }
    let scratch = scratch.keep();
    std::fs::rename(&scratch, folder).with_context(|| folder.display().to_string())
}

/// The five batches and the sixth, for tests. Sizes are checked first, then the content. The same images
/// in another order are accepted.
fn read(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let mut batches = vec![];
    for name in TRAIN.iter().chain([&TEST]) {
        let path = folder.join(name);
        let batch = std::fs::read(&path).with_context(|| {
            format!(
                "cannot read {}; hint: unpack the archive again",
                path.display()
            )
        })?;
        ensure!(
            batch.len() == BATCH,
            "{} has {} bytes, 10000 images take {BATCH}; hint: unpack the archive again",
            path.display(),
            batch.len()
        );
        batches.push(batch);
    }
    let (train, test) = batches.split_at(TRAIN.len());
    for (files, expected) in [(train, TRAIN_CONTENT), (test, TEST_CONTENT)] {
        let found = content(files, RECORD);
        if found != expected {
            bail!(
                "{} does not hold the images of CIFAR-10 (content {found}, not {expected}); \
                 hint: image-folder reads other images",
                folder.display()
            );
        }
    }
    Ok(batches)
}

/// A digest of the set of records of this size, whatever their order: the sum of their BLAKE3 digests.
pub fn content(files: &[Vec<u8>], size: usize) -> String {
    let records = files.iter().flat_map(|file| file.chunks_exact(size));
    let sum = records.fold(0u128, |sum, record| {
        let hash = blake3::hash(record);
        let (head, _) = hash.as_bytes().split_at(16);
        sum.wrapping_add(head.iter().fold(0, |n, &b| n << 8 | u128::from(b)))
    });
    format!("{sum:032x}")
}

/// The records of batches, their planes woven into pixels.
fn images(batches: &[Vec<u8>]) -> Result<Images> {
    let records = batches.iter().flat_map(|batch| batch.chunks_exact(RECORD));
    let (mut labels, mut pixels) = (vec![], vec![]);
    for record in records {
        let (label, planes) = record.split_at(1);
        labels.extend(label);
        for at in 0..PLANE {
            pixels.extend([planes[at], planes[PLANE + at], planes[2 * PLANE + at]]);
        }
    }
    Images::new([32, 32, 3], pixels, Some(labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_pixels() -> Result<()> {
        let record = |label: u8, [r, g, b]: [u8; 3]| {
            let plane = |first: u8| (0..PLANE).map(move |i| first.wrapping_add(i as u8));
            let planes = plane(r).chain(plane(g)).chain(plane(b));
            std::iter::once(label).chain(planes).collect::<Vec<u8>>()
        };
        let batch = [record(7, [0, 50, 100]), record(2, [1, 2, 3])].concat();
        let images = images(&[batch, record(9, [0; 3])])?;
        assert_eq!(images.labels, Some(vec![7, 2, 9]));
        assert_eq!(images.image(0)[..6], [0, 50, 100, 1, 51, 101]);
        assert_eq!(images.image(1)[3 * 1023..], [0, 1, 2]);
        assert_eq!(images.image(2).len(), 3 * PLANE);
        Ok(())
    }

    /// The loader of candle-datasets reads the same.
    #[cfg(feature = "hub")]
    #[test]
    fn it_reads_what_candle_datasets_reads() -> Result<()> {
        use candle_core::DType;

        let dir = tempfile::tempdir()?;
        let mut batches = vec![];
        for (seed, name) in (0u64..).zip(TRAIN.iter().chain([&TEST])) {
            let mut bytes = vec![0; BATCH];
            let mut random = blake3::Hasher::new()
                .update(&seed.to_le_bytes())
                .finalize_xof();
            random.fill(&mut bytes);
            std::fs::write(dir.path().join(name), &bytes)?;
            batches.push(bytes);
        }
        let theirs = candle_datasets::vision::cifar::load_dir(dir.path())?;
        for (ours, floats, labels) in [
            (&batches[..5], theirs.train_images, theirs.train_labels),
            (&batches[5..], theirs.test_images, theirs.test_labels),
        ] {
            let ours = images(ours)?;
            let labels = labels.to_vec1::<u8>()?;
            assert_eq!(ours.labels.as_ref(), Some(&labels));
            for i in (0..labels.len()).step_by(97) {
                let bytes = (floats.get(i)?.permute((1, 2, 0))? * 255.0)?.round()?;
                let bytes = bytes.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
                assert_eq!(ours.image(i), bytes);
            }
        }
        Ok(())
    }

    #[test]
    fn content_does_not_depend_on_order_but_on_every_byte() {
        let records: Vec<u8> = (0..2 * RECORD).map(|i| (i % 251) as u8).collect();
        let (a, b) = records.split_at(RECORD);
        let swapped = [b, a].concat();
        let content = |files: &[Vec<u8>]| content(files, RECORD);
        assert_eq!(content(std::slice::from_ref(&records)), content(&[swapped]));
        assert_eq!(
            content(std::slice::from_ref(&records)),
            content(&[a.to_vec(), b.to_vec()])
        );
        let mut changed = records.clone();
        changed[5] ^= 1;
        assert_ne!(content(&[records]), content(&[changed]));
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let error = || format!("{:#}", read(dir.path()).unwrap_err());
        assert!(error().contains("cannot read") && error().contains("data_batch_1.bin"));
        std::fs::write(dir.path().join("data_batch_1.bin"), [0; 10])?;
        assert!(error().contains("data_batch_1.bin has 10 bytes, 10000 images take 30730000"));
        for name in TRAIN.iter().chain([&TEST]) {
            std::fs::write(dir.path().join(name), vec![0; BATCH])?;
        }
        assert!(
            error().contains("does not hold the images of CIFAR-10"),
            "{}",
            error()
        );
        Ok(())
    }

    #[test]
    fn a_truncated_archive_leaves_no_folder() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let archive = dir.path().join("cifar-10-binary.tar.gz");
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
            File::create(&archive)?,
            flate2::Compression::fast(),
        ));
        let body = vec![3u8; 5000];
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, format!("{FOLDER}/{TEST}"), &body[..])?;
        builder.into_inner()?.finish()?;

        let whole = std::fs::read(&archive)?;
        let folder = dir.path().join("unpacked");
        std::fs::write(&archive, &whole[..whole.len() / 2])?;
        let error = unpack(&archive, &folder).unwrap_err();
        assert!(format!("{error:#}").contains("cifar-10-binary.tar.gz is not a whole archive"));
        assert!(!folder.exists());
        std::fs::write(&archive, &whole)?;
        unpack(&archive, &folder)?;
        assert_eq!(std::fs::read(folder.join(TEST))?, body);
        Ok(())
    }
}
