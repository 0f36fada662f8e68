//! Images as they come back from JPEG files (A24).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use contract::Job;
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};

use super::images::Images;
use super::pictures;

/// Every image written as a JPEG file of that quality (1 to 100) and read back. Files are like those of
/// Pillow's defaults: the tables of the standard, scaled, and chroma at half the resolution, each
/// value the mean of four.
pub fn round_trip(images: &Images, quality: u8, job: &mut Job) -> Result<Images> {
    let shape = images.shape();
    // `gather` takes none for a mistake, but a source may have no validation images.
    if images.n == 0 {
        return Images::new(shape, vec![], images.labels.clone());
    }
    let pixels = pictures::gather(images.n, job, |i| {
        through_a_file(images.image(i), shape, quality)
    })?;
    Images::new(shape, pixels, images.labels.clone())
}

fn through_a_file(
    image: &[u8],
    [height, width, channels]: [usize; 3],
    quality: u8,
) -> Result<Vec<u8>> {
    let colour = match channels {
        1 => ColorType::Luma,
        _ => ColorType::Rgb,
    };
    let side =
        |side| u16::try_from(side).context("a JPEG file holds no more than 65535 pixels a side");
    let mut file = vec![];
    let mut encoder = Encoder::new(&mut file, quality);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.encode(image, side(width)?, side(height)?, colour)?;
    let picture = pictures::decode(&file, Path::new("a JPEG file in memory"))?;
    let pixels = match channels {
        1 => picture.into_luma8().into_raw(),
        _ => picture.into_rgb8().into_raw(),
    };
    ensure!(
        pixels.len() == image.len(),
        "BUG: a JPEG file of another size"
    );
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Dataset;
    use contract::testing::Bench;
    use serde_json::Value;

    /// No pixel is like its neighbours, so that tables, halved chroma and rounding all show.
    fn restless(channels: usize) -> Vec<u8> {
        let value = |i: usize| {
            let (y, x, c) = (i / channels / 16, i / channels % 16, i % channels);
            (37 * x + 91 * y + 53 * c + 7 * x * y) as u8
        };
        (0..256 * channels).map(value).collect()
    }

    /// See picture.py. Decoders may differ by a few levels.
    #[test]
    fn pixels_are_nearly_those_of_pillow() -> Result<()> {
        let golden = include_str!("../../tests/golden/round_trip.json");
        let golden: Value = serde_json::from_str(golden)?;
        for (name, channels) in [("grey", 1), ("colour", 3)] {
            for quality in [75, 95] {
                let image = restless(channels);
                let ours = through_a_file(&image, [16, 16, channels], quality)?;
                let theirs = golden[name][quality.to_string()].clone();
                let theirs: Vec<u8> = serde_json::from_value(theirs)?;
                assert_eq!(ours.len(), theirs.len());
                let gaps = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b));
                let most = gaps.clone().max().unwrap();
                let mean = gaps.map(f64::from).sum::<f64>() / ours.len() as f64;
                assert!(most <= 3 && mean < 0.5, "{name} {quality}: {most}, {mean}");
            }
        }
        Ok(())
    }

    #[test]
    fn images_keep_their_order_and_labels_and_none_stay_none() -> Result<()> {
        let (dark, light) = ([40; 48], [200; 48]);
        let two = Images::new([4, 4, 3], [dark, light].concat(), Some(vec![7, 8]))?;
        let bench = Bench::new::<Dataset>(&[]);
        let mut job = bench.job(None).0;
        let read = round_trip(&two, 75, &mut job)?;
        assert_eq!((read.n, read.shape()), (2, [4, 4, 3]));
        assert_eq!(read.labels, two.labels);
        // A plain image has no detail to lose, and 8 divides its distance from grey.
        assert_eq!(read.pixels(), two.pixels());
        assert_eq!(round_trip(&two.select([]), 75, &mut job)?.n, 0);
        Ok(())
    }
}
