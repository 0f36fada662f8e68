//! The optimiser's tables on a GPU: weights and moments stay where they are for a whole training,
//! so one upload of the gradients' addresses and one launch move a model.

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaDevice, DType, Result, Tensor, Var, bail};

use super::gpu::Gpu;
use super::machine::{At, Machine};
use super::optim::{Numbers, Tables, clip, pieces, step};
use super::tensor::{Number, of};

pub struct Table {
    device: CudaDevice,
    dtype: DType,
    count: usize,
    pieces: CudaSlice<u32>,
    lengths: CudaSlice<u32>,
    weights: CudaSlice<u64>,
    moments: CudaSlice<u64>,
    /// The addresses are theirs.
    _kept: Vec<(Var, Var)>,
}

impl Table {
    /// Makes the table of weights and their moments `[2, ...]`, all of one dtype.
    pub fn new(slots: Vec<(Var, Var)>, device: &CudaDevice) -> Result<Self> {
        let Some(dtype) = slots.first().map(|(weight, _)| weight.dtype()) else {
            bail!("an optimiser without weights");
        };
        let lengths: Vec<usize> = slots
            .iter()
            .map(|(weight, _)| weight.elem_count())
            .collect();
        if lengths.iter().any(|n| *n >= 1 << 31) {
            bail!("a tensor of 2^31 weights is more than the kernels can count");
        }
        let (mut weights, mut moments) = (Vec::new(), Vec::new());
        for (weight, moment) in &slots {
            weights.push(address(dtype, weight)?);
            moments.push(address(dtype, moment)?);
        }
        let pieces = pieces(&lengths);
        let stream = device.cuda_stream();
        let lengths: Vec<u32> = lengths.into_iter().map(|n| n as u32).collect();
        Ok(Self {
            dtype,
            count: pieces.len(),
            pieces: stream.clone_htod(pieces.as_flattened()).w()?,
            lengths: stream.clone_htod(&lengths).w()?,
            weights: stream.clone_htod(&weights).w()?,
            moments: stream.clone_htod(&moments).w()?,
            device: device.clone(),
            _kept: slots,
        })
    }

    /// One step along gradients in the order of the weights; none: the loss does not reach it.
    /// `limit` bounds their joint norm, 0 does not.
    pub fn step(&self, grads: &[Option<Tensor>], numbers: Numbers, limit: f64) -> Result<()> {
        match self.dtype {
            DType::F32 => self.step_as::<f32>(grads, numbers, limit),
            DType::F64 => self.step_as::<f64>(grads, numbers, limit),
            other => bail!("optimiser-step: wants f32 or f64, got {other:?}"),
        }
    }

    fn step_as<T: Number>(
        &self,
        grads: &[Option<Tensor>],
        numbers: Numbers,
        limit: f64,
    ) -> Result<()> {
        let address = |grad: &Option<Tensor>| match grad {
            Some(grad) => of::<T>("optimiser-step", grad).map(|at| at.0),
            None => Ok(0),
        };
        let addresses: Vec<u64> = grads.iter().map(address).collect::<Result<_>>()?;
        let stream = self.device.cuda_stream();
        let addresses = stream.clone_htod(&addresses).w()?;
        let at = |table: &CudaSlice<u64>| At::new(table.device_ptr(&stream).0);
        let tables = Tables {
            count: self.count,
            pieces: At::new(self.pieces.device_ptr(&stream).0),
            lengths: At::new(self.lengths.device_ptr(&stream).0),
            weights: at(&self.weights),
            moments: at(&self.moments),
            grads: at(&addresses),
        };
        let m = Gpu(&self.device);
        if limit <= 0.0 {
            return step::<_, T>(&m, &tables, numbers, At::NULL);
        }
        let scale = m.alloc::<f64>(1)?;
        clip::<_, T>(&m, &tables, limit, m.at(&scale))?;
        step::<_, T>(&m, &tables, numbers, m.at(&scale))
    }
}

fn address(dtype: DType, tensor: &Tensor) -> Result<u64> {
    match dtype {
        DType::F32 => of::<f32>("optimiser-step", tensor).map(|at| at.0),
        DType::F64 => of::<f64>("optimiser-step", tensor).map(|at| at.0),
        other => bail!("optimiser-step: wants f32 or f64, got {other:?}"),
    }
}
