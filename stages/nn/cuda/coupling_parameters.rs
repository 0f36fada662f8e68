//! Launches of `affines.cu`: a coupling's parameters from its trained values, one launch where layers of
//! tensor operations would take dozens.

use candle_core::Result;

use super::machine::{At, Machine, Scalar, counts};
use super::source::Source;

pub static AFFINES: Source = Source {
    name: "affines",
    text: include_str!("../../kernels/affines.cu"),
};

/// Kernel's values and channels of each layer; log-scales are times `factor`, the last layer's result
/// times `sign`.
#[derive(Clone, Copy, Debug)]
pub struct Layers {
    pub layers: [[usize; 2]; 3],
    pub factor: f64,
    pub sign: f64,
}

impl Layers {
    /// Trained values, as many as parameters.
    pub fn len(&self) -> usize {
        self.layers.iter().map(|[kernel, c]| kernel + 2 * c).sum()
    }

    /// Kernel, bias and log-scale of each layer to kernel, scale and shift.
    pub fn forward<M: Machine, T: Scalar>(&self, m: &M, trained: At<T>, out: At<T>) -> Result<()> {
        self.launch(m, "affines", &[trained, out])
    }

    /// From the gradient of the parameters to that of the trained values.
    pub fn backward<M: Machine, T: Scalar>(
        &self,
        m: &M,
        trained: At<T>,
        gradient: At<T>,
        out: At<T>,
    ) -> Result<()> {
        self.launch(m, "affines_grad", &[trained, gradient, out])
    }

    fn launch<M: Machine, T: Scalar>(
        &self,
        m: &M,
        kernel: &'static str,
        vectors: &[At<T>],
    ) -> Result<()> {
        let [[k1, c1], [k2, c2], [k3, c3]] = self.layers;
        let mut args = counts([k1, c1, k2, c2, k3, c3])?.to_vec();
        args.extend([T::arg(self.factor), T::arg(self.sign)]);
        args.extend(vectors.iter().map(|v| v.arg()));
        m.each::<T>(&AFFINES, kernel, self.len(), &args)
    }
}
