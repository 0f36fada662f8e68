//! Invertible maps that know how they change volume.

use candle_core::{Result, Tensor};

/// A bijection between tensors of `n` examples.
pub trait Bijector {
    /// `y` and `ln |det dy/dx|`, one number per example: `[n]`.
    fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)>;

    /// The `x` of which `y` is the image.
    fn inverse(&self, y: &Tensor) -> Result<Tensor>;

    /// Sets whatever starts from data so that it fits `x`, a first batch, and returns `y`.
    fn start(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.forward(x)?.0)
    }
}

/// One after the other, first to last.
impl<B: Bijector> Bijector for Vec<B> {
    fn forward(&self, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let mut y = x.clone();
        let mut log_det = no_change(x)?;
        for layer in self {
            let (next, change) = layer.forward(&y)?;
            y = next;
            log_det = (log_det + change)?;
        }
        Ok((y, log_det))
    }

    fn inverse(&self, y: &Tensor) -> Result<Tensor> {
        self.iter()
            .rev()
            .try_fold(y.clone(), |y, layer| layer.inverse(&y))
    }

    fn start(&self, x: &Tensor) -> Result<Tensor> {
        // Nothing here is differentiated: what a layer computed can go once it is through.
        let next = |x: Tensor, layer: &B| Ok(layer.start(&x)?.detach());
        self.iter().try_fold(x.clone(), next)
    }
}

/// The log-determinant of a map that keeps volumes.
pub fn no_change(x: &Tensor) -> Result<Tensor> {
    Tensor::zeros(x.dim(0)?, x.dtype(), x.device())
}

/// Height times width of images `[n, h, w, c]`: how often a per-pixel determinant counts.
pub fn positions(x: &Tensor) -> Result<f64> {
    let (_, h, w, _) = x.dims4()?;
    Ok((h * w) as f64)
}

/// What must hold of every bijector.
#[cfg(test)]
pub mod check {
    use anyhow::{Result, ensure};
    use candle_core::DType;

    use super::*;
    use crate::nn::inv_conv::log_abs_det;
    use crate::nn::noise::Noise;
    use crate::nn::weights::Weights;

    /// Adds `std` times noise to every trained tensor, so that nothing is zero or the identity.
    pub fn disturb(w: &Weights, std: f64) -> Result<()> {
        for (name, var) in w.trained() {
            let noise = Noise::new(5, &name)
                .at(0)
                .normal(var.shape(), w.dtype(), w.device())?;
            var.set(&(var.as_detached_tensor() + (noise * std)?)?)?;
        }
        Ok(())
    }

    /// `|f^-1(f(x)) - x|` stays below a limit everywhere.
    pub fn round_trip(name: &str, layer: &dyn Bijector, x: &Tensor, limit: f64) -> Result<()> {
        let (y, _) = layer.forward(x)?;
        let error = (layer.inverse(&y)? - x)?.abs()?.flatten_all()?.max(0)?;
        let error = error.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        ensure!(error < limit, "{name}: round trip leaves {error:e}");
        Ok(())
    }

    /// The claimed log-determinant of every example is that of the Jacobian, in f64 to 1e-8, and
    /// that of the inverse's Jacobian cancels it to 1e-7: where the map shrinks, the inverse
    /// magnifies the rounding of the differences.
    pub fn log_det(name: &str, layer: &dyn Bijector, x: &Tensor) -> Result<()> {
        let claimed = layer.forward(x)?.1.to_vec1::<f64>()?;
        ensure!(
            claimed.len() == x.dim(0)?,
            "{name}: one log-determinant per example"
        );
        for (i, claimed) in claimed.into_iter().enumerate() {
            let x = x.narrow(0, i, 1)?;
            let measured = log_det_by_differences(|x| Ok(layer.forward(x)?.0), &x)?;
            ensure!(
                (claimed - measured).abs() < 1e-8,
                "{name}: log-det {claimed}, by differences {measured}"
            );
            let back = log_det_by_differences(|y| layer.inverse(y), &layer.forward(&x)?.0)?;
            ensure!(
                (claimed + back).abs() < 1e-7,
                "{name}: log-det {claimed}, of the inverse {back}"
            );
        }
        Ok(())
    }

    /// `ln |det J|` of one example, J by central differences: all shifted copies go through as
    /// one batch. The maps are smooth or piecewise linear, so a step of 1e-6 leaves about 1e-10.
    fn log_det_by_differences(
        map: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
        x: &Tensor,
    ) -> Result<f64> {
        let step = 1e-6;
        let d = x.elem_count();
        let shifts = (Tensor::eye(d, x.dtype(), x.device())? * step)?;
        let flat = x.reshape((1, d))?;
        let both = [flat.broadcast_add(&shifts)?, flat.broadcast_sub(&shifts)?];
        let mut dims = x.dims().to_vec();
        dims[0] = 2 * d;
        let y = map(&Tensor::cat(&both, 0)?.reshape(dims)?)?;
        let y = y.reshape((2, d, d))?;
        let jacobian = ((y.get(0)? - y.get(1)?)? / (2.0 * step))?;
        Ok(log_abs_det(&jacobian)?.to_scalar()?)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use candle_core::{DType, Device, Tensor};

    use super::check::disturb;
    use super::*;
    use crate::nn::act_norm::{ActNorm, Start};
    use crate::nn::coupling::{self, ChannelSplit, Coupling, CouplingKind, CouplingNetwork, Roles};
    use crate::nn::init::Init;
    use crate::nn::inv_conv::{InvConv, InvConvForm};
    use crate::nn::noise::Noise;
    use crate::nn::split::{Split, Top};
    use crate::nn::squeeze::Squeeze;
    use crate::nn::weights::Weights;

    /// Every layer with its name and the channels of the tiny images it is tried on.
    type Case = (&'static str, Box<dyn Bijector>, usize);

    fn layers(dtype: DType) -> Result<Vec<Case>> {
        let w = Weights::new(3, dtype, &Device::Cpu);
        let mut layers: Vec<Case> = vec![
            (
                "act_norm",
                Box::new(ActNorm::new(3, Start::Identity, &w.pp("a"))?),
                3,
            ),
            (
                "inv_conv",
                Box::new(InvConv::new(
                    InvConvForm::Plain,
                    3,
                    Init::Orthogonal,
                    &w.pp("r"),
                )?),
                3,
            ),
            (
                "inv_conv by LU",
                Box::new(InvConv::new(
                    InvConvForm::Lu,
                    3,
                    Init::Orthogonal,
                    &w.pp("l"),
                )?),
                3,
            ),
            ("squeeze", Box::new(Squeeze), 3),
            ("split", Box::new(Split::new(4, &w.pp("s"))?), 4),
            ("top", Box::new(Top::new(4, &w.pp("t"))?), 4),
        ];
        for kind in [CouplingKind::Additive, CouplingKind::Affine] {
            for network in [CouplingNetwork::Official, CouplingNetwork::Plain] {
                for (i, (c, roles)) in roles()?.into_iter().enumerate() {
                    let config = coupling::Config {
                        kind,
                        network,
                        width: 8,
                    };
                    let w = w.pp(format!("{kind:?}{network:?}{i}"));
                    layers.push(("coupling", Box::new(Coupling::new(config, roles, &w)?), c));
                }
            }
        }
        disturb(&w, 0.1)?;
        Ok(layers)
    }

    /// Numbers of channels, and who conditions whom.
    fn roles() -> Result<[(usize, Roles); 5]> {
        Ok([
            (2, Roles::official(2)?),
            (3, Roles::official(3)?),
            (4, Roles::official(4)?),
            (3, ChannelSplit::ConditionOnTwo.roles(3, 0)?),
            (3, ChannelSplit::Alternate.roles(3, 1)?),
        ])
    }

    fn images(c: usize, dtype: DType) -> Result<Tensor> {
        Ok(Noise::new(11, "images")
            .at(0)
            .normal((3, 4, 4, c), dtype, &Device::Cpu)?)
    }

    #[test]
    fn every_layer_is_a_bijector() -> Result<()> {
        for (name, layer, c) in layers(DType::F64)? {
            let x = images(c, DType::F64)?;
            check::round_trip(name, &*layer, &x, 1e-10)?;
            check::log_det(name, &*layer, &x)?;
        }
        for (name, layer, c) in layers(DType::F32)? {
            check::round_trip(name, &*layer, &images(c, DType::F32)?, 1e-4)?;
        }
        Ok(())
    }

    #[test]
    fn log_determinants_of_a_sequence_add_up() -> Result<()> {
        let w = Weights::new(3, DType::F64, &Device::Cpu);
        let config = coupling::Config::official(CouplingKind::Affine, 8);
        let layers = (0..3).map(|i| Coupling::new(config, Roles::official(4)?, &w.pp(i)));
        let chain = layers.collect::<Result<Vec<_>>>()?;
        disturb(&w, 0.1)?;
        check::round_trip("chain", &chain, &images(4, DType::F64)?, 1e-10)?;
        check::log_det("chain", &chain, &images(4, DType::F64)?)
    }

    /// A flow on the plane: its density sums to one over a fine grid.
    #[test]
    fn a_density_on_the_plane_sums_to_one() -> Result<()> {
        let w = Weights::new(3, DType::F64, &Device::Cpu);
        let layers = (0..2).map(|i| {
            let w = w.pp(i);
            let mix = InvConv::new(InvConvForm::Plain, 2, Init::Orthogonal, &w.pp("mix"))?;
            let config = coupling::Config::official(CouplingKind::Affine, 8);
            Ok((mix, Coupling::new(config, Roles::official(2)?, &w)?))
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        disturb(&w, 0.2)?;
        let (side, reach) = (801, 10.0);
        let step = 2.0 * reach / (side - 1) as f64;
        let grid = (0..side * side).flat_map(|k| {
            let at = |i: usize| i as f64 * step - reach;
            [at(k / side), at(k % side)]
        });
        let grid: Vec<f64> = grid.collect();
        let mut x = Tensor::from_vec(grid, (side * side, 1, 1, 2), &Device::Cpu)?;
        let mut log_p = no_change(&x)?;
        for (mix, coupling) in &layers {
            for layer in [mix as &dyn Bijector, coupling] {
                let (y, log_det) = layer.forward(&x)?;
                x = y;
                log_p = (log_p + log_det)?;
            }
        }
        // Plus ln N(x; 0, I) on the plane.
        let base = ((x.sqr()?.flatten_from(1)?.sum(1)? * -0.5)? - std::f64::consts::TAU.ln())?;
        let log_p = (log_p + base)?;
        let total = log_p.exp()?.sum_all()?.to_scalar::<f64>()? * step * step;
        assert!((total - 1.0).abs() < 1e-4, "{total}");
        Ok(())
    }
}
