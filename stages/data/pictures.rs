//! Picture files (PNG, JPEG) to uint8 images, decoded on all cores.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::DynamicImage;
use image::imageops::{self, FilterType};
use rayon::prelude::*;

use crate::contract::{Interrupted, Job, Progress};

/// Decoded at a time: bounds memory and the wait for Ctrl-C.
const CHUNK: usize = 512;

/// The pictures in a folder and its subfolders, sorted by path.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        let context = || format!("cannot read folder {}", folder.display());
        for entry in std::fs::read_dir(&folder).with_context(context)? {
            let path = entry.with_context(context)?.path();
            let extension = path.extension().map(|e| e.to_ascii_lowercase());
            let known = ["png", "jpg", "jpeg"].map(std::ffi::OsStr::new);
            if path.is_dir() {
                open.push(path);
            } else if extension.is_some_and(|e| known.contains(&e.as_os_str())) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

pub fn decode_file(path: &Path) -> Result<DynamicImage> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    decode(&bytes, path)
}

/// The format is told by the content; `name` is for errors.
pub fn decode(bytes: &[u8], name: &Path) -> Result<DynamicImage> {
    image::load_from_memory(bytes)
        .with_context(|| format!("{} is not a picture that can be read", name.display()))
}

/// The square `[top, left, side]` of a picture, antialiased bilinear to `size`, as RGB bytes.
pub fn crop(
    picture: &DynamicImage,
    [top, left, side]: [u32; 3],
    size: u32,
    name: &Path,
) -> Result<Vec<u8>> {
    let (width, height) = (picture.width(), picture.height());
    ensure!(
        left + side <= width && top + side <= height,
        "{} is {width}x{height}, too small for the square of {side} at column {left}, row {top}",
        name.display()
    );
    let square = imageops::crop_imm(&picture.to_rgb8(), left, top, side, side).to_image();
    Ok(match side == size {
        true => square.into_raw(),
        false => imageops::resize(&square, size, size, FilterType::Triangle).into_raw(),
    })
}

/// `each(i)` for 0..n, in parallel and in order, laid end to end. Stops when the job is to stop.
pub fn gather(
    n: usize,
    job: &mut Job,
    each: impl Fn(usize) -> Result<Vec<u8>> + Sync,
) -> Result<Vec<u8>> {
    let mut all = vec![];
    for start in (0..n).step_by(CHUNK) {
        if job.should_stop() {
            return Err(Interrupted.into());
        }
        let end = (start + CHUNK).min(n);
        let parts: Vec<_> = (start..end).into_par_iter().map(&each).collect();
        for part in parts {
            all.extend(part?);
        }
        job.progress(Progress {
            done: end as u64,
            total: n as u64,
            unit: "image".into(),
            ..Progress::default()
        });
    }
    if all.is_empty() {
        bail!("no pictures");
    }
    Ok(all)
}
