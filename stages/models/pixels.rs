//! What is kept of the images that a model draws (A23). Models give pixels as floats on the scale of
//! bytes, 0 to 255, which noise and flows may leave.

use candle_core::{DType, Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pixels {
    /// Clipped to 0 to 255 and rounded, as uint8.
    Bytes,
    /// As f32, neither clipped nor rounded.
    Floats,
}

/// Pixels of a `unit` image in [0, 1) that was (x + u) / 256 with noise u in [0, 1): x is the nearest
/// whole number to 256 y - 1/2.
pub fn of_dequantised(unit: &Tensor) -> Result<Tensor> {
    unit.affine(256.0, -0.5)
}

/// Clipped and rounded.
pub fn to_bytes(pixels: &Tensor) -> Result<Tensor> {
    pixels.round()?.clamp(0.0, 255.0)?.to_dtype(DType::U8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Also at the ends of a byte's range, and beyond all bytes.
    #[test]
    fn bytes_are_those_that_noise_was_added_to() -> Result<()> {
        let below = |y: f32| f32::from_bits(y.to_bits() - 1);
        let starts = (0..256u16).map(|x| f32::from(x) / 256.0);
        let all: Vec<f32> = starts
            .flat_map(|y| [y, y + 0.3 / 256.0, below(y + 1.0 / 256.0)])
            .chain([-1e-9, -0.1, 1.0, 7.0])
            .collect();
        let expected = all
            .iter()
            .map(|y| (y * 256.0).floor().clamp(0.0, 255.0) as u8);
        let y = Tensor::from_slice(&all, all.len(), &Device::Cpu)?;
        let bytes = to_bytes(&of_dequantised(&y)?)?.to_vec1::<u8>()?;
        assert!(bytes.iter().copied().eq(expected), "{bytes:?}");
        Ok(())
    }
}
