//! Squeeze of Glow: 2x2 blocks of pixels into channels.

use candle_core::{Result, Tensor, bail};

use super::bijector::{Bijector, no_change};

/// `[n, h, w, c]` to `[n, h/2, w/2, 4c]`; the pixel (dy, dx) of a block and channel c becomes
/// channel `4c + 2dy + dx`, as in the official code.
pub struct Squeeze;

impl Bijector for Squeeze {
    fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (n, h, w, c) = x.dims4()?;
        if h % 2 != 0 || w % 2 != 0 {
            bail!("squeeze: height and width of {:?} must be even", x.dims());
        }
        let blocks = x.reshape(&[n, h / 2, 2, w / 2, 2, c][..])?;
        let y = blocks
            .permute(&[0, 1, 3, 5, 2, 4][..])?
            .reshape((n, h / 2, w / 2, 4 * c))?;
        Ok((y, no_change(x)?))
    }

    fn inverse(&self, y: &Tensor) -> Result<Tensor> {
        let (n, h, w, c) = y.dims4()?;
        if c % 4 != 0 {
            bail!(
                "unsqueeze: the channels of {:?} must be a multiple of 4",
                y.dims()
            );
        }
        let blocks = y.reshape(&[n, h, w, c / 4, 2, 2][..])?;
        blocks
            .permute(&[0, 1, 4, 2, 5, 3][..])?
            .reshape((n, 2 * h, 2 * w, c / 4))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_block_becomes_channels_in_reading_order() -> Result<()> {
        // Two channels: a b c d and 10 a, 10 b, 10 c, 10 d.
        let x = [1f32, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0];
        let x = Tensor::new(&x, &Device::Cpu)?.reshape((1, 2, 2, 2))?;
        let (y, log_det) = Squeeze.forward(&x)?;
        assert_eq!(y.dims(), [1, 1, 1, 8]);
        let values = y.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(log_det.to_vec1::<f32>()?, [0.0]);
        let back = Squeeze.inverse(&y)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(back, x.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }
}
