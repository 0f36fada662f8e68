//! cuDNN's convolutions: channels last, f32, with algorithms that give the same bytes every time.
//!
//! The header of cuDNN marks ALGO_0 and ALGO_3 of the gradients as not deterministic; ALGO_1 is. A
//! size it has no such algorithm for goes the way of patches and products (conv.rs), and says so.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;

use candle_core::cuda::cudarc::cudnn::result::{self, CudnnError};
use candle_core::cuda::cudarc::cudnn::sys;
use candle_core::cuda::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{Error, Result};

use super::cudnn_layout::{Library, inner, with_library};
use super::driver::tf32;
use super::gpu::Gpu;
use super::machine::{At, Geometry, Machine, Pass, Scalar};

use sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1 as INPUT;
use sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1 as KERNEL;
use sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM as FORWARD;
use sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED;

/// Descriptors of one convolution. There are as many as a model has layers; they live as long as
/// the thread.
#[derive(Clone, Copy)]
struct Plan {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
    workspace: usize,
}

#[derive(Default)]
struct State {
    /// The handle of the thread's device; a thread has one.
    handle: Option<sys::cudnnHandle_t>,
    /// None: cuDNN has nothing for it.
    plans: HashMap<(Pass, Key), Option<Plan>>,
    /// Work on one stream runs in order, so one buffer serves all.
    workspace: Option<CudaSlice<f32>>,
}

type Key = [usize; 12];

fn key(g: &Geometry) -> Key {
    [
        g.n, g.h, g.w, g.cin, g.kh, g.kw, g.cout, g.stride, g.top, g.left, g.oh, g.ow,
    ]
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

pub struct Cudnn;

impl Cudnn {
    pub fn convolve<T: Scalar>(
        m: &Gpu,
        pass: Pass,
        g: &Geometry,
        a: At<T>,
        b: At<T>,
        out: At<T>,
    ) -> Result<bool> {
        if T::NAME != "float" || plan(m, pass, &inner(g))?.is_none() {
            return Ok(false);
        }
        with_library(m, &Self, pass, g, a, b, out)?;
        Ok(true)
    }
}

/// The plan of a convolution, made on first use.
fn plan(m: &Gpu, pass: Pass, g: &Geometry) -> Result<Option<Plan>> {
    STATE.with_borrow_mut(|state| {
        if let Some(plan) = state.plans.get(&(pass, key(g))) {
            return Ok(*plan);
        }
        let handle = match state.handle {
            Some(handle) => handle,
            None => {
                let handle = result::create_handle().map_err(said)?;
                // SAFETY: the handle is new, the stream is candle's and outlives all work.
                unsafe { result::set_stream(handle, m.0.cuda_stream().cu_stream().cast()) }
                    .map_err(said)?;
                *state.handle.insert(handle)
            }
        };
        let plan = match make(handle, pass, g) {
            Ok(plan) => Some(plan),
            Err(CudnnError(CUDNN_STATUS_NOT_SUPPORTED)) => {
                let text =
                    format!("cuDNN {pass:?} has no repeatable algorithm for {g:?}: by patches\n");
                // A log on a full disk must not end the training.
                let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
                None
            }
            Err(e) => return Err(said(e)),
        };
        state.plans.insert((pass, key(g)), plan);
        Ok(plan)
    })
}

fn said(e: CudnnError) -> Error {
    Error::Msg(format!("cuDNN: {:?}", e.0))
}

fn make(
    handle: sys::cudnnHandle_t,
    pass: Pass,
    g: &Geometry,
) -> std::result::Result<Plan, CudnnError> {
    const NHWC: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
    const FLOAT: sys::cudnnDataType_t = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
    let dims = |d: [usize; 4]| d.map(|v| v as i32);
    let math = match tf32() {
        true => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        false => sys::cudnnMathType_t::CUDNN_FMA_MATH,
    };
    let (x, y) = (
        result::create_tensor_descriptor()?,
        result::create_tensor_descriptor()?,
    );
    let w = result::create_filter_descriptor()?;
    let conv = result::create_convolution_descriptor()?;
    // SAFETY: the descriptors are new and are never destroyed. Sizes come as n, c, h, w whatever
    // the order in memory.
    let workspace = unsafe {
        result::set_tensor4d_descriptor(x, NHWC, FLOAT, dims([g.n, g.cin, g.h, g.w]))?;
        result::set_tensor4d_descriptor(y, NHWC, FLOAT, dims([g.n, g.cout, g.oh, g.ow]))?;
        result::set_filter4d_descriptor(w, FLOAT, NHWC, dims([g.cout, g.cin, g.kh, g.kw]))?;
        let (stride, top, left) = (g.stride as i32, g.top as i32, g.left as i32);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        result::set_convolution2d_descriptor(conv, top, left, stride, stride, 1, 1, mode, FLOAT)?;
        result::set_convolution_math_type(conv, math)?;
        match pass {
            Pass::Forward => {
                result::get_convolution_forward_workspace_size(handle, x, w, conv, y, FORWARD)?
            }
            Pass::Input => {
                result::get_convolution_backward_data_workspace_size(handle, w, y, conv, x, INPUT)?
            }
            Pass::Kernel => result::get_convolution_backward_filter_workspace_size(
                handle, x, y, conv, w, KERNEL,
            )?,
        }
    };
    Ok(Plan {
        x,
        w,
        y,
        conv,
        workspace,
    })
}

impl<'a> Library<Gpu<'a>> for Cudnn {
    fn run<T: Scalar>(
        &self,
        m: &Gpu<'a>,
        pass: Pass,
        g: &Geometry,
        a: At<T>,
        b: At<T>,
        out: At<T>,
    ) -> Result<()> {
        let Some(p) = plan(m, pass, g)? else {
            candle_core::bail!("BUG: cuDNN has no plan for {g:?}");
        };
        STATE.with_borrow_mut(|state| {
            let Some(handle) = state.handle else {
                candle_core::bail!("BUG: a plan without a handle");
            };
            if state
                .workspace
                .as_ref()
                .is_none_or(|w| w.len() * 4 < p.workspace)
            {
                // The old one first: both together may not fit.
                state.workspace = None;
                state.workspace = Some(m.alloc::<f32>(p.workspace.div_ceil(4))?);
            }
            let space = match &state.workspace {
                Some(memory) => memory.device_ptr(&m.0.cuda_stream()).0 as *mut c_void,
                None => std::ptr::null_mut(),
            };
            let (one, zero) = (1.0f32, 0.0f32);
            let (one, zero) = (
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&zero).cast(),
            );
            let (a, b, out) = (
                a.0 as *const c_void,
                b.0 as *const c_void,
                out.0 as *mut c_void,
            );
            // SAFETY: the addresses are of f32 values of the descriptors' sizes on this device.
            unsafe {
                match pass {
                    Pass::Forward => result::convolution_forward(
                        handle,
                        one,
                        p.x,
                        a,
                        p.w,
                        b,
                        p.conv,
                        FORWARD,
                        space,
                        p.workspace,
                        zero,
                        p.y,
                        out,
                    ),
                    Pass::Input => result::convolution_backward_data(
                        handle,
                        one,
                        p.w,
                        b,
                        p.y,
                        a,
                        p.conv,
                        INPUT,
                        space,
                        p.workspace,
                        zero,
                        p.x,
                        out,
                    ),
                    Pass::Kernel => result::convolution_backward_filter(
                        handle,
                        one,
                        p.x,
                        a,
                        p.y,
                        b,
                        p.conv,
                        KERNEL,
                        space,
                        p.workspace,
                        zero,
                        p.w,
                        out,
                    ),
                }
            }
            .map_err(said)
        })
    }
}
