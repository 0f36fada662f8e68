//! CelebA, aligned and cropped: 202,599 JPEG files and the official partition.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

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
/// Official, and Kaggle's, with commas and a line of names.
const LISTS: [&str; 4] = [
    "list_eval_partition.txt",
    "list_eval_partition.csv",
    "Eval/list_eval_partition.txt",
    "Eval/list_eval_partition.csv",
];

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
    let before = store.stamps(count);
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
        ensure!(
            store.stamps(count) == before,
            "{} changed while it was read; hint: run again once nothing writes there",
            first.parent().unwrap_or(&first).display()
        );
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

/// Below a folder or the one above it: as the archive unpacks, as torchvision has it, Kaggle's copy, the official site's;
/// last the folder itself.
const FOLDERS: [&str; 7] = [
    "img_align_celeba",
    "celeba/img_align_celeba",
    "img_align_celeba/img_align_celeba",
    "celeba/img_align_celeba/img_align_celeba",
    "Img/img_align_celeba",
    "CelebA/Img/img_align_celeba",
    "",
];
const ARCHIVES: [&str; 3] = [
    ARCHIVE.name,
    "celeba/img_align_celeba.zip",
    "CelebA/Img/img_align_celeba.zip",
];

/// Where the pictures, or their archive, lie below a folder; unread.
pub fn found(folder: &Path) -> Option<PathBuf> {
    let pictures = pictures_below(folder);
    let named = FOLDERS[..2].iter().map(|place| folder.join(place));
    let archives = ARCHIVES.iter().map(|place| folder.join(place));
    pictures.or_else(|| named.chain(archives).find(|path| path.exists()))
}

/// The folder with the first picture.
fn pictures_below(folder: &Path) -> Option<PathBuf> {
    let mut places = FOLDERS.iter().map(|place| folder.join(place));
    places.find(|place| picture(place, 1).is_some())
}

/// The files that count by content: those of a folder, of which there is no digest to hold them against.
pub fn data(params: &Params, folder: &Path) -> Vec<PathBuf> {
    let Some(folder) = pictures_below(folder) else {
        return vec![];
    };
    let numbers = 1..=params.files.min(FILES);
    numbers
        .filter_map(|number| picture(&folder, number))
        .collect()
}

/// A picture by its number, whatever its format: that is told by the content.
fn picture(folder: &Path, number: usize) -> Option<PathBuf> {
    let endings = ["jpg", "JPG", "jpeg", "png"].iter();
    let mut names = endings.map(|ending| folder.join(format!("{number:06}.{ending}")));
    names.find(|path| path.exists())
}

fn open(job: &mut Job) -> Result<Store> {
    let below = job.spec().data.as_deref().and_then(pictures_below);
    if let Some(folder) = below {
        job.note(format!(
            "{}: the files are not compared with the official ones; they count by their content",
            folder.display()
        ));
        job.note(pictures::JPEG_SHIFT);
        return Ok(Store::Folder(folder));
    }
    // A folder without the first picture is named in the error.
    let places = [&FOLDERS[..2], &ARCHIVES].concat();
    let zip = match fetch::local(job, &places)? {
        Some(folder) if folder.is_dir() => return Ok(Store::Folder(folder)),
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
        let missing = (1..=count).find(|number| picture(folder, *number).is_none());
        if let Some(name) = missing.map(name) {
            bail!(
                "{} lacks {name}, params.source.files = {count}; hint: lower files to what is \
                 there and set test_files",
                folder.display()
            );
        }
        // Beside the folder, or where the official site and Kaggle have it.
        let above = folder.ancestors().skip(1).take(2);
        let places = above.flat_map(|above| LISTS.map(|list| above.join(list)));
        for list in places {
            if let Ok(text) = std::fs::read_to_string(&list) {
                check_list(&text).with_context(|| list.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Sizes and times of the files, by which a change of one while they are read would show.
    fn stamps(&self, count: usize) -> Vec<Option<(u64, SystemTime)>> {
        let stamp = |folder: &Path, number| {
            let about = picture(folder, number)?.metadata().ok()?;
            Some((about.len(), about.modified().ok()?))
        };
        match self {
            Self::Folder(folder) => (1..=count).map(|number| stamp(folder, number)).collect(),
            Self::Zip(..) => vec![],
        }
    }

    fn read(&self, number: usize) -> Result<(Vec<u8>, PathBuf)> {
        let name = name(number);
        match self {
            Self::Folder(folder) => {
                let path = picture(folder, number).unwrap_or_else(|| folder.join(name));
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

/// Lines `000001.jpg 0`, with 0, 1, 2 for train, validation, test. Blank ones, as at the end of many copies, say nothing.
fn check_list(text: &str) -> Result<()> {
    let fields = |line: &str| -> Vec<String> {
        let fields = line
            .split([' ', '\t', ',', '\r'])
            .filter(|field| !field.is_empty());
        fields.map(str::to_owned).collect()
    };
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let filled = lines.filter(|(i, line)| {
        let names = *i == 0 && fields(line) == ["image_id", "partition"];
        !line.trim().is_empty() && !names
    });
    for (number, (i, line)) in (1..).zip(filled) {
        let partition = usize::from(number >= VALID_FROM) + usize::from(number >= TEST_FROM);
        let expected = [name(number), partition.to_string()];
        let found = fields(line);
        // Other formats of the pictures have other endings.
        let stem = |name: &str| name.split('.').next().map(str::to_owned);
        ensure!(
            found.len() == 2 && stem(&found[0]) == stem(&expected[0]) && found[1] == expected[1],
            "line {} is {line:?}, the official one is {:?}; hint: take the list away, or put the official one there",
            i + 1,
            expected.join(" ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
