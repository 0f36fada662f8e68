//! Whole blocks of a network as one operation of candle's autograd: images and one vector with all
//! parameters in, images of the same shape out. What the gradient needs stays with the operation.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, WithDType, bail};

use super::cpu::{Real, slice};

/// A block on the CPU, over slices.
pub trait Block: Send + Sync + 'static {
    const NAME: &'static str;
    /// What the gradient needs.
    type Kept<T: Real>: Send + Sync;

    /// The result; what is kept is empty unless `keep`.
    fn forward<T: Real>(&self, x: &[T], parameters: &[T], keep: bool) -> (Vec<T>, Self::Kept<T>);

    /// Gradients of x and of the parameters.
    fn backward<T: Real>(
        &self,
        x: &[T],
        parameters: &[T],
        kept: &Self::Kept<T>,
        dy: &[T],
    ) -> (Vec<T>, Vec<T>);
}

/// Applies a block on the CPU.
pub fn apply<B: Block>(block: B, x: &Tensor, parameters: &Tensor) -> Result<Tensor> {
    let op = Op {
        block,
        keep: x.track_op() || parameters.track_op(),
        kept: Mutex::new(Kept::Nothing),
    };
    x.contiguous()?.apply_op2(parameters, op)
}

enum Kept<B: Block> {
    Nothing,
    F32(B::Kept<f32>),
    F64(B::Kept<f64>),
}

struct Op<B: Block> {
    block: B,
    keep: bool,
    kept: Mutex<Kept<B>>,
}

impl<B: Block> CustomOp2 for Op<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        p: &CpuStorage,
        pl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (y, kept) = match (x, p) {
            (CpuStorage::F32(x), CpuStorage::F32(p)) => {
                let (x, p) = (slice(B::NAME, x, xl)?, slice(B::NAME, p, pl)?);
                let (y, kept) = self.block.forward(x, p, self.keep);
                (CpuStorage::F32(y), Kept::F32(kept))
            }
            (CpuStorage::F64(x), CpuStorage::F64(p)) => {
                let (x, p) = (slice(B::NAME, x, xl)?, slice(B::NAME, p, pl)?);
                let (y, kept) = self.block.forward(x, p, self.keep);
                (CpuStorage::F64(y), Kept::F64(kept))
            }
            _ => bail!("{}: wants two f32 or two f64 tensors", B::NAME),
        };
        if self.keep {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        }
        Ok((y, xl.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        p: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (dx, dp) = match &*kept {
            Kept::F32(kept) => self.gradients(x, p, kept, &dy)?,
            Kept::F64(kept) => self.gradients(x, p, kept, &dy)?,
            Kept::Nothing => bail!("BUG: {}: no forward pass to differentiate", B::NAME),
        };
        let wanted = |of: &Tensor, grad| of.track_op().then_some(grad);
        Ok((wanted(x, dx), wanted(p, dp)))
    }
}

impl<B: Block> Op<B> {
    fn gradients<T: Real + WithDType>(
        &self,
        x: &Tensor,
        p: &Tensor,
        kept: &B::Kept<T>,
        dy: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let stored = [x, p, dy].map(|t| t.storage_and_layout());
        let mut slices = Vec::with_capacity(3);
        for (storage, layout) in &stored {
            let candle_core::Storage::Cpu(storage) = &**storage else {
                bail!("{}: wants tensors on the CPU", B::NAME)
            };
            slices.push(slice(B::NAME, storage.as_slice::<T>()?, layout)?);
        }
        let [xs, ps, ds] = slices[..] else {
            bail!("BUG: three tensors")
        };
        let (dx, dp) = self.block.backward(xs, ps, kept, ds);
        let device = candle_core::Device::Cpu;
        Ok((
            Tensor::from_vec(dx, x.shape().clone(), &device)?,
            Tensor::from_vec(dp, p.shape().clone(), &device)?,
        ))
    }
}
