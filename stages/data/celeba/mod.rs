//! CelebA, aligned and cropped: 202,599 JPEG files and the official partition.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use contract::Job;
use image::GenericImageView;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zip::ZipArchive;

use super::fetch::{self, Remote};
use super::images::Images;
use super::pictures;
use super::source::Splits;

/// Square crop and final size (A25), and how many files there are.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Take the files 000001.jpg to this number; the official data set has 202599.
    files: usize,
    /// 0: the official partition. Otherwise the last that many files are the test split and the
    /// others the training split, for copies that hold only a part.
    test_files: usize,
    top: u32,
    left: u32,
    /// Side of the square that is cut out.
    crop: u32,
    /// Side it is resized to.
    size: u32,
}

const ARCHIVE: Remote = Remote {
    name: "img_align_celeba.zip",
    url: "https://drive.usercontent.google.com/download?id=0B7EVK8r0v71pZjFTYXZWM3FlRnM&resourcekey=0-dYn9z10tMJOBAkviAcfdyQ&export=download&confirm=t",
    // Google Drive answers with a page once a day's quota of the file is used up.
    mirror: Some("https://s3.amazonaws.com/pytorch-tutorial-assets/img_align_celeba.zip"),
    sha256: "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
    bytes: 1_443_490_838,
};

const FILES: usize = 202_599;
/// First file of the official validation and test partitions. The official list is sorted by
/// file, so two numbers are all of it; a list that lies beside the images is compared.
const VALID_FROM: usize = 162_771;
const TEST_FROM: usize = 182_638;
const LIST: &str = "list_eval_partition.txt";

pub fn load(params: &Params, job: &mut Job) -> Result<Splits> {
    let count = params.files;
    ensure!(
        count > 0 && count <= FILES,
        "params.source.files = {count}, CelebA has {FILES}"
    );
    ensure!(
        params.test_files < count,
        "params.source.test_files = {} leaves nothing of {count} files",
        params.test_files
    );
    ensure!(
        params.size > 0 && params.crop > 0,
        "params.source: crop and size must not be 0"
    );
    let store = open(job)?;
    store.check(count)?;
    // The crop means something only where all pictures are alike.
    let (bytes, first) = store.read(1)?;
    let size = pictures::decode(&bytes, &first)?.dimensions();
    let mut split = |from: usize, to: usize| -> Result<Images> {
        let pixels = pictures::gather(to.saturating_sub(from), job, |i| {
            let (bytes, name) = store.read(from + i)?;
            let picture = pictures::decode(&bytes, &name)?;
            let (width, height) = picture.dimensions();
            ensure!(
                (width, height) == size,
                "{} is {width}x{height}, {} is {}x{}; hint: the crop means the same only in \
                 pictures of one size",
                name.display(),
                first.display(),
                size.0,
                size.1
            );
            let square = [params.top, params.left, params.crop];
            pictures::crop(&picture, square, params.size, &name)
        })?;
        let size = params.size as usize;
        Images::new([size, size, 3], pixels, None)
    };
    if params.test_files > 0 {
        let cut = count - params.test_files;
        return Ok(Splits {
            train: split(1, cut + 1)?,
            valid: None,
            test: split(cut + 1, count + 1)?,
        });
    }
    ensure!(
        count > TEST_FROM,
        "the official test partition of CelebA starts at file {TEST_FROM}, params.source.files \
         = {count} ends before it; hint: set test_files to hold out the last files instead"
    );
    Ok(Splits {
        train: split(1, VALID_FROM)?,
        valid: Some(split(VALID_FROM, TEST_FROM)?),
        test: split(TEST_FROM, count + 1)?,
    })
}

/// Where the pictures are.
enum Store {
    Folder(PathBuf),
    Zip(PathBuf, Mutex<ZipArchive<File>>),
}

const FOLDERS: [&str; 2] = ["img_align_celeba", "celeba/img_align_celeba"];
const ARCHIVES: [&str; 2] = [ARCHIVE.name, "celeba/img_align_celeba.zip"];

/// Where the pictures, or their archive, lie below a folder; unread.
pub fn found(folder: &Path) -> Option<PathBuf> {
    let mut places = FOLDERS
        .iter()
        .chain(&ARCHIVES)
        .map(|place| folder.join(place));
    places.find(|path| path.exists())
}

fn open(job: &mut Job) -> Result<Store> {
    if let Some(folder) = fetch::local(job, &FOLDERS) {
        job.note(format!(
            "{}: the JPEG files themselves are not verified",
            folder.display()
        ));
        return Ok(Store::Folder(folder));
    }
    let zip = match fetch::local(job, &ARCHIVES) {
        Some(given) => {
            ARCHIVE.check(&given)?;
            given
        }
        None => fetch::download(&ARCHIVE, job)?,
    };
    let file = File::open(&zip).with_context(|| zip.display().to_string())?;
    let archive = ZipArchive::new(file)
        .with_context(|| format!("{} is not a whole zip archive", zip.display()))?;
    Ok(Store::Zip(zip, Mutex::new(archive)))
}

impl Store {
    /// That there are enough files, and that a list beside them is the official one.
    fn check(&self, count: usize) -> Result<()> {
        let Self::Folder(folder) = self else {
            return Ok(());
        };
        let missing = (1..=count)
            .map(name)
            .find(|name| !folder.join(name).exists());
        if let Some(name) = missing {
            bail!(
                "{} lacks {name}, params.source.files = {count}; hint: lower files to what is \
                 there and set test_files",
                folder.display()
            );
        }
        let list = folder.with_file_name(LIST);
        match std::fs::read_to_string(&list) {
            Ok(text) => check_list(&text).with_context(|| list.display().to_string()),
            Err(_) => Ok(()),
        }
    }

    fn read(&self, number: usize) -> Result<(Vec<u8>, PathBuf)> {
        let name = name(number);
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                let bytes = std::fs::read(&path);
                Ok((
                    bytes.with_context(|| format!("cannot read {}", path.display()))?,
                    path,
                ))
            }
            Self::Zip(path, archive) => {
                let inner = Path::new("img_align_celeba").join(&name);
                let mut bytes = vec![];
                let mut archive = archive.lock().unwrap_or_else(|e| e.into_inner());
                archive
                    .by_name(&inner.to_string_lossy())
                    .map_err(std::io::Error::other)
                    .and_then(|mut entry| std::io::copy(&mut entry, &mut bytes))
                    .with_context(|| format!("{}: {}", path.display(), inner.display()))?;
                Ok((bytes, path.join(inner)))
            }
        }
    }
}

fn name(number: usize) -> String {
    format!("{number:06}.jpg")
}

/// Lines `000001.jpg 0`, with 0, 1, 2 for train, validation, test.
fn check_list(text: &str) -> Result<()> {
    for (i, line) in text.lines().enumerate() {
        let number = i + 1;
        let partition = usize::from(number >= VALID_FROM) + usize::from(number >= TEST_FROM);
        let expected = format!("{} {partition}", name(number));
        ensure!(
            line.split_whitespace().eq(expected.split_whitespace()),
            "line {number} is {line:?}, the official one is {expected:?}; hint: take the list away, \
             or put the official one there"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
