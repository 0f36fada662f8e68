//! From a job's device name to a candle device.

use anyhow::{Context, Result, bail};
use candle_core::Device;

#[cfg(feature = "cuda")]
use super::cuda::driver;

/// `cpu` or `cuda:N`. A device that cannot be had is an error that says what to do.
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
    cuda(index).with_context(|| format!("device {name}"))
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device> {
    driver::open(index)
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Device> {
    bail!("this build of repro has no CUDA; hint: cargo build --release --features cuda")
}

/// What the maker calls the device: the processor's model or the GPU's. One that computes products
/// of f32 in TF32 is another device as far as results go.
pub fn name(device: &Device) -> String {
    match device {
        Device::Cpu => {
            let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let model = text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == "model name").then(|| value.trim().to_owned())
            });
            model.unwrap_or_else(|| "CPU".into())
        }
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => driver::name(device),
        other => format!("{:?}", other.location()),
    }
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
