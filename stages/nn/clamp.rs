//! Values held within bounds, in one pass each way.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use rayon::prelude::*;

use super::cpu::simd::vectorised;
use super::cpu::{Real, slice};
use super::slices::with_slices;

const NAME: &str = "clamp";

/// Values a task takes at once.
const CHUNK: usize = 1 << 14;

/// `min(max(x, low), high)`; the gradient is 1 within and 0 outside.
pub fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return x.clamp(low, high);
    }
    x.contiguous()?.apply_op1(Clamp { low, high })
}

struct Clamp {
    low: f64,
    high: f64,
}

impl Clamp {
    fn forward<T: Real>(&self, x: &[T]) -> Vec<T> {
        let (low, high) = (T::new(self.low), T::new(self.high));
        let mut y = x.to_vec();
        y.par_chunks_mut(CHUNK).for_each(|y| {
            vectorised(|| {
                for y in y {
                    // What is no number stays so.
                    let above = if *y < low { low } else { *y };
                    *y = if above > high { high } else { above };
                }
            });
        });
        y
    }

    fn backward<T: Real>(&self, [x, dy]: [&[T]; 2]) -> Vec<T> {
        let (low, high) = (T::new(self.low), T::new(self.high));
        let mut dx = dy.to_vec();
        let work = dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
        work.for_each(|(dx, x)| {
            vectorised(|| {
                for (dx, x) in dx.iter_mut().zip(x) {
                    *dx = if *x < low || *x > high {
                        T::default()
                    } else {
                        *dx
                    };
                }
            });
        });
        dx
    }
}

impl CustomOp1 for Clamp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(x) => CpuStorage::F32(self.forward(slice(NAME, x, layout)?)),
            CpuStorage::F64(x) => CpuStorage::F64(self.forward(slice(NAME, x, layout)?)),
            _ => bail!("{NAME}: wants f32 or f64"),
        };
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real + WithDType>(op: &Clamp, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
            let dx = with_slices::<T, 2, _>(NAME, [x, dy], |both| op.backward(both))?;
            Tensor::from_vec(dx, x.shape(), x.device())
        }
        let dy = dy.contiguous()?;
        Ok(Some(match x.dtype() {
            DType::F32 => run::<f32>(self, x, &dy)?,
            _ => run::<f64>(self, x, &dy)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn values_and_gradients_stop_at_the_bounds() -> Result<()> {
        let x = Var::new(
            &[-9f32, -7.5, -7.0, -1.0, 1.5, 2.0, 2.5, f32::NAN],
            &Device::Cpu,
        )?;
        let y = clamp(&x, -7.0, 2.0)?;
        let values = y.to_vec1::<f32>()?;
        assert_eq!(values[..7], [-7.0, -7.0, -7.0, -1.0, 1.5, 2.0, 2.0]);
        assert!(values[7].is_nan());
        let slopes = y.sum_all()?.backward()?;
        let slopes = slopes.get(&x).map(|g| g.to_vec1::<f32>()).transpose()?;
        let within = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0];
        assert_eq!(slopes.unwrap_or_default()[..7], within);
        Ok(())
    }
}
