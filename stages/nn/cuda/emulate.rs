//! An emulated GPU for tests: the kernels' own sources, compiled by g++ behind a small header
//! (emulate.h), run on the CPU. What it cannot show are races between threads and speed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_uint, c_void};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use candle_core::{Result, bail};

use super::machine::{Arg, At, Geometry, Grid, Machine, Pass, Product, Scalar};
use super::source::Source;
use super::{conv, cudnn_layout};

pub struct Emulator {
    /// Let the test take `Machine::convolve`'s place: what a library would do with the geometry.
    pub library: bool,
    /// Run the threads of a block from the last to the first: what differs then is a race.
    pub backwards: bool,
}

/// The emulator, or a loud word that the test did not happen.
pub fn emulator(test: &str) -> Option<Emulator> {
    let there = Command::new("g++").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED {test}: g++, which stands in for a GPU, is not installed");
    }
    there.then_some(Emulator {
        library: false,
        backwards: false,
    })
}

type Door =
    unsafe extern "C" fn(c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut *mut c_void) -> c_int;

/// A compiled source; the handle of dlopen, never closed.
#[derive(Clone, Copy)]
struct Library(usize);

fn library(source: &Source, real: &str) -> Library {
    static ALL: OnceLock<Mutex<HashMap<String, Library>>> = OnceLock::new();
    let all = ALL.get_or_init(Mutex::default);
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let key = format!("{}-{real}", source.name);
    *all.entry(key.clone())
        .or_insert_with(|| compile(source, real, &key))
}

fn compile(source: &Source, real: &str, key: &str) -> Library {
    let dir = tempfile::tempdir().expect("a folder");
    let mut program = format!("{}\n{}\n", include_str!("emulate.h"), source.program(real));
    for kernel in source.kernels() {
        let body = source.text.split(&format!("KERNEL {kernel}(")).nth(1);
        let body = body.and_then(|rest| rest.split("\n}\n").next());
        let body = body.expect("a kernel has a body");
        let barriers = ["__syncthreads", "lanes_together", "log_sum"]
            .iter()
            .any(|b| body.contains(b));
        program += &format!("DOOR({kernel}, {barriers})\n");
    }
    let (text, object) = (
        dir.path().join("kernels.cc"),
        dir.path().join(format!("{key}.so")),
    );
    std::fs::write(&text, program).expect("a file");
    let output = Command::new("g++")
        // As NVRTC is told: no contraction of products and sums.
        .args([
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-fPIC",
            "-shared",
            "-Wall",
            "-Werror",
            "-Wno-unused-function",
            "-Wno-unknown-pragmas",
            "-o",
        ])
        .arg(&object)
        .arg(&text)
        .output()
        .expect("g++ runs");
    assert!(
        output.status.success(),
        "{key}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let path = CString::new(object.to_string_lossy().as_bytes()).expect("a path");
    // SAFETY: a library without initialisers.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{key} cannot be loaded");
    Library(handle as usize)
}

impl Machine for Emulator {
    type Memory<T> = RefCell<Vec<T>>;

    fn alloc<T: Scalar>(&self, len: usize) -> Result<Self::Memory<T>> {
        // Not a number: what a kernel forgets to write is noticed.
        Ok(RefCell::new(vec![T::new(f64::NAN); len]))
    }

    fn at<T>(&self, memory: &Self::Memory<T>) -> At<T> {
        At::new(memory.borrow_mut().as_mut_ptr() as u64)
    }

    fn launch<T: Scalar>(
        &self,
        source: &'static Source,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        // Coroutines and `static` for `__shared__`: one launch at a time.
        static ONE: Mutex<()> = Mutex::new(());
        let library = library(source, T::NAME);
        let name = CString::new(format!("door_{kernel}")).expect("a name");
        // SAFETY: the handle is dlopen's.
        let door = unsafe { libc::dlsym(library.0 as *mut c_void, name.as_ptr()) };
        assert!(!door.is_null(), "{} has no kernel {kernel}", source.name);
        // SAFETY: DOOR in emulate.h has this signature.
        let door: Door = unsafe { std::mem::transmute(door) };
        let mut places: Vec<*mut c_void> = args.iter().map(place).collect();
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the callers' addresses are of live vectors of the sizes they state.
        let code = unsafe {
            door(
                grid.x,
                grid.y,
                grid.threads,
                grid.shared,
                self.backwards.into(),
                places.len() as c_uint,
                places.as_mut_ptr(),
            )
        };
        match code {
            0 => Ok(()),
            1 => bail!("{kernel}: some threads ended while others waited at a barrier"),
            3 => bail!("{kernel}: writes beyond its shared memory"),
            _ => bail!(
                "{kernel}: {} arguments are not as many as it takes",
                args.len()
            ),
        }
    }

    /// A GPU's with much.
    fn tile_memory(&self) -> Result<usize> {
        Ok(227 << 10)
    }

    fn product<T: Scalar>(&self, size: Product, a: At<T>, b: At<T>, c: At<T>) -> Result<()> {
        let Product {
            m,
            n,
            k,
            a_transposed,
            b_transposed,
            add,
        } = size;
        // SAFETY: addresses of live vectors of at least these sizes, or null for none.
        let (a, b, c) = unsafe {
            (
                std::slice::from_raw_parts(a.0 as *const T, m * k),
                std::slice::from_raw_parts(b.0 as *const T, k * n),
                std::slice::from_raw_parts_mut(c.0 as *mut T, m * n),
            )
        };
        for (i, row) in c.chunks_exact_mut(n).enumerate() {
            for (j, c) in row.iter_mut().enumerate() {
                let mut sum = if add { c.f64() } else { 0.0 };
                for l in 0..k {
                    let a = if a_transposed {
                        a[l * m + i]
                    } else {
                        a[i * k + l]
                    };
                    let b = if b_transposed {
                        b[j * k + l]
                    } else {
                        b[l * n + j]
                    };
                    sum += a.f64() * b.f64();
                }
                *c = T::new(sum);
            }
        }
        Ok(())
    }

    fn convolve<T: Scalar>(
        &self,
        pass: Pass,
        g: &Geometry,
        a: At<T>,
        b: At<T>,
        out: At<T>,
    ) -> Result<bool> {
        if self.library {
            cudnn_layout::with_library(self, &Symmetric, pass, g, a, b, out)?;
        }
        Ok(self.library)
    }
}

/// As cuDNN: the same padding on opposite sides, kernels as `[cout, kh, kw, cin]`; by our own
/// patches.
struct Symmetric;

impl cudnn_layout::Library<Emulator> for Symmetric {
    fn run<T: Scalar>(
        &self,
        _: &Emulator,
        pass: Pass,
        g: &Geometry,
        a: At<T>,
        b: At<T>,
        out: At<T>,
    ) -> Result<()> {
        assert!(cudnn_layout::is_symmetric(g), "{g:?}");
        let m = &Emulator {
            library: false,
            backwards: false,
        };
        let (k, n) = (g.kh * g.kw * g.cin, g.cout);
        let memory = m.alloc::<T>(k * n)?;
        let w = m.at(&memory);
        match pass {
            Pass::Forward => {
                cudnn_layout::transpose(m, [n, k], b, w)?;
                conv::forward(m, g, a, w, None, out)
            }
            Pass::Input => {
                cudnn_layout::transpose(m, [n, k], b, w)?;
                conv::input_gradient(m, g, a, w, None, out)
            }
            Pass::Kernel => {
                conv::kernel_gradient(m, g, a, b, w)?;
                cudnn_layout::transpose(m, [k, n], w, out)
            }
        }
    }
}

fn place(arg: &Arg) -> *mut c_void {
    let place: *const c_void = match arg {
        Arg::Address(v) | Arg::U64(v) => std::ptr::from_ref(v).cast(),
        Arg::U32(v) => std::ptr::from_ref(v).cast(),
        Arg::F32(v) => std::ptr::from_ref(v).cast(),
        Arg::F64(v) => std::ptr::from_ref(v).cast(),
    };
    place.cast_mut()
}
