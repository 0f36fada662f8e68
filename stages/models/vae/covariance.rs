//! The covariance of p(y|z) (A12).

use anyhow::{Result, ensure};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::models::infogan::softplus;
use crate::nn::clamp::clamp;

/// The covariance of p(y|z): always diagonal, with deviations that are learned or decoded (A12).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Covariance {
    /// One learned deviation for all.
    Isotropic {},
    /// A learned deviation for each channel.
    PerChannel {},
    /// A decoded deviation for each pixel and channel.
    Diagonal {
        form: Form,
        start: Start,
        /// Lower bound of the ln deviation.
        log_min: f64,
        /// Upper bound of the ln deviation.
        log_max: f64,
    },
}

/// How the decoder's last maps give a deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// They are its logarithm, clamped to the bounds.
    Log,
    /// Their softplus and the lower bound are, up to the upper one.
    Softplus,
}

/// How the maps that give the deviation start (A37).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At zero, whatever z is: a deviation of 1 for `form = "log"`, as Dai & Wipf's single one starts.
    Zero,
    /// As the mean's maps: drawn.
    Drawn,
}

impl Covariance {
    /// With the choices of pipeline.toml.
    #[cfg(test)]
    pub const DIAGONAL: Self = Self::Diagonal {
        form: Form::Log,
        start: Start::Drawn,
        log_min: -7.0,
        log_max: 2.0,
    };

    pub(super) fn check(self) -> Result<()> {
        if let Self::Diagonal {
            log_min, log_max, ..
        } = self
        {
            ensure!(
                log_min < log_max,
                "covariance.log_min = {log_min} is not below covariance.log_max = {log_max}"
            );
        }
        Ok(())
    }

    /// Maps that the decoder gives besides the mean's, for a number of channels.
    pub(super) fn decoded(self, channels: usize) -> usize {
        match self {
            Self::Diagonal { .. } => channels,
            Self::Isotropic {} | Self::PerChannel {} => 0,
        }
    }

    /// Whether the decoded maps start at zero.
    pub(super) fn starts_at_zero(self) -> bool {
        matches!(
            self,
            Self::Diagonal {
                start: Start::Zero,
                ..
            }
        )
    }

    /// Deviations that are learned as such.
    pub(super) fn learned(self, channels: usize) -> usize {
        match self {
            Self::Isotropic {} => 1,
            Self::PerChannel {} => channels,
            Self::Diagonal { .. } => 0,
        }
    }

    /// ln deviation from the decoded maps of a diagonal one.
    pub(super) fn log_sigma(self, decoded: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Diagonal {
                form: Form::Log,
                log_min,
                log_max,
                ..
            } => clamp(decoded, log_min, log_max),
            // The lower bound is added, not clamped to: the logarithm of 0 has no gradient.
            Self::Diagonal {
                form: Form::Softplus,
                log_min,
                log_max,
                ..
            } => (softplus(decoded)? + log_min.exp())?
                .log()?
                .minimum(log_max),
            Self::Isotropic {} | Self::PerChannel {} => {
                candle_core::bail!("BUG: learned deviations are not decoded")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn deviations_stay_within_bounds_and_have_gradients() -> Result<()> {
        let raw = [-900.0, -30.0, -7.5, -1.0, 0.0, 1.5, 3.0, 900.0f64];
        let var = Var::new(&raw, &Device::Cpu)?;
        let log: [f64; 8] = raw.map(|r| r.clamp(-7.0, 2.0));
        let floor = (-7f64).exp();
        let plus = raw.map(|r| {
            let softplus = if r > 500.0 { r } else { r.exp().ln_1p() };
            (softplus + floor).ln().min(2.0)
        });
        for (form, expected) in [(Form::Log, log), (Form::Softplus, plus)] {
            let (log_min, log_max) = (-7.0, 2.0);
            let covariance = Covariance::Diagonal {
                form,
                start: Start::Drawn,
                log_min,
                log_max,
            };
            let found = covariance.log_sigma(&var)?;
            for (a, b) in found.to_vec1::<f64>()?.iter().zip(expected) {
                assert!((a - b).abs() < 1e-12, "{form:?}: {a} for {b}");
            }
            let gradients = found.sum_all()?.backward()?;
            let gradient = gradients.get(&var).map(|g| g.to_vec1::<f64>());
            let gradient = gradient.transpose()?.unwrap_or_default();
            assert!(gradient.len() == 8 && gradient.iter().all(|g| g.is_finite()));
            assert!(gradient[4] > 0.0 && gradient[7] == 0.0, "{gradient:?}");
        }
        Ok(())
    }
}
