//! The images inside the binary: 6,000 + 1,000 of Fashion-MNIST (MIT licence, see `embedded/`),
//! as they are or coloured so that they can play a data set of three channels.

use anyhow::{Context, Result, ensure};
use image::ImageFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::images::Images;
use crate::nn::noise::{Draws, Noise};

/// How the embedded images look.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Look {
    /// 28x28, one channel, as published.
    Grey,
    /// 32x32, three channels: a garment between blue and violet before a plain, warm wall.
    TwoTone { seed: u64 },
    /// 32x32, three channels: a garment of a warm colour before an evening sky.
    Gradient { seed: u64 },
}

/// Both splits in the given look: train and test.
pub fn load(look: Look) -> Result<(Images, Images)> {
    let train = atlas(
        include_bytes!("embedded/train.png"),
        include_bytes!("embedded/train.labels"),
    );
    let test = atlas(
        include_bytes!("embedded/test.png"),
        include_bytes!("embedded/test.labels"),
    );
    let (train, test) = (train?, test?);
    // Test images follow the training images in the stream of colours, so none repeats.
    let first = train.n;
    Ok((look.apply(train, 0)?, look.apply(test, first)?))
}

/// Side of a published image, and of a coloured one.
const SIDE: usize = 28;
const FRAME: usize = 32;

/// Cuts the atlas that `embedded/make.py` wrote back into images.
fn atlas(png: &[u8], labels: &[u8]) -> Result<Images> {
    let picture = image::load_from_memory_with_format(png, ImageFormat::Png);
    let picture = picture.context("BUG: embedded atlas")?.into_luma8();
    let width = picture.width() as usize;
    let columns = width / SIDE;
    let mut pixels = Vec::with_capacity(picture.len());
    for i in 0..labels.len() {
        for y in 0..SIDE {
            let start = (i / columns * SIDE + y) * width + i % columns * SIDE;
            let row = picture.as_raw().get(start..start + SIDE);
            pixels.extend_from_slice(row.context("BUG: embedded atlas is too small")?);
        }
    }
    Images::new([SIDE, SIDE, 1], pixels, Some(labels.to_vec()))
}

/// From the grey values of an image to its colours.
type Colouring = fn(&[f32], &mut Draws) -> Vec<u8>;

impl Look {
    /// Image `i` is coloured with the noise of step `first + i`.
    fn apply(self, images: Images, first: usize) -> Result<Images> {
        let (seed, colour): (u64, Colouring) = match self {
            Look::Grey => return Ok(images),
            Look::TwoTone { seed } => (seed, two_tone),
            Look::Gradient { seed } => (seed, gradient),
        };
        ensure!(
            images.shape() == [SIDE, SIDE, 1],
            "BUG: looks are for published images"
        );
        let noise = Noise::new(seed, "look");
        let mut pixels = Vec::with_capacity(images.n * FRAME * FRAME * 3);
        for i in 0..images.n {
            let garment = framed(images.image(i));
            pixels.extend(colour(&garment, &mut noise.at((first + i) as u64)));
        }
        Images::new([FRAME, FRAME, 3], pixels, images.labels)
    }
}

/// Values 0 to 1 in the middle of a black 32x32 frame.
fn framed(image: &[u8]) -> Vec<f32> {
    let border = (FRAME - SIDE) / 2;
    let mut out = vec![0.0; FRAME * FRAME];
    for (y, row) in image.chunks_exact(SIDE).enumerate() {
        for (x, &value) in row.iter().enumerate() {
            out[(y + border) * FRAME + x + border] = f32::from(value) / 255.0;
        }
    }
    out
}

type Rgb = [f32; 3];

// Each image has two free numbers beside its shape: few enough that the small models of `quick`
// can learn them in minutes, and two more than the grey images have.

/// Blues to violets, lights a little nearer to red than shadows; the wall is plain and warm,
/// brighter or darker, and darkens towards the floor.
fn two_tone(garment: &[f32], draws: &mut Draws) -> Vec<u8> {
    let u = uniforms(draws, 2);
    let hue = 0.5 + 0.25 * u[0];
    let (shadow, light) = (hsv(hue, 0.8, 0.25), hsv(hue + 0.1, 0.4, 0.95));
    let wall = hsv(0.1, 0.25, 0.5 + 0.4 * u[1]);
    paint(garment, draws, |v, _, y| {
        let floor = 1.0 - 0.25 * y;
        (mix(shadow, light, v), wall.map(|c| c * floor))
    })
}

/// The sky is that of some hour between night and day over a dark ground; the garment is warm and
/// lit from the left.
fn gradient(garment: &[f32], draws: &mut Draws) -> Vec<u8> {
    let u = uniforms(draws, 2);
    let cloth = hsv(0.96 + 0.2 * u[0], 0.6, 0.95);
    let (left, right) = (
        hsv(0.52, 0.5, 0.2 + 0.6 * u[1]),
        hsv(0.66, 0.5, 0.2 + 0.4 * u[1]),
    );
    let ground = hsv(0.75, 0.4, 0.2);
    paint(garment, draws, |v, x, y| {
        let bright = (0.25 + 0.75 * v) * (1.0 - 0.25 * x);
        let sky = mix(left, right, x);
        (cloth.map(|c| c * bright), mix(sky, ground, y))
    })
}

/// Garment over background, with the grain of a camera.
///
/// Without the grain a background would be a function of a few numbers, and a density model
/// could be rewarded without bound for noticing.
fn paint(
    garment: &[f32],
    draws: &mut Draws,
    colours: impl Fn(f32, f32, f32) -> (Rgb, Rgb),
) -> Vec<u8> {
    const GRAIN: f32 = 3.0 / 255.0;
    let grain = draws.normals(garment.len() * 3);
    let mut out = Vec::with_capacity(garment.len() * 3);
    for (i, &value) in garment.iter().enumerate() {
        let place = |p: usize| p as f32 / (FRAME - 1) as f32;
        let (cloth, behind) = colours(value, place(i % FRAME), place(i / FRAME));
        // Dark cloth is still cloth: anything above a faint edge covers the background.
        let colour = mix(behind, cloth, (value * 6.0).min(1.0));
        for (c, value) in colour.into_iter().enumerate() {
            let value = (value + GRAIN * grain[i * 3 + c]) * 255.0;
            out.push(value.round().clamp(0.0, 255.0) as u8);
        }
    }
    out
}

fn uniforms(draws: &mut Draws, n: usize) -> Vec<f32> {
    draws
        .words(n)
        .into_iter()
        .map(|w| (w >> 8) as f32 / 16_777_216.0)
        .collect()
}

fn mix(a: Rgb, b: Rgb, t: f32) -> Rgb {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * t)
}

/// Hue in turns, saturation, value.
fn hsv(hue: f32, saturation: f32, value: f32) -> Rgb {
    [5.0, 3.0, 1.0].map(|n| {
        let k = (n + hue * 6.0) % 6.0;
        value * (1.0 - saturation * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_balanced_and_images_are_the_published_ones() -> Result<()> {
        let (train, test) = load(Look::Grey)?;
        assert_eq!((train.n, test.n, train.shape()), (6000, 1000, [28, 28, 1]));
        for (images, each) in [(&train, 600), (&test, 100)] {
            let labels = images.labels.as_ref().unwrap();
            let of = |class| labels.iter().filter(|&&l| l == class).count();
            assert!((0..10).all(|class| of(class) == each));
        }
        // The first training image of Fashion-MNIST is an ankle boot whose bytes sum to 76247.
        assert_eq!(train.labels.as_ref().unwrap()[..4], [9, 0, 0, 3]);
        assert_eq!(
            train.image(0).iter().map(|&v| u64::from(v)).sum::<u64>(),
            76247
        );
        Ok(())
    }

    #[test]
    fn a_look_depends_on_its_seed_alone_and_no_image_is_flat() -> Result<()> {
        let few = || load(Look::Grey).map(|(train, _)| train.select(0..20));
        let looks = [
            Look::TwoTone { seed: 1 },
            Look::TwoTone { seed: 2 },
            Look::Gradient { seed: 1 },
        ];
        let mut seen: Vec<Images> = vec![];
        for look in looks {
            let images = look.apply(few()?, 0)?;
            assert_eq!(images.shape(), [32, 32, 3]);
            assert_eq!(images.pixels(), look.apply(few()?, 0)?.pixels());
            assert!(seen.iter().all(|other| other.pixels() != images.pixels()));
            for i in 0..images.n {
                // Even a corner, where there is never a garment, varies.
                let corner = |y: usize, x: usize| images.image(i)[(y * 32 + x) * 3];
                let values: Vec<u8> = (0..16).map(|p| corner(p / 4, p % 4)).collect();
                assert!(values.iter().any(|v| *v != values[0]), "{look:?} {i}");
            }
            seen.push(images);
        }
        Ok(())
    }

    #[test]
    fn hsv_hits_the_primary_colours() {
        assert_eq!(hsv(0.0, 1.0, 1.0), [1.0, 0.0, 0.0]);
        assert_eq!(hsv(1.0 / 3.0, 1.0, 0.5), [0.0, 0.5, 0.0]);
        assert_eq!(hsv(1.5, 0.0, 0.25), [0.25; 3]);
    }
}
