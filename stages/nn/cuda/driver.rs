//! Opening a GPU: is there a driver, is it new enough, is the device free; then the settings that
//! candle leaves at defaults which cost time in a training loop.

use std::sync::OnceLock;

use anyhow::{Result, bail};
use candle_core::Device;
use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, result, sys};
use candle_core::cuda::{CudaDevice, set_gemm_reduced_precision_f32};

use super::trouble::{DRIVER, explain, version};

/// One GPU, as the driver describes it.
pub struct Gpu {
    pub name: String,
    pub memory: u64,
    /// Not used by anyone; none if the device could not be opened.
    pub free: Option<u64>,
    /// The compute capability, such as `(9, 0)` for an H100.
    pub capability: (i32, i32),
    /// Why it could not be opened.
    pub trouble: Option<String>,
}

/// Allows TF32 in products and convolutions of f32: ten bits of mantissa, several times as fast.
pub fn tf32() -> bool {
    static ASKED: OnceLock<bool> = OnceLock::new();
    *ASKED.get_or_init(|| std::env::var("REPRO_TF32").is_ok_and(|v| v == "1"))
}

fn said(error: DriverError) -> anyhow::Error {
    let (what, hint) = explain(error.0 as i32);
    anyhow::anyhow!("{what} ({:?}); hint: {hint}", error.0)
}

/// The version of the driver's interface, if a driver answers and is new enough.
pub fn check() -> Result<i32> {
    result::init().map_err(said)?;
    let mut number = 0;
    // SAFETY: writes one int.
    unsafe { sys::cuDriverGetVersion(&mut number) }
        .result()
        .map_err(said)?;
    if number < DRIVER {
        bail!(
            "the NVIDIA driver is too old: it speaks CUDA {}, this build needs {}; hint: {}",
            version(number),
            version(DRIVER),
            explain(35).1
        );
    }
    Ok(number)
}

/// All GPUs that this process may see.
pub fn gpus() -> Result<Vec<Gpu>> {
    check()?;
    (0..CudaContext::device_count().map_err(said)?)
        .map(|i| describe(i).map_err(said))
        .collect()
}

fn describe(index: i32) -> Result<Gpu, DriverError> {
    use sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    let device = result::device::get(index)?;
    // SAFETY: `device` is one of this driver's.
    let (memory, capability) = unsafe {
        (
            result::device::total_mem(device)?,
            (
                result::device::get_attribute(device, MAJOR)?,
                result::device::get_attribute(device, MINOR)?,
            ),
        )
    };
    let opened = CudaContext::new(index as usize).and_then(|context| context.mem_get_info());
    Ok(Gpu {
        name: result::device::get_name(device)?,
        memory: memory as u64,
        free: opened.as_ref().ok().map(|(free, _)| *free as u64),
        capability,
        trouble: opened.err().map(|e| format!("{:#}", said(e))),
    })
}

pub fn open(index: usize) -> Result<Device> {
    check()?;
    let count = CudaContext::device_count().map_err(said)?;
    if index >= count as usize {
        let (what, hint) = explain(if count == 0 { 100 } else { 101 });
        bail!("{what}; the driver has {count}; hint: {hint}");
    }
    // First by ourselves: candle hides the number of what went wrong in a text.
    CudaContext::new(index).map_err(said)?;
    let device = Device::new_cuda(index)?;
    tune(device.as_cuda_device()?)?;
    set_gemm_reduced_precision_f32(tf32());
    Ok(device)
}

/// To be called before any tensor is on the device.
fn tune(device: &CudaDevice) -> Result<()> {
    // SAFETY: all work of this process goes through this device's one stream.
    unsafe { device.disable_event_tracking() };
    // The pool gives memory back to the driver at each synchronisation unless told to keep it.
    let stream = device.cuda_stream();
    let context = stream.context();
    context.bind_to_thread().map_err(said)?;
    let mut keep = u64::MAX;
    // SAFETY: the attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).map_err(said)?;
        result::mem_pool::set_attribute(
            pool,
            sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
            (&raw mut keep).cast(),
        )
        .map_err(said)
    }
}

pub fn name(device: &CudaDevice) -> String {
    let name = device.cuda_stream().context().name();
    let name = name.unwrap_or_else(|_| "CUDA device".into());
    if tf32() { name + " (TF32)" } else { name }
}

/// Bytes free and in all on the device of this process, if it has opened one.
pub fn memory() -> Option<(u64, u64)> {
    result::mem_get_info()
        .ok()
        .map(|(free, all)| (free as u64, all as u64))
}

/// The most bytes that have been taken from the memory pool of this thread's device at once.
pub fn peak_memory() -> Option<u64> {
    let (mut device, mut bytes) = (0, 0u64);
    // SAFETY: writes one int; the attribute is a u64.
    unsafe {
        sys::cuCtxGetDevice(&mut device).result().ok()?;
        let pool = result::device::get_default_mem_pool(device).ok()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()).ok()?;
    }
    Some(bytes)
}
