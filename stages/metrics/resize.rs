//! Resizing as the three families of FID tools do it. They differ, and so do their distances.

use std::ops::Range;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which tool's resizing; the input range of the network belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// TensorFlow 1: bilinear, corners at the origin, no antialiasing; values `(x - 128) / 128`.
    /// TTUR's and torch-fidelity's.
    TfLegacy,
    /// pytorch-fid: bilinear with half-pixel centres, no antialiasing; values `2 x / 255 - 1`.
    PytorchFid,
    /// clean-fid: Pillow's antialiased bicubic on floats, clipped; values `(x - 128) / 128`.
    Clean,
}

impl Resize {
    pub fn name(self) -> &'static str {
        match self {
            Self::TfLegacy => "tf-legacy",
            Self::PytorchFid => "pytorch-fid",
            Self::Clean => "clean",
        }
    }

    /// Factor and offset that take 0 to 255 to what the network expects.
    pub fn range(self) -> (f64, f64) {
        match self {
            Self::TfLegacy | Self::Clean => (1.0 / 128.0, -1.0),
            Self::PytorchFid => (2.0 / 255.0, -1.0),
        }
    }

    /// Images laid end to end, each `[height, width, channels]`, made `[side, side, 3]`; still on the
    /// scale 0 to 255. Grey is copied to three channels.
    pub fn apply<P>(self, images: &[&[P]], shape: [usize; 3], side: usize) -> Vec<f32>
    where
        P: Copy + Into<f32> + Sync,
    {
        let [height, width, channels] = shape;
        let columns = self.taps(width, side);
        let rows = self.taps(height, side);
        let mut out = vec![0.0; images.len() * side * side * 3];
        let each = out.par_chunks_mut(side * side * 3).zip(images);
        each.for_each(|(out, image)| {
            // Along x first, as all three do.
            let mut wide = vec![0.0f32; height * side * channels];
            for y in 0..height {
                let line = &image[y * width * channels..(y + 1) * width * channels];
                for (x, taps) in columns.iter().enumerate() {
                    for c in 0..channels {
                        let at = |i: usize| line[i * channels + c].into();
                        wide[(y * side + x) * channels + c] = self.blend(taps, at);
                    }
                }
            }
            for (y, taps) in rows.iter().enumerate() {
                for x in 0..side {
                    for c in 0..channels {
                        let at = |i: usize| wide[(i * side + x) * channels + c];
                        let mut value = self.blend(taps, at);
                        if self == Self::Clean {
                            value = value.clamp(0.0, 255.0);
                        }
                        let to = &mut out[(y * side + x) * 3..][..3];
                        match channels {
                            1 => to.fill(value),
                            _ => to[c] = value,
                        }
                    }
                }
            }
        });
        out
    }

    /// The same as [`Self::apply`] along one axis, for a GPU: where the inputs of each output begin, how
    /// many they are, and their weights, `[to, most]`; of a bilinear one the upper's weight alone.
    #[cfg(any(feature = "cuda", test))]
    pub fn table(self, from: usize, to: usize) -> (Vec<u32>, Vec<u32>, Vec<f64>) {
        let taps = self.taps(from, to);
        let most = taps.iter().map(|t| t.weights.len()).max().unwrap_or(0);
        let first = taps.iter().map(|t| t.range.start as u32).collect();
        let count = taps.iter().map(|t| t.range.len() as u32).collect();
        let padded = taps.iter().flat_map(|t| {
            let rest = std::iter::repeat_n(0.0, most - t.weights.len());
            t.weights.iter().copied().chain(rest)
        });
        (first, count, padded.collect())
    }

    #[cfg(any(feature = "cuda", test))]
    pub fn is_bilinear(self) -> bool {
        self != Self::Clean
    }

    /// For each output position the inputs it is made of, and their weights.
    fn taps(self, from: usize, to: usize) -> Vec<Taps> {
        let positions = 0..to;
        match self {
            _ if from == to => positions.map(Taps::one).collect(),
            Self::TfLegacy => {
                let scale = from as f32 / to as f32;
                positions
                    .map(|i| Taps::two(i as f32 * scale, from))
                    .collect()
            }
            Self::PytorchFid => {
                let scale = from as f32 / to as f32;
                let source = |i: usize| ((i as f32 + 0.5) * scale - 0.5).max(0.0);
                positions.map(|i| Taps::two(source(i), from)).collect()
            }
            Self::Clean => positions.map(|i| Taps::bicubic(i, from, to)).collect(),
        }
    }

    fn blend(self, taps: &Taps, at: impl Fn(usize) -> f32) -> f32 {
        match self {
            // The form in which TensorFlow and PyTorch round.
            Self::TfLegacy | Self::PytorchFid => {
                let [low, high] = [at(taps.range.start), at(taps.range.end - 1)];
                low + (high - low) * taps.weights[0] as f32
            }
            Self::Clean => {
                let weighted = taps.range.clone().zip(&taps.weights);
                weighted.map(|(i, w)| f64::from(at(i)) * w).sum::<f64>() as f32
            }
        }
    }
}

/// Inputs of one output along one axis. Bilinear taps keep the upper one's weight alone.
struct Taps {
    range: Range<usize>,
    weights: Vec<f64>,
}

impl Taps {
    fn one(i: usize) -> Self {
        Self {
            range: i..i + 1,
            weights: vec![1.0],
        }
    }

    fn two(source: f32, size: usize) -> Self {
        let low = (source.floor() as usize).min(size - 1);
        let high = (low + 1).min(size - 1);
        Self {
            range: low..high + 1,
            weights: vec![f64::from(source - low as f32)],
        }
    }

    /// Pillow's `precompute_coeffs` with the bicubic of a = -1/2, widened when shrinking.
    fn bicubic(i: usize, from: usize, to: usize) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let (center, support) = ((i as f64 + 0.5) * scale, 2.0 * stretch);
        let low = (center - support + 0.5).max(0.0) as usize;
        let high = ((center + support + 0.5) as usize).min(from);
        let weight = |j: usize| cubic((j as f64 - center + 0.5) / stretch);
        let weights: Vec<f64> = (low..high).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        Self {
            range: low..high,
            weights: weights.iter().map(|w| w / sum).collect(),
        }
    }
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Resize; 3] = [Resize::TfLegacy, Resize::PytorchFid, Resize::Clean];

    /// One channel of a resized grey image.
    fn grey(resize: Resize, image: &[u8], [h, w]: [usize; 2], side: usize) -> Vec<f32> {
        resize
            .apply(&[image], [h, w, 1], side)
            .into_iter()
            .step_by(3)
            .collect()
    }

    #[test]
    fn two_by_two_to_four_by_four() {
        let image = [0, 1, 2, 3];
        let legacy = grey(Resize::TfLegacy, &image, [2, 2], 4);
        assert_eq!(legacy[..4], [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(
            [legacy[0], legacy[4], legacy[8], legacy[12]],
            [0.0, 1.0, 2.0, 2.0]
        );
        let half_pixel = grey(Resize::PytorchFid, &image, [2, 2], 4);
        assert_eq!(half_pixel[..4], [0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn a_constant_stays_and_an_equal_size_changes_nothing() {
        let image: Vec<u8> = (0..48).collect();
        for resize in ALL {
            let flat = grey(resize, &[77; 35], [5, 7], 11);
            assert!(flat.iter().all(|v| (v - 77.0).abs() < 1e-4), "{resize:?}");
            let same = resize.apply(&[&image], [4, 4, 3], 4);
            assert_eq!(
                same,
                image.iter().map(|&v| f32::from(v)).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn channels_do_not_mix_and_images_do_not_either() {
        let red = [255u8, 0, 0].repeat(4);
        let blue = [0u8, 0, 9].repeat(4);
        for resize in ALL {
            let both = resize.apply(&[&red, &blue], [2, 2, 3], 3);
            assert!(
                both[..27]
                    .chunks(3)
                    .all(|p| p[0] > 254.9 && p[1..] == [0.0, 0.0])
            );
            assert!(
                both[27..]
                    .chunks(3)
                    .all(|p| p[..2] == [0.0, 0.0] && p[2] > 8.99)
            );
        }
    }
}
