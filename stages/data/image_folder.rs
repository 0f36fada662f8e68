//! A user's own pictures. Their digest stands in pipeline.toml, so that results depend on what
//! the pictures are and not on where they lie.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use contract::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::images::Images;
use super::picture_list::{PictureList, is_jpeg};
use super::source::Splits;
use super::{fetch, pictures};
use crate::nn::noise::Noise;

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Below the folder of `--data`; PNG, JPEG, WebP, BMP, PNM and GIF files (its first frame), also in subfolders, each
    /// once: hidden files and second names by links do not count.
    folder: String,
    /// BLAKE3 of names and contents; the error for a wrong one says the right one.
    digest: String,
    /// The middle square of each picture is resized to this side.
    size: u32,
    /// 1 (grey) or 3.
    channels: usize,
    /// Pictures for the test split, chosen at random.
    test: usize,
    seed: u64,
    /// Endings of pictures that do not count, such as `tiff`; any format that is not read is an error otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    leave_out: Vec<String>,
}

pub fn load(params: &Params, job: &mut Job) -> Result<Splits> {
    let Params {
        size,
        channels,
        test,
        ..
    } = *params;
    ensure!(size > 0, "params.source.size is 0");
    ensure!(
        channels == 1 || channels == 3,
        "params.source.channels is {channels}, not 1 or 3"
    );
    let folder = fetch::local(job, &[&params.folder])?.with_context(|| {
        format!(
            "there is no folder {} in the folder of --data",
            params.folder
        )
    })?;
    let list = PictureList::of(&folder, &params.leave_out)?;
    if let Some(remark) = list.remark(&folder) {
        job.note(remark);
    }
    let files = list.files;
    if files.iter().any(|file| is_jpeg(file)) {
        job.note(pictures::JPEG_SHIFT);
    }
    ensure!(
        test > 0 && test < files.len(),
        "{} holds {} pictures, params.source.test = {test}",
        folder.display(),
        files.len()
    );
    let found = digest(&folder, &files)?;
    ensure!(
        found == params.digest,
        "{} has digest {found}, pipeline.toml says {:?}; hint: set params.source.digest to it",
        folder.display(),
        params.digest
    );
    let order = Noise::new(params.seed, "image-folder.split")
        .at(0)
        .permutation(files.len());
    let mut split = |chosen: &[u32]| -> Result<Images> {
        let pixels = pictures::gather(chosen.len(), job, |i| {
            picture(&files[chosen[i] as usize], size, channels)
        })?;
        Images::new([size as usize, size as usize, channels], pixels, None)
    };
    let cut = files.len() - test;
    Ok(Splits {
        train: split(&order[..cut])?,
        valid: None,
        test: split(&order[cut..])?,
    })
}

fn picture(path: &Path, size: u32, channels: usize) -> Result<Vec<u8>> {
    let picture = pictures::decode_file(path)?;
    let side = picture.width().min(picture.height());
    let square = [
        (picture.height() - side) / 2,
        (picture.width() - side) / 2,
        side,
    ];
    let rgb = pictures::crop(&picture, square, size, path)?;
    Ok(match channels {
        3 => rgb,
        // Rec. 601, in the integers that Pillow uses.
        _ => rgb.chunks_exact(3).map(luma).collect(),
    })
}

fn luma(rgb: &[u8]) -> u8 {
    let weighted = [19595u32, 38470, 7471]
        .iter()
        .zip(rgb)
        .map(|(w, &v)| w * u32::from(v));
    ((weighted.sum::<u32>() + 0x8000) >> 16) as u8
}

/// Over paths below `folder` and the digests of the files.
fn digest(folder: &Path, files: &[PathBuf]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let bytes =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(folder).unwrap_or(file).to_string_lossy();
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(blake3::hash(&bytes).as_bytes());
    }
    Ok(hasher.finalize().to_hex()[..32].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;
    use contract::testing::Bench;
    use image::{Rgb, RgbImage};

    #[test]
    fn pictures_of_any_size_become_squares_and_a_change_is_noticed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let folder = dir.path().join("mine");
        std::fs::create_dir_all(folder.join("deep"))?;
        for i in 0..4u8 {
            let picture = RgbImage::from_pixel(10 + u32::from(i), 8, Rgb([50 * i, 50 * i, 50 * i]));
            picture.save(folder.join(format!("deep/{i}.png")))?;
        }
        std::fs::write(folder.join("notes.txt"), "not a picture")?;
        let mut bench = Bench::new::<Dataset>(&[]);
        bench.spec().data = Some(dir.path().to_path_buf());
        let mut params = Params {
            folder: "mine".into(),
            digest: String::new(),
            size: 4,
            channels: 1,
            test: 1,
            seed: 0,
            leave_out: vec![],
        };
        let error = load(&params, &mut bench.job(None).0)
            .err()
            .unwrap()
            .to_string();
        let right = error
            .split("has digest ")
            .nth(1)
            .and_then(|t| t.split(',').next());
        params.digest = right.unwrap().to_string();

        let splits = load(&params, &mut bench.job(None).0)?;
        assert_eq!(
            (splits.train.n, splits.test.n, splits.train.shape()),
            (3, 1, [4, 4, 1])
        );
        let mut greys = [splits.train.pixels(), splits.test.pixels()].concat();
        greys.dedup();
        greys.sort_unstable();
        assert_eq!(greys, [0, 50, 100, 150]);

        std::fs::write(folder.join("deep/1.png"), "damaged")?;
        assert!(load(&params, &mut bench.job(None).0).is_err());
        params.digest = digest(&folder, &PictureList::of(&folder, &[])?.files)?;
        let error = load(&params, &mut bench.job(None).0)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("deep/1.png is not a picture that can be read"),
            "{error}"
        );
        Ok(())
    }
}
