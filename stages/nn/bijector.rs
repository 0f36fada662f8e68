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
        self.iter().try_fold(x.clone(), |x, layer| layer.start(&x))
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

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use candle_core::{DType, Device, Tensor, Var};

    use super::*;
    use crate::nn::act_norm::{ActNorm, Start};
    use crate::nn::coupling::{Coupling, CouplingKind};
    use crate::nn::inv_conv::{InvConv, log_abs_det};
    use crate::nn::noise::Noise;
    use crate::nn::split::{Split, Top};
    use crate::nn::squeeze::Squeeze;
    use crate::nn::weights::Weights;

    /// Adds `std` times noise to every tensor, so that nothing is zero or the identity.
    pub fn disturb(w: &Weights, std: f64) -> Result<()> {
        for (name, var) in w.all() {
            let noise = Noise::new(5, &name)
                .at(0)
                .normal(var.shape(), w.dtype(), w.device())?;
            var.set(&(var.as_detached_tensor() + (noise * std)?)?)?;
        }
        Ok(())
    }

    fn images(dims: &[usize], dtype: DType) -> Result<Tensor> {
        Ok(Noise::new(11, "images")
            .at(0)
            .normal(dims, dtype, &Device::Cpu)?)
    }

    /// Every layer with its name and the channels of the tiny images it is tried on.
    fn layers(dtype: DType) -> Result<Vec<(&'static str, Box<dyn Bijector>, usize)>> {
        let w = Weights::new(3, dtype, &Device::Cpu);
        let coupling = |kind, c, name| Coupling::new(kind, c, 8, &w.pp(name));
        let layers: Vec<(&'static str, Box<dyn Bijector>, usize)> = vec![
            (
                "act_norm",
                Box::new(ActNorm::new(3, Start::Identity, &w.pp("a"))?),
                3,
            ),
            ("inv_conv", Box::new(InvConv::random(3, &w.pp("r"))?), 3),
            (
                "additive 1|2",
                Box::new(coupling(CouplingKind::Additive, 3, "c3")?),
                3,
            ),
            (
                "additive 2|2",
                Box::new(coupling(CouplingKind::Additive, 4, "c4")?),
                4,
            ),
            (
                "affine 2|2",
                Box::new(coupling(CouplingKind::Affine, 4, "c4a")?),
                4,
            ),
            (
                "affine 1|2",
                Box::new(coupling(CouplingKind::Affine, 3, "c3a")?),
                3,
            ),
            ("squeeze", Box::new(Squeeze), 3),
            ("split", Box::new(Split::new(4, &w.pp("s"))?), 4),
            ("top", Box::new(Top::new(4, &w.pp("t"))?), 4),
        ];
        disturb(&w, 0.1)?;
        Ok(layers)
    }

    fn largest(x: &Tensor) -> Result<f64> {
        Ok(x.abs()?
            .flatten_all()?
            .max(0)?
            .to_dtype(DType::F64)?
            .to_scalar()?)
    }

    /// `|f^-1(f(x)) - x|`, the largest.
    pub fn round_trip(layer: &dyn Bijector, x: &Tensor) -> Result<f64> {
        let (y, _) = layer.forward(x)?;
        largest(&(layer.inverse(&y)? - x)?)
    }

    /// `ln |det J|` of one example, J by central differences: all shifted copies go through as
    /// one batch. The maps are smooth or piecewise linear, so a step of 1e-6 leaves about 1e-10.
    pub fn log_det_by_differences(layer: &dyn Bijector, x: &Tensor) -> Result<f64> {
        let step = 1e-6;
        let d = x.elem_count();
        let shifts = (Tensor::eye(d, x.dtype(), x.device())? * step)?;
        let flat = x.reshape((1, d))?;
        let both = [flat.broadcast_add(&shifts)?, flat.broadcast_sub(&shifts)?];
        let mut dims = x.dims().to_vec();
        dims[0] = 2 * d;
        let (y, _) = layer.forward(&Tensor::cat(&both, 0)?.reshape(dims)?)?;
        let y = y.reshape((2, d, d))?;
        let jacobian = ((y.get(0)? - y.get(1)?)? / (2.0 * step))?;
        Ok(log_abs_det(&jacobian)?.to_scalar()?)
    }

    #[test]
    fn every_layer_is_a_bijector() -> Result<()> {
        for (name, layer, c) in layers(DType::F64)? {
            let x = images(&[3, 4, 4, c], DType::F64)?;
            let error = round_trip(&*layer, &x)?;
            assert!(error < 1e-10, "{name}: round trip {error:e}");
            let (y, log_det) = layer.forward(&x)?;
            assert_eq!(
                (y.elem_count(), log_det.dims()),
                (x.elem_count(), &[3][..]),
                "{name}"
            );
            for i in 0..3 {
                let claimed: f64 = log_det.get(i)?.to_scalar()?;
                let measured = log_det_by_differences(&*layer, &x.narrow(0, i, 1)?)?;
                let error = (claimed - measured).abs();
                assert!(
                    error < 1e-8,
                    "{name}: log-det {claimed}, by differences {measured}"
                );
            }
        }
        for (name, layer, c) in layers(DType::F32)? {
            let error = round_trip(&*layer, &images(&[3, 4, 4, c], DType::F32)?)?;
            assert!(error < 1e-4, "{name}: round trip in f32 {error:e}");
        }
        Ok(())
    }

    /// Of a sequence, the log-determinants add up, and gradients of parameters are those of the
    /// log-determinant: checked against differences, for W too.
    #[test]
    fn the_gradient_of_log_det_w_is_its_inverse_transposed() -> Result<()> {
        let w = Var::from_tensor(&images(&[5, 5], DType::F64)?)?;
        let gradient = log_abs_det(&w)?.backward()?;
        let gradient = gradient.get(&w).unwrap().flatten_all()?.to_vec1::<f64>()?;
        for (i, claimed) in gradient.into_iter().enumerate() {
            let mut unit = vec![0f64; 25];
            unit[i] = 1e-6;
            let unit = Tensor::from_vec(unit, (5, 5), &Device::Cpu)?;
            let at = |w: Tensor| -> Result<f64> { Ok(log_abs_det(&w)?.to_scalar()?) };
            let w = w.as_detached_tensor();
            let slope = (at((&w + &unit)?)? - at((&w - &unit)?)?) / 2e-6;
            assert!((claimed - slope).abs() < 1e-7, "{claimed} {slope}");
        }
        Ok(())
    }
}
