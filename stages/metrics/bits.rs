//! Bits per dimension.

use std::f64::consts::LN_2;

use candle_core::Tensor;
use contract::metrics::{Better, Metric};
use serde_json::Value;

/// From `ln p(y)` in nats of an image of `dims` sub-pixels, where `y = scale (x + u) + shift` with x
/// whole numbers and u uniform on [0, 1): `-ln p(y) / (dims ln 2) - log2(scale)` (REFERENCE 1.6).
///
/// With scale 1/256 the last term is 8, with 1/128 (y in [-1, 1)) it is 7.
pub fn bits_per_dim(log_density: &Tensor, dims: usize, scale: f64) -> candle_core::Result<Tensor> {
    (log_density / (-LN_2 * dims as f64))? - scale.log2()
}

/// Mean of independent values and its standard error; none from fewer than two values.
pub fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let error = (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    (mean, error)
}

/// The mean over images, as the artifact has it. What is null in the protocol is not known, and left
/// out.
pub fn metric(label: &str, values: &[f64], protocol: &Value) -> Metric {
    let (value, std_error) = mean_and_error(values);
    let mut protocol = protocol.as_object().cloned().unwrap_or_default();
    protocol.retain(|_, known| !known.is_null());
    Metric {
        name: "bits-per-dim".into(),
        label: label.into(),
        value,
        std_error,
        n: Some(values.len() as u64),
        better: Better::Lower,
        unit: "bits/dim".into(),
        protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(log_density: f64, scale: f64) -> candle_core::Result<f64> {
        let log_density = Tensor::new(log_density, &candle_core::Device::Cpu)?;
        bits_per_dim(&log_density, 3072, scale)?.to_scalar()
    }

    #[test]
    fn a_uniform_density_costs_all_bits() -> candle_core::Result<()> {
        // Density 1 on [0, 1)^D.
        assert_eq!(bits(0.0, 1.0 / 256.0)?, 8.0);
        assert_eq!(bits(0.0, 1.0 / 32.0)?, 5.0);
        // Density 2^-D on [-1, 1)^D.
        assert!((bits(-3072.0 * LN_2, 1.0 / 128.0)? - 8.0).abs() < 1e-12);
        // Any density, with y in other units.
        let doubled = bits(5000.0 - 3072.0 * LN_2, 1.0 / 128.0)?;
        assert!((doubled - bits(5000.0, 1.0 / 256.0)?).abs() < 1e-12);
        Ok(())
    }

    #[test]
    fn the_standard_error_is_that_of_the_mean() {
        assert_eq!(mean_and_error(&[1.0, 2.0, 3.0, 4.0]).0, 2.5);
        let error = mean_and_error(&[1.0, 2.0, 3.0, 4.0]).1;
        assert!(error.is_some_and(|e| (e - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15));
        assert_eq!(mean_and_error(&[7.0]), (7.0, None));
    }
}
