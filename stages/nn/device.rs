//! From a job's device name to a candle device.

use anyhow::{Context, Result, bail};
use candle_core::Device;

/// `cpu` or `cuda:N`.
pub fn open(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let Some(index) = name.strip_prefix("cuda:") else {
        bail!("device {name}: expected cpu or cuda:N");
    };
    let index: usize = index
        .parse()
        .with_context(|| format!("device {name}: not a number"))?;
    if !candle_core::utils::cuda_is_available() {
        bail!(
            "device {name}: this binary has no CUDA; hint: cargo build --release --features cuda"
        );
    }
    Device::new_cuda(index).with_context(|| format!("device {name} could not be opened"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_or_explained() {
        assert!(open("cpu").is_ok_and(|d| d.is_cpu()));
        assert!(open("tpu").is_err_and(|e| e.to_string() == "device tpu: expected cpu or cuda:N"));
        assert!(open("cuda:x").is_err());
    }
}
