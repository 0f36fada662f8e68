//! Stretching of contrast, which some measurements do to each image before it is resized.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done to each image on its own before it is resized (A23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Stretch {
    /// Nothing.
    None,
    /// Its least value becomes 0 and its greatest 255, over all channels, without rounding; an image of
    /// one value stays as it is. Dai & Wipf do that to generated images, and not to the reference.
    MinMax,
}

impl Stretch {
    pub fn apply(self, image: &mut [f32]) {
        if self == Self::None {
            return;
        }
        let low = image.iter().copied().fold(f32::INFINITY, f32::min);
        let high = image.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if low < high {
            for value in image {
                *value = (*value - low) / (high - low) * 255.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretched<const N: usize>(stretch: Stretch, mut image: [f32; N]) -> [f32; N] {
        stretch.apply(&mut image);
        image
    }

    #[test]
    fn the_least_becomes_0_and_the_greatest_255() {
        let image = [-10.0, 0.0, 30.0, 10.0];
        let expected = [0.0, 63.75, 255.0, 127.5];
        assert_eq!(stretched(Stretch::MinMax, image), expected);
        // Neither scale nor offset of the image matters.
        let other = image.map(|v| 0.5 * v + 8.0);
        assert_eq!(stretched(Stretch::MinMax, other), expected);
        assert_eq!(stretched(Stretch::None, image), image);
    }

    #[test]
    fn an_image_of_one_value_stays_and_no_number_stays_none() {
        assert_eq!(stretched(Stretch::MinMax, [300.0; 4]), [300.0; 4]);
        assert!(stretched(Stretch::MinMax, [0.0, f32::NAN, 1.0])[1].is_nan());
        assert!(stretched(Stretch::MinMax, [0.0, f32::INFINITY])[1].is_nan());
    }
}
