//! Fashion-MNIST: the four IDX files, gzipped or not.
//!
//! candle-datasets reads IDX too, but only from four unpacked files of one folder and only to
//! floats; the official files are gzipped and we want their bytes. A test with the feature `hub`
//! holds the two together.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use contract::Job;
use flate2::read::GzDecoder;

use super::fetch::{self, Remote, sha256_of};
use super::images::Images;
use super::source::Splits;

/// An official file, and the SHA-256 of what is in it, which does not change with the packing.
struct Idx {
    name: &'static str,
    packed: Remote,
    sha256: &'static str,
}

macro_rules! official {
    ($name:literal, $bytes:literal, $packed:literal, $sha256:literal) => {
        Idx {
            name: $name,
            packed: Remote {
                name: concat!($name, ".gz"),
                url: concat!(
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                    $name,
                    ".gz"
                ),
                mirror: None,
                sha256: $packed,
                bytes: $bytes,
            },
            sha256: $sha256,
        }
    };
}

const TRAIN_IMAGES: Idx = official!(
    "train-images-idx3-ubyte",
    26_421_880,
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
);
const TRAIN_LABELS: Idx = official!(
    "train-labels-idx1-ubyte",
    29_515,
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
);
const TEST_IMAGES: Idx = official!(
    "t10k-images-idx3-ubyte",
    4_422_102,
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
);
const TEST_LABELS: Idx = official!(
    "t10k-labels-idx1-ubyte",
    5_148,
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
);

pub fn load(job: &mut Job) -> Result<Splits> {
    let mut images = |images: &Idx, labels: &Idx| -> Result<Images> {
        let (shape, pixels) = parse(&images.read(job)?).context(images.name)?;
        let (_, labels) = parse(&labels.read(job)?).context(labels.name)?;
        Images::new([shape[1], shape[2], 1], pixels, Some(labels))
    };
    Ok(Splits {
        train: images(&TRAIN_IMAGES, &TRAIN_LABELS)?,
        valid: None,
        test: images(&TEST_IMAGES, &TEST_LABELS)?,
    })
}

/// Where the files lie below a folder, if all do; unread.
pub fn found(folder: &Path) -> Option<PathBuf> {
    let file = |idx: &Idx| {
        let places = idx.places().map(|place| folder.join(place));
        places.into_iter().find(|path| path.exists())
    };
    let mut files = [&TRAIN_IMAGES, &TRAIN_LABELS, &TEST_IMAGES, &TEST_LABELS].map(file);
    files.iter().all(Option::is_some).then(|| files[0].take())?
}

impl Idx {
    fn places(&self) -> [String; 6] {
        let gz = self.packed.name;
        [
            self.name.to_string(),
            gz.to_string(),
            format!("fashion-mnist/{}", self.name),
            format!("fashion-mnist/{gz}"),
            format!("FashionMNIST/raw/{}", self.name),
            format!("FashionMNIST/raw/{gz}"),
        ]
    }

    /// The unpacked bytes, verified.
    fn read(&self, job: &mut Job) -> Result<Vec<u8>> {
        let places = self.places();
        let places: Vec<&str> = places.iter().map(String::as_str).collect();
        let path = match fetch::local(job, &places)? {
            Some(path) => path,
            None => fetch::download(&self.packed, job)?,
        };
        let mut bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        if path.extension().is_some_and(|e| e == "gz") {
            let mut unpacked = Vec::new();
            GzDecoder::new(&bytes[..])
                .read_to_end(&mut unpacked)
                .with_context(|| {
                    format!(
                        "{} is not a whole gzip file; hint: copy or download it again",
                        path.display()
                    )
                })?;
            bytes = unpacked;
        }
        let found = sha256_of(&bytes);
        ensure!(
            found == self.sha256,
            "{}: its content has SHA-256 {found}, the official {} has {}; hint: copy or download it again",
            path.display(),
            self.name,
            self.sha256
        );
        Ok(bytes)
    }
}

/// Sizes and values of an IDX file of unsigned bytes.
fn parse(bytes: &[u8]) -> Result<(Vec<usize>, Vec<u8>)> {
    let word = |i: usize| -> Result<usize> {
        let word = bytes
            .get(4 * i..4 * i + 4)
            .context("the header is cut off")?;
        Ok(word.iter().fold(0, |n, &b| n << 8 | usize::from(b)))
    };
    let magic = word(0)?;
    ensure!(
        magic >> 8 == 8,
        "magic number {magic:#x} is not of unsigned bytes"
    );
    let rank = magic & 0xff;
    let sizes: Vec<usize> = (1..=rank).map(word).collect::<Result<_>>()?;
    let values = &bytes[4 + 4 * rank..];
    ensure!(
        values.len() == sizes.iter().product::<usize>(),
        "{} bytes after a header of {sizes:?}",
        values.len()
    );
    Ok((sizes, values.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;
    use contract::testing::Bench;

    fn idx(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = (0x800 + sizes.len() as u32).to_be_bytes().to_vec();
        sizes.iter().for_each(|s| bytes.extend(s.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    #[cfg(feature = "hub")]
    #[test]
    fn it_reads_what_candle_datasets_reads() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let pixels: Vec<u8> = (0..=255).collect();
        let (images, labels) = (idx(&[4, 8, 8], &pixels), idx(&[4], &[3, 1, 2, 0]));
        for split in ["train", "t10k"] {
            std::fs::write(
                dir.path().join(format!("{split}-images-idx3-ubyte")),
                &images,
            )?;
            std::fs::write(
                dir.path().join(format!("{split}-labels-idx1-ubyte")),
                &labels,
            )?;
        }
        let theirs = candle_datasets::vision::mnist::load_dir(dir.path())?;
        let floats = theirs.train_images.flatten_all()?.to_vec1::<f32>()?;
        let (sizes, ours) = parse(&images)?;
        assert_eq!(sizes, [4, 8, 8]);
        let back: Vec<u8> = floats.iter().map(|v| (v * 255.0).round() as u8).collect();
        assert_eq!(ours, back);
        assert_eq!(parse(&labels)?.1, theirs.train_labels.to_vec1::<u8>()?);
        Ok(())
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut bench = Bench::new::<Dataset>(&[]);
        bench.spec().data = Some(dir.path().to_path_buf());
        let error = || format!("{:#}", load(&mut bench.job(None).0).err().unwrap());

        std::fs::write(
            dir.path().join("train-images-idx3-ubyte"),
            idx(&[1, 1, 1], &[7]),
        )?;
        assert!(
            error().contains("train-images-idx3-ubyte: its content has SHA-256"),
            "{}",
            error()
        );
        std::fs::remove_file(dir.path().join("train-images-idx3-ubyte"))?;
        std::fs::write(
            dir.path().join("train-images-idx3-ubyte.gz"),
            [0x1f, 0x8b, 8, 0],
        )?;
        assert!(
            error().contains(".gz is not a whole gzip file"),
            "{}",
            error()
        );
        assert_eq!(
            parse(&idx(&[2, 2], &[1, 2, 3])).unwrap_err().to_string(),
            "3 bytes after a header of [2, 2]"
        );
        assert!(parse(&[0, 0]).is_err());
        Ok(())
    }
}
