//! Images as Residual Flow has them: dequantised, drawn in from 0 and 1, and stretched by a logit.

use candle_core::{Result, Tensor};

use crate::models::gaussian::per_example;
use crate::models::pixels;
use crate::nn::noise::Draws;

/// Pixels 0 to 255 and noise u to `y = (pixel + u) / 256`.
pub fn dequantise(images: &Tensor, noise: &mut Draws) -> Result<Tensor> {
    let u = noise.uniform(images.shape(), images.dtype(), images.device())?;
    (images + u)? / 256.0
}

/// `ln s - ln(1 - s)` of `s = alpha + (1 - 2 alpha) y`, and `ln |det|` of each image `[n]`.
pub fn logit(y: &Tensor, alpha: f64) -> Result<(Tensor, Tensor)> {
    let slope = 1.0 - 2.0 * alpha;
    let s = y.affine(slope, alpha)?;
    let (ln, of_rest) = (s.log()?, s.affine(-1.0, 1.0)?.log()?);
    // ln slope - ln(s (1 - s))
    let log_det = per_example(&((&ln + &of_rest)?.affine(-1.0, slope.ln())?))?;
    Ok(((ln - of_rest)?, log_det))
}

/// Back from [`logit`] to pixels, floats on the scale of bytes.
pub fn pixels(x: &Tensor, alpha: f64) -> Result<Tensor> {
    let s = (x.neg()?.exp()? + 1.0)?.recip()?;
    let slope = 1.0 - 2.0 * alpha;
    pixels::of_dequantised(&s.affine(1.0 / slope, -alpha / slope)?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Oracle R2.
    #[test]
    fn the_logit_is_that_of_the_official_code() -> Result<()> {
        let y = Tensor::new(&[[0.0, 0.1, 0.5, 1.0]], &Device::Cpu)?;
        let (x, log_det) = logit(&y, 0.05)?;
        let found = x.flatten_all()?.to_vec1::<f64>()?;
        let expected = [-2.944438979, -1.815289967, 0.0, 2.944438979];
        let mut pairs = found.iter().zip(expected);
        assert!(pairs.all(|(a, b)| (a - b).abs() < 1e-9), "{found:?}");
        assert!((log_det.to_vec1::<f64>()?[0] - 9.17583918).abs() < 5e-9);
        let back = pixels(&x, 0.05)?.flatten_all()?.to_vec1::<f64>()?;
        let mut pairs = back.iter().zip([-0.5, 25.1, 127.5, 255.5]);
        assert!(pairs.all(|(a, b)| (a - b).abs() < 1e-12), "{back:?}");
        Ok(())
    }
}
