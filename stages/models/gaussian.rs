//! Diagonal Gaussians: log-densities, entropy and divergence per example, in nats.

use candle_core::{Result, Tensor};

pub use crate::nn::normal_density::{HALF_LN_TAU, log_density};

/// Sum over all but the first dimension: `[n, ...]` to `[n]`.
pub fn per_example(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(1)?.sum(1)
}

/// ln N(x; 0, I), `[n]`.
pub fn log_standard(x: &Tensor) -> Result<Tensor> {
    per_example(&((x.sqr()? * -0.5)? - HALF_LN_TAU)?)
}

/// Entropy of N(., exp(log_std)^2), `[n]`.
pub fn entropy(log_std: &Tensor) -> Result<Tensor> {
    per_example(&(log_std + (0.5 + HALF_LN_TAU))?)
}

/// KL of N(mean, exp(log_std)^2) from N(0, I), `[n]`.
pub fn divergence(mean: &Tensor, log_std: &Tensor) -> Result<Tensor> {
    let variance = (log_std * 2.0)?.exp()?;
    let sum = ((mean.sqr()? + variance)? - (log_std * 2.0)?)?;
    per_example(&((sum - 1.0)? * 0.5)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::noise::Noise;

    fn row(values: &[f64]) -> Result<Tensor> {
        Tensor::from_slice(values, (1, values.len()), &Device::Cpu)
    }

    fn only(t: &Tensor) -> Result<f64> {
        Ok(t.to_vec1::<f64>()?[0])
    }

    /// REFERENCE 7, oracle 12.
    #[test]
    fn divergence_is_zero_only_at_the_prior() -> Result<()> {
        assert_eq!(only(&divergence(&row(&[0.0; 3])?, &row(&[0.0; 3])?)?)?, 0.0);
        assert_eq!(only(&divergence(&row(&[1.0; 3])?, &row(&[0.0; 3])?)?)?, 1.5);
        // By Monte Carlo: the mean of ln q(z) - ln p(z) over 20000 draws, within 4 errors.
        let (mean, log_std) = (row(&[0.7, -1.2])?, row(&[-0.5, 0.3])?);
        let e = Noise::new(0, "kl")
            .at(0)
            .normal((20_000, 2), DType::F64, &Device::Cpu)?;
        let z = e.broadcast_mul(&log_std.exp()?)?.broadcast_add(&mean)?;
        let (m, s) = (
            mean.broadcast_as(z.shape())?,
            log_std.broadcast_as(z.shape())?,
        );
        let gap = (log_density(&z, &m, &s)? - log_standard(&z)?)?.to_vec1::<f64>()?;
        let average = gap.iter().sum::<f64>() / 20_000.0;
        let variance = gap.iter().map(|g| (g - average).powi(2)).sum::<f64>() / 20_000.0;
        let exact = only(&divergence(&mean, &log_std)?)?;
        assert!((average - exact).abs() < 4.0 * (variance / 20_000.0).sqrt());
        Ok(())
    }

    /// REFERENCE 7, oracle 13.
    #[test]
    fn density_at_the_mean_is_the_normaliser() -> Result<()> {
        let x = row(&[0.3, 4.0])?;
        let s = row(&[0.5, -1.0])?;
        let expect = -(2.0 * HALF_LN_TAU + 0.5 - 1.0);
        assert!((only(&log_density(&x, &x, &s)?)? - expect).abs() < 1e-12);
        // Over one gamma, the best is gamma^2 = mean squared error, with loss D(1/2 + ln gamma + c).
        let (x, zero) = (row(&[1.0, -2.0, 3.0])?, row(&[0.0; 3])?);
        let gamma = (14.0f64 / 3.0).sqrt();
        let at = |g: f64| -> Result<f64> { only(&log_density(&x, &zero, &row(&[g.ln(); 3])?)?) };
        assert!((at(gamma)? + 3.0 * (0.5 + gamma.ln() + HALF_LN_TAU)).abs() < 1e-12);
        assert!(at(gamma)? > at(gamma * 1.01)? && at(gamma)? > at(gamma * 0.99)?);
        // A single number stands for all dimensions.
        let scalar = Tensor::full(gamma.ln(), (1, 1), &Device::Cpu)?;
        assert!((only(&log_density(&x, &zero, &scalar)?)? - at(gamma)?).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn entropy_is_the_mean_of_minus_log_density() -> Result<()> {
        let s = row(&[0.2, -0.4])?;
        assert!((only(&entropy(&s)?)? - (1.0 + 2.0 * HALF_LN_TAU - 0.2)).abs() < 1e-12);
        Ok(())
    }
}
