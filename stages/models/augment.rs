//! Augmentation of training images.

use anyhow::Result;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::noise::Draws;

/// What becomes of the images of a training batch (A29).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// Nothing.
    None,
    /// Each is moved by up to a tenth of its height and of its width, in whole pixels, and its
    /// border repeated where nothing is left: the official Glow's augmentation of CIFAR-10.
    Shift,
    /// Each is mirrored left to right with probability 1/2.
    Flip,
}

impl Augment {
    /// Images `[n, height, width, channels]` of a training step.
    pub fn apply(self, images: &Tensor, noise: &mut Draws) -> Result<Tensor> {
        match self {
            Self::None => Ok(images.clone()),
            Self::Shift => shift(images, noise),
            Self::Flip => flip(images, noise),
        }
    }
}

fn shift(images: &Tensor, noise: &mut Draws) -> Result<Tensor> {
    let (n, height, width, _) = images.dims4()?;
    let mut from = Vec::with_capacity(n * height * width);
    for (i, moves) in noise.words(2 * n).chunks_exact(2).enumerate() {
        let (down, right) = (offset(moves[0], height), offset(moves[1], width));
        for y in 0..height {
            let row = i * height + inside(y, down, height);
            from.extend((0..width).map(|x| (row * width + inside(x, right, width)) as u32));
        }
    }
    gather(images, from)
}

fn flip(images: &Tensor, noise: &mut Draws) -> Result<Tensor> {
    let (n, height, width, _) = images.dims4()?;
    let mut from = Vec::with_capacity(n * height * width);
    for (i, word) in noise.words(n).into_iter().enumerate() {
        let mirrored = word >> 31 == 1;
        for row in i * height..(i + 1) * height {
            let column = |x: usize| if mirrored { width - 1 - x } else { x };
            from.extend((0..width).map(|x| (row * width + column(x)) as u32));
        }
    }
    gather(images, from)
}

/// Images whose pixels are those of `images` at these places, all images end to end.
fn gather(images: &Tensor, from: Vec<u32>) -> Result<Tensor> {
    let (n, height, width, channels) = images.dims4()?;
    let from = Tensor::from_vec(from, n * height * width, images.device())?;
    let pixels = images.reshape((n * height * width, channels))?;
    Ok(pixels.index_select(&from, 0)?.reshape(images.shape())?)
}

/// A whole number of pixels within a tenth of `side`, either way.
fn offset(word: u32, side: usize) -> isize {
    let u = f64::from(word) / f64::from(u32::MAX);
    ((2.0 * u - 1.0) * 0.1 * side as f64).round() as isize
}

fn inside(place: usize, offset: isize, side: usize) -> usize {
    (place as isize - offset).clamp(0, side as isize - 1) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::noise::Noise;

    #[test]
    fn a_flip_mirrors_about_half_of_the_images() -> Result<()> {
        let (n, height, width) = (400, 2, 3);
        let all = (0..n * height * width * 2).map(|i| i as f64);
        let images = Tensor::from_iter(all, &Device::Cpu)?.reshape((n, height, width, 2))?;
        let flipped = Augment::Flip.apply(&images, &mut Noise::new(0, "flip").at(0))?;
        assert_eq!(flipped.dims(), images.dims());
        let mut mirrored = 0;
        let rows = |t: &Tensor| t.reshape((n, height * width, 2))?.to_vec3::<f64>();
        for (new, old) in rows(&flipped)?.iter().zip(rows(&images)?) {
            let turned = [2, 1, 0, 5, 4, 3].map(|i: usize| old[i].clone());
            assert!(*new == old || *new == turned, "{new:?}");
            mirrored += usize::from(*new == turned);
        }
        // Four deviations of 400 coins.
        assert!((160..=240).contains(&mirrored), "{mirrored}");
        Ok(())
    }

    #[test]
    fn a_shift_moves_whole_images_and_repeats_their_borders() -> Result<()> {
        let (n, side) = (200usize, 30usize);
        // Channel 0 tells the row, channel 1 the column, channel 2 the image.
        let place = |i: usize| [i / side % side, i % side, i / (side * side)];
        let all = (0..n * side * side).flat_map(|i| place(i).map(|v| v as f64));
        let images = Tensor::from_iter(all, &Device::Cpu)?.reshape((n, side, side, 3))?;
        let mut noise = Noise::new(0, "shift").at(0);
        let moved = Augment::Shift.apply(&images, &mut noise)?;
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for (i, image) in moved.flatten(1, 3)?.to_vec2::<f64>()?.iter().enumerate() {
            let at = |y: usize, x: usize, c: usize| image[(y * side + x) * 3 + c] as isize;
            // Far enough inside to have come from inside.
            let by = [15 - at(15, 15, 0), 15 - at(15, 15, 1)];
            let last = side as isize - 1;
            for (y, x) in (0..side * side).map(|p| (p / side, p % side)) {
                assert_eq!(at(y, x, 0), (y as isize - by[0]).clamp(0, last));
                assert_eq!(at(y, x, 1), (x as isize - by[1]).clamp(0, last));
                assert_eq!(at(y, x, 2), i as isize);
            }
            seen[0].insert(by[0]);
            seen[1].insert(by[1]);
        }
        let tenth: BTreeSet<isize> = (-3..=3).collect();
        assert_eq!(seen, [tenth.clone(), tenth]);

        let mut untouched = Noise::new(0, "shift").at(0);
        let same = Augment::None.apply(&images, &mut untouched)?;
        assert_eq!(
            (&same - &images)?.abs()?.max_all()?.to_scalar::<f64>()?,
            0.0
        );
        // No draw is taken, so the noise after it is what it was without.
        let fresh = Noise::new(0, "shift").at(0).words(4);
        assert_eq!(untouched.words(4), fresh);
        assert_eq!(same.dtype(), DType::F64);
        Ok(())
    }
}
