//! Artifact `latents`: the posterior of each image, `mean` and `log_std`, f32 `[n, d]`.

use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

use super::tensors::{Entry, Number, TensorFile, save};

/// Diagonal Gaussians q(z|x), one row per image in the order of the data set.
pub struct Latents {
    pub mean: Tensor,
    pub log_std: Tensor,
}

impl Latents {
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let read = |name| -> Result<Tensor> {
            let (shape, values) = file.numbers::<f32>(name, 2)?;
            Ok(Tensor::from_vec(values, shape, device)?)
        };
        let (mean, log_std) = (read("mean")?, read("log_std")?);
        ensure!(
            mean.dims() == log_std.dims(),
            "{}: mean {:?} and log_std {:?} differ in shape",
            path.display(),
            mean.dims(),
            log_std.dims()
        );
        Ok(Self { mean, log_std })
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let bytes = |t: &Tensor| -> Result<Vec<u8>> {
            let values = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            Ok(f32::to_bytes(&values))
        };
        let (mean, log_std) = (bytes(&self.mean)?, bytes(&self.log_std)?);
        let entry = |name, tensor: &Tensor, bytes| Entry {
            name,
            dtype: f32::DTYPE,
            shape: tensor.dims().to_vec(),
            bytes,
        };
        let entries = [
            entry("mean", &self.mean, &mean),
            entry("log_std", &self.log_std, &log_std),
        ];
        save(path, &entries, &"latents")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_keeps_every_bit() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("latents.safetensors");
        let mean = Tensor::new(&[[0.1f32, -2.0], [1e-30, 3.5], [7.0, 8.0]], &Device::Cpu)?;
        let latents = Latents {
            log_std: (&mean * 0.3)?,
            mean,
        };
        latents.save(&path)?;
        let back = Latents::load(&path, &Device::Cpu)?;
        assert_eq!(back.mean.to_vec2::<f32>()?, latents.mean.to_vec2::<f32>()?);
        assert_eq!(
            back.log_std.to_vec2::<f32>()?,
            latents.log_std.to_vec2::<f32>()?
        );
        Ok(())
    }
}
