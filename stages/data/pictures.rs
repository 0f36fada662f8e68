//! Picture files to uint8 images, decoded on all cores.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use contract::{Interrupted, Job, Progress};
use image::DynamicImage;
use image::imageops::{self, FilterType};
use rayon::prelude::*;

use super::guess;

/// What to say beside numbers of JPEG files: the decoder rounds up where it widens chroma, and libjpeg, which other tools
/// use, rounds to both sides (docs/fidelity.md).
pub const JPEG_SHIFT: &str = "of JPEG files with chroma at half the resolution, red, green and blue are on average 0.2 to 0.4 \
     levels above, 0.2 to 0.3 below and 0.3 to 0.4 above what tools with libjpeg see";

/// Decoded at a time: bounds memory and the wait for Ctrl-C.
const CHUNK: usize = 512;

pub fn decode_file(path: &Path) -> Result<DynamicImage> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    decode(&bytes, path)
}

/// The format is told by the content; `name` is for errors.
pub fn decode(bytes: &[u8], name: &Path) -> Result<DynamicImage> {
    let broken = || {
        let other =
            guess::other(bytes).and_then(|other| Some(other.split_once("; hint")?.0.to_string()));
        format!(
            "{} is not a picture that can be read{}; hint: copy it again, or take it away",
            name.display(),
            other.map(|other| format!(": {other}")).unwrap_or_default()
        )
    };
    let picture = image::load_from_memory(bytes).with_context(broken)?;
    // The decoder fills what is missing with grey.
    if bytes.starts_with(&[0xff, 0xd8]) && !ends(bytes) {
        return Err(anyhow!("its end is missing").context(broken()));
    }
    Ok(picture)
}

/// Whether a JPEG file gets to its end-of-image marker. Segments are skipped whole: a thumbnail
/// in one of them has an end of its own.
fn ends(jpeg: &[u8]) -> bool {
    let mut at = 2;
    while let (Some(0xff), Some(&marker)) = (jpeg.get(at), jpeg.get(at + 1)) {
        match marker {
            0xd9 => return true,
            // Fill bytes.
            0xff => at += 1,
            // Markers without a length: restarts, and what stands for a 0xff among the data.
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let length = jpeg
                    .get(at + 2..at + 4)
                    .map(|l| usize::from(l[0]) << 8 | usize::from(l[1]));
                at += 2 + length.unwrap_or(jpeg.len());
            }
        }
        // Coded data, if a scan has begun; nothing otherwise.
        let data = jpeg.get(at..).unwrap_or_default();
        at += data.iter().position(|&b| b == 0xff).unwrap_or(data.len());
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A thumbnail, which ends, inside a picture that does not.
    #[test]
    fn a_jpeg_without_its_end_is_not_a_picture() -> Result<()> {
        let encode = |side: u32| -> Result<Vec<u8>> {
            let picture = image::RgbImage::from_fn(side, side, |x, y| {
                image::Rgb([x as u8 * 9, y as u8 * 7, (x * y) as u8])
            });
            let mut bytes = vec![];
            picture.write_with_encoder(image::codecs::jpeg::JpegEncoder::new(&mut bytes))?;
            Ok(bytes)
        };
        let (whole, small) = (encode(24)?, encode(8)?);
        let mut nested = whole[..2].to_vec();
        nested.extend([0xff, 0xe1]);
        nested.extend((small.len() as u16 + 2).to_be_bytes());
        nested.extend(&small);
        nested.extend(&whole[2..]);
        let name = Path::new("a.jpg");
        for bytes in [whole, nested] {
            let picture = decode(&bytes, name)?;
            assert_eq!((picture.width(), picture.height()), (24, 24));
            for cut in [1, 2, 10, 100] {
                let error = decode(&bytes[..bytes.len() - cut], name).unwrap_err();
                let error = format!("{error:#}");
                assert!(
                    error.starts_with("a.jpg is not a picture that can be read"),
                    "{cut}: {error}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn every_format_gives_its_pixels_and_of_frames_the_first() -> Result<()> {
        let picture = |shade: u8| {
            image::RgbImage::from_fn(12, 8, |x, y| {
                image::Rgb([x as u8 * 20, y as u8 * 30, shade])
            })
        };
        let name = Path::new("a");
        let first = picture(60);
        for format in [
            image::ImageFormat::Png,
            image::ImageFormat::Bmp,
            image::ImageFormat::WebP,
            image::ImageFormat::Pnm,
        ] {
            let mut bytes = std::io::Cursor::new(vec![]);
            first.write_to(&mut bytes, format)?;
            let read = decode(bytes.get_ref(), name)?.into_rgb8();
            assert_eq!(read, first, "{format:?}");
        }
        let mut bytes = vec![];
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
        for shade in [60, 250] {
            let frame = DynamicImage::ImageRgb8(picture(shade)).into_rgba8();
            encoder.encode_frame(image::Frame::new(frame))?;
        }
        drop(encoder);
        // 96 colours: the palette holds all of them.
        assert_eq!(decode(&bytes, name)?.into_rgb8(), first);

        let page = decode(b"<!DOCTYPE html><html>", name)
            .unwrap_err()
            .to_string();
        let text = "a is not a picture that can be read: it is a web page; hint:";
        assert!(page.starts_with(text), "{page}");
        Ok(())
    }
}
