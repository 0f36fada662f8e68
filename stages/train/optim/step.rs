//! One step of an optimiser over memory.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Var};
use rayon::prelude::*;

use super::Rule;

/// Values a task sums or updates at once: fixed, so that sums do not depend on thread counts.
const CHUNK: usize = 1 << 14;

#[derive(Clone, Copy)]
pub struct Update {
    pub rule: Rule,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub rate: f64,
    pub scale: f64,
}

/// Moments and weight in one pass over memory. It runs on the moments and reaches for the weight.
pub struct Step<'a> {
    pub weight: &'a Var,
    pub update: Update,
}

impl InplaceOp2 for Step<'_> {
    fn name(&self) -> &'static str {
        "optimiser-step"
    }

    fn cpu_fwd(
        &self,
        moments: &mut CpuStorage,
        _: &Layout,
        grad: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        let Some((from, to)) = layout.contiguous_offsets() else {
            candle_core::bail!("optimiser-step: wants contiguous gradients");
        };
        match (moments, grad) {
            (CpuStorage::F32(m), CpuStorage::F32(g)) => self.weight.inplace_op1(&Apply32 {
                moments: Mutex::new(m),
                grad: &g[from..to],
                update: self.update,
            }),
            (CpuStorage::F64(m), CpuStorage::F64(g)) => self.weight.inplace_op1(&Apply64 {
                moments: Mutex::new(m),
                grad: &g[from..to],
                update: self.update,
            }),
            _ => candle_core::bail!("optimiser-step: wants f32 or f64"),
        }
    }
}

macro_rules! apply {
    ($name:ident, $type:ident, $storage:ident) => {
        struct $name<'a> {
            moments: Mutex<&'a mut Vec<$type>>,
            grad: &'a [$type],
            update: Update,
        }

        impl InplaceOp1 for $name<'_> {
            fn name(&self) -> &'static str {
                "optimiser-step"
            }

            fn cpu_fwd(&self, weight: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
                let CpuStorage::$storage(weight) = weight else {
                    candle_core::bail!("optimiser-step: weight and gradient differ in dtype");
                };
                let u = &self.update;
                let (b1, b2) = (u.beta1 as $type, u.beta2 as $type);
                let (r1, r2) = ((1.0 - u.beta1) as $type, (1.0 - u.beta2) as $type);
                let (epsilon, rate) = (u.epsilon as $type, u.rate as $type);
                let scale = u.scale as $type;
                let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
                let (m, v) = moments.split_at_mut(self.grad.len());
                let chunks = weight
                    .par_chunks_mut(CHUNK)
                    .zip(m.par_chunks_mut(CHUNK))
                    .zip(v.par_chunks_mut(CHUNK))
                    .zip(self.grad.par_chunks(CHUNK));
                chunks.for_each(|(((w, m), v), g)| match u.rule {
                    Rule::Adam => {
                        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
                            let g = *g * scale;
                            *m = b1 * *m + r1 * g;
                            *v = b2 * *v + r2 * g * g;
                            *w -= rate * *m / (v.sqrt() + epsilon);
                        }
                    }
                    Rule::Adamax => {
                        for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
                            let g = *g * scale;
                            *m = b1 * *m + r1 * g;
                            *v = (b2 * *v).max(g.abs());
                            *w -= rate * *m / (*v + epsilon);
                        }
                    }
                });
                Ok(())
            }
        }
    };
}
apply!(Apply32, f32, F32);
apply!(Apply64, f64, F64);
