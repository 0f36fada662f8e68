//! What Inception does between its convolutions, on `[n, h, w, c]`: 3x3 pooling, and laying side by
//! side.
//! candle pools without padding and channels first, so these are our own passes.

use candle_core::{CpuStorage, CustomOp1, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use crate::nn::cuda::pool::Window;
#[cfg(feature = "cuda")]
use crate::nn::cuda::pool_op;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Maximum of 3x3, stride 2, no padding.
    HalvingMax,
    /// Maximum of 3x3, stride 1, same size. Of values that are not negative, as after a ReLU.
    Max,
    /// Mean of those of the 3x3 that lie inside the image, stride 1, same size.
    Mean,
}

impl Pool {
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if x.device().is_cuda() {
            return pool_op::pool(x, self.on_gpu(x.dims4()?.into()));
        }
        x.contiguous()?.apply_op1_no_bwd(&self)
    }

    /// The same on images `[n, h, w, c]` as a GPU's kernel takes it.
    #[cfg(any(feature = "cuda", test))]
    pub fn on_gpu(self, image: [usize; 4]) -> Window {
        let [_, h, w, _] = image;
        let halving = self == Self::HalvingMax;
        let output = match halving {
            true => [(h - 3) / 2 + 1, (w - 3) / 2 + 1],
            false => [h, w],
        };
        Window {
            image,
            output,
            stride: if halving { 2 } else { 1 },
            before: u32::from(!halving),
            mean: self == Self::Mean,
        }
    }

    /// The same by candle's own operations.
    #[cfg(test)]
    fn with_candle(self, x: &Tensor) -> Result<Tensor> {
        let last = |x: Tensor| x.permute((0, 2, 3, 1))?.contiguous();
        let padded = || x.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1);
        let first = |x: &Tensor| x.permute((0, 3, 1, 2))?.contiguous();
        match self {
            Self::HalvingMax => last(first(x)?.max_pool2d_with_stride(3, 2)?),
            Self::Max => last(first(&padded()?)?.max_pool2d_with_stride(3, 1)?),
            Self::Mean => {
                let ones = x.narrow(0, 0, 1)?.narrow(3, 0, 1)?.ones_like()?;
                let inside = ones.pad_with_zeros(1, 1, 1)?.pad_with_zeros(2, 1, 1)?;
                let inside = last(first(&inside)?.avg_pool2d_with_stride(3, 1)?)?;
                let mean = last(first(&padded()?)?.avg_pool2d_with_stride(3, 1)?)?;
                mean.broadcast_div(&inside)
            }
        }
    }

    /// Rows or columns under the window of output `o`.
    fn window(self, o: usize, size: usize) -> std::ops::Range<usize> {
        match self {
            Self::HalvingMax => 2 * o..2 * o + 3,
            Self::Max | Self::Mean => o.saturating_sub(1)..(o + 2).min(size),
        }
    }
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "pool"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(x), Some((from, to))) = (storage, layout.contiguous_offsets()) else {
            bail!("pool: wants a contiguous f32 tensor")
        };
        let x = &x[from..to];
        let (n, h, w, c) = layout.shape().dims4()?;
        let (oh, ow) = match self {
            Self::HalvingMax => ((h - 3) / 2 + 1, (w - 3) / 2 + 1),
            Self::Max | Self::Mean => (h, w),
        };
        let mut y = vec![0.0f32; n * oh * ow * c];
        y.par_chunks_mut(ow * c).enumerate().for_each(|(row, y)| {
            let (image, oy) = (row / oh, row % oh);
            let rows = self.window(oy, h);
            for ox in 0..ow {
                let columns = self.window(ox, w);
                let y = &mut y[ox * c..(ox + 1) * c];
                let count = (rows.len() * columns.len()) as f32;
                for iy in rows.clone() {
                    for ix in columns.clone() {
                        let start = ((image * h + iy) * w + ix) * c;
                        let values = y.iter_mut().zip(&x[start..start + c]);
                        match self {
                            Self::Mean => values.for_each(|(y, x)| *y += x),
                            // Nothing is below zero, so zero is where a maximum may start.
                            _ => values.for_each(|(y, x)| *y = y.max(*x)),
                        }
                    }
                }
                if *self == Self::Mean {
                    y.iter_mut().for_each(|y| *y /= count);
                }
            }
        });
        Ok((CpuStorage::F32(y), (n, oh, ow, c).into()))
    }
}

/// On the CPU: copies `[n, h, w, c]` into `y`, which must be nobody else's, from channel `first` on.
pub fn place(x: &Tensor, y: &Tensor, first: usize) -> Result<()> {
    y.inplace_op2(&x.contiguous()?, &Place(first))
}

struct Place(usize);

impl InplaceOp2 for Place {
    fn name(&self) -> &'static str {
        "place"
    }

    fn cpu_fwd(&self, y: &mut CpuStorage, yl: &Layout, x: &CpuStorage, xl: &Layout) -> Result<()> {
        let (CpuStorage::F32(y), CpuStorage::F32(x)) = (y, x) else {
            bail!("place: wants f32 tensors")
        };
        let (Some((y0, y1)), Some((x0, x1))) = (yl.contiguous_offsets(), xl.contiguous_offsets())
        else {
            bail!("place: wants contiguous tensors")
        };
        let ((n, h, w, c), (.., channels)) = (xl.shape().dims4()?, yl.shape().dims4()?);
        if yl.dims()[..3] != [n, h, w] || self.0 + c > channels {
            bail!("place: {:?} into {:?} at {}", xl.dims(), yl.dims(), self.0);
        }
        let rows = y[y0..y1].par_chunks_mut(w * channels);
        rows.zip(x[x0..x1].par_chunks(w * c)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(c)) {
                y[self.0..self.0 + c].copy_from_slice(x);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::noise::Noise;
    use candle_core::{DType, Device};

    #[test]
    fn our_passes_agree_with_candle() -> Result<()> {
        let mut noise = Noise::new(1, "pool").at(0);
        let x = noise
            .normal((2, 7, 9, 5), DType::F32, &Device::Cpu)?
            .relu()?;
        for pool in [Pool::HalvingMax, Pool::Max, Pool::Mean] {
            let (ours, theirs) = (pool.forward(&x)?, pool.with_candle(&x)?);
            assert_eq!(ours.dims(), theirs.dims(), "{pool:?}");
            let gap = (ours - theirs)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(gap < 1e-6, "{pool:?} {gap}");
        }
        let y = Tensor::ones((2, 7, 9, 8), DType::F32, &Device::Cpu)?;
        place(&x, &y, 2)?;
        let gap = (y.narrow(3, 2, 5)? - &x)?.abs()?.max_all()?;
        assert_eq!(gap.to_scalar::<f32>()?, 0.0);
        let rest = (y.sum_all()? - x.sum_all()?)?.to_scalar::<f32>()?;
        assert!((rest - 2.0 * 7.0 * 9.0 * 3.0).abs() < 1e-2, "{rest}");
        Ok(())
    }

    #[test]
    fn padding_does_not_count() -> Result<()> {
        let x = Tensor::ones((1, 3, 3, 1), DType::F32, &Device::Cpu)?;
        let mean = Pool::Mean.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
        assert_eq!(mean, [1.0; 9]);
        Ok(())
    }
}
