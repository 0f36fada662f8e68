//! Log-densities of Gaussians, in nats per example.

use candle_core::{Result, Tensor};

/// ln 2 pi.
const LN_TAU: f64 = 1.837_877_066_409_345_3;

/// `ln N(x; 0, I)`: `[n]` from `[n, ..]`.
pub fn standard_normal(x: &Tensor) -> Result<Tensor> {
    let dims = x.elem_count() / x.dim(0)?;
    (x.flatten_from(1)?.sqr()?.sum(1)? * -0.5)? - 0.5 * LN_TAU * dims as f64
}

/// `ln N(x; mean, diag exp(2 log_std))`, all of one shape: `[n]` from `[n, ..]`.
pub fn normal(x: &Tensor, mean: &Tensor, log_std: &Tensor) -> Result<Tensor> {
    let noise = ((x - mean)? * log_std.neg()?.exp()?)?;
    standard_normal(&noise)? - log_std.flatten_from(1)?.sum(1)?
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// At the mean: -(ln(2 pi) / 2 + ln s) per dimension. One deviation off: half a nat less.
    #[test]
    fn known_values() -> Result<()> {
        let at = |v: f64| Tensor::full(v, (1, 2, 2), &Device::Cpu);
        let log_std = at(0.1f64.ln())?;
        let here = normal(&at(3.0)?, &at(3.0)?, &log_std)?.to_vec1::<f64>()?[0];
        assert!((here + 4.0 * (0.918_938_533_204_672_8 + 0.1f64.ln())).abs() < 1e-12);
        let off = normal(&at(3.1)?, &at(3.0)?, &log_std)?.to_vec1::<f64>()?[0];
        assert!((here - off - 2.0).abs() < 1e-9);
        Ok(())
    }
}
