//! The real machine: candle's device, our kernels compiled by NVRTC, cuBLAS.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::cuda::cudarc::cublas::{result::gemm_ex, sys};
use candle_core::cuda::cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN as SHARED,
};
use candle_core::cuda::cudarc::driver::sys::CUfunction_attribute_enum;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda::{CudaDType, CudaDevice, CudaStorage, WrapErr};
use candle_core::{Error, Layout, Result, bail};

use super::cudnn::Cudnn;
use super::driver::tf32;
use super::machine::{Arg, At, Geometry, Grid, Machine, Pass, Product, Scalar};
use super::source::Source;

/// A GPU at work.
pub struct Gpu<'a>(pub &'a CudaDevice);

/// Newest first: what NVRTC 13.0 makes code for. Later GPUs run that of the newest.
const ARCHITECTURES: [(i32, &str); 7] = [
    (121, "compute_121"),
    (120, "compute_120"),
    (100, "compute_100"),
    (90, "compute_90"),
    (89, "compute_89"),
    (86, "compute_86"),
    (80, "compute_80"),
];

/// PTX of a source for one type of number.
pub fn compile(source: &Source, real: &str, capability: i32) -> Result<String> {
    let fits = |(least, _): &&(i32, &str)| *least <= capability;
    let arch = ARCHITECTURES
        .iter()
        .find(fits)
        .map_or("compute_75", |a| a.1);
    let options = CompileOptions {
        arch: Some(arch),
        // Products and sums round as on the CPU.
        fmad: Some(false),
        name: Some(format!("{}.cu", source.name)),
        ..Default::default()
    };
    compile_ptx_with_opts(source.program(real), options)
        .map(|ptx| ptx.to_src())
        .map_err(|e| {
            Error::Msg(format!(
                "{}.cu does not compile for {arch}: {e}",
                source.name
            ))
        })
}

/// The PTX, compiled once in a process.
fn ptx(source: &'static Source, real: &'static str, capability: i32) -> Result<&'static str> {
    type Texts = HashMap<(&'static str, &'static str, i32), &'static str>;
    static ALL: OnceLock<Mutex<Texts>> = OnceLock::new();
    let all = ALL.get_or_init(Mutex::default);
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (source.name, real, capability);
    if let Some(text) = all.get(&key) {
        return Ok(text);
    }
    // Kept for the life of the process, as the modules are.
    let text = &*compile(source, real, capability)?.leak();
    all.insert(key, text);
    Ok(text)
}

impl Gpu<'_> {
    fn capability(&self) -> Result<i32> {
        thread_local! {
            static KNOWN: Cell<Option<(usize, i32)>> = const { Cell::new(None) };
        }
        let stream = self.0.cuda_stream();
        let context = stream.context();
        if let Some((ordinal, capability)) = KNOWN.get()
            && ordinal == context.ordinal()
        {
            return Ok(capability);
        }
        let capability = 10 * context.attribute(MAJOR).w()? + context.attribute(MINOR).w()?;
        KNOWN.set(Some((context.ordinal(), capability)));
        Ok(capability)
    }
}

impl Machine for Gpu<'_> {
    type Memory<T> = CudaSlice<T>;

    fn alloc<T: Scalar>(&self, len: usize) -> Result<CudaSlice<T>> {
        // SAFETY: scratch and results, written before they are read.
        unsafe { self.0.cuda_stream().alloc::<T>(len.max(1)) }.w()
    }

    fn at<T>(&self, memory: &CudaSlice<T>) -> At<T> {
        // The guard would record an event; all work is on one stream.
        At::new(memory.device_ptr(&self.0.cuda_stream()).0)
    }

    fn launch<T: Scalar>(
        &self,
        source: &'static Source,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        let ptx = ptx(source, T::NAME, self.capability()?)?;
        let module = format!("repro-{}-{}", source.name, T::NAME);
        let function = self.0.get_or_load_custom_func(kernel, &module, ptx)?;
        let mut builder = function.builder();
        for arg in args {
            match arg {
                Arg::Address(v) | Arg::U64(v) => builder.arg(v),
                Arg::U32(v) => builder.arg(v),
                Arg::F32(v) => builder.arg(v),
                Arg::F64(v) => builder.arg(v),
            };
        }
        // More than this must be asked for.
        if grid.shared > 48 << 10 {
            let size = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(size, grid.shared as i32).w()?;
        }
        let config = LaunchConfig {
            grid_dim: (grid.x, grid.y, 1),
            block_dim: (grid.threads, 1, 1),
            shared_mem_bytes: grid.shared,
        };
        // SAFETY: the callers pass what the kernel takes; tests run each of them.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    fn tile_memory(&self) -> Result<usize> {
        if self.capability()? < 80 {
            return Ok(0);
        }
        let bytes = self.0.cuda_stream().context().attribute(SHARED).w()?;
        Ok(bytes.max(0) as usize)
    }

    fn product<T: Scalar>(&self, size: Product, a: At<T>, b: At<T>, c: At<T>) -> Result<()> {
        let Product { m, n, k, .. } = size;
        let (one, beta) = (1.0f64, if size.add { 1.0f64 } else { 0.0 });
        let (one32, beta32) = (one as f32, beta as f32);
        let (alpha, beta, kind, compute) = match T::NAME {
            "double" => (
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&beta).cast(),
                sys::cudaDataType_t::CUDA_R_64F,
                sys::cublasComputeType_t::CUBLAS_COMPUTE_64F,
            ),
            _ => (
                std::ptr::from_ref(&one32).cast(),
                std::ptr::from_ref(&beta32).cast(),
                sys::cudaDataType_t::CUDA_R_32F,
                match tf32() {
                    true => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
                    false => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                },
            ),
        };
        let transposed = |t: bool| match t {
            true => sys::cublasOperation_t::CUBLAS_OP_T,
            false => sys::cublasOperation_t::CUBLAS_OP_N,
        };
        // cuBLAS is column-major: it sees the transposes of our matrices, so c^T = b^T a^T.
        let (lda, ldb) = (
            if size.a_transposed { m } else { k },
            if size.b_transposed { k } else { n },
        );
        let blas = self.0.cublas_handle();
        // SAFETY: the callers' addresses are of matrices of these sizes on this device.
        unsafe {
            gemm_ex(
                *blas.handle(),
                transposed(size.b_transposed),
                transposed(size.a_transposed),
                n as i32,
                m as i32,
                k as i32,
                alpha,
                b.0 as *const _,
                kind,
                ldb as i32,
                a.0 as *const _,
                kind,
                lda as i32,
                beta,
                c.0 as *mut _,
                kind,
                n as i32,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .w()
    }

    fn convolve<T: Scalar>(
        &self,
        pass: Pass,
        g: &Geometry,
        a: At<T>,
        b: At<T>,
        out: At<T>,
    ) -> Result<bool> {
        Cudnn::convolve(self, pass, g, a, b, out)
    }
}

/// Where a contiguous tensor's values lie.
pub fn at<T: Scalar + CudaDType>(
    name: &str,
    storage: &CudaStorage,
    layout: &Layout,
) -> Result<At<T>> {
    let Some((from, _)) = layout.contiguous_offsets() else {
        bail!("{name}: wants contiguous tensors");
    };
    let slice = storage.as_cuda_slice::<T>()?;
    Ok(At::<T>::new(slice.device_ptr(slice.stream()).0).add(from))
}
